package config

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/excerpt"
	"github.com/g2g-agent/g2g-agent/vllm"
)

// Bounds that keep a mistyped number from asking for more memory than there is.
const (
	maxServers = 10_000_000
	maxSteps   = 100_000_000
	maxInt32   = math.MaxInt32
	// maxStaggerS bounds the power history that a live run keeps.
	maxStaggerS = 3600
	// What follows bounds the times of a live run. Below these, power is stale
	// between two readings, and a server is asked without end.
	minPollIntervalS, minITLWindowS, minStaleAfterS = 0.05, 0.01, 0.2
	maxLiveS                                        = 86_400
	// A recording has at least room for some segments, and is kept for at most a century.
	minRecordBytes = 1 << 20
	maxRecordAgeS  = 3_155_760_000
)

// rules collects broken rules.
type rules struct {
	// unread are the values that could not be read: what their keys hold is of
	// no meaning, and a complaint about it would only be a second one.
	unread   *problemSet
	problems *problemSet
}

// that notes the problem unless ok, or unless the key, one above it or one below
// it could not be read.
func (r *rules) that(ok bool, path, format string, args ...any) bool {
	if !ok && r.read(path) {
		r.problems.add(Problem{path, fmt.Sprintf(format, bounded(args)...)})
	}
	return ok
}

// sentence is what a leaf's check says, which is not cut.
type sentence string

// bounded cuts long texts and lists, so that what a message says of them is seen.
func bounded(args []any) []any {
	const most = 20 // elements
	for i, arg := range args {
		switch arg := arg.(type) {
		case string:
			args[i] = excerpt.Of(arg, maxQuoted)
		case []string:
			short := []string{}
			for _, text := range arg[:min(len(arg), most)] {
				short = append(short, excerpt.Of(text, maxQuoted))
			}
			if len(arg) > most {
				short = append(short, excerpt.Sign)
			}
			args[i] = short
		case []int:
			args[i] = excerpt.Of(fmt.Sprint(arg), maxQuoted)
		case []float64:
			args[i] = excerpt.Of(fmt.Sprint(arg), maxQuoted)
		}
	}
	return args
}

// read reports whether the key at path was read, with all above and below it.
func (r *rules) read(path string) bool {
	return !r.unread.around(path) && !r.unread.within(path)
}

// count checks a number of things.
func (r *rules) count(path string, n, least int) bool {
	if n == 0 && least > 0 {
		return r.that(false, path, "is missing or 0; must be >= %d", least)
	}
	return r.that(n >= least, path, "must be >= %d, got %d", least, n) &&
		r.that(n <= maxInt32, path, "must be at most %d, got %d", maxInt32, n)
}

func finite(f float64) bool { return !math.IsNaN(f) && !math.IsInf(f, 0) }

// clean reports whether nothing is wrong with the key at path and those below.
func (r *rules) clean(path string) bool {
	return r.read(path) && !r.problems.within(path)
}

// withoutKind is err's text without the kind of error it begins with.
func withoutKind(err error) string {
	return strings.TrimPrefix(err.Error(), datacenter.ErrInvalidInput.Error()+": ")
}

// validate notes every broken rule that the config alone can show.
func (c *Config) validate(r *rules, purpose Purpose) {
	r.that(c.Seed <= math.MaxInt64, "seed", "must be at most 2^63-1, got %d", c.Seed)
	r.that(!c.DT.IsZero(), "dt_s", "must be > 0, got 0")
	c.Datacenter.validate(r)
	c.Augmentation.validate(r)
	r.that(len(c.Models) > 0, "models", "must list at least one model")
	for i := range c.Models {
		path := fmt.Sprintf("models[%d]", i)
		m := &c.Models[i]
		c.validateLabel(r, i)
		m.validate(r, path)
	}
	for i := range c.Training {
		c.Training[i].validate(r, fmt.Sprintf("training[%d]", i))
	}
	c.Replay.validate(r, c)
	if purpose == ForReplay || purpose == ForAnything && c.Replay.DataDir != "" {
		r.that(c.Replay.DataDir != "", "replay.data_dir", "is missing; a replay needs an OpenG2G data directory")
		r.that(c.Datacenter.TotalGPUCapacity != 0, "datacenter.total_gpu_capacity",
			"is missing or 0; a replay needs the number of GPUs the datacenter can host")
		if r.clean("models") && r.clean("datacenter") {
			c.validateCapacity(r)
		}
	}
	c.Live.validate(r)
	if purpose == ForLive {
		c.validateForLive(r)
	}
	c.Control.validate(r)
	c.API.validate(r)
	c.Record.validate(r)
	r.that(slices.Contains([]string{"trace", "debug", "info", "warn", "error"}, c.Log.Level), "log.level",
		"must be trace, debug, info, warn or error, got %q", c.Log.Level)
	r.that(slices.Contains([]string{"auto", "console", "json"}, c.Log.Format), "log.format",
		"must be auto, console or json, got %q", c.Log.Format)
}

