package config

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// Bounds that keep a mistyped number from asking for more memory than there is.
const (
	maxServers = 100_000_000
	maxSteps   = 100_000_000
	maxInt32   = math.MaxInt32
)

// rules collects broken rules.
type rules struct{ problems []Problem }

// that notes the problem unless ok.
func (r *rules) that(ok bool, path, format string, args ...any) bool {
	if !ok {
		r.problems = append(r.problems, Problem{path, fmt.Sprintf(format, args...)})
	}
	return ok
}

func finite(f float64) bool { return !math.IsNaN(f) && !math.IsInf(f, 0) }

// withoutKind is err's text without the kind of error it begins with.
func withoutKind(err error) string {
	return strings.TrimPrefix(err.Error(), datacenter.ErrInvalidInput.Error()+": ")
}

// validate returns every broken rule that the config alone can show.
func (c *Config) validate(purpose Purpose) []Problem {
	r := &rules{}
	r.that(c.Seed <= math.MaxInt64, "seed", "must be at most 2^63-1, got %d", c.Seed)
	r.that(!c.DT.IsZero(), "dt_s", "must be > 0")
	c.Datacenter.validate(r)
	c.Augmentation.validate(r)
	r.that(len(c.Models) > 0, "models", "must list at least one model")
	labels := map[string]int{}
	for i := range c.Models {
		path := fmt.Sprintf("models[%d]", i)
		m := &c.Models[i]
		if first, dup := labels[m.ModelLabel]; dup && m.ModelLabel != "" {
			r.that(false, path+".model_label", "%q is already the label of models[%d]", m.ModelLabel, first)
		} else {
			labels[m.ModelLabel] = i
		}
		m.validate(r, path)
	}
	for i := range c.Training {
		c.Training[i].validate(r, fmt.Sprintf("training[%d]", i))
	}
	c.Replay.validate(r, c)
	if purpose == ForReplay || c.Replay.DataDir != "" {
		r.that(c.Replay.DataDir != "", "replay.data_dir", "is missing; a replay needs an OpenG2G data directory")
		r.that(c.Datacenter.TotalGPUCapacity != 0, "datacenter.total_gpu_capacity", "is missing; a replay needs the number of GPUs the datacenter can host")
	}
	c.Live.validate(r)
	r.that((c.API.TLSCertFile == "") == (c.API.TLSKeyFile == ""), "api.tls_cert_file", "tls_cert_file and tls_key_file go together")
	r.that(slices.Contains([]string{"trace", "debug", "info", "warn", "error"}, c.Log.Level), "log.level",
		"must be trace, debug, info, warn or error, got %q", c.Log.Level)
	r.that(slices.Contains([]string{"auto", "console", "json"}, c.Log.Format), "log.format", "must be auto, console or json, got %q", c.Log.Format)
	return r.problems
}

func (d *Datacenter) validate(r *rules) {
	if r.that(d.GPUsPerServer >= 1 && d.GPUsPerServer <= maxInt32, "datacenter.gpus_per_server", "must be >= 1, got %d", d.GPUsPerServer) {
		r.that(d.TotalGPUCapacity/d.GPUsPerServer <= maxServers, "datacenter.total_gpu_capacity",
			"is %d servers, at most %d are allowed", d.TotalGPUCapacity/d.GPUsPerServer, maxServers)
	}
	r.that(d.TotalGPUCapacity >= 0, "datacenter.total_gpu_capacity", "must be > 0, got %d", d.TotalGPUCapacity)
	r.that(finite(d.BaseKWPerPhase) && d.BaseKWPerPhase >= 0, "datacenter.base_kw_per_phase", "must be a finite number >= 0, got %v", d.BaseKWPerPhase)
	r.that(d.PowerFactor > 0 && d.PowerFactor <= 1, "datacenter.power_factor", "must be in (0, 1], got %v", d.PowerFactor)
}

