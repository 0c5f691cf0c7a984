package main

import (
	"context"
	"fmt"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/agent"
	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/datacenter"
)

type replayCmd struct {
	Config string `required:"" placeholder:"FILE" help:"Config of the run."`
	Out    string `placeholder:"FILE" help:"Where the states go; the ending picks the format: .csv, .jsonl or .parquet. - is CSV on standard output."`
	Pace   string `default:"0" enum:"0,1,step" help:"0: as fast as possible. 1: in real time. (step is for the control API, which this version does not have yet.)"`
}

func (cmd replayCmd) Run(ctx context.Context, term terminal) error {
	if cmd.Pace == "step" {
		return invalidf("--pace step waits for the control API, which this version does not have yet; use 0 or 1")
	}
	c, err := config.Load(cmd.Config, term.environ, config.ForReplay)
	if err != nil {
		return err
	}
	log := newLogger(c.Log, term.stderr)
	setup, err := agent.SetUpReplay(c, func(e datacenter.Event) {
		log.Debug().Float64("time_s", e.TimeS).Interface("data", e.Data).Msg(e.Topic)
	})
	if err != nil {
		return fmt.Errorf("%s: %w", cmd.Config, err)
	}
	for _, w := range setup.Warnings {
		log.Warn().Msg(w)
	}
	out, err := openOutput(cmd.Out, setup.Models, cmd.Pace == "1", term)
	if err != nil {
		return err
	}
	defer out.Abort()

	began := time.Now()
	summary := agent.NewSummary(c.DT, setup.Models)
	progress := newProgress(term.stderr, setup.Replay.Steps())
	timing, err := cmd.run(ctx, setup.Replay, c.DT, func(s *datacenter.State) error {
		summary.Add(s)
		progress.update(s)
		return out.Write(s)
	})
	progress.clear()
	if err == nil {
		err = out.Commit()
	}
	if err != nil {
		return cmd.explain(ctx, err)
	}
	if cmd.Pace == "1" {
		logTiming(log, timing)
	}
	w := term.stdout
	if cmd.Out == stdoutPath {
		w = term.stderr
	}
	return printSummary(w, summary, time.Since(began))
}

func (cmd replayCmd) run(ctx context.Context, r *agent.Replay, dt datacenter.Seconds, emit func(*datacenter.State) error) (agent.Timing, error) {
	if cmd.Pace == "1" {
		return agent.RunPaced(ctx, r, dt, emit, nil)
	}
	return agent.RunFast(ctx, r, emit)
}

// explain says what an interrupted run left.
func (cmd replayCmd) explain(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	if cmd.Out != "" && cmd.Out != stdoutPath {
		return fmt.Errorf("interrupted; %s was not written", cmd.Out)
	}
	return fmt.Errorf("interrupted")
}

func logTiming(log zerolog.Logger, t agent.Timing) {
	log.Info().Int64("steps", t.Steps).Int64("late_steps", t.LateSteps).Float64("max_lateness_s", t.MaxLateness.Seconds()).Float64("elapsed_s", t.Elapsed.Seconds()).Msg("paced run done")
}

func invalidf(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{datacenter.ErrInvalidInput}, args...)...)
}
