package plots

import (
	"fmt"
	"image/color"
	"sort"

	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/g2g-agent/g2g-agent/internal/excerpt"
)

// entry is one name in a legend and what it looks like.
type entry struct {
	name   string
	width  vg.Length
	length vg.Length // of the thumb
	thumb  func(c draw.Canvas, from, to vg.Point)
}

const (
	thumbLength = vg.Length(16)
	markLength  = vg.Length(4)
	thumbGap    = vg.Length(4)
	entryGap    = vg.Length(11)
)

// entries are the legend of a panel, its title first.
func (p *Panel) entries(theme Theme) []entry {
	var all []entry
	if p.LegendTitle != "" {
		all = append(all, entry{name: p.LegendTitle})
	}
	for i := range p.Series {
		s := &p.Series[i]
		if s.Name == "" {
			continue
		}
		shade := theme.of(s.Color)
		all = append(all, entry{name: s.Name, length: thumbLength, thumb: func(c draw.Canvas, from, to vg.Point) {
			switch s.Kind {
			case Points:
				dots(c, theme, shade, []vg.Point{{X: (from.X + to.X) / 2, Y: from.Y}})
			case Bars:
				box(c, between([]color.NRGBA{theme.background(), shade}, barStrength), from, to)
			default:
				c.StrokeLine2(line(shade, lineWidth*1.4, s.Dash), from.X, from.Y, to.X, to.Y)
			}
		}})
	}
	for _, m := range p.Marks {
		if m.Name == "" {
			continue
		}
		all = append(all, entry{name: m.Name, length: markLength, thumb: func(c draw.Canvas, from, to vg.Point) {
			dash := m.Dash
			if len(m.X) > manyMarks {
				dash = Solid
			}
			x := (from.X + to.X) / 2
			c.StrokeLine2(line(theme.mark(), markWidth*1.4, dash), x, from.Y-5, x, from.Y+5)
		}})
	}
	for _, b := range p.Bands {
		if b.Name == "" {
			continue
		}
		all = append(all, entry{name: b.Name, length: thumbLength, thumb: func(c draw.Canvas, from, to vg.Point) { box(c, theme.band(), from, to) }})
	}
	return all
}

// box is a filled field of the legend.
func box(c draw.Canvas, shade color.Color, from, to vg.Point) {
	const half = 3.5
	c.FillPolygon(shade, []vg.Point{
		{X: from.X, Y: from.Y - half}, {X: to.X, Y: to.Y - half}, {X: to.X, Y: to.Y + half}, {X: from.X, Y: from.Y + half},
	})
}

// flow lays entries out in at most maxRows rows of a width, names cut to fit; the
// last entry says how many are left out.
func (l *layout) flow(entries []entry, width vg.Length, maxRows int) [][]entry {
	style := l.legendText()
	if len(entries) == 0 {
		return nil
	}
	rows := [][]entry{nil}
	used := vg.Length(0)
	for i, e := range entries {
		room := width
		if e.thumb != nil {
			room -= e.length + thumbGap
		}
		e.name = shorten(l.shown(e.name), style, room)
		e.width = width - room + style.Width(e.name)
		last := &rows[len(rows)-1]
		if len(*last) > 0 && used+entryGap+e.width > width {
			if len(rows) == maxRows {
				more := entry{name: fmt.Sprintf("and %d more", len(entries)-i)}
				more.width = style.Width(more.name)
				for len(*last) > 0 && used+entryGap+more.width > width {
					used -= (*last)[len(*last)-1].width + entryGap
					*last = (*last)[:len(*last)-1]
					i--
					more.name = fmt.Sprintf("and %d more", len(entries)-i)
				}
				*last = append(*last, more)
				return rows
			}
			rows, used = append(rows, nil), 0
			last = &rows[len(rows)-1]
		}
		if len(*last) > 0 {
			used += entryGap
		}
		used += e.width
		*last = append(*last, e)
	}
	return rows
}

// drawLegend draws the rows downwards from a point.
func drawLegend(c draw.Canvas, rows [][]entry, style text.Style, from vg.Point) {
	height := legendRow(style)
	for _, row := range rows {
		x, middle := from.X, from.Y-height/2
		for _, e := range row {
			at := x
			if e.thumb != nil {
				e.thumb(c, vg.Point{X: x, Y: middle}, vg.Point{X: x + e.length, Y: middle})
				at += e.length + thumbGap
			}
			c.FillText(style, vg.Point{X: at, Y: middle}, e.name)
			x += e.width + entryGap
		}
		from.Y -= height
	}
}

// legendRow is the height of one row.
func legendRow(style text.Style) vg.Length { return style.Font.Size * 1.45 }

// maxName bounds what is shown of a name, in bytes.
const maxName = 400

// printable is a name without what is not seen.
func printable(name string) string { return excerpt.Printable(name, maxName) }

// shown is a name as it is drawn.
func (l *layout) shown(name string) string {
	if l.glyphs == nil { // the viewer's fonts help out
		return printable(name)
	}
	return l.glyphs.boxed(printable(name))
}

// shorten takes the middle out of what is wider than there is room: names of models
// differ at both ends.
func shorten(name string, style text.Style, room vg.Length) string {
	runes := []rune(name)
	shown := func(keep int) string {
		if keep == len(runes) {
			return name
		}
		return string(runes[:(keep+1)/2]) + excerpt.Sign + string(runes[len(runes)-keep/2:])
	}
	// The longest that fits, but never nothing.
	cut := sort.Search(len(runes), func(cut int) bool { return style.Width(shown(len(runes)-cut)) <= room })
	return shown(max(len(runes)-cut, min(len(runes), 2)))
}
