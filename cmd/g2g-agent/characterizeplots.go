package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/characterize"
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

// write draws all pictures. One that fails is logged and does not keep the others from
// being drawn.
func (p dataPlots) write(ctx context.Context, d *characterize.Data) error {
	folder := filepath.Join(d.Dir, plotsFolder)
	failed := false
	warn := func(file string, err error) {
		p.log.Warn().Str("file", file).Err(err).Msg("a plot is missing")
		failed = true
	}
	if err := os.MkdirAll(folder, 0o777); err != nil {
		warn(folder, err)
		return errPlots
	}
	for _, picture := range picturesOf(d) {
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
func picturesOf(d *characterize.Data) []picture {
	models := plotModels(d)
	all := []picture{
		{"power", func() (*plots.Figure, error) { return plots.Power(models) }},
		{"logistic", func() (*plots.Figure, error) { return plots.Logistic(models) }},
	}
	for i, group := range latencyGroups(d.Models) {
		name := "itl"
		if i > 0 {
			name = fmt.Sprintf("itl_%d", i+1)
		}
		all = append(all, picture{name, func() (*plots.Figure, error) {
			var some []plots.Model
			for _, m := range group {
				model := models[m]
				if len(d.Models[m].ITL) <= mostLatencyPanels { // else the fits alone
					model.ITLSamplesS = samplesOf(d.Points[m])
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
func latencyGroups(models []workload.Measured) [][]int {
	var groups [][]int
	panels := 0
	for i := range models {
		n := len(models[i].ITL)
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

// plotModels are the models as they are drawn, without their latencies.
func plotModels(d *characterize.Data) []plots.Model {
	var models []plots.Model
	for i := range d.Models {
		measured := &d.Models[i]
		m := plots.Model{Label: measured.Spec.ModelLabel, Points: []plots.Point{}}
		m.Data.Traces, m.Data.ITL, m.Data.Logistic = measured.Traces, measured.ITL, measured.Logistic
		for _, p := range d.Points[i] {
			m.Points = append(m.Points, plots.Point{
				BatchSize: p.BatchSize, PowerW: p.PowerW(), LatencyS: p.MeanITLS(), ThroughputTokensPerS: p.ThroughputTokensPerS(),
				NotInFit: slices.Contains(measured.Spec.FitExcludeBatchSizes, p.BatchSize),
			})
		}
		models = append(models, m)
	}
	return models
}

// samplesOf are the latencies of points in seconds, by batch size.
func samplesOf(points []*characterize.Point) map[int][]float64 {
	bySize := map[int][]*characterize.Point{}
	for _, p := range points {
		bySize[p.BatchSize] = append(bySize[p.BatchSize], p)
	}
	samples := map[int][]float64{}
	for batchSize, repeats := range bySize {
		samples[batchSize] = characterize.LatenciesS(repeats)
	}
	return samples
}
