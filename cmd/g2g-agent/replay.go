package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/agent"
	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/record"
	"github.com/g2g-agent/g2g-agent/report"
)

type replayCmd struct {
	Config string `placeholder:"FILE" help:"Config of the run; - is standard input. With --from, in place of the recorded one."`
	fromFlags
	Out  string `placeholder:"FILE" help:"Where the states go; the ending picks the format: .csv, .jsonl or .parquet. - is CSV on standard output."`
	Pace string `default:"0" enum:"0,1,step" help:"0: as fast as possible. 1: in real time, with the control API. step: the control API advances it, step by step."`
	urlFlags
	processFlags
}

func (cmd replayCmd) Run(ctx context.Context, term terminal) error {
	unwatch, err := cmd.watchParent(term, isStdin(cmd.Config))
	if err != nil {
		return err
	}
	defer unwatch()
	if cmd.From != "" {
		return cmd.runFrom(ctx, term)
	}
	if err := cmd.needFrom(); err != nil {
		return err
	}
	file, err := readConfig(ctx, term, cmd.Config)
	if err != nil {
		return err
	}
	c, err := file.Load(term.environ, config.ForReplay)
	if err != nil {
		return err
	}
	if cmd.Pace != "0" {
		return cmd.runServed(ctx, term, c, file)
	}
	if cmd.URLFile != "" {
		return invalidf("--url-file: a replay as fast as possible has no API; use --pace 1 or --pace step")
	}
	if c.Replay.AtEnd == config.AtEndContinue {
		return invalidf("%s: replay.at_end: is continue, and nothing would end the run: use --pace 1 or --pace step, or a longer duration_s", file.Name())
	}
	log := newLogger(c.Log, term.stderr)
	setup, err := agent.SetUpReplay(c, logEventTo(log))
	if err != nil {
		return fmt.Errorf("%s: %w", file.Name(), err)
	}
	out, err := cmd.prepare(c, setup, log, term)
	if err != nil {
		return err
	}
	defer out.Abort()
	if _, err = agent.RunFast(ctx, setup.Replay, out.add); err == nil {
		err = out.Commit()
	}
	if err != nil {
		return cmd.explain(ctx, err)
	}
	return out.print()
}

// logEventTo logs the events of a replay, of which a fast one has many.
func logEventTo(log zerolog.Logger) func(datacenter.Event) {
	return func(e datacenter.Event) {
		log.Debug().Float64("time_s", e.TimeS).Interface("data", e.Data).Msg(e.Topic)
	}
}

// replayOutput is where the states of a replay go.
type replayOutput struct {
	record.Output
	summary  *report.Summary
	progress *progress
	began    time.Time
	to       io.Writer // the summary
}

func (cmd replayCmd) prepare(c *config.Config, setup *agent.Setup, log zerolog.Logger, term terminal) (*replayOutput, error) {
	for _, w := range setup.Warnings {
		log.Warn().Msg(w)
	}
	out, err := openOutput(cmd.Out, setup.Models, cmd.Pace != "0", term, log)
	if err != nil {
		return nil, err
	}
	steps := setup.Replay.Steps()
	if setup.Replay.Endless() {
		steps = 0
	}
	o := &replayOutput{out, report.NewSummary(c.DT, setup.Models), newProgress(term.stderr, steps), time.Now(), term.stdout}
	if cmd.Out == stdoutPath {
		o.to = term.stderr
	}
	return o, nil
}

// begin begins the summary anew, of a run that has not begun to write an output.
func (o *replayOutput) begin(setup *agent.Setup, status agent.Status) {
	o.progress.clear()
	o.summary = report.NewSummary(status.DT, setup.Models)
	o.progress.begin(status.TotalSteps)
	o.began = time.Now()
}

func (o *replayOutput) add(s *datacenter.State) error {
	o.summary.Add(s)
	o.progress.update(s)
	return o.Write(s)
}

func (o *replayOutput) Commit() error {
	o.progress.clear()
	return o.Output.Commit()
}

func (o *replayOutput) Abort() {
	o.progress.clear()
	o.Output.Abort()
}

func (o *replayOutput) print() error { return o.summary.WriteText(o.to, time.Since(o.began)) }

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