// validateCapacity checks that the replica schedules fit the datacenter.
func (c *Config) validateCapacity(r *rules) {
	models, err := c.ModelSpecs()
	if err == nil {
		f := c.Facility()
		err = datacenter.CheckScheduleCapacity(&f, models)
	}
	if err != nil {
		r.that(false, "models", "%s", sentence(withoutKind(err)))
	}
}

// validateForLive checks what only a live run needs.
func (c *Config) validateForLive(r *rules) {
	r.that(c.Live.WarmupTimeoutS > c.Live.StaggerS, "live.warmup_timeout_s",
		"must be greater than stagger_s (%v), which the warm-up takes at least, got %v", c.Live.StaggerS, c.Live.WarmupTimeoutS)
	simulated := 0 // servers
	for i := range c.Models {
		m := &c.Models[i]
		path := fmt.Sprintf("models[%d]", i)
		r.that(m.ModelID != "", path+".model_id", "is missing; a live run asks the vLLM server for it")
		for j, b := range m.FeasibleBatchSizes {
			if at := fmt.Sprintf("%s.feasible_batch_sizes[%d]", path, j); r.clean(at) {
				r.that(b <= vllm.MaxBatchSize, at, "must be at most %d in a live run, which keeps twice as many streams open, got %d",
					vllm.MaxBatchSize, b)
			}
		}
		if !r.that(m.Live != nil, path+".live",
			"is missing; a live run needs each model's vllm_base_url, simulated_num_replicas and gpu_endpoints") {
			continue
		}
		path += ".live"
		servers := m.Live.AllServers()
		for j := range servers {
			r.that(servers[j].VLLMBaseURL != "", path+m.Live.ServerPath(j)+".vllm_base_url", "is missing; a live run loads a vLLM server")
		}
		if r.that(m.Live.SimulatedNumReplicas != nil, path+".simulated_num_replicas", "is missing; must be >= 0, and 0 only measures the model") {
			// Both are at most 2^31: the product holds, and the sum is cut below.
			simulated = min(simulated+*m.Live.SimulatedNumReplicas*m.GPUsPerReplica/max(c.Datacenter.GPUsPerServer, 1), math.MaxInt32)
		}
		withGPUs := slices.ContainsFunc(servers, func(s LiveServer) bool { return len(s.GPUEndpoints) > 0 })
		for j := range servers {
			servers[j].validateGPUsForLive(r, path+m.Live.ServerPath(j)+".gpu_endpoints", withGPUs)
		}
	}
	r.that(simulated <= maxServers, "models", "simulate more than %d servers", maxServers)
	if !r.clean("models") || !r.clean("datacenter") {
		return
	}
	models, err := c.LiveModelSpecs()
	if err == nil {
		f := c.LiveFacility()
		err = datacenter.CheckScheduleCapacity(&f, models)
	}
	if err != nil {
		r.that(false, "models", "%s (in a live run, the sum of simulated_num_replicas times gpus_per_replica)", sentence(withoutKind(err)))
	}
}

// validateGPUsForLive checks a server's GPUs; others says that some server of the
// model has any.
func (s *LiveServer) validateGPUsForLive(r *rules, path string, others bool) {
	r.that(len(s.GPUEndpoints) > 0 || !others, path, "must list at least one power source, as the model's other servers do")
	for i, e := range s.GPUEndpoints {
		r.that(len(e.GPUs()) > 0, fmt.Sprintf("%s[%d].gpu_indices", path, i), "must list at least one GPU")
	}
}

