package plots

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/image/font/sfnt"
	"gonum.org/v1/plot/font"
)

// glyphs knows which characters the font of pictures has.
type glyphs struct {
	face   font.Face
	buffer sfnt.Buffer
}

func newGlyphs() *glyphs {
	return &glyphs{face: font.DefaultCache.Lookup(font.Font{Typeface: "Liberation", Variant: "Sans"}, 10)}
}

func (g *glyphs) has(r rune) bool {
	glyph, err := g.face.Face.GlyphIndex(&g.buffer, r)
	return err == nil && glyph != 0
}

// noGlyph stands for what the font has not.
const noGlyph = '□'

// boxed is text with boxes for what the font has not.
func (g *glyphs) boxed(text string) string {
	return strings.Map(func(r rune) rune {
		if g.has(r) {
			return r
		}
		return noGlyph
	}, text)
}

// Warnings are remarks about the figure that keep nobody from drawing it: characters
// that the font has no picture of.
func (f *Figure) Warnings() []string {
	g := newGlyphs()
	var missing []rune
	add := func(text string) {
		for _, r := range printable(text) {
			if !g.has(r) && !slices.Contains(missing, r) {
				missing = append(missing, r)
			}
		}
	}
	for i := range f.Panels {
		add(f.Panels[i].Title)
		for k := range f.Panels[i].Series {
			add(f.Panels[i].Series[k].Name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	const most = 10
	var shown []string
	for _, r := range missing[:min(len(missing), most)] {
		shown = append(shown, string(r))
	}
	text := strings.Join(shown, " ")
	if len(missing) > most {
		text += fmt.Sprintf(" and %d more", len(missing)-most)
	}
	return []string{fmt.Sprintf("the font of the picture lacks %s: a PNG has boxes in their place, an SVG what the viewer has", text)}
}
