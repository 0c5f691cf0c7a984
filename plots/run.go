package plots

import (
	"cmp"
	"context"
	"iter"
	"maps"
	"math"
	"slices"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// RunOptions is what is known of a run beside its states.
type RunOptions struct {
	// ITLDeadlineS are deadlines in seconds by model label, drawn with the latency.
	ITLDeadlineS map[string]float64
	// ReplicaShiftsS are the times at which replicas were shifted, in seconds.
	ReplicaShiftsS []float64
}

// Run draws a run: power of the three phases, power by model, inter-token latency
// against its deadlines, throughput where it is known, batch sizes and active replicas,
// over time. Moments at which a
// batch size changed are marked, as are spans with stale power of a live run.
//
// The states are taken one by one and are not kept: memory grows with the number of
// models only. Of a long run each pixel has its lowest and highest values. An error of
// the states is returned as it is; without states, and for those that are not of one run
// in their order ([datacenter.Sequence]), it fails, wrapping [datacenter.ErrInvalidInput].
func Run(ctx context.Context, states iter.Seq2[*datacenter.State, error], o RunOptions) (*Figure, error) {
	var r *runSeries
	for s, err := range states {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return nil, err
		}
		if r == nil {
			r = newRunSeries(s)
		}
		if err := r.add(s); err != nil {
			return nil, err
		}
	}
	if r == nil {
		return nil, invalidf("there are no states to draw")
	}
	return r.figure(o), nil
}

// runSeries is what is kept of a run's states.
type runSeries struct {
	phases       [datacenter.NumPhases]reducer // W
	models       []modelSeries
	changes      thinner // of batch sizes
	stale        spans
	firstS, endS float64
	peakW        span
	modelPeakW   span
	itl          span
	last         []int // batch sizes
	sequence     datacenter.Sequence
}

// modelSeries is what is kept of one model.
type modelSeries struct {
	label                                        string
	powerW, itlS, tokensPerS, batchSize, replica reducer
	throughput                                   span
}

func newRunSeries(first *datacenter.State) *runSeries {
	r := &runSeries{peakW: nothing(), modelPeakW: nothing(), itl: nothing(), last: make([]int, len(first.Models)), firstS: first.TimeS, endS: first.TimeS}
	for i := range first.Models {
		r.models = append(r.models, modelSeries{label: first.Models[i].ModelLabel, throughput: nothing()})
		r.last[i] = first.Models[i].BatchSize
	}
	return r
}

func (r *runSeries) add(s *datacenter.State) error {
	if err := r.sequence.Next(s); err != nil {
		return err
	}
	r.endS = s.TimeS
	for phase, w := range s.PowerW.Array() {
		r.phases[phase].add(XY{s.TimeS, w})
		r.peakW.add(math.Abs(w))
	}
	changed, stale := false, false
	for i := range s.Models {
		m, kept := &s.Models[i], &r.models[i]
		kept.powerW.add(XY{s.TimeS, m.PowerW})
		kept.itlS.add(XY{s.TimeS, m.ObservedITLS})
		kept.tokensPerS.add(XY{s.TimeS, m.Throughput.OrNaN()})
		kept.batchSize.add(XY{s.TimeS, float64(m.BatchSize)})
		kept.replica.add(XY{s.TimeS, float64(m.ActiveReplicas)})
		r.modelPeakW.add(math.Abs(m.PowerW))
		r.itl.add(m.ObservedITLS)
		kept.throughput.add(m.Throughput.OrNaN())
		changed = changed || m.BatchSize != r.last[i]
		r.last[i] = m.BatchSize
		stale = stale || m.Live.Stale
	}
	if changed {
		r.changes.add(s.TimeS)
	}
	r.stale.add(s.TimeS, stale)
	return nil
}

// figure is the picture of what was added.
func (r *runSeries) figure(o RunOptions) *Figure {
	seconds := timeUnit(r.endS - r.firstS)
	x := Axis{Label: "Time (" + seconds.name + ")"}
	marks, bands := r.marks(o, seconds)
	panel := func(label string) Panel {
		p := Panel{X: x, Y: Axis{Label: label}}
		for _, m := range marks {
			p.Marks = append(p.Marks, Marks{Dash: m.Dash, X: m.X})
		}
		for _, b := range bands {
			p.Bands = append(p.Bands, Bands{X: b.X})
		}
		return p
	}
	power, modelPower := unitFor(r.peakW.high, powerUnits()), unitFor(r.modelPeakW.high, powerUnits())
	phases := panel("Phase power (" + power.name + ")")
	phases.Marks, phases.Bands = marks, bands // with their names
	for i := range r.phases {
		phases.Series = append(phases.Series, Series{
			Name: "phase " + string("ABC"[i]), Color: ofPhase(i), XY: scaled(r.phases[i].points(), seconds.size, power.size),
		})
	}
	if len(r.models) == 0 {
		return &Figure{Columns: 1, SharedX: true, Panels: []Panel{phases}}
	}
	byModel := panel("Model power (" + modelPower.name + ")")
	batch, replicas := panel("Batch size"), panel("Replicas")
	batch.Y.Scale = Log2
	for i := range r.models {
		m := &r.models[i]
		s := Series{Color: named(i), Dash: dashFor(i)}
		add := func(p *Panel, kind Kind, of *reducer, size float64) {
			s.Kind, s.XY = kind, scaled(of.points(), seconds.size, size)
			p.Series = append(p.Series, s)
		}
		add(&batch, Step, &m.batchSize, 1)
		add(&replicas, Step, &m.replica, 1)
		s.Name = m.label // here alone: the panels have the same colours
		add(&byModel, Line, &m.powerW, modelPower.size)
	}
	batch.Y.At = fewValues(batch.Series)
	panels := []Panel{phases, byModel}
	if itl := r.latency(o, seconds, panel); itl != nil {
		panels = append(panels, *itl)
	}
	if throughput := r.throughput(seconds, panel); throughput != nil {
		panels = append(panels, *throughput)
	}
	return &Figure{Columns: 1, SharedX: true, Panels: append(panels, batch, replicas)}
}

