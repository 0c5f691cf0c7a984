package plots

import (
	"image/color"

	gonumplot "gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// The widths of lines, in points.
const (
	lineWidth = vg.Length(1.1)
	axisWidth = vg.Length(0.7)
	markWidth = vg.Length(0.7)
	dotRadius = vg.Length(2.6)
)

// line is a line's style.
func line(c color.Color, width vg.Length, dash Dash) draw.LineStyle {
	s := draw.LineStyle{Color: c, Width: width}
	switch dash {
	case Dashed:
		s.Dashes = []vg.Length{5, 2.5}
	case Dotted:
		s.Dashes = []vg.Length{1.5, 1.8}
	case DashDotted:
		s.Dashes = []vg.Length{6, 2, 1.5, 2}
	}
	return s
}

// seriesPlotter draws a series.
type seriesPlotter struct {
	series *Series
	x, y   Scale
	theme  Theme
}

// Plot draws the series between the axes of p.
func (s seriesPlotter) Plot(c draw.Canvas, p *gonumplot.Plot) {
	toX, toY := p.Transforms(&c)
	var pieces [][]vg.Point
	var piece []vg.Point
	for _, at := range s.series.XY {
		x, y := s.x.place(at.X), s.y.place(at.Y)
		switch {
		case s.series.Kind == Level:
			x = 0
		case s.series.Kind == Bars && s.y != Linear && at.Y == 0:
			y = p.Y.Min // an empty bar
		}
		if !isFinite(x) || !isFinite(y) {
			pieces, piece = append(pieces, piece), nil
			continue
		}
		piece = append(piece, vg.Point{X: toX(x), Y: toY(y)})
	}
	shade := s.theme.of(s.series.Color)
	style := line(shade, lineWidth, s.series.Dash)
	for _, piece := range append(pieces, piece) {
		if len(piece) == 0 {
			continue
		}
		switch s.series.Kind {
		case Line:
			strokeOrDot(c, style, piece, piece)
		case Step:
			strokeOrDot(c, style, piece, steps(piece))
		case Points:
			dots(c, s.theme, shade, piece)
		case Bars:
			s.bars(c, toY, shade, piece)
		case Level:
			for _, at := range piece {
				c.StrokeLine2(style, c.Min.X, at.Y, c.Max.X, at.Y)
			}
		}
	}
}

// strokeOrDot draws the line through the points; one alone is a dot, since it has no
// length.
func strokeOrDot(c draw.Canvas, style draw.LineStyle, points, path []vg.Point) {
	if len(points) > 1 {
		c.StrokeLines(style, path)
		return
	}
	c.DrawGlyphNoClip(draw.GlyphStyle{Color: style.Color, Radius: style.Width * 1.5, Shape: draw.CircleGlyph{}}, points[0])
}

// steps holds each point's height until the next.
func steps(points []vg.Point) []vg.Point {
	path := points[:1:1]
	for i, at := range points[1:] {
		if at.Y != points[i].Y {
			path = append(path, vg.Point{X: at.X, Y: points[i].Y})
		}
		path = append(path, at)
	}
	return path
}

// dots are seen on a line of their colour, too.
func dots(c draw.Canvas, theme Theme, shade color.Color, points []vg.Point) {
	for _, at := range points {
		c.DrawGlyphNoClip(draw.GlyphStyle{Color: theme.background(), Radius: dotRadius + 1, Shape: draw.CircleGlyph{}}, at)
		c.DrawGlyphNoClip(draw.GlyphStyle{Color: shade, Radius: dotRadius, Shape: draw.CircleGlyph{}}, at)
	}
}

func (s seriesPlotter) bars(c draw.Canvas, toY func(float64) vg.Length, shade color.NRGBA, points []vg.Point) {
	floor := c.Min.Y
	if s.y == Linear {
		floor = max(floor, toY(0))
	}
	outline := steps(points)
	outline = append([]vg.Point{{X: outline[0].X, Y: floor}}, outline...)
	outline = append(outline, vg.Point{X: outline[len(outline)-1].X, Y: floor})
	c.FillPolygon(between([]color.NRGBA{s.theme.background(), shade}, barStrength), outline)
	c.StrokeLines(line(shade, lineWidth/2, Solid), outline)
}

// barStrength is how far the inside of bars is from the background.
const barStrength = 0.3

// under is what lies behind the series: grid, spans and moments.
type under struct {
	panel          *Panel
	theme          Theme
	xTicks, yTicks []tick
}

// manyMarks is how many moments are drawn over the whole height; more of them would
// be an area.
const manyMarks = 80

// Plot draws it.
func (u under) Plot(c draw.Canvas, p *gonumplot.Plot) {
	toX, toY := p.Transforms(&c)
	for _, b := range u.panel.Bands {
		for _, ends := range b.X {
			from, to := toX(u.panel.X.Scale.place(ends[0])), toX(u.panel.X.Scale.place(ends[1]))
			to = max(to, from+markWidth) // or it would not be seen
			c.FillPolygon(u.theme.band(), []vg.Point{{X: from, Y: c.Min.Y}, {X: to, Y: c.Min.Y}, {X: to, Y: c.Max.Y}, {X: from, Y: c.Max.Y}})
		}
	}
	grid := line(u.theme.faint(), axisWidth, Solid)
	for _, t := range u.xTicks {
		c.StrokeLine2(grid, toX(t.at), c.Min.Y, toX(t.at), c.Max.Y)
	}
	for _, t := range u.yTicks {
		c.StrokeLine2(grid, c.Min.X, toY(t.at), c.Max.X, toY(t.at))
	}
	for _, m := range u.panel.Marks {
		style, from := line(u.theme.mark(), markWidth, m.Dash), c.Min.Y
		if len(m.X) > manyMarks {
			style, from = line(u.theme.mark(), markWidth, Solid), c.Max.Y-5
		}
		for _, at := range m.X {
			x := toX(u.panel.X.Scale.place(at))
			c.StrokeLine2(style, x, from, x, c.Max.Y)
		}
	}
}
