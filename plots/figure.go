package plots

import (
	"fmt"
	"math"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// Figure is a picture of one or more panels.
type Figure struct {
	// Columns is how many panels stand side by side; they fill row by row.
	Columns int
	Panels  []Panel
	// SharedX says that the panels of a column have one x axis, below the last.
	SharedX bool
}

// Panel is one pair of axes with what is drawn between them.
type Panel struct {
	Title string
	// LegendTitle stands before the legend's entries.
	LegendTitle string
	X, Y        Axis
	Series      []Series
	// Marks are moments, drawn as vertical lines behind the series.
	Marks []Marks
	// Bands are spans of x, drawn as areas behind the series.
	Bands []Bands
}

// Axis says how values lie along an axis. Its range is that of the data.
type Axis struct {
	// Label names the quantity and, in parentheses, the unit.
	Label string
	Scale Scale
	// At are the values that are labelled; nil chooses round ones.
	At []float64
}

// Scale is how the values of an axis are spaced.
type Scale int

// The scales. On the logarithmic ones what is not above 0 is a gap.
const (
	Linear Scale = iota
	Log2
	Log10
)

// Kind is what a series looks like.
type Kind int

// The kinds of series.
const (
	// Line connects points.
	Line Kind = iota
	// Step holds each value until the next.
	Step
	// Points are dots.
	Points
	// Bars are the outline of a histogram, filled: the value holds until the next
	// point, the last point only ends it.
	Bars
	// Level is one y across the whole panel.
	Level
)

// Series is points that belong together, in the order they are drawn.
type Series struct {
	// Name is the legend's entry; without one there is none.
	Name  string
	Kind  Kind
	Color Color
	Dash  Dash
	// XY are in the units of the axes. A y that is not finite is a gap.
	XY []XY
}

// XY is one point.
type XY struct{ X, Y float64 }

// Marks are moments of one kind. Without a name they are not in the legend.
type Marks struct {
	Name string
	Dash Dash
	X    []float64
}

// Bands are spans of one kind, from the first value to the second. Without a name they
// are not in the legend.
type Bands struct {
	Name string
	X    [][2]float64
}

// Dash is how a line is broken.
type Dash int

// The dashes; there are numDashes.
const (
	Solid Dash = iota
	Dashed
	Dotted
	DashDotted
	numDashes
)

// invalidf is an error about the input.
func invalidf(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{datacenter.ErrInvalidInput}, args...)...)
}

func isFinite(v float64) bool { return v-v == 0 }

// span is a range of values.
type span struct{ low, high float64 }

// nothing is the span of no values.
func nothing() span { return span{math.Inf(1), math.Inf(-1)} }

func (s *span) add(v float64) {
	if isFinite(v) {
		s.low, s.high = min(s.low, v), max(s.high, v)
	}
}

func (s *span) empty() bool { return !(s.low <= s.high) }

// place is where v lies along the axis, in the units of the drawing; NaN for what
// the scale has no place for.
func (s Scale) place(v float64) float64 {
	switch {
	case !isFinite(v) || s != Linear && v <= 0:
		return math.NaN()
	case s == Log2:
		return math.Log2(v)
	case s == Log10:
		return math.Log10(v)
	}
	return min(max(v, -outermost), outermost)
}

// outermost is as far as axes go: margins beyond it must be numbers, too.
const outermost = 1e300

// ranges are the ends of the panel's axes, in the units of the drawing.
func (p *Panel) ranges() (x, y span) {
	x, y = nothing(), nothing()
	for _, s := range p.Series {
		for _, at := range s.XY {
			if s.Kind != Level {
				x.add(p.X.Scale.place(at.X))
			}
			y.add(p.Y.Scale.place(at.Y))
		}
	}
	for _, m := range p.Marks {
		for _, at := range m.X {
			x.add(p.X.Scale.place(at))
		}
	}
	for _, b := range p.Bands {
		for _, ends := range b.X {
			x.add(p.X.Scale.place(ends[0]))
			x.add(p.X.Scale.place(ends[1]))
		}
	}
	xMargin := 0.0
	if p.X.Scale == Log10 {
		xMargin = 0.02 // a peak at the end is not lost on the axis
	}
	return p.X.rounded(p.X.widened(x, xMargin)), p.Y.widened(y, 0.06)
}

// widened is the range of an axis for data of range s, with a margin that is a part
// of it. A linear axis with a margin begins at 0 if that takes less than half of it:
// further up, what varies would be hard to see.
func (a *Axis) widened(s span, margin float64) span {
	if s.empty() {
		s = span{0, 1}
	}
	if a.Scale == Linear && margin > 0 && s.low > 0 && s.low < s.high/2 {
		s.low = 0
	}
	width := s.high - s.low
	if width <= 1e-12*max(math.Abs(s.low), math.Abs(s.high)) { // one value
		width = 1
		if a.Scale == Linear && s.low != 0 {
			width = max(math.Abs(s.low)/5, 1/outermost)
		}
		s.low, s.high = s.low-width/2, s.high+width/2
		if a.Scale == Linear && s.low == -0.5 && margin > 0 { // only zeros
			s = span{0, 1}
		}
		margin = 0
	}
	zero := a.Scale == Linear && s.low == 0
	s.high += margin * width
	if !zero {
		s.low -= margin * width
	}
	return s
}

// rounded is the range of an axis that goes on to a round value if that is near.
func (a *Axis) rounded(s span) span {
	const near, most = 0.01, 10 // a part of the range; ticks
	if a.Scale != Linear {
		return s
	}
	ticks := linearTicks(span{s.low, s.high + near*(s.high-s.low)}, most)
	if n := len(ticks); n > 0 {
		s.high = max(s.high, ticks[n-1].at)
	}
	return s
}
