package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"strconv"
	"strings"

	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/excerpt"
	"github.com/g2g-agent/g2g-agent/plots"
	"github.com/g2g-agent/g2g-agent/record"
)

type plotCmd struct {
	Input  string   `arg:"" name:"file|dir" help:"States of a run (.csv, .jsonl, .parquet) or an OpenG2G data directory."`
	Out    string   `required:"" placeholder:"FILE" help:"Picture to write, .png or .svg."`
	Kind   string   `default:"auto" enum:"auto,run,power,itl,logistic" help:"What to draw. Of a file: run. Of a directory: power (traces), itl (fits of the inter-token latency) or logistic (fits over the batch size). auto is run or power."`
	Config string   `placeholder:"FILE" help:"Config of the run: its ITL deadlines and scripted replica shifts are drawn too."`
	Model  []string `placeholder:"LABEL" sep:"none" help:"Draw this model of a directory; may be repeated. Default: all."`
	Theme  string   `default:"light" enum:"light,dark" help:"Dark on light, or light on dark."`
	Width  float64  `placeholder:"INCHES" help:"Width of the picture in inches; default: what fits."`
	Height float64  `placeholder:"INCHES" help:"Height of the picture in inches; default: what fits."`
	DPI    int      `name:"dpi" default:"150" help:"Pixels an inch has in a PNG."`
}

func (cmd plotCmd) Run(ctx context.Context, term terminal) error {
	if err := plots.CheckPath(cmd.Out); err != nil {
		return err
	}
	info, err := os.Stat(cmd.Input)
	if err != nil {
		return invalidf("%w", err)
	}
	kind := cmd.Kind
	switch {
	case kind == "auto" && info.IsDir():
		kind = "power"
	case kind == "auto":
		kind = "run"
	case info.IsDir() == (kind == "run"):
		return invalidf("--kind %s is for %s, and %s is %s", kind, inputKind(kind != "run"), excerpt.Printable(cmd.Input, maxQuoted), inputKind(info.IsDir()))
	}
	if kind == "run" && len(cmd.Model) > 0 {
		return invalidf("--model is for a data directory; the picture of a run has all models")
	}
	if kind != "run" && cmd.Config != "" {
		return invalidf("--config is for the states of a run")
	}
	figure, warnings, err := cmd.figure(ctx, kind, term)
	if err != nil {
		return err
	}
	printWarnings(term.stderr, append(warnings, figure.Warnings()...))
	return plots.WriteFile(cmd.Out, figure, plots.Style{Theme: plots.Theme(cmd.Theme), WidthIn: cmd.Width, HeightIn: cmd.Height, DPI: cmd.DPI})
}

// inputKind is what a picture is made from, in words.
func inputKind(isDir bool) string {
	if isDir {
		return "a directory"
	}
	return "a file of states"
}

// figure reads what is to be drawn.
func (cmd plotCmd) figure(ctx context.Context, kind string, term terminal) (*plots.Figure, []string, error) {
	if kind == "run" {
		options, err := cmd.runOptions(ctx, term)
		if err != nil {
			return nil, nil, err
		}
		states := record.ReadFile(cmd.Input)
		if cmd.Config != "" {
			states = someModelHas(options.ITLDeadlineS, states, cmd.Config)
		}
		figure, err := plots.Run(ctx, states, options)
		if ctx.Err() != nil {
			return nil, nil, errors.New("interrupted before the picture was drawn")
		}
		return figure, nil, named(cmd.Input, err)
	}
	models, warnings, err := plots.Load(cmd.Input, cmd.Model, kind == "itl")
	if err != nil {
		return nil, nil, err
	}
	var figure *plots.Figure
	switch kind {
	case "power":
		figure, err = plots.Power(models)
	case "itl":
		if withoutHistograms(models) {
			warnings = append(warnings, "drawn without histograms: they would be more than "+strconv.Itoa(mostLatencyPanels)+" panels; choose models with --model")
		}
		figure, err = plots.ITL(models)
	default:
		figure, err = plots.Logistic(models)
	}
	return figure, warnings, named(cmd.Input, err)
}

// named puts the input's name before an error that has not got it.
func named(input string, err error) error {
	if err == nil || strings.Contains(err.Error(), input) {
		return err
	}
	return fmt.Errorf("%s: %w", excerpt.Printable(input, maxQuoted), err)
}

// runOptions are what the config says of the run.
func (cmd plotCmd) runOptions(ctx context.Context, term terminal) (plots.RunOptions, error) {
	options := plots.RunOptions{ITLDeadlineS: map[string]float64{}}
	if cmd.Config == "" {
		return options, nil
	}
	c, err := loadConfig(ctx, term, cmd.Config, config.ForAnything)
	if err != nil {
		return options, err
	}
	for i := range c.Models {
		options.ITLDeadlineS[c.Models[i].ModelLabel] = c.Models[i].ITLDeadlineS
	}
	for _, scripted := range c.ScriptedCommands() {
		if _, isShift := scripted.Command.(datacenter.ShiftReplicas); isShift {
			options.ReplicaShiftsS = append(options.ReplicaShiftsS, scripted.T.Float64())
		}
	}
	return options, nil
}

// someModelHas fails before the first state if none of its models has a deadline: the
// config is that of another run.
func someModelHas(deadlines map[string]float64, states iter.Seq2[*datacenter.State, error], config string) iter.Seq2[*datacenter.State, error] {
	return func(yield func(*datacenter.State, error) bool) {
		checked := false
		for s, err := range states {
			if err == nil && !checked {
				checked = true
				known := len(s.Models) == 0
				for i := range s.Models {
					known = known || deadlines[s.Models[i].ModelLabel] > 0
				}
				if !known {
					yield(nil, invalidf("%s has none of its models: --config must be that of the run", config))
					return
				}
			}
			if !yield(s, err) {
				return
			}
		}
	}
}