func (a *Augmentation) validate(r *rules) {
	const path = "augmentation.amplitude_scale_range"
	if s := a.AmplitudeScaleRange; r.that(len(s) == 2, path, "must be two numbers [low, high], got %d", len(s)) {
		r.that(finite(s[0]) && s[0] > 0, path, "low must be a finite number > 0, got %v", s[0])
		r.that(finite(s[1]) && s[0] <= s[1], path, "low (%v) must be <= high (%v)", s[0], s[1])
	}
	r.that(finite(a.NoiseFraction) && a.NoiseFraction >= 0, "augmentation.noise_fraction", "must be a finite number >= 0, got %v", a.NoiseFraction)
}

func (m *Model) validate(r *rules, path string) {
	r.that(m.ModelLabel != "", path+".model_label", "is missing")
	r.that(m.GPUsPerReplica >= 1 && m.GPUsPerReplica <= maxInt32, path+".gpus_per_replica", "must be >= 1, got %d", m.GPUsPerReplica)
	r.that(finite(m.ITLDeadlineS) && m.ITLDeadlineS > 0, path+".itl_deadline_s", "must be a finite number > 0, got %v", m.ITLDeadlineS)
	if r.that(len(m.FeasibleBatchSizes) > 0, path+".feasible_batch_sizes", "must list at least one batch size") {
		validBatchSizes(r, path+".feasible_batch_sizes", m.FeasibleBatchSizes)
		if b := m.InitialBatchSize; b != nil {
			r.that(slices.Contains(m.FeasibleBatchSizes, *b), path+".initial_batch_size",
				"%d must be in feasible_batch_sizes %v", *b, m.FeasibleBatchSizes)
		}
	}
	validBatchSizes(r, path+".batch_sizes", m.BatchSizes)
	validBatchSizes(r, path+".fit_exclude_batch_sizes", m.FitExcludeBatchSizes)
	r.that(m.TensorParallel >= 0, path+".tensor_parallel", "must be >= 1, got %d", m.TensorParallel)
	r.that(m.ExpertParallel >= 0, path+".expert_parallel", "must be >= 1, got %d", m.ExpertParallel)
	m.Replicas.validate(r, path+".replicas")
	if m.Live != nil {
		m.Live.validate(r, path+".live")
	}
}

func validBatchSizes(r *rules, path string, sizes []int) {
	for i, b := range sizes {
		r.that(b > 0 && b <= maxInt32, fmt.Sprintf("%s[%d]", path, i), "must be > 0, got %d", b)
		r.that(!slices.Contains(sizes[:i], b), fmt.Sprintf("%s[%d]", path, i), "%d stands there twice", b)
	}
}

func (p *Replicas) validate(r *rules, path string) {
	if p == nil {
		return
	}
	complete := r.that(p.Initial != nil, path+".initial", "is missing")
	if p.Initial != nil {
		complete = r.that(*p.Initial >= 0 && *p.Initial <= maxInt32, path+".initial", "must be >= 0, got %d", *p.Initial)
	}
	for i, ramp := range p.Ramps {
		at := fmt.Sprintf("%s.ramps[%d]", path, i)
		complete = r.that(ramp.Target != nil, at+".target", "is missing") && complete
		complete = r.that(ramp.TStart != nil, at+".t_start", "is missing") && complete
		complete = r.that(ramp.TEnd != nil, at+".t_end", "is missing") && complete
		if ramp.Target != nil {
			complete = r.that(*ramp.Target <= maxInt32, at+".target", "must be at most %d, got %d", maxInt32, *ramp.Target) && complete
		}
	}
	if complete {
		if _, err := p.schedule(); err != nil {
			r.that(false, path, "%s", withoutKind(err))
		}
	}
}

func (l *LiveModel) validate(r *rules, path string) {
	r.that(l.SimulatedNumReplicas >= 0, path+".simulated_num_replicas", "must be >= 0, got %d", l.SimulatedNumReplicas)
	for i, e := range l.GPUEndpoints {
		at := fmt.Sprintf("%s.gpu_endpoints[%d]", path, i)
		r.that((e.Host == "") != (e.Socket == ""), at, "needs either host or socket")
		r.that(e.Port >= 0 && e.Port <= math.MaxUint16, at+".port", "must be a port, got %d", e.Port)
		for j, g := range e.GPUIndices {
			r.that(g >= 0, fmt.Sprintf("%s.gpu_indices[%d]", at, j), "must be >= 0, got %d", g)
		}
	}
}