func (d *Datacenter) validate(r *rules) {
	if r.count("datacenter.gpus_per_server", d.GPUsPerServer, 1) && r.read("datacenter.gpus_per_server") {
		r.that(d.TotalGPUCapacity/d.GPUsPerServer <= maxServers, "datacenter.total_gpu_capacity",
			"is %d servers, at most %d are allowed", d.TotalGPUCapacity/d.GPUsPerServer, maxServers)
	}
	r.that(d.TotalGPUCapacity >= 0, "datacenter.total_gpu_capacity", "must be > 0, got %d", d.TotalGPUCapacity)
	r.that(finite(d.BaseKWPerPhase) && d.BaseKWPerPhase >= 0, "datacenter.base_kw_per_phase",
		"must be a finite number >= 0, got %v", d.BaseKWPerPhase)
	r.that(d.PowerFactor > 0 && d.PowerFactor <= 1, "datacenter.power_factor", "must be in (0, 1], got %v", d.PowerFactor)
}

func (a *Augmentation) validate(r *rules) {
	const path = "augmentation.amplitude_scale_range"
	if s := a.AmplitudeScaleRange; r.that(len(s) == 2, path, "must be two numbers [low, high], got %d of them", len(s)) {
		r.that(0 < s[0] && s[0] <= s[1] && finite(s[1]), path, "must be two finite numbers [low, high], 0 < low <= high, got %v", s)
	}
	r.that(finite(a.NoiseFraction) && a.NoiseFraction >= 0, "augmentation.noise_fraction",
		"must be a finite number >= 0, got %v", a.NoiseFraction)
}

func (m *Model) validate(r *rules, path string) {
	r.that(m.ModelLabel != "", path+".model_label", "is missing")
	r.count(path+".gpus_per_replica", m.GPUsPerReplica, 1)
	if r.that(m.ITLDeadlineS != 0, path+".itl_deadline_s", "is missing or 0; must be > 0") {
		r.that(finite(m.ITLDeadlineS) && m.ITLDeadlineS > 0, path+".itl_deadline_s", "must be a finite number > 0, got %v", m.ITLDeadlineS)
	}
	if r.that(len(m.FeasibleBatchSizes) > 0, path+".feasible_batch_sizes", "must list at least one batch size") {
		validBatchSizes(r, path+".feasible_batch_sizes", m.FeasibleBatchSizes)
		if b := m.InitialBatchSize; b != nil && r.read(path+".feasible_batch_sizes") {
			r.that(slices.Contains(m.FeasibleBatchSizes, *b), path+".initial_batch_size",
				"%d must be in feasible_batch_sizes %v", *b, m.FeasibleBatchSizes)
		}
		if b := m.FailsafeBatchSize; b != nil && r.read(path+".feasible_batch_sizes") {
			r.that(slices.Contains(m.FeasibleBatchSizes, *b), path+".failsafe_batch_size",
				"%d must be in feasible_batch_sizes %v", *b, m.FeasibleBatchSizes)
		}
	}
	validBatchSizes(r, path+".batch_sizes", m.BatchSizes)
	validBatchSizes(r, path+".fit_exclude_batch_sizes", m.FitExcludeBatchSizes)
	r.that(m.TensorParallel >= 0, path+".tensor_parallel", "must be >= 1, or 0 for any, got %d", m.TensorParallel)
	r.that(m.ExpertParallel >= 0, path+".expert_parallel", "must be >= 1, or 0 for any, got %d", m.ExpertParallel)
	m.Replicas.validate(r, path+".replicas")
	if m.Live != nil {
		m.Live.validate(r, path+".live")
	}
}

func validBatchSizes(r *rules, path string, sizes []int) {
	seen := map[int]bool{}
	for i, b := range sizes {
		at := fmt.Sprintf("%s[%d]", path, i)
		if validBatchSize(r, at, b) {
			r.that(!seen[b], at, "%d stands there twice", b)
		}
		seen[b] = true
	}
}

func validBatchSize(r *rules, path string, b int) bool {
	return r.that(b > 0, path, "must be > 0, got %d", b) && r.that(b <= maxInt32, path, "must be at most %d, got %d", maxInt32, b)
}

