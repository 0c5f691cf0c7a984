package main

import (
	"fmt"

	"github.com/g2g-agent/g2g-agent/agent"
	"github.com/g2g-agent/g2g-agent/config"
)

type checkCmd struct {
	Config string `required:"" placeholder:"FILE" help:"Config to check."`
}

func (cmd checkCmd) Run(term terminal) error {
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
