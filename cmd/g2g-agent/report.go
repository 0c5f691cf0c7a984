package main

import (
	"bytes"
	"context"
	"fmt"

	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/record"
	"github.com/g2g-agent/g2g-agent/report"
)

type reportCmd struct {
	File   string `arg:"" placeholder:"FILE" help:"States that a run has written: .csv, .jsonl or .parquet."`
	Config string `placeholder:"FILE" help:"Config of the run, which tells its step and the models' deadlines; without it, the step is found out, and nothing is told of deadlines."`
	JSON   bool   `help:"Print JSON."`
}

// Run sums up the states one by one: a file may be longer than the memory is large.
func (cmd reportCmd) Run(ctx context.Context, term terminal) error {
	var run *report.Run
	if cmd.Config != "" {
		c, err := loadConfig(ctx, term, cmd.Config, config.ForAnything)
		if err != nil {
			return err
		}
		run = &report.Run{DTS: c.DT.Float64(), ITLDeadlineS: map[string]float64{}}
		for i := range c.Models {
			run.ITLDeadlineS[c.Models[i].ModelLabel] = c.Models[i].ITLDeadlineS
		}
	}
	file := report.NewFileSummary(run)
	for state, err := range record.ReadFile(cmd.File) {
		if err != nil {
			return err // it names the file
		}
		if err := file.Add(state); err != nil {
			return fmt.Errorf("%s: %w", cmd.File, err)
		}
	}
	summary, err := file.Finish()
	if err != nil {
		return fmt.Errorf("%s: %w", cmd.File, err)
	}
	write := summary.WriteFileText
	if cmd.JSON {
		write = summary.WriteJSON
	}
	var text bytes.Buffer
	if err := write(&text); err != nil {
		return err
	}
	_, err = term.stdout.Write(text.Bytes())
	return err
}
