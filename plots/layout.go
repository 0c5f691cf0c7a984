package plots

import (
	"math"
	"slices"
	"strings"

	stdfont "golang.org/x/image/font"
	gonumplot "gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// The space around and between panels, in points.
const (
	outerPad  = vg.Length(8)
	columnGap = vg.Length(14)
	rowGap    = vg.Length(9)
	legendGap = vg.Length(3)
	minData   = vg.Length(26) // the least height and width of a panel's inside
)

// layout places the panels of a figure on a canvas.
type layout struct {
	figure *Figure
	theme  Theme
	size   vg.Length // of the text
	cells  []cell
	// The space that a panel's axes take beside its inside: the most in its column.
	left, right []vg.Length
	width       vg.Length // of a column
	height      vg.Length // of the picture
	inside      vg.Length // height of the inside of each panel
	glyphs      *glyphs   // nil where the viewer has fonts of its own
}

// cell is a panel with what is known of its drawing.
type cell struct {
	panel                    *Panel
	x, y                     span
	xTicks, yTicks           []tick
	legend                   [][]entry
	plot                     *gonumplot.Plot
	left, right, bottom, top vg.Length // what the axes take
	above                    vg.Length // title and legend
	lastRow                  bool      // nothing is below it
}

// text is the style of text of a size, beginning at a point and centred on its height.
func (l *layout) text(size vg.Length, bold bool) text.Style {
	f := font.Font{Typeface: "Liberation", Variant: "Sans", Size: size}
	if bold {
		f.Weight = stdfont.WeightBold
	}
	return text.Style{Color: l.theme.ink(), Font: f, Handler: gonumplot.DefaultTextHandler, XAlign: text.XLeft, YAlign: text.YCenter}
}

func (l *layout) legendText() text.Style { return l.text(l.size-0.5, false) }
func (l *layout) titleText() text.Style  { return l.text(l.size, true) }

// newLayout finds the place of everything in a picture, whose height it chooses where
// the style does not. It fails when there is no room.
func newLayout(f *Figure, s Style, as format) (*layout, error) {
	columns := f.Columns
	rows := (len(f.Panels) + columns - 1) / columns
	l := &layout{
		figure: f, theme: s.Theme, size: 9, left: make([]vg.Length, columns), right: make([]vg.Length, columns),
		width:  (vg.Length(s.WidthIn)*vg.Inch - 2*outerPad - columnGap*vg.Length(columns-1)) / vg.Length(columns),
		height: vg.Length(s.HeightIn) * vg.Inch,
	}
	if l.width < 230 {
		l.size = 7.5
	}
	if as == pngFormat {
		l.glyphs = newGlyphs()
	}
	for i := range f.Panels {
		c := cell{panel: &f.Panels[i], lastRow: i+columns >= len(f.Panels)}
		c.x, c.y = c.panel.ranges()
		l.cells = append(l.cells, c)
	}
	if f.SharedX {
		l.shareX()
	}
	chosen := s.HeightIn == 0
	switch {
	case !chosen:
		l.inside = (l.height-2*outerPad)/vg.Length(rows) - 4*l.size
	case f.SharedX:
		l.inside = rowInside * vg.Inch
	default:
		l.inside = gridInside * vg.Inch
	}
	if err := l.settle(s, rows, chosen); err != nil {
		return nil, err
	}
	return l, nil
}

// settle finds what axes and legends take, and with it the room inside them, and the
// height if it is to be chosen.
func (l *layout) settle(s Style, rows int, chosen bool) error {
	columns := len(l.left)
	// What axes take depends on their labels, these on the room, and that on the axes:
	// the next round starts from what the one before has found.
	for range 3 {
		maxRows := maxLegendRows
		if !chosen {
			maxRows = max(1, int((l.height-2*outerPad)/vg.Length(rows)*0.4/legendRow(l.legendText())))
		}
		for i := range l.cells {
			column := i % columns
			insideWidth := l.width - 60
			if l.left[column] > 0 {
				insideWidth = l.width - l.left[column] - l.right[column]
			}
			l.prepare(&l.cells[i], max(insideWidth, minData), maxRows)
		}
		l.measure()
		taken := 2*outerPad + rowGap*vg.Length(rows-1)
		for row := range rows {
			above, bottom := l.rowMargins(row)
			taken += above + bottom
		}
		if chosen {
			l.height = min(taken+l.inside*vg.Length(rows), maxInches*vg.Inch)
		}
		l.inside = (l.height - taken) / vg.Length(rows)
		narrowest := l.width - slices.Max(l.left) - slices.Max(l.right)
		if l.inside < minData || narrowest < minData {
			return invalidf("%.3g by %.3g inches are too small for %d panels in %d rows: make the picture larger",
				s.WidthIn, l.height.Points()/vg.Inch.Points(), len(l.cells), rows)
		}
	}
	return nil
}

// maxLegendRows is how many rows a legend has at most where nothing else limits it.
const maxLegendRows = 50

// shareX gives the panels of a column one range.
func (l *layout) shareX() {
	all := make([]span, l.figure.Columns)
	for i := range all {
		all[i] = nothing()
	}
	for i, c := range l.cells {
		for _, s := range c.panel.Series {
			if len(s.XY) > 0 && s.Kind != Level {
				all[i%len(all)].add(c.x.low)
				all[i%len(all)].add(c.x.high)
			}
		}
	}
	for i := range l.cells {
		if of := all[i%len(all)]; !of.empty() {
			l.cells[i].x = of
		}
	}
}

// prepare makes a cell's ticks, legend and axes for an inside of a width.
func (l *layout) prepare(c *cell, insideWidth vg.Length, maxRows int) {
	label := l.text(l.size-0.5, false)
	c.yTicks = l.yTicks(c)
	c.xTicks = l.xTicks(c, label, insideWidth)
	c.legend = l.flow(c.panel.entries(l.theme), insideWidth, maxRows)
	c.above = legendRow(l.legendText()) * vg.Length(len(c.legend))
	if c.panel.Title != "" {
		c.above += l.size * 1.5
	}
	if c.above > 0 {
		c.above += legendGap
	}
	p := gonumplot.New()
	p.BackgroundColor = nil // it is the figure's
	p.X.Min, p.X.Max, p.Y.Min, p.Y.Max = c.x.low, c.x.high, c.y.low, c.y.high
	for _, a := range []*gonumplot.Axis{&p.X, &p.Y} {
		a.LineStyle = line(l.theme.ink(), axisWidth, Solid)
		a.Tick.LineStyle = a.LineStyle
		a.Tick.Length = 3
		a.Padding = 0
		a.Tick.Label.Font, a.Tick.Label.Color = label.Font, l.theme.ink()
		a.Label.TextStyle.Font, a.Label.TextStyle.Color = l.text(l.size, false).Font, l.theme.ink()
		a.Label.Padding = 2
	}
	p.X.Tick.Marker, p.Y.Tick.Marker = constant(c.xTicks), constant(c.yTicks)
	yLabel := &p.Y.Label
	if yLabel.Text = c.panel.Y.Label; yLabel.TextStyle.Width(yLabel.Text) > l.inside {
		yLabel.Text = strings.Replace(yLabel.Text, " (", "\n(", 1)
	}
	for yLabel.TextStyle.Width(yLabel.Text) > l.inside && yLabel.TextStyle.Font.Size > 5 {
		yLabel.TextStyle.Font.Size -= 0.5
	}
	if l.figure.SharedX && !c.lastRow {
		unlabelled := make([]gonumplot.Tick, len(c.xTicks))
		for i, t := range c.xTicks {
			unlabelled[i].Value = t.at
		}
		p.X.Tick.Marker = gonumplot.ConstantTicks(unlabelled)
	} else {
		p.X.Label.Text = c.panel.X.Label
	}
	p.Add(under{c.panel, l.theme, c.xTicks, c.yTicks})
	for i := range c.panel.Series {
		p.Add(seriesPlotter{&c.panel.Series[i], c.panel.X.Scale, c.panel.Y.Scale, l.theme})
	}
	c.plot = p
}

func constant(ticks []tick) gonumplot.ConstantTicks {
	all := make([]gonumplot.Tick, len(ticks))
	for i, t := range ticks {
		all[i] = gonumplot.Tick{Value: t.at, Label: t.label}
	}
	return all
}

// yTicks are as many as there is room for one above the other. Of values that the axis
// names itself, those in the way lose their label.
func (l *layout) yTicks(c *cell) []tick {
	ticks := c.panel.Y.ticks(c.y, int(l.inside/(l.size*2.2)))
	perUnit := l.inside / vg.Length(c.y.high-c.y.low)
	end := vg.Length(math.Inf(-1)) // of the label before
	for i, t := range ticks {
		if at := vg.Length(t.at) * perUnit; at < end {
			ticks[i].label = ""
		} else {
			end = at + l.size*1.1
		}
	}
	return ticks
}

// xTicks are as many as there is room for side by side. Of values that the axis names
// itself, those in the way lose their label.
func (l *layout) xTicks(c *cell, label text.Style, width vg.Length) []tick {
	perUnit := width / vg.Length(c.x.high-c.x.low)
	gap := label.Width("00")
	for most := max(2, int(width/(l.size*3))); ; most-- {
		ticks := c.panel.X.ticks(c.x, most)
		fits := true
		end := vg.Length(math.Inf(-1)) // of the label before
		for i, t := range ticks {
			middle, half := vg.Length(t.at)*perUnit, label.Width(t.label)/2
			if middle-half < end {
				fits = false
				if c.panel.X.At != nil {
					ticks[i].label = ""
				}
				continue
			}
			end = middle + half + gap
		}
		if fits || most <= 2 || c.panel.X.At != nil {
			return ticks
		}
	}
}

// measure finds what the axes take.
func (l *layout) measure() {
	clear(l.left)
	clear(l.right)
	for i := range l.cells {
		c := &l.cells[i]
		outer := draw.Canvas{Rectangle: vg.Rectangle{Max: vg.Point{X: l.width, Y: l.inside + 50}}}
		in := c.plot.DataCanvas(outer)
		c.left, c.right = in.Min.X, outer.Max.X-in.Max.X
		c.bottom, c.top = in.Min.Y, outer.Max.Y-in.Max.Y
		column := i % len(l.left)
		l.left[column] = max(l.left[column], c.left)
		l.right[column] = max(l.right[column], c.right)
	}
}

// rowMargins is the most that a panel of the row takes above and below its inside.
func (l *layout) rowMargins(row int) (above, bottom vg.Length) {
	first := row * len(l.left)
	for _, c := range l.cells[first:min(first+len(l.left), len(l.cells))] {
		above, bottom = max(above, c.above+c.top), max(bottom, c.bottom)
	}
	return above, bottom
}

// draw draws everything.
func (l *layout) draw(c draw.Canvas) {
	c.SetColor(l.theme.background())
	c.Fill(c.Rectangle.Path())
	columns := len(l.left)
	top := c.Max.Y - outerPad
	for i := range l.cells {
		row, column := i/columns, i%columns
		above, _ := l.rowMargins(row)
		if column == 0 && row > 0 {
			previousAbove, previousBottom := l.rowMargins(row - 1)
			top -= previousAbove + l.inside + previousBottom + rowGap
		}
		x := c.Min.X + outerPad + vg.Length(column)*(l.width+columnGap)
		inside := vg.Rectangle{
			Min: vg.Point{X: x + l.left[column], Y: top - above - l.inside},
			Max: vg.Point{X: x + l.width - l.right[column], Y: top - above},
		}
		l.cells[i].draw(l, c, inside, above)
	}
}

// draw draws a panel around its inside, with title and legend from a height above it
// downwards.
func (c *cell) draw(l *layout, on draw.Canvas, inside vg.Rectangle, above vg.Length) {
	on.Rectangle = inside
	on.Min.X -= c.left
	on.Max.X += c.right
	on.Min.Y -= c.bottom
	on.Max.Y += c.top
	c.plot.Draw(on)
	at := vg.Point{X: inside.Min.X, Y: inside.Max.Y + above}
	if c.panel.Title != "" {
		title := l.titleText()
		on.FillText(title, vg.Point{X: at.X, Y: at.Y - l.size*0.7}, shorten(l.shown(c.panel.Title), title, inside.Size().X))
		at.Y -= l.size * 1.5
	}
	drawLegend(on, c.legend, l.legendText(), at)
}
