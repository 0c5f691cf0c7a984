package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/g2g-agent/g2g-agent/agent"
	"github.com/g2g-agent/g2g-agent/api"
	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/datacenter"
)

// runServed runs the replay with the control API, in real time or in lockstep.
func (cmd replayCmd) runServed(ctx context.Context, term terminal, c *config.Config, file *config.File) (err error) {
	urlFile, err := cmd.openURLFile(c.API.Listen, cmd.Out)
	if err != nil {
		return err
	}
	log := newLiveLogger(c.Log, term.stderr)
	defer log.end()
	serving, err := newServing(c, reloader(file, cmd.Config, term.environ, config.ForReplay), log.Logger, log.level, term.environ)
	if err != nil {
		return err
	}
	serving.urlFile, serving.keepsConfig = urlFile, cmd.Config == config.Stdin
	observer := serving.observer(logEventTo(log.Logger))
	setup, err := agent.SetUpReplay(c, observer.OnEvent)
	if err != nil {
		return fmt.Errorf("%s: %w", file.Name(), err)
	}
	out, err := cmd.prepare(c, setup, log.Logger, term)
	if err != nil {
		return err
	}
	defer out.Abort()
	outer := ctx
	run := servedReplay{
		environ: term.environ,
		cmd:     cmd, serving: serving, out: out, steps: setup.Replay.Steps(),
		ended: func(err error) bool {
			return setup.Replay.Endless() && outer.Err() != nil && errors.Is(err, context.Cause(outer))
		},
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	defer func() { err = errors.Join(err, serving.close()) }()
	if cmd.Pace == "step" {
		return run.inLockstep(ctx, end, c, setup)
	}
	return run.inRealTime(ctx, end, c, setup, log, observer)
}

// servedReplay is a replay with the control API.
type servedReplay struct {
	environ []string
	cmd     replayCmd
	serving *serving
	out     *replayOutput
	steps   int64
	// ended tells whether the error is just how a replay without end comes to one.
	ended func(error) bool
}

func (r *servedReplay) emit(s *datacenter.State) error {
	if err := r.out.add(s); err != nil {
		return err
	}
	r.serving.publish(s)
	return nil
}

func (r *servedReplay) inRealTime(ctx context.Context, end context.CancelCauseFunc, c *config.Config, setup *agent.Setup, log liveLog, observer agent.Observer) error {
	replay := agent.NewServedReplay(setup.Replay)
	if err := r.serving.open(ctx, api.Config{Site: replay, Settings: c.API, Control: c.Control}, end); err != nil {
		return err
	}
	timing, err := agent.RunPaced(ctx, replay, c.DT, r.emit, observer.OnStep)
	if err == nil || r.ended(err) {
		err = r.out.Commit()
	}
	if err != nil {
		return r.cmd.explain(ctx, err)
	}
	logTiming(log.Logger, timing)
	return r.out.print()
}

// inLockstep serves the replay until ctx is done, which is its orderly end: the
// output has what was computed until then. It is complete as soon as the last
// step has been computed; the API stays, for those who still want to look.
func (r *servedReplay) inLockstep(ctx context.Context, end context.CancelCauseFunc, c *config.Config, setup *agent.Setup) error {
	run := lockstepRun{servedReplay: r, end: end, setup: setup}
	run.LockstepReplay = agent.NewLockstepReplay(setup, agent.LockstepHooks{Emit: run.emit, MayReset: run.mayReset, Began: run.began})
	defer oneProcessor(r.environ)()
	settings := c.API
	settings.MaxRequestsPerS = 0 // the controller sets the pace
	if settings.Listen == "" {
		return invalidf("%s: api.listen: is empty; --pace step needs the control API", config.DisplayName(r.cmd.Config))
	}
	if err := r.serving.open(ctx, api.Config{Site: run.LockstepReplay, Settings: settings, Control: c.Control, Lockstep: &run}, end); err != nil {
		return err
	}
	<-ctx.Done()
	run.End()
	if run.failed != nil || run.finished {
		return run.failed
	}
	if err := (stepError{}); errors.As(context.Cause(ctx), &err) {
		return err.error
	}
	return r.finish()
}

// oneProcessor has the program use one processor, unless the environment says otherwise: a
// replay in lockstep does one thing after the other, and to wake a second processor for
// each request costs as much as the request. undo has it use those it had.
func oneProcessor(environ []string) (undo func()) {
	const variable = "GOMAXPROCS="
	if slices.ContainsFunc(environ, func(v string) bool { return strings.HasPrefix(v, variable) }) {
		return func() {}
	}
	before := runtime.GOMAXPROCS(1)
	return func() { runtime.GOMAXPROCS(before) }
}

// lockstepRun is a replay in lockstep with its output. What it has is the replay's to
// guard, which calls it from one goroutine at a time.
type lockstepRun struct {
	*agent.LockstepReplay
	*servedReplay
	end   context.CancelCauseFunc
	setup *agent.Setup
	// finished: the output is complete and the summary printed, of the run at hand.
	finished bool
	// renewed: it is not the first run.
	renewed bool
	failed  error
}

// emit hands a state on. After the last one the output is complete and the summary printed,
// unless the run was begun anew and has no output: there may be thousands of those.
func (r *lockstepRun) emit(s *datacenter.State) error {
	if r.failed = r.servedReplay.emit(s); r.failed == nil && s.Seq == r.steps-1 && (!r.renewed || r.cmd.Out != "") {
		r.finished = true
		r.failed = r.finish()
	}
	if r.failed != nil {
		r.end(r.failed)
	}
	return r.failed
}

// Advance implements [api.Lockstep].
func (r *lockstepRun) Advance(ctx context.Context, a agent.Advance, each func(*datacenter.State) error) (int, error) {
	n, err := r.LockstepReplay.Advance(ctx, a, each)
	if failed := (*agent.StepError)(nil); errors.As(err, &failed) {
		r.end(stepError{failed.Err})
	}
	return n, err
}

// mayReset refuses to begin anew once a file has states of the run.
func (r *lockstepRun) mayReset(steps int64) error {
	if r.cmd.Out == "" || steps == 0 {
		return nil
	}
	return &datacenter.CommandError{
		Field: "command", Reason: datacenter.ErrWritingOutput,
		Detail: fmt.Sprintf("%d states of this run are in the output (--out) already: reset the replay before its first step, or start it without --out", steps),
	}
}

// began begins the summary anew, and lets everybody else do so.
func (r *lockstepRun) began(status agent.Status) {
	r.steps, r.finished, r.renewed = status.TotalSteps, false, true
	r.out.begin(r.setup, status)
	r.serving.server.BeginRun(status.RunID)
}

// stepError ends a replay that cannot go on.
type stepError struct{ error }

// finish completes the output and prints the summary.
func (r *servedReplay) finish() error {
	if err := r.out.Commit(); err != nil {
		return err
	}
	return r.out.print()
}
