package recording

import (
	"context"
	"math"
	"slices"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// leastPointMs is the time between full states, the shortest part of the time that a
// [Point] is of.
const leastPointMs = fullStateEveryS * msPerSecond

// Decimated is what full states say of a long time, in a bounded number of points.
type Decimated struct {
	// PointMs is the time that a point is of: 10 s, doubled as often as it takes.
	PointMs int64   `json:"point_ms"`
	Points  []Point `json:"points"`
}

// Point is what the full states of one part of the time say.
type Point struct {
	// TMs is when the part begins, a multiple of [Decimated.PointMs], in Unix milliseconds by
	// the runs' own clocks.
	TMs int64 `json:"t_ms"`
	// States is how many there are.
	States int64  `json:"states"`
	Mean   Values `json:"mean"`
	Min    Values `json:"min"`
	Max    Values `json:"max"`
}

// Values are of the members of states that are called the same, over the states that
// have them; null where none has.
type Values struct {
	PowerW                Phases                       `json:"power_w"`
	PowerByModelW         datacenter.ByModel[*float64] `json:"power_by_model_w"`
	BatchSizeByModel      datacenter.ByModel[*float64] `json:"batch_size_by_model"`
	AchievedByModel       datacenter.ByModel[*float64] `json:"achieved_batch_size_by_model"`
	ActiveReplicas        datacenter.ByModel[*float64] `json:"active_replicas_by_model"`
	ObservedITLSByModel   datacenter.ByModel[*float64] `json:"observed_itl_s_by_model"`
	ITLPercentile99ModelS datacenter.ByModel[*float64] `json:"itl_p99_s_by_model"`
}

// Phases are numbers of the three phases, in watts.
type Phases struct {
	A *float64 `json:"a"`
	B *float64 `json:"b"`
	C *float64 `json:"c"`
}

// Decimate reads the full states that the options pick, of all runs unless they name
// one, into at most so many points, at least 1, oldest first. A part of the time without
// states has no point. Kinds are not looked at. As a second is at least a frame, and the
// next state stands there 10 s later, most frames between are not decoded: their damage
// is not noticed, and states that stand between for a command are not in it.
func (r *Reader) Decimate(ctx context.Context, o ReadOptions, most int) (*Decimated, error) {
	o.Kinds, o.lead = []Kind{KindState}, true // so that little is decoded of what comes before, too
	d := decimator{most: max(most, 1), pointMs: leastPointMs, parts: map[int64]*part{}}
	passed := 0
	o.pass = func() int {
		n := passed
		passed = 0
		return n
	}
	for entry, err := range r.Lines(ctx, o) {
		if err != nil {
			return nil, err
		}
		if line, is := entry.Line.(*State); is && entry.Header != nil {
			passed = framesBetween(entry.Header, line.State.Seq)
			if second, _ := entry.Second(); o.picks(entry.Header, second) {
				d.add(entry.Header.StartMs, line.State)
			}
		}
	}
	return d.result(), nil
}

// framesBetween is how many frames there are at least between the second of a full
// state, which is of this step, and that of the next one: none can be told of steps that
// are longer than a second, since seconds without one may have no frame.
func framesBetween(h *Header, seq int64) int {
	if h.DT.Float64() > 1 {
		return 0
	}
	const itself = 1
	return int(max(fullStateEveryS-SecondOf(h.DT, seq)%fullStateEveryS-itself, 0))
}

// decimator gathers states by parts of the time.
type decimator struct {
	most    int
	pointMs int64
	parts   map[int64]*part // by the multiple of pointMs that each begins at
}

// maxTimeS bounds the times that are believed: those of about 30,000 years.
const maxTimeS = 1e12

func (d *decimator) add(startMs int64, s *datacenter.State) {
	if !(math.Abs(s.TimeS) <= maxTimeS) {
		return
	}
	at := floorDiv(startMs+int64(math.Floor(s.TimeS*msPerSecond)), d.pointMs)
	p := d.parts[at]
	if p == nil {
		p = &part{}
		d.parts[at] = p
	}
	p.add(s)
	for len(d.parts) > d.most {
		d.halve()
	}
}

// halve joins neighbours to parts of twice the time.
func (d *decimator) halve() {
	d.pointMs *= 2
	parts := map[int64]*part{}
	for at, p := range d.parts {
		if joined := parts[floorDiv(at, 2)]; joined != nil {
			joined.join(p)
		} else {
			parts[floorDiv(at, 2)] = p
		}
	}
	d.parts = parts
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

func (d *decimator) result() *Decimated {
	out := &Decimated{PointMs: d.pointMs, Points: make([]Point, 0, len(d.parts))}
	for at, p := range d.parts {
		out.Points = append(out.Points, Point{
			TMs: at * d.pointMs, States: p.states,
			Mean: p.values((*stat).mean), Min: p.values((*stat).least), Max: p.values((*stat).most),
		})
	}
	slices.SortFunc(out.Points, func(a, b Point) int { return int((a.TMs - b.TMs) / d.pointMs) })
	return out
}

// part is one part of the time.
type part struct {
	states int64
	phases [3]stat
	models []modelPart
}

// modelPart is a model in it.
type modelPart struct {
	label                                         string
	power, batch, achieved, replicas, itl, itlP99 stat
}

func (p *part) model(label string) *modelPart {
	for i := range p.models {
		if p.models[i].label == label {
			return &p.models[i]
		}
	}
	p.models = append(p.models, modelPart{label: label})
	return &p.models[len(p.models)-1]
}

func (p *part) add(s *datacenter.State) {
	p.states++
	for i, watts := range []float64{s.PowerW.A, s.PowerW.B, s.PowerW.C} {
		p.phases[i].add(watts)
	}
	for i := range s.Models {
		in := &s.Models[i]
		m := p.model(in.ModelLabel)
		m.power.add(in.PowerW)
		m.batch.add(float64(in.BatchSize))
		if s.FreeGPUs.Known { // otherwise 0 stands for nothing
			m.achieved.add(in.AchievedBatchSize)
		}
		m.replicas.add(float64(in.ActiveReplicas))
		m.itl.add(in.ObservedITLS)
		m.itlP99.add(in.Live.ITLPercentilesS.P99)
	}
}

func (p *part) join(o *part) {
	p.states += o.states
	for i := range p.phases {
		p.phases[i].join(&o.phases[i])
	}
	for i := range o.models {
		from := &o.models[i]
		m := p.model(from.label)
		m.power.join(&from.power)
		m.batch.join(&from.batch)
		m.achieved.join(&from.achieved)
		m.replicas.join(&from.replicas)
		m.itl.join(&from.itl)
		m.itlP99.join(&from.itlP99)
	}
}

// values are what of tells of each member.
func (p *part) values(of func(*stat) *float64) Values {
	byModel := func(member func(*modelPart) *stat) datacenter.ByModel[*float64] {
		return datacenter.ByModelOf(p.models, func(m *modelPart) (string, *float64) { return m.label, of(member(m)) })
	}
	return Values{
		PowerW:                Phases{of(&p.phases[0]), of(&p.phases[1]), of(&p.phases[2])},
		PowerByModelW:         byModel(func(m *modelPart) *stat { return &m.power }),
		BatchSizeByModel:      byModel(func(m *modelPart) *stat { return &m.batch }),
		AchievedByModel:       byModel(func(m *modelPart) *stat { return &m.achieved }),
		ActiveReplicas:        byModel(func(m *modelPart) *stat { return &m.replicas }),
		ObservedITLSByModel:   byModel(func(m *modelPart) *stat { return &m.itl }),
		ITLPercentile99ModelS: byModel(func(m *modelPart) *stat { return &m.itlP99 }),
	}
}

// stat is of the finite numbers added to it.
type stat struct {
	n             int64
	sum, min, max float64
}

func (s *stat) add(v float64) {
	if !math.IsNaN(v) && !math.IsInf(v, 0) {
		s.join(&stat{1, v, v, v})
	}
}

func (s *stat) join(o *stat) {
	switch {
	case o.n == 0:
	case s.n == 0:
		*s = *o
	default:
		s.n, s.sum, s.min, s.max = s.n+o.n, s.sum+o.sum, min(s.min, o.min), max(s.max, o.max)
	}
}

func (s *stat) mean() *float64  { return s.tell(s.sum / float64(s.n)) }
func (s *stat) least() *float64 { return s.tell(s.min) }
func (s *stat) most() *float64  { return s.tell(s.max) }

// tell returns a pointer to v, nil (JSON null) for a number that there is not.
func (s *stat) tell(v float64) *float64 {
	if s.n == 0 || math.IsInf(v, 0) {
		return nil
	}
	return &v
}