func (p *Replicas) validate(r *rules, path string) {
	if p == nil {
		return
	}
	if r.that(p.Initial != nil, path+".initial", "is missing") {
		r.count(path+".initial", *p.Initial, 0)
	}
	var valid []datacenter.Ramp
	for i, ramp := range p.Ramps {
		at := fmt.Sprintf("%s.ramps[%d]", path, i)
		complete := r.that(ramp.Target != nil, at+".target", "is missing")
		complete = r.that(ramp.TStart != nil, at+".t_start", "is missing") && complete
		complete = r.that(ramp.TEnd != nil, at+".t_end", "is missing") && complete
		if ramp.Target != nil {
			complete = r.count(at+".target", *ramp.Target, 0) && complete
		}
		if !complete || !r.read(at) {
			continue
		}
		with := append(slices.Clip(valid), datacenter.Ramp{Target: *ramp.Target, TStartS: *ramp.TStart, TEndS: *ramp.TEnd})
		if _, err := datacenter.NewReplicaSchedule(0, with...); err != nil {
			_, what, _ := strings.Cut(withoutKind(err), ": ") // the ramp's place among the valid ones is of no use
			r.that(false, at, "%s", sentence(what))
			continue
		}
		valid = with
	}
}

func (t *Training) validate(r *rules, path string) {
	r.count(path+".n_gpus", t.NGPUs, 1)
	r.that(t.Trace != "", path+".trace", "is missing")
	if p := t.TargetPeakWPerGPU; p != nil {
		r.that(finite(*p) && *p >= 0, path+".target_peak_w_per_gpu", "must be a finite number >= 0, got %v", *p)
	}
	finiteTime := func(key string, v *float64) bool {
		return r.that(v != nil, path+key, "is missing") && r.that(finite(*v), path+key, "must be a finite number, got %v", *v)
	}
	start, end := finiteTime(".t_start", t.TStart), finiteTime(".t_end", t.TEnd)
	if start && end && r.read(path+".t_start") {
		r.that(*t.TStart <= *t.TEnd, path+".t_end", "must be >= t_start (%v), got %v", *t.TStart, *t.TEnd)
	}
}

func (p *Replay) validate(r *rules, c *Config) {
	if r.that(!p.Duration.IsZero(), "replay.duration_s", "must be > 0, got 0") && !c.DT.IsZero() && r.read("dt_s") {
		steps := c.DT.StepsWithin(p.Duration)
		r.that(steps <= maxSteps, "replay.duration_s", "is %d steps of dt_s, at most %d are allowed", steps, maxSteps)
	}
	if t := p.TemplateDuration; t != nil && r.that(!t.IsZero(), "replay.template_duration_s", "must be > 0, got 0") && !c.DT.IsZero() && r.read("dt_s") {
		steps := c.DT.StepsWithin(*t)
		r.that(steps <= maxSteps, "replay.template_duration_s", "is %d steps of dt_s, at most %d are allowed", steps, maxSteps)
	}
	r.that(slices.Contains([]string{AtEndStop, AtEndContinue}, p.AtEnd), "replay.at_end", "must be %s or %s, got %q", AtEndStop, AtEndContinue, p.AtEnd)
	r.that(finite(p.SteadySkipS) && p.SteadySkipS >= 0, "replay.steady_skip_s", "must be a finite number >= 0, got %v", p.SteadySkipS)
	for i := range p.Commands {
		p.Commands[i].validate(r, fmt.Sprintf("replay.commands[%d]", i), c)
	}
}