func (t *Training) validate(r *rules, path string) {
	r.that(t.Trace != "", path+".trace", "is missing")
	complete := r.that(t.TStart != nil, path+".t_start", "is missing")
	complete = r.that(t.TEnd != nil, path+".t_end", "is missing") && complete
	if complete {
		run := t.Run()
		if err := run.Validate(); err != nil {
			r.that(false, path, "%s", withoutKind(err))
		}
	}
}

func (p *Replay) validate(r *rules, c *Config) {
	if r.that(!p.Duration.IsZero(), "replay.duration_s", "must be > 0") && !c.DT.IsZero() {
		steps := c.DT.StepsWithin(p.Duration)
		r.that(steps <= maxSteps, "replay.duration_s", "is %d steps of dt_s, at most %d are allowed", steps, maxSteps)
	}
	r.that(finite(p.SteadySkipS) && p.SteadySkipS >= 0, "replay.steady_skip_s", "must be a finite number >= 0, got %v", p.SteadySkipS)
	for i := range p.Commands {
		p.Commands[i].validate(r, fmt.Sprintf("replay.commands[%d]", i), c)
	}
}

func (cmd *Command) validate(r *rules, path string, c *Config) {
	r.that(cmd.T != nil, path+".t", "is missing")
	r.that((cmd.SetBatchSize != nil) != (cmd.ShiftReplicas != nil), path, "needs either set_batch_size or shift_replicas")
	labels := make([]string, 0, len(cmd.SetBatchSize))
	for label := range cmd.SetBatchSize {
		labels = append(labels, label)
	}
	slices.Sort(labels)
	for _, label := range labels {
		at, b := path+".set_batch_size."+label, cmd.SetBatchSize[label]
		m := c.model(label)
		if !r.that(m != nil, at, "unknown model; the models are %q", c.labels()) {
			continue
		}
		if r.that(b > 0 && b <= maxInt32, at, "must be > 0, got %d", b) && !c.Control.AllowInfeasibleBatchSizes {
			r.that(slices.Contains(m.FeasibleBatchSizes, b), at,
				"%d must be in feasible_batch_sizes %v (control.allow_infeasible_batch_sizes lifts this)", b, m.FeasibleBatchSizes)
		}
	}
	if s := cmd.ShiftReplicas; s != nil {
		at := path + ".shift_replicas"
		r.that(c.model(s.ModelLabel) != nil, at+".model_label", "unknown model %q; the models are %q", s.ModelLabel, c.labels())
		if r.that(s.ReplicaDelta != nil, at+".replica_delta", "is missing") {
			r.that(*s.ReplicaDelta >= -maxInt32 && *s.ReplicaDelta <= maxInt32, at+".replica_delta", "is too large: %d", *s.ReplicaDelta)
		}
	}
}

func (c *Config) model(label string) *Model {
	for i := range c.Models {
		if c.Models[i].ModelLabel == label {
			return &c.Models[i]
		}
	}
	return nil
}

func (c *Config) labels() []string {
	labels := make([]string, len(c.Models))
	for i := range c.Models {
		labels[i] = c.Models[i].ModelLabel
	}
	return labels
}

func (l *Live) validate(r *rules) {
	positive := func(path string, v float64) {
		r.that(finite(v) && v > 0, "live."+path, "must be a finite number > 0, got %v", v)
	}
	r.that(finite(l.PrometheusPollIntervalS) && l.PrometheusPollIntervalS >= 0, "live.prometheus_poll_interval_s",
		"must be a finite number >= 0, got %v", l.PrometheusPollIntervalS)
	r.that(l.MaxOutputTokens > 0, "live.max_output_tokens", "must be > 0, got %d", l.MaxOutputTokens)
	positive("itl_window_s", l.ITLWindowS)
	positive("stagger_s", l.StaggerS)
	positive("warmup_timeout_s", l.WarmupTimeoutS)
	positive("stale_after_s", l.StaleAfterS)
	r.that(l.SaturationThreshold > 0 && l.SaturationThreshold <= 1, "live.saturation_threshold", "must be in (0, 1], got %v", l.SaturationThreshold)
}
