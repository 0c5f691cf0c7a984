package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/g2g-agent/g2g-agent/agent"
	"github.com/g2g-agent/g2g-agent/api"
	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/datacenter"
)

// runServed runs the replay with the control API, in real time or in lockstep.
func (cmd replayCmd) runServed(ctx context.Context, term terminal, c *config.Config, load func() (*config.Config, error)) (err error) {
	log := newLiveLogger(c.Log, term.stderr)
	defer log.end()
	serving, err := newServing(c, load, log.Logger, log.level, term.environ)
	if err != nil {
		return err
	}
	observer := serving.observer(logEventTo(log.Logger))
	setup, err := agent.SetUpReplay(c, observer.OnEvent)
	if err != nil {
		return fmt.Errorf("%s: %w", cmd.Config, err)
	}
	out, err := cmd.prepare(c, setup, log.Logger, term)
	if err != nil {
		return err
	}
	defer out.Abort()
	outer := ctx
	run := servedReplay{
		cmd: cmd, serving: serving, out: out, steps: setup.Replay.Steps(),
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
	finished := false // guarded by the replay, which computes one step at a time
	var failed error  // likewise
	replay := agent.NewLockstepReplay(setup.Replay, func(s *datacenter.State) error {
		if failed = r.emit(s); failed == nil && s.Seq == r.steps-1 {
			finished = true
			failed = r.finish()
		}
		if failed != nil {
			end(failed)
		}
		return failed
	})
	settings := c.API
	settings.MaxRequestsPerS = 0 // the controller sets the pace
	if settings.Listen == "" {
		return invalidf("%s: api.listen: is empty; --pace step needs the control API", r.cmd.Config)
	}
	advance := func(ctx context.Context, n int) ([]*datacenter.State, error) {
		states, err := replay.Advance(ctx, n)
		if err != nil && !errors.Is(err, context.Cause(ctx)) {
			end(stepError{err}) // the steps after it would fail too
		}
		return states, err
	}
	if err := r.serving.open(ctx, api.Config{Site: replay, Settings: settings, Control: c.Control, Advance: advance}, end); err != nil {
		return err
	}
	<-ctx.Done()
	replay.End()
	if failed != nil || finished {
		return failed
	}
	if err := (stepError{}); errors.As(context.Cause(ctx), &err) {
		return err.error
	}
	return r.finish()
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