func (cmd *Command) validate(r *rules, path string, c *Config) {
	r.that(cmd.T != nil, path+".t", "is missing")
	r.that(cmd.SetBatchSize != nil || cmd.ShiftReplicas != nil, path, "needs set_batch_size or shift_replicas, has neither")
	r.that(cmd.SetBatchSize == nil || cmd.ShiftReplicas == nil, path, "needs set_batch_size or shift_replicas, has both")
	r.that(cmd.SetBatchSize == nil || len(cmd.SetBatchSize) > 0, path+".set_batch_size", "must name at least one model")
	labels := slices.Sorted(maps.Keys(cmd.SetBatchSize))
	for _, label := range labels {
		at, b := path+".set_batch_size."+label, cmd.SetBatchSize[label]
		m := c.model(label)
		if m < 0 {
			c.unknownModel(r, at, label)
			continue
		}
		feasible := fmt.Sprintf("models[%d].feasible_batch_sizes", m)
		sizes := c.Models[m].FeasibleBatchSizes
		if validBatchSize(r, at, b) && !c.Control.AllowInfeasibleBatchSizes && len(sizes) > 0 && r.read(feasible) {
			r.that(slices.Contains(sizes, b), at,
				"%d must be in feasible_batch_sizes %v (control.allow_infeasible_batch_sizes lifts this)", b, sizes)
		}
	}
	if s := cmd.ShiftReplicas; s != nil {
		at := path + ".shift_replicas"
		if r.that(s.ModelLabel != "", at+".model_label", "is missing") && c.model(s.ModelLabel) < 0 {
			c.unknownModel(r, at+".model_label", s.ModelLabel)
		}
		if r.that(s.ReplicaDelta != nil, at+".replica_delta", "is missing") {
			r.that(*s.ReplicaDelta >= -maxInt32 && *s.ReplicaDelta <= maxInt32, at+".replica_delta",
				"must be at most %d in size, got %d", maxInt32, *s.ReplicaDelta)
		}
	}
}

// unknownModel notes that there is no such model, provided that all labels could
// be read.
func (c *Config) unknownModel(r *rules, path, label string) {
	labels := []string{}
	for i := range c.Models {
		if m := &c.Models[i]; m.ModelLabel != "" && !slices.Contains(labels, m.ModelLabel) {
			labels = append(labels, m.ModelLabel)
		}
		if !r.read(fmt.Sprintf("models[%d].model_label", i)) {
			return
		}
	}
	if len(labels) > 0 {
		r.that(false, path, "unknown model %q; the models are %q", label, labels)
	}
}

// model returns the index of the model with that label, -1 if there is none.
func (c *Config) model(label string) int {
	return slices.IndexFunc(c.Models, func(m Model) bool { return m.ModelLabel == label })
}

func (c *Record) validate(r *rules) {
	r.that(c.MaxBytes == 0 || c.MaxBytes >= minRecordBytes, "record.max_bytes", "must be 0 for no limit, or at least %d, got %d", minRecordBytes, c.MaxBytes)
	r.that(c.MaxAgeS >= 0 && c.MaxAgeS <= maxRecordAgeS, "record.max_age_s", "must be from 0 for no limit to %d, got %v", maxRecordAgeS, c.MaxAgeS)
}

func (l *Live) validate(r *rules) {
	within := func(key string, v, least, most float64) bool {
		return r.that(v >= least && v <= most, "live."+key, "must be from %v to %v, got %v", least, most, v)
	}
	positive := func(key string, v, most float64) {
		r.that(v > 0 && v <= most, "live."+key, "must be > 0 and at most %v, got %v", most, v)
	}
	p := l.PrometheusPollIntervalS
	r.that(p == 0 || p >= minPollIntervalS && p <= maxLiveS, "live.prometheus_poll_interval_s",
		"must be 0 for never, or from %v to %v, got %v", minPollIntervalS, maxLiveS, p)
	r.that(l.MaxOutputTokens > 0, "live.max_output_tokens", "must be > 0, got %d", l.MaxOutputTokens)
	r.that(l.MinimalRequestText != "", "live.minimal_request_text", "must not be empty; it is what a model without a request file is asked")
	within("itl_window_s", l.ITLWindowS, minITLWindowS, maxLiveS)
	positive("stagger_s", l.StaggerS, maxStaggerS)
	positive("warmup_timeout_s", l.WarmupTimeoutS, maxLiveS)
	valid := within("stale_after_s", l.StaleAfterS, minStaleAfterS, maxLiveS) && r.read("live.stale_after_s")
	e := l.StaleErrorAfterS
	if r.that(e >= 0 && e <= maxLiveS, "live.stale_error_after_s",
		"must be 0 for never, or from stale_after_s to %v, got %v", maxLiveS, e) && valid {
		r.that(e == 0 || e >= l.StaleAfterS, "live.stale_error_after_s",
			"must be 0 for never, or at least stale_after_s (%v), from when on power counts as stale, got %v", l.StaleAfterS, e)
	}
	r.that(l.SaturationThreshold > 0 && l.SaturationThreshold <= 1, "live.saturation_threshold",
		"must be in (0, 1], got %v", l.SaturationThreshold)
}
