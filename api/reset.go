package api

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"

	"github.com/g2g-agent/g2g-agent/agent"
	"github.com/g2g-agent/g2g-agent/api/problem"
	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/strictjson"
)

// resetCommand is the name of the command that begins a replay anew.
const resetCommand = "reset"

// maxSeed is the largest seed of a reset: whole numbers have 18 digits at most.
const maxSeed = 999_999_999_999_999_999

func (s *Server) reset(ctx context.Context, raw []byte) (any, refusal) {
	o, err := strictjson.Parse(raw)
	if err != nil {
		return nil, bodyProblem(err)
	}
	info, refused := s.resetAs(ctx, o)
	if refused != nil {
		return nil, refused
	}
	reportResult(ctx, resetResult(info))
	return info, nil
}

// resetResult is what the log has of a reset.
func resetResult(info *infoBody) map[string]string { return map[string]string{"run_id": info.RunID} }

// resetAs begins the run anew as the object says.
func (s *Server) resetAs(ctx context.Context, o *strictjson.Object) (*infoBody, *problem.Problem) {
	override := overrideOf(o)
	if err := o.Err(); err != nil {
		return nil, bodyProblem(err)
	}
	if s.cfg.Lockstep == nil {
		return nil, problem.New(http.StatusConflict, "this run steps by itself; only a replay started with --pace step begins anew by requests").
			Coded(problem.CodeNotLockstep)
	}
	body := "body" + o.Path()
	if refused := s.unknownLabels(override, body); refused != nil {
		return nil, refused
	}
	if err := s.cfg.Lockstep.Reset(ctx, override); err != nil {
		return nil, s.resetFailed(err, body)
	}
	status := s.cfg.Site.Status()
	return s.infoOf(&status), nil
}

// resetFailed is the answer where the run goes on as it was; body is where the reset stands.
func (s *Server) resetFailed(err error, body string) *problem.Problem {
	if refused := commandProblemIn(body, err); refused != nil {
		return refused
	}
	var wrong *agent.OverrideError
	if !errors.As(err, &wrong) {
		return s.commandFailed(err)
	}
	const most = 20
	first := wrong.Problems[0]
	p := problem.New(http.StatusUnprocessableEntity, "%s.%s", body, first)
	infeasible := true
	for _, fault := range wrong.Problems[:min(len(wrong.Problems), most)] {
		if strings.HasPrefix(fault.Path, "initial_batch_sizes.") {
			p = p.AtCoded(body+"."+fault.Path, fault.Message, problem.CodeInfeasibleBatchSize)
			continue
		}
		p, infeasible = p.At(body+"."+fault.Path, fault.Message), false
	}
	if !infeasible {
		p = p.Coded(problem.CodeInvalidRequest)
	}
	return p
}

// unknownLabels is the answer to a reset that names models that there are not; body is where
// it stands.
func (s *Server) unknownLabels(o *config.Override, body string) *problem.Problem {
	status := s.cfg.Site.Status()
	labels := make([]string, len(status.Models))
	for i := range labels {
		labels[i] = status.Models[i].Spec.ModelLabel
	}
	var p *problem.Problem
	check := func(member, label string) {
		if slices.Contains(labels, label) {
			return
		}
		location, message := problem.Shorten(body+"."+member+"."+label), fmt.Sprintf("unknown model; the models are %q", labels)
		if p == nil {
			p = problem.New(http.StatusNotFound, "%s: %s", location, message)
		}
		p = p.AtCoded(location, message, problem.CodeUnknownModel)
	}
	for _, label := range slices.Sorted(maps.Keys(o.Replicas)) {
		check("replicas", label)
	}
	for _, label := range slices.Sorted(maps.Keys(o.InitialBatchSizes)) {
		check("initial_batch_sizes", label)
	}
	return p
}

// overrideOf reads what a reset says; what is wrong with it is the object's to tell.
func overrideOf(o *strictjson.Object) *config.Override {
	const seed, replicas, sizes, training, duration = "seed", "replicas", "initial_batch_sizes", "training", "duration_s"
	o.Members(nil, seed, replicas, sizes, training, duration)
	override := &config.Override{}
	if o.Has(seed) {
		n := uint64(o.Whole(seed, 0, maxSeed))
		override.Seed = &n
	}
	if byModel := o.ByModel(replicas); byModel != nil {
		override.Replicas = map[string]*config.Replicas{}
		for _, label := range byModel.Names() {
			override.Replicas[label] = replicasOf(byModel, label)
		}
	}
	if byModel := o.ByModel(sizes); byModel != nil {
		override.InitialBatchSizes = map[string]int{}
		for _, label := range byModel.Names() {
			override.InitialBatchSizes[label] = byModel.Whole(label, 1, math.MaxInt32)
		}
	}
	if o.Has(training) {
		runs := []config.Training{}
		if !o.IsNull(training) {
			for _, run := range o.Objects(training) {
				runs = append(runs, trainingOf(run))
			}
		}
		override.Training = &runs
	}
	if o.Has(duration) {
		lengthS := o.Number(duration, "a number of seconds above 0", func(f float64) bool { return f > 0 && !math.IsInf(f, 0) })
		if exact, err := datacenter.SecondsOf(lengthS); err != nil {
			o.Fault(duration, "%v", err)
		} else {
			override.Duration = &exact
		}
	}
	return override
}

// replicasOf reads the schedule of a model, nil for null.
func replicasOf(byModel *strictjson.Object, label string) *config.Replicas {
	if byModel.IsNull(label) {
		return nil
	}
	replicas := &config.Replicas{}
	o := byModel.Within(label)
	if o == nil {
		return replicas
	}
	const initial, ramps, target, start, end = "initial", "ramps", "target", "t_start", "t_end"
	o.Members([]string{initial}, ramps)
	replicas.Initial = wholeOf(o, initial, 0)
	for _, ramp := range o.Objects(ramps) {
		ramp.Members([]string{target, start, end})
		replicas.Ramps = append(replicas.Ramps, config.Ramp{Target: wholeOf(ramp, target, 0), TStart: finiteOf(ramp, start), TEnd: finiteOf(ramp, end)})
	}
	return replicas
}

func trainingOf(o *strictjson.Object) config.Training {
	const gpus, trace, peak, start, end = "n_gpus", "trace", "target_peak_w_per_gpu", "t_start", "t_end"
	o.Members([]string{gpus, start, end}, trace, peak)
	run := config.Training{Trace: o.Text(trace), TStart: finiteOf(o, start), TEnd: finiteOf(o, end)}
	run.NGPUs = *wholeOf(o, gpus, 1)
	if o.Has(peak) {
		watts := o.Number(peak, "a finite number, at least 0", func(f float64) bool { return f >= 0 && !math.IsInf(f, 0) })
		run.TargetPeakWPerGPU = &watts
	}
	return run
}

func wholeOf(o *strictjson.Object, name string, least int64) *int {
	n := o.Whole(name, least, math.MaxInt32)
	return &n
}

func finiteOf(o *strictjson.Object, name string) *float64 {
	f := o.Number(name, "a finite number", func(f float64) bool { return !math.IsInf(f, 0) })
	return &f
}
