package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/internal/atomicfile"
	"github.com/g2g-agent/g2g-agent/plots"
	"github.com/g2g-agent/g2g-agent/workload"
)

// plotsFolder is where the pictures are below a data directory. OpenG2G passes it over.
const plotsFolder = "plots"

// noPlots is the value of --plots for no pictures.
const noPlots = "none"

// errPlots says that the data is there, and pictures are not. It is no fault of the
// input, whatever the pictures failed for.
var errPlots = errors.New("the data is written, but not all plots are; the same call draws them again")

// dataPlots draws measured data beside it.
type dataPlots struct {
	ending string // of the files, without a dot
	log    zerolog.Logger
}

// picture is a file and what it shows.
type picture struct {
	name   string
	figure func() (*plots.Figure, error)
}

// write draws all pictures of the models of a data directory. One that fails is logged and does not keep the others from
// being drawn.
func (p dataPlots) write(ctx context.Context, dir string, models []plots.Model) error {
	folder := filepath.Join(dir, plotsFolder)
	failed := false
	warn := func(file string, err error) {
		p.log.Warn().Str("file", file).Err(err).Msg("a plot is missing")
		failed = true
	}
	if err := os.MkdirAll(folder, 0o777); err != nil {
		warn(folder, err)
		return errPlots
	}
	for _, picture := range picturesOf(models) {
		file := filepath.Join(folder, picture.name+"."+p.ending)
		err := context.Cause(ctx)
		if err == nil {
			err = p.draw(file, picture)
		}
		if err != nil {
			warn(file, err)
		}
	}
	if failed {
		return errPlots
	}
	return nil
}

func (p dataPlots) draw(file string, picture picture) error {
	figure, err := picture.figure()
	if err != nil {
		return err
	}
	for _, text := range figure.Warnings() {
		p.log.Warn().Str("file", file).Msg(text)
	}
	atomicfile.TakeLeftovers(file, func(_ *os.File, path string) { _ = os.Remove(path) }) // of a call that was cut off
	return plots.WriteFile(file, figure, plots.Style{})
}

// picturesOf are the pictures of data. Latencies of many models are several pictures:
// they have a panel for each batch size.
func picturesOf(models []plots.Model) []picture {
	all := []picture{{"power", func() (*plots.Figure, error) { return plots.Power(models) }}}
	hasCurves := func(m plots.Model) bool { return m.Data.Logistic != nil }
	if slices.ContainsFunc(models, hasCurves) {
		all = append(all, picture{"logistic", func() (*plots.Figure, error) { return plots.Logistic(models) }})
	}
	for i, group := range latencyGroups(models) {
		name := "itl"
		if i > 0 {
			name = fmt.Sprintf("itl_%d", i+1)
		}
		all = append(all, picture{name, func() (*plots.Figure, error) {
			var some []plots.Model
			for _, m := range group {
				model := models[m]
				if len(model.Data.ITL) > mostLatencyPanels {
					model.Observed.ITL = nil // the fits alone
				}
				some = append(some, model)
			}
			return plots.ITL(some)
		}})
	}
	return all
}

// mostLatencyPanels bounds the panels of a picture of latencies, and so its height.
const mostLatencyPanels = 48

// latencyGroups are the models of each picture of latencies, by their places.
func latencyGroups(models []plots.Model) [][]int {
	var groups [][]int
	panels := 0
	for i := range models {
		n := len(models[i].Data.ITL)
		if n > mostLatencyPanels {
			n = 1
		}
		if panels += n; len(groups) == 0 || panels > mostLatencyPanels {
			groups, panels = append(groups, nil), n
		}
		last := len(groups) - 1
		groups[last] = append(groups[last], i)
	}
	return groups
}

// modelsOf are measurements as they are drawn.
func modelsOf(measured []workload.Measured) []plots.Model {
	var models []plots.Model
	for i := range measured {
		of := &measured[i]
		m := plots.Model{Label: of.Spec.ModelLabel, Observed: of.Observed}
		m.Data.Traces, m.Data.ITL, m.Data.Logistic = of.Traces, of.ITL, of.Logistic
		models = append(models, m)
	}
	return models
}

// withoutHistograms drops the histograms if the latencies at each batch size are more
// panels than a picture takes: the fits of a model are one. It reports whether it did.
func withoutHistograms(models []plots.Model) bool {
	panels := 0
	for i := range models {
		panels += len(models[i].Observed.ITL)
	}
	if panels <= mostLatencyPanels {
		return false
	}
	for i := range models {
		models[i].Observed.ITL = nil
	}
	return true
}
