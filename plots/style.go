package plots

import (
	"image/color"
	"math"
)

// Theme is dark on light or light on dark.
type Theme string

// The themes.
const (
	Light Theme = "light"
	Dark  Theme = "dark"
)

// Style is how a figure is drawn. The zero value is a light one of a size that fits
// the figure.
type Style struct {
	Theme Theme
	// WidthIn and HeightIn are the size in inches; 0 leaves it to the figure.
	WidthIn, HeightIn float64
	// DPI is the pixels an inch has in a PNG; 0 is 150.
	DPI int
}

const (
	defaultDPI            = 150
	minInches, maxInches  = 1.5, 100
	minDPI, maxDPI        = 30, 1200
	maxPixels             = 100e6 // half a gigabyte while it is drawn
	columnInches          = 4.6
	rowInside, gridInside = 1.25, 2.2 // height of a panel's inside
)

// check completes the style for the figure, but for the height, or says what is wrong
// with it.
func (s Style) check(f *Figure) (Style, error) {
	switch s.Theme {
	case "":
		s.Theme = Light
	case Light, Dark:
	default:
		return s, invalidf("theme %q must be %s or %s", s.Theme, Light, Dark)
	}
	if s.WidthIn == 0 {
		s.WidthIn = max(8, columnInches*float64(f.Columns))
	}
	if s.DPI == 0 {
		s.DPI = defaultDPI
	}
	for _, v := range []struct {
		name  string
		value float64
	}{{"width", s.WidthIn}, {"height", s.HeightIn}} {
		if v.value == 0 {
			continue // as high as it needs
		}
		if !(minInches <= v.value && v.value <= maxInches) {
			return s, invalidf("%s must be between %v and %v inches, got %v", v.name, minInches, maxInches, v.value)
		}
	}
	if s.DPI < minDPI || s.DPI > maxDPI {
		return s, invalidf("dpi must be between %d and %d, got %d", minDPI, maxDPI, s.DPI)
	}
	return s, nil
}

// pixels is the size of a PNG.
func (s Style) pixels() float64 { return s.WidthIn * s.HeightIn * float64(s.DPI) * float64(s.DPI) }

// Color is a colour by its meaning; the theme says which it is.
type Color struct {
	kind colorKind
	at   float64
}

type colorKind int

const (
	inkKind colorKind = iota
	namedKind
	orderedKind
	phaseKind
)

// named is the i-th of colours for things without an order.
func named(i int) Color { return Color{namedKind, float64(i)} }

// ordered is a colour for the i-th of n things in order.
func ordered(i, n int) Color { return Color{orderedKind, float64(i) / float64(max(n-1, 1))} }

// ofPhase is the colour of one of the three phases.
func ofPhase(i int) Color { return Color{phaseKind, float64(i)} }

// dashFor distinguishes what has one of the named colours again.
func dashFor(i int) Dash { return Dash(i / len(namedColors(Light)) % int(numDashes)) }

// namedColors are those of Okabe and Ito, the ones that stand out from the background
// first. What is too dark or too bright for it is made to differ more.
func namedColors(t Theme) []color.NRGBA {
	if t == Dark {
		return []color.NRGBA{rgb(0x56b4e9), rgb(0xe69f00), rgb(0x00b386), rgb(0xcc79a7), rgb(0xf0e442), rgb(0xff7f32), rgb(0x6f8fff)}
	}
	return []color.NRGBA{rgb(0x0072b2), rgb(0xd55e00), rgb(0x009e73), rgb(0xcc79a7), rgb(0xe69f00), rgb(0x56b4e9), rgb(0x7a5c00)}
}

// scaleColors go from dark to bright, evenly also in grey: the ends and some points
// between of the scale called viridis.
func scaleColors() []color.NRGBA {
	return []color.NRGBA{
		rgb(0x440154), rgb(0x472d7b), rgb(0x3b528b), rgb(0x2c728e), rgb(0x21918c), rgb(0x28ae80), rgb(0x5ec962), rgb(0xaddc30), rgb(0xfde725),
	}
}

func rgb(hex uint32) color.NRGBA {
	return color.NRGBA{R: uint8(hex >> 16), G: uint8(hex >> 8), B: uint8(hex), A: 0xff}
}

// of is the colour in a theme.
func (t Theme) of(c Color) color.NRGBA {
	switch c.kind {
	case namedKind:
		all := namedColors(t)
		return all[int(c.at)%len(all)]
	case phaseKind:
		return t.phase(int(c.at))
	case orderedKind:
		// The end that is lost on the background is left out.
		low, high := 0.0, 0.84
		if t == Dark {
			low, high = 0.3, 1
		}
		return between(scaleColors(), low+c.at*(high-low))
	}
	return t.ink()
}

// phase differs from the first colours of the models, which stand beside it.
func (t Theme) phase(i int) color.NRGBA {
	if t == Dark {
		return []color.NRGBA{rgb(0xf2f2f2), rgb(0xff7f32), rgb(0x6f8fff)}[i%3]
	}
	return []color.NRGBA{rgb(0x1a1a1a), rgb(0xe69f00), rgb(0x56b4e9)}[i%3]
}

// between is the colour at a part of the way along a scale.
func between(scale []color.NRGBA, at float64) color.NRGBA {
	at = min(max(at, 0), 1) * float64(len(scale)-1)
	i := min(int(at), len(scale)-2)
	f := at - float64(i)
	mix := func(a, b uint8) uint8 { return uint8(math.Round(float64(a)*(1-f) + float64(b)*f)) }
	a, b := scale[i], scale[i+1]
	return color.NRGBA{R: mix(a.R, b.R), G: mix(a.G, b.G), B: mix(a.B, b.B), A: 0xff}
}

func (t Theme) background() color.NRGBA {
	if t == Dark {
		return rgb(0x14171c)
	}
	return rgb(0xffffff)
}

// ink is the colour of text and axes.
func (t Theme) ink() color.NRGBA {
	if t == Dark {
		return rgb(0xe6e6e6)
	}
	return rgb(0x1a1a1a)
}

// faint is the colour of the grid.
func (t Theme) faint() color.NRGBA {
	if t == Dark {
		return rgb(0x31363f)
	}
	return rgb(0xe3e3e3)
}

// mark is the colour of moments.
func (t Theme) mark() color.NRGBA {
	if t == Dark {
		return rgb(0x9aa3ad)
	}
	return rgb(0x7d7d7d)
}

// band is the colour of spans.
func (t Theme) band() color.NRGBA {
	if t == Dark {
		return rgb(0x5a3038)
	}
	return rgb(0xf6d3cf)
}