// latency is the panel of the inter-token latency, nil if there is none.
func (r *runSeries) latency(o RunOptions, seconds unit, panel func(label string) Panel) *Panel {
	if r.itl.empty() {
		return nil
	}
	all := r.itl
	for i := range r.models {
		all.add(cmp.Or(o.ITLDeadlineS[r.models[i].label], math.NaN()))
	}
	shown := unitFor(all.high, latencyUnits())
	p := panel("ITL (" + shown.name + ")")
	models := map[float64][]int{}
	for i := range r.models {
		m := &r.models[i]
		p.Series = append(p.Series, Series{Color: named(i), Dash: dashFor(i), XY: scaled(m.itlS.points(), seconds.size, shown.size)})
		if deadline := o.ITLDeadlineS[m.label]; deadline > 0 {
			models[deadline] = append(models[deadline], i)
		}
	}
	if len(models) > 0 { // for the legend: the lines have several colours
		p.Series = append(p.Series, Series{Name: "deadline", Kind: Level, Dash: Dashed})
	}
	for _, deadline := range slices.Sorted(maps.Keys(models)) {
		s := Series{Kind: Level, Color: named(models[deadline][0]), Dash: Dashed, XY: []XY{{0, deadline / shown.size}}}
		if len(models[deadline]) > 1 {
			s.Color = Color{} // of no model alone
		}
		p.Series = append(p.Series, s)
	}
	return &p
}

// farApart is the factor between the throughputs of two models from which on they are
// on a logarithmic axis: the lower one would not be seen else.
const farApart = 10

// throughput is the panel of the throughput by model, nil where none is known.
func (r *runSeries) throughput(seconds unit, panel func(label string) Panel) *Panel {
	peaks := nothing()
	for i := range r.models {
		peaks.add(r.models[i].throughput.high)
	}
	if peaks.empty() {
		return nil
	}
	shown := unitFor(peaks.high, throughputUnits())
	p := panel("Throughput (" + shown.name + ")")
	if peaks.low > 0 && peaks.high > farApart*peaks.low {
		p.Y.Scale = Log10
	}
	for i := range r.models {
		p.Series = append(p.Series, Series{
			Color: named(i), Dash: dashFor(i), XY: scaled(r.models[i].tokensPerS.points(), seconds.size, shown.size),
		})
	}
	return &p
}

// marks are the moments and spans of the run, with their names.
func (r *runSeries) marks(o RunOptions, seconds unit) (marks []Marks, bands []Bands) {
	times := func(at []float64) []float64 {
		var all []float64
		for _, t := range at {
			if r.firstS <= t && t <= r.endS {
				all = append(all, t/seconds.size)
			}
		}
		return all
	}
	if at := times(r.changes.at); len(at) > 0 {
		marks = append(marks, Marks{Name: "batch size changed", Dash: Dashed, X: at})
	}
	if at := times(o.ReplicaShiftsS); len(at) > 0 {
		marks = append(marks, Marks{Name: "replicas shifted", Dash: Dotted, X: at})
	}
	if len(r.stale.all) > 0 {
		stale := Bands{Name: "power stale"}
		for _, ends := range r.stale.all {
			stale.X = append(stale.X, [2]float64{ends[0] / seconds.size, ends[1] / seconds.size})
		}
		bands = append(bands, stale)
	}
	return marks, bands
}

// scaled divides the points by the sizes of the units they are shown in.
func scaled(points []XY, x, y float64) []XY {
	for i := range points {
		points[i].X /= x
		points[i].Y /= y
	}
	return points
}

// fewValues are the values of the series if they are few enough to label each.
func fewValues(series []Series) []float64 {
	const most = 12
	all := map[float64]bool{}
	for _, s := range series {
		for _, at := range s.XY {
			if all[at.Y] = true; len(all) > most {
				return nil
			}
		}
	}
	return slices.Sorted(maps.Keys(all))
}
