package plots

import (
	"maps"
	"math"
	"slices"

	"github.com/g2g-agent/g2g-agent/workload"
)

// Logistic draws the fits of power, latency and throughput over the batch size with
// their points, a row a model. It fails, wrapping [datacenter.ErrInvalidInput], if there
// are no fits.
func Logistic(models []Model) (*Figure, error) {
	f := &Figure{Columns: 3}
	for i, m := range models {
		if m.Data.Logistic == nil {
			continue
		}
		points := m.Observed.Points
		if points == nil {
			points = pointsOf(&m.Data)
		}
		sizes := batchSizes(points, &m.Data)
		if len(sizes) == 0 {
			continue
		}
		fits := m.Data.Logistic
		for _, q := range []struct {
			title, axis, mean string // mean: of what, where points are not given
			units             []unit
			fit               workload.LogisticFit
			of                func(workload.Point) float64
		}{
			{"power", "Power", "mean of the trace", powerUnits(), fits.PowerW, func(p workload.Point) float64 { return p.PowerW }},
			{"latency", "ITL", "mean of the ITL fit", latencyUnits(), fits.LatencyS, func(p workload.Point) float64 { return p.LatencyS }},
			{"throughput", "Throughput", "", throughputUnits(), fits.ThroughputTokensPerS, func(p workload.Point) float64 { return p.ThroughputTokensPerS }},
		} {
			curve := Series{Name: "fit", Color: named(i), Dash: dashFor(i), XY: curveOf(q.fit, sizes)}
			dots := Series{Name: "measured", Kind: Points, Color: named(i)}
			if m.Observed.Points == nil {
				dots.Name = q.mean
			}
			others := Series{Name: "not in the fit", Kind: Points}
			for _, p := range points {
				to := &dots
				if p.NotInFit {
					to = &others
				}
				if y := q.of(p); isFinite(y) {
					to.XY = append(to.XY, XY{float64(p.BatchSize), y})
				}
			}
			f.Panels = append(f.Panels, logisticPanel(m.Label+": "+q.title, q.axis, q.units, sizes, curve, dots, others))
		}
	}
	if len(f.Panels) == 0 {
		return nil, invalidf("there are no logistic fits to draw")
	}
	if len(f.Panels) > maxGridPanels {
		return nil, invalidf("%d models are too many for one picture, which has at most %d: choose some", len(f.Panels)/3, maxGridPanels/3)
	}
	return f, nil
}

// logisticPanel is one curve with its points, if there are any.
func logisticPanel(title, axis string, units []unit, sizes []int, curve Series, dots ...Series) Panel {
	most := 0.0
	for _, s := range append(dots, curve) {
		for _, at := range s.XY {
			most = max(most, math.Abs(at.Y))
		}
	}
	shown := unitFor(most, units)
	p := Panel{
		Title: title, X: Axis{Label: "Batch size", Scale: Log2}, Y: Axis{Label: axis + " (" + shown.name + ")"},
		Series: []Series{curve},
	}
	for _, size := range sizes {
		p.X.At = append(p.X.At, float64(size))
	}
	for _, s := range dots {
		if len(s.XY) > 0 {
			p.Series = append(p.Series, s)
		}
	}
	for _, s := range p.Series {
		for k := range s.XY {
			s.XY[k].Y /= shown.size
		}
	}
	return p
}

// curveOf is the curve from a quarter of an octave below the batch sizes to one above.
func curveOf(fit workload.LogisticFit, sizes []int) []XY {
	const points, beyond = 200, 0.25
	from, to := math.Log2(float64(sizes[0]))-beyond, math.Log2(float64(sizes[len(sizes)-1]))+beyond
	curve := make([]XY, points+1)
	for i := range curve {
		x := from + (to-from)*float64(i)/points
		curve[i] = XY{math.Exp2(x), fit.B0 + fit.L/(1+math.Exp(-fit.K*(x-fit.X0)))}
	}
	return curve
}

// batchSizes are all batch sizes of the points and the data.
func batchSizes(points []workload.Point, data *workload.ModelData) []int {
	all := map[int]bool{}
	for _, p := range points {
		all[p.BatchSize] = true
	}
	for size := range data.Traces {
		all[size] = true
	}
	for size := range data.ITL {
		all[size] = true
	}
	delete(all, 0)
	return slices.Sorted(maps.Keys(all))
}

// pointsOf are the means of the traces and of the latency fits.
func pointsOf(data *workload.ModelData) []workload.Point {
	var points []workload.Point
	for _, size := range batchSizes(nil, data) {
		p := workload.Point{BatchSize: size, PowerW: math.NaN(), LatencyS: math.NaN(), ThroughputTokensPerS: math.NaN()}
		if trace := data.Traces[size]; trace != nil {
			sum := 0.0
			for _, w := range trace.PowerW {
				sum += w
			}
			p.PowerW = sum / float64(len(trace.PowerW))
		}
		if fit, ok := data.ITL[size]; ok {
			p.LatencyS = fit.MeanS()
		}
		points = append(points, p)
	}
	return points
}
