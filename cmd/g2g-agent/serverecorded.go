package main

import (
	"context"
	"errors"

	"github.com/g2g-agent/g2g-agent/agent"
	"github.com/g2g-agent/g2g-agent/api"
	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/datacenter"
)

// serveFrom runs a recording again with the API, in real time or in lockstep. The API is
// that of the config given, or of none, with the environment: the recorded run's may be
// served still.
func (cmd replayCmd) serveFrom(ctx context.Context, term terminal, options agent.RecordedOptions) (err error) {
	c, load, err := cmd.apiConfig(ctx, term, options)
	if err != nil {
		return err
	}
	urlFile, err := cmd.openURLFile(c.API.Listen, cmd.Out)
	if err != nil {
		return err
	}
	log := newLiveLogger(c.Log, term.stderr)
	defer log.end()
	serving, err := newServing(c, load, log.Logger, log.level, term.environ)
	if err != nil {
		return err
	}
	serving.urlFile, serving.keepsConfig = urlFile, true
	observer := serving.observer(logEventTo(log.Logger))
	options.OnEvent = observer.OnEvent
	options.Tell = func(text string) { log.Warn().Msg(text) }
	// Reading goes on until the run is closed, whatever ends it.
	setup, err := agent.SetUpRecorded(context.WithoutCancel(ctx), cmd.From, options)
	if err != nil {
		return err
	}
	out, err := cmd.prepareFrom(setup, log.Logger, term)
	if err != nil {
		setup.Run.Close()
		return err
	}
	defer out.Abort()
	run := servedReplay{environ: term.environ, cmd: cmd, serving: serving, out: out}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	defer func() { err = errors.Join(err, serving.close()) }()
	if cmd.Pace == "step" {
		return run.recordedInLockstep(ctx, end, c, setup)
	}
	return run.recordedInRealTime(ctx, end, c, setup, observer)
}

// apiConfig is the config of what is around the run.
func (cmd replayCmd) apiConfig(ctx context.Context, term terminal, options agent.RecordedOptions) (*config.Config, func() (*config.Config, error), error) {
	if options.Config != nil {
		return options.Config, func() (*config.Config, error) { return options.Config, nil }, nil
	}
	header, err := agent.RecordedHeader(ctx, cmd.From, cmd.FromRun)
	if err != nil {
		return nil, nil, err
	}
	c, err := agent.RecordedConfigOf(header, term.environ)
	return c, func() (*config.Config, error) { return c, nil }, err
}

func (r *servedReplay) recordedInRealTime(ctx context.Context, end context.CancelCauseFunc, c *config.Config, setup *agent.RecordedSetup, observer agent.Observer) error {
	run := agent.NewServedRecorded(setup, false, agent.LockstepHooks{})
	defer run.End()
	if err := r.serving.open(ctx, api.Config{Site: run, Settings: c.API, Control: c.Control}, end); err != nil {
		return err
	}
	timing, err := agent.RunPaced(ctx, run, c.DT, r.emit, observer.OnStep)
	if err == nil {
		err = r.out.Commit()
	}
	if err != nil {
		return r.cmd.explain(ctx, err)
	}
	logTiming(r.serving.log, timing)
	if err := r.out.print(); err != nil {
		return err
	}
	return told(r.out, run.Comparison())
}

func (r *servedReplay) recordedInLockstep(ctx context.Context, end context.CancelCauseFunc, c *config.Config, setup *agent.RecordedSetup) error {
	settings := c.API
	settings.MaxRequestsPerS = 0 // the controller sets the pace
	if settings.Listen == "" {
		return invalidf("api.listen: is empty; --pace step needs the control API")
	}
	var failed error
	hooks := agent.LockstepHooks{
		Emit: func(s *datacenter.State) error {
			if failed = r.emit(s); failed != nil {
				end(failed)
			}
			return failed
		},
		MayReset: (&lockstepRun{servedReplay: r}).mayReset,
		Began:    func(status agent.Status) { r.out.beginRecorded(setup, status); r.serving.server.BeginRun(status.RunID) },
	}
	run := agent.NewServedRecorded(setup, true, hooks)
	defer oneProcessor(r.environ)()
	if err := r.serving.open(ctx, api.Config{Site: run, Settings: settings, Control: c.Control, Lockstep: run}, end); err != nil {
		return err
	}
	<-ctx.Done()
	run.End()
	if failed != nil {
		return failed
	}
	if err := r.finish(); err != nil {
		return err
	}
	return told(r.out, run.Comparison())
}
