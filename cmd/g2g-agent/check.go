package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/agent"
	"github.com/g2g-agent/g2g-agent/api"
	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/excerpt"
)

type checkCmd struct {
	Config string `required:"" placeholder:"FILE" help:"Config to check; - is standard input."`
	Probe  bool   `xor:"form" help:"Also ask every power source and vLLM server that a live run would use; nothing is changed there. A line each: ok, warn for what a run can do without, FAILED for what would keep it from starting."`
	JSON   bool   `xor:"form" help:"Print one JSON object: the effective config and what follows from it, or what is wrong."`
}

func (cmd checkCmd) Run(ctx context.Context, term terminal) error {
	file, err := readConfig(ctx, term, cmd.Config)
	if cmd.JSON {
		return cmd.printJSON(ctx, term, file, err)
	}
	if err != nil {
		return err
	}
	if cmd.Probe {
		return cmd.probe(ctx, term, file)
	}
	found, err := check(ctx, term, file)
	if err != nil {
		return err
	}
	verdicts := found.verdicts()
	printWarnings(term.stdout, found.warnings)
	for i, verdict := range verdicts {
		verdicts[i] = file.Name() + ": " + verdict + "\n"
	}
	_, err = io.WriteString(term.stdout, strings.Join(verdicts, ""))
	return err
}

// checked is what was found of a config in which nothing is wrong.
type checked struct {
	config   *config.Config
	replay   *agent.Setup // nil if it is for no replay
	live     bool
	models   []datacenter.ModelSpec
	warnings []string // each may be there several times
}

// check does what runs with the config do before they contact anything. The error is all
// that is wrong, joined.
func check(ctx context.Context, term terminal, file *config.File) (*checked, error) {
	c, err := file.Load(term.environ, config.ForAnything)
	if err != nil {
		return nil, err
	}
	found := &checked{config: c}
	var errs []error
	if c.Replay.DataDir != "" {
		if found.replay, err = agent.SetUpReplay(c, nil); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", file.Name(), err))
		} else {
			found.models = found.replay.Models
			found.warnings = append(found.warnings, found.replay.Warnings...)
		}
	}
	if slices.ContainsFunc(c.Models, func(m config.Model) bool { return m.Live != nil }) {
		if _, setup, err := setUpLive(term, file, io.Discard); err != nil {
			if len(errs) == 0 || err.Error() != errs[0].Error() { // both read the training traces
				errs = append(errs, err)
			}
		} else {
			setup.Live.Close()
			found.live = true
			if found.models == nil {
				found.models = setup.Models
			}
			found.warnings = append(found.warnings, setup.Warnings...)
		}
	}
	of, err := checkAPI(ctx, c)
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, err
	}
	found.warnings = append(found.warnings, of...)
	return found, nil
}

// verdicts say what the config can be used for.
func (found *checked) verdicts() []string {
	var verdicts []string
	if r := found.replay; r != nil {
		steps := fmt.Sprintf("%d steps of %s s", r.Replay.Steps(), found.config.DT)
		if r.Replay.Endless() {
			steps = fmt.Sprintf("steps of %s s without end", found.config.DT)
		}
		verdicts = append(verdicts, fmt.Sprintf("ok for replay, %d models, %s", len(found.config.Models), steps))
	}
	if found.live {
		verdicts = append(verdicts, fmt.Sprintf("ok for run, %d models; --probe asks the servers", len(found.config.Models)))
	}
	if len(verdicts) == 0 {
		verdicts = append(verdicts, "ok as it is, but for no run: replay needs replay.data_dir, run needs models with live")
	}
	return verdicts
}

// checkAPI does what a run with the API does before it listens, and returns what it
// would warn of.
func checkAPI(ctx context.Context, c *config.Config) (warnings []string, err error) {
	if c.API.Listen == "" {
		return nil, nil
	}
	return api.Check(ctx, c.API, zerolog.Nop())
}

// setUpLive does what a live run does before it contacts anything.
func setUpLive(term terminal, file *config.File, logTo io.Writer) (*config.Config, *agent.LiveSetup, error) {
	c, err := file.Load(term.environ, config.ForLive)
	if err != nil {
		return nil, nil, err
	}
	setup, err := agent.SetUpLive(c, agent.SecretsFrom(term.environ), newLogger(c.Log, logTo), agent.Observer{})
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", file.Name(), err)
	}
	return c, setup, nil
}

// printWarnings prints remarks, each once.
func printWarnings(w io.Writer, warnings []string) {
	for i, text := range warnings {
		if !slices.Contains(warnings[:i], text) {
			fmt.Fprintf(w, "warning: %s\n", text)
		}
	}
}

// probe asks the servers and prints what each answered.
func (cmd checkCmd) probe(ctx context.Context, term terminal, file *config.File) error {
	c, setup, err := setUpLive(term, file, term.stderr)
	if err != nil {
		return err
	}
	defer setup.Live.Close()
	warnings, err := checkAPI(ctx, c)
	if err != nil {
		return err
	}
	printWarnings(term.stdout, append(setup.Warnings, warnings...))
	results := setup.Live.Probe(ctx)
	if ctx.Err() != nil {
		return errors.New("interrupted") // what the servers did not answer is not their fault
	}
	failed := 0
	for _, r := range results {
		verdict := "ok"
		if len(r.Warnings) > 0 {
			verdict = "warn"
		}
		for _, w := range r.Warnings {
			r.Findings = append(r.Findings, "warning: "+w)
		}
		if r.Err != nil {
			failed++
			verdict = "FAILED"
			r.Findings = append(r.Findings, r.Err.Error())
		}
		fmt.Fprintf(term.stdout, "%-6s  %s: %s\n", verdict, r.Server, excerpt.Printable(strings.Join(r.Findings, "; "), maxMessage, '\n'))
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d servers would keep a run from starting", failed, len(results))
	}
	return nil
}
