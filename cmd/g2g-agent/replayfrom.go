package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/agent"
	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/recording"
	"github.com/g2g-agent/g2g-agent/report"
)

// fromFlags are those of a replay of a recording.
type fromFlags struct {
	From       string  `placeholder:"DIR" help:"Run what a live run recorded (run --record) again and compare each state with the recorded one. With another --config, --seed or G2G_AGENT_ variables it is a \"what if\"."`
	FromRun    string  `placeholder:"RUN_ID" help:"With --from: which run, where the directory has several; without it, the first."`
	Segment    int64   `default:"-1" placeholder:"N" help:"With --from: begin at segment N, such as 3 for 00000003.jsonl.zst."`
	Seed       *uint64 `placeholder:"N" help:"With --from: another seed."`
	NoCommands bool    `help:"With --from: leave out what commands changed, and the ends of leases."`
}

// needFrom refuses flags that a replay of a data directory does not have.
func (cmd replayCmd) needFrom() error {
	switch {
	case cmd.Config == "":
		return invalidf("--config or --from is missing: a config with a data directory, or a recording")
	case cmd.FromRun != "" || cmd.Segment >= 0 || cmd.Seed != nil || cmd.NoCommands:
		return invalidf("--from-run, --segment, --seed and --no-commands are for a recording: --from is missing")
	}
	return nil
}

// runFrom runs a recording again.
func (cmd replayCmd) runFrom(ctx context.Context, term terminal) error {
	options := agent.RecordedOptions{Seed: cmd.Seed, LeaveOutCommands: cmd.NoCommands, Environ: term.environ}
	if cmd.Config != "" {
		file, err := readConfig(ctx, term, cmd.Config)
		if err != nil {
			return err
		}
		if options.Config, err = file.Load(term.environ, config.ForLive); err != nil {
			return err
		}
	}
	var err error
	if options.Read, err = cmd.readOptions(); err != nil {
		return err
	}
	if cmd.Pace != "0" {
		return cmd.serveFrom(ctx, term, options)
	}
	if cmd.URLFile != "" {
		return invalidf("--url-file: a replay as fast as possible has no API; use --pace 1 or --pace step")
	}
	log := newLogger(config.Default().Log, term.stderr)
	options.OnEvent = logEventTo(log)
	options.Tell = func(text string) { log.Warn().Msg(text) }
	setup, err := agent.SetUpRecorded(ctx, cmd.From, options)
	if err != nil {
		return err
	}
	defer setup.Run.Close()
	out, err := cmd.prepareFrom(setup, log, term)
	if err != nil {
		return err
	}
	defer out.Abort()
	if _, err = agent.RunFast(ctx, setup.Run, out.add); err == nil {
		err = out.Commit()
	}
	if err != nil {
		return cmd.explain(ctx, err)
	}
	if err := out.print(); err != nil {
		return err
	}
	return told(out, setup.Run.Comparison())
}

// readOptions are the part of the recording that is wanted.
func (cmd replayCmd) readOptions() (o recording.ReadOptions, err error) {
	o.RunID = cmd.FromRun
	if cmd.Segment < 0 {
		return o, nil
	}
	reader, err := recording.OpenReader(cmd.From)
	if err != nil {
		return o, err
	}
	for _, s := range reader.Segments() {
		if s.Number == cmd.Segment && s.HasHeader {
			o.RunID, o.FromMs = s.RunID, s.StartMs+s.Second*time.Second.Milliseconds()
			return o, nil
		}
	}
	return o, invalidf("--segment: %s has no segment %d with a header", cmd.From, cmd.Segment)
}

func (cmd replayCmd) prepareFrom(setup *agent.RecordedSetup, log zerolog.Logger, term terminal) (*replayOutput, error) {
	out, err := openOutput(cmd.Out, setup.Models, cmd.Pace != "0", term, log)
	if err != nil {
		return nil, err
	}
	o := &replayOutput{out, report.NewSummary(setup.Config.DT, setup.Models), newProgress(term.stderr, 0), time.Now(), term.stdout}
	if cmd.Out == stdoutPath {
		o.to = term.stderr
	}
	return o, nil
}

// told says how the states compare with the recorded ones; an error if some differ.
func told(out *replayOutput, c agent.Comparison) error {
	if len(c.WhatIf) > 0 {
		return tell(out.to, fmt.Sprintf("a what-if, not compared with the recorded states; otherwise than recorded: %s\n", strings.Join(c.WhatIf, ", ")))
	}
	if c.Different > 0 {
		return fmt.Errorf("%d of the %d states compared differ from the recorded ones, first %s", c.Different, c.Compared, c.First)
	}
	text := fmt.Sprintf("%d of %d states compared with the recorded ones: all are equal, bit for bit\n", c.Compared, c.Steps)
	if c.Missing > 0 {
		text += fmt.Sprintf("%d steps are missing in the recording\n", c.Missing)
	}
	return tell(out.to, text)
}

// beginRecorded begins the summary anew.
func (o *replayOutput) beginRecorded(setup *agent.RecordedSetup, status agent.Status) {
	o.progress.clear()
	o.summary = report.NewSummary(status.DT, setup.Models)
	o.progress.begin(0)
	o.began = time.Now()
}
