package plots

import (
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/g2g-agent/g2g-agent/workload"
)

// ITL draws the distribution of the inter-token latency as fitted, a panel a model and
// a line a batch size. Where there are histograms of what was measured, each batch size
// has a panel with its own behind the fit. Latency is on a logarithmic axis, and the density is per
// decade of it; that is logarithmic too, or stalls, which are rare, would not be seen. It
// fails, wrapping [datacenter.ErrInvalidInput], if there are no fits.
func ITL(models []Model) (*Figure, error) {
	colors := paletteOf(mixturesOf, models)
	var panels []Panel
	var ofModel []int // panels that each model has
	for _, m := range models {
		if len(m.Data.ITL) == 0 {
			continue
		}
		before := len(panels)
		sizes := slices.Sorted(maps.Keys(m.Data.ITL))
		all := Panel{Title: m.Label, LegendTitle: batchTitle}
		for _, size := range sizes {
			fit := m.Data.ITL[size]
			curve := Series{Name: fmt.Sprint(size), Color: colors.color(size), Dash: colors.dash(size), XY: density(&fit)}
			measured := m.Observed.ITL[size]
			if measured == nil {
				all.Series = append(all.Series, curve)
				continue
			}
			curve.Name, curve.Color, curve.Dash = "fit, mean "+latencyText(fit.MeanS()), named(1), Solid
			name := fmt.Sprintf("n = %d, mean %s", measured.Samples, latencyText(measured.MeanS))
			bars := Series{Name: name, Kind: Bars, Color: named(0), XY: barsOf(measured)}
			panels = append(panels, Panel{Title: fmt.Sprintf("%s, batch size %d", m.Label, size), Series: []Series{bars, curve}})
		}
		if len(all.Series) > 0 {
			panels = append(panels, all)
		}
		ofModel = append(ofModel, len(panels)-before)
	}
	if len(panels) == 0 {
		return nil, invalidf("there are no fits of inter-token latency to draw")
	}
	inLatencyUnit(panels)
	f, err := grid(panels)
	if err == nil {
		f.Columns = columnsFor(ofModel, f.Columns)
	}
	return f, err
}

// latencyText is a latency with three digits and its unit.
func latencyText(seconds float64) string {
	shown := unitFor(seconds, latencyUnits())
	return fmt.Sprintf("%.3g %s", seconds/shown.size, shown.name)
}

// columnsFor is a number of columns with which each model begins a row, otherwise if
// there is none.
func columnsFor(ofModel []int, otherwise int) int {
	for _, columns := range []int{3, 4, 2} {
		if slices.ContainsFunc(ofModel, func(n int) bool { return n%columns != 0 }) {
			continue
		}
		return columns
	}
	return otherwise
}

// inLatencyUnit turns x from seconds into what reads best for all panels, and cuts off
// what is too small to be seen.
func inLatencyUnit(panels []Panel) {
	low := math.Inf(1)
	for _, p := range panels {
		most := 0.0
		for _, s := range p.Series {
			for _, at := range s.XY {
				low, most = min(low, at.X), max(most, at.Y)
			}
		}
		for i := range p.Series {
			if s := &p.Series[i]; s.Kind == Line {
				s.XY = above(s.XY, most*leastDensity)
			}
		}
	}
	shown := unitFor(low*50, latencyUnits())
	for i := range panels {
		p := &panels[i]
		for _, s := range p.Series {
			for k := range s.XY {
				s.XY[k].X /= shown.size
			}
		}
		p.X = Axis{Label: "Inter-token latency (" + shown.name + ")", Scale: Log10}
		p.Y = Axis{Label: "Density (per decade)", Scale: Log10}
	}
}

// above is the part of a curve that is not below least: gaps in between, nothing at the
// ends.
func above(curve []XY, least float64) []XY {
	from, to := 0, 0
	for i := range curve {
		if curve[i].Y < least {
			curve[i].Y = math.NaN()
			continue
		}
		if to == 0 {
			from = i
		}
		to = i + 1
	}
	return curve[from:to]
}

// leastDensity is the least part of the highest density that is drawn.
const leastDensity = 2e-4

// The widest that latencies are drawn, in seconds, and the narrowest peak: as far as
// the eye goes.
const (
	shortestITL, longestITL = 1e-7, 1e5
	leastSigma              = 2e-3
)

// density is the density of the mixture per decade, over latencies in seconds.
func density(m *workload.ITLMixture) []XY {
	type part struct{ weight, sigma, scale float64 }
	total := m.PiSteady + m.PiStall
	parts := slices.DeleteFunc([]part{
		{m.PiSteady / total, m.SigmaSteady, m.ScaleSteady}, {m.PiStall / total, m.SigmaStall, m.ScaleStall},
	}, func(p part) bool { return !(p.weight > 0) || !(p.scale > 0) })
	const reach, perSigma = 5, 40 // in standard deviations
	var at []float64
	for i := range parts {
		p := &parts[i]
		p.sigma = max(p.sigma, leastSigma)
		for k := -reach * perSigma; k <= reach*perSigma; k++ {
			x := m.Loc + p.scale*math.Exp(float64(k)/perSigma*p.sigma)
			at = append(at, min(max(x, shortestITL), longestITL))
		}
	}
	slices.Sort(at)
	var curve []XY
	for _, x := range slices.Compact(at) {
		y := 0.0
		for _, p := range parts {
			if above := x - m.Loc; above > 0 {
				z := math.Log(above/p.scale) / p.sigma
				y += p.weight * math.Exp(-z*z/2) / (above * p.sigma * math.Sqrt(2*math.Pi))
			}
		}
		curve = append(curve, XY{x, y * x * math.Ln10})
	}
	return curve
}

// barsOf is a histogram's density per decade over latencies in seconds.
func barsOf(h *workload.ITLHistogram) []XY {
	bars := make([]XY, len(h.Counts)+1)
	for i, count := range h.Counts {
		bars[i] = XY{bounded(math.Pow(10, h.FromDecade+float64(i)*h.Decades)), float64(count) / float64(h.Samples) / h.Decades}
	}
	last := len(h.Counts)
	bars[last] = XY{bounded(math.Pow(10, h.FromDecade+float64(last)*h.Decades)), bars[last-1].Y}
	return bars
}

// bounded is v as far as there are numbers.
func bounded(v float64) float64 { return min(v, math.MaxFloat64) }
