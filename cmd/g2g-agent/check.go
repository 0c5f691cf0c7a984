package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/g2g-agent/g2g-agent/agent"
	"github.com/g2g-agent/g2g-agent/config"
)

type checkCmd struct {
	Config string `required:"" placeholder:"FILE" help:"Config to check."`
	Probe  bool   `help:"Also ask every zeusd daemon and vLLM server that a live run would use; nothing is changed there."`
}

func (cmd checkCmd) Run(ctx context.Context, term terminal) error {
	if cmd.Probe {
		return cmd.probe(ctx, term)
	}
	c, err := config.Load(cmd.Config, term.environ, config.ForAnything)
	if err != nil {
		return err
	}
	if c.Replay.DataDir == "" {
		_, err = fmt.Fprintf(term.stdout, "%s: ok (no replay.data_dir, so no data was checked)\n", cmd.Config)
		return err
	}
	setup, err := agent.SetUpReplay(c, nil)
	if err != nil {
		return fmt.Errorf("%s: %w", cmd.Config, err)
	}
	for _, w := range setup.Warnings {
		fmt.Fprintf(term.stdout, "warning: %s\n", w)
	}
	_, err = fmt.Fprintf(term.stdout, "%s: ok, %d models, %d steps of %s s\n", cmd.Config, len(setup.Models), setup.Replay.Steps(), c.DT)
	return err
}

// probe asks the servers and prints what each answered.
func (cmd checkCmd) probe(ctx context.Context, term terminal) error {
	c, err := config.Load(cmd.Config, term.environ, config.ForLive)
	if err != nil {
		return err
	}
	setup, err := agent.SetUpLive(c, agent.SecretsFrom(term.environ), newLogger(c.Log, term.stderr), nil)
	if err != nil {
		return fmt.Errorf("%s: %w", cmd.Config, err)
	}
	defer setup.Live.Close()
	for _, w := range setup.Warnings {
		fmt.Fprintf(term.stdout, "warning: %s\n", w)
	}
	failed := 0
	results := setup.Live.Probe(ctx)
	for _, r := range results {
		verdict := "ok"
		if r.Err != nil {
			failed++
			verdict = "FAILED"
			r.Findings = append(r.Findings, r.Err.Error())
		}
		fmt.Fprintf(term.stdout, "%-6s  %s: %s\n", verdict, r.Server, strings.Join(r.Findings, "; "))
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d servers would keep a run from starting", failed, len(results))
	}
	return nil
}
