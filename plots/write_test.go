package plots

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"gonum.org/v1/plot/vg"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// someRun is the figure of a short run.
func someRun(t *testing.T) *Figure {
	t.Helper()
	f, err := Run(t.Context(), statesOf(100, twoModels), RunOptions{ITLDeadlineS: map[string]float64{"a": 0.08}})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestSameFigureSameBytes in both formats and themes, which differ.
func TestSameFigureSameBytes(t *testing.T) {
	dir := t.TempDir()
	seen := map[string]string{}
	for _, theme := range []Theme{Light, Dark} {
		for _, ending := range []string{".png", ".svg", ".PNG"} {
			var first []byte
			for i := range 2 {
				path := filepath.Join(dir, fmt.Sprintf("%s%d%s", theme, i, ending))
				if err := WriteFile(path, someRun(t), Style{Theme: theme, DPI: 40}); err != nil {
					t.Fatal(err)
				}
				raw, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if i == 0 {
					first = raw
				} else if !bytes.Equal(raw, first) {
					t.Errorf("%s twice gives different bytes", path)
				}
			}
			if ending != ".PNG" {
				seen[string(first)] = string(theme) + ending
			}
		}
	}
	if len(seen) != 4 {
		t.Errorf("only %d of four pictures differ", len(seen))
	}
}

func TestSizes(t *testing.T) {
	raw, err := someRun(t).render(pngFormat, Style{WidthIn: 6, HeightIn: 8, DPI: 100, Theme: Dark})
	if err != nil {
		t.Fatal(err)
	}
	img, err := png.Decode(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	if size := img.Bounds().Size(); size.X != 600 || size.Y != 800 {
		t.Errorf("the picture has %v pixels, want 600 by 800", size)
	}
	r, g, b, a := img.At(599, 0).RGBA()
	if want := Dark.background(); uint8(r>>8) != want.R || uint8(g>>8) != want.G || uint8(b>>8) != want.B || a != 0xffff {
		t.Errorf("the background is %x %x %x %x", r, g, b, a)
	}
}

// TestSVGIsXML, whatever the models are called, and has the words of the figure.
func TestSVGIsXML(t *testing.T) {
	const label = "Größe <b>&\"quoted\"</b>\x00\x1b ]]> 模型"
	f, err := Run(t.Context(), statesOf(10, func(i int) *datacenter.State {
		s := twoModels(i)
		s.Models[0].ModelLabel = label
		return s
	}), RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := f.render(svgFormat, Style{})
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for d := xml.NewDecoder(bytes.NewReader(raw)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if chars, ok := token.(xml.CharData); ok {
			text.Write(chars)
			text.WriteByte('|')
		}
	}
	for _, want := range []string{
		`|Größe <b>&"quoted"</b>\x00\x1b ]]> 模型|`, "|phase A|", "|Phase power (MW)|", "|Time (s)|", "|Batch size|", "|128|", "|b|",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the text lacks %q: %s", want, text.String())
		}
	}
	if !bytes.Contains(raw, []byte("font-family:'Liberation Sans',Arial,Helvetica,sans-serif;")) {
		t.Error("there is no other font for who lacks the first")
	}
	if w := f.Warnings(); len(w) != 1 || !strings.Contains(w[0], "lacks 模 型:") {
		t.Errorf("warnings: %q", w)
	}
	if w := someRun(t).Warnings(); len(w) != 0 {
		t.Errorf("warnings: %q", w)
	}
}

// TestNothingHalfWritten: what cannot be drawn leaves an earlier file as it was, and
// nothing beside it.
func TestNothingHalfWritten(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.png")
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, c := range map[string]struct {
		path  string
		f     *Figure
		style Style
	}{
		`x.jpg" must end in .png or .svg`:                          {filepath.Join(dir, "x.jpg"), someRun(t), Style{}},
		`x" must end in .png or .svg`:                              {filepath.Join(dir, "x"), someRun(t), Style{}},
		"there is nothing to draw":                                 {path, &Figure{}, Style{}},
		`theme "sepia" must be light or dark`:                      {path, someRun(t), Style{Theme: "sepia"}},
		"width must be between 1.5 and 100 inches, got -3":         {path, someRun(t), Style{WidthIn: -3}},
		"height must be between 1.5 and 100 inches, got 1e+06":     {path, someRun(t), Style{HeightIn: 1e6}},
		"dpi must be between 30 and 1200, got 5":                   {path, someRun(t), Style{DPI: 5}},
		"3 by 1.5 inches are too small for 5 panels in 5 rows":     {path, someRun(t), Style{WidthIn: 3, HeightIn: 1.5}},
		"90 by 90 inches at 1200 dpi are 1.17e+10 pixels, at most": {path, someRun(t), Style{WidthIn: 90, HeightIn: 90, DPI: 1200}},
		"no such file or directory":                                {filepath.Join(dir, "none", "x.png"), someRun(t), Style{}},
	} {
		err := WriteFile(c.path, c.f, c.style)
		if !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), want) && want != "no such file or directory" {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Errorf("the folder holds %v (%v)", files, err)
	}
	if raw, err := os.ReadFile(path); string(raw) != "old" {
		t.Errorf("the file holds %q (%v)", raw, err)
	}
}

// TestNothingOverlaps: of pictures of all sizes that are drawn, titles and legends are
// within their column and above the panel they belong to, below the one before.
func TestNothingOverlaps(t *testing.T) {
	many := func(columns int, shared bool) *Figure {
		f := &Figure{Columns: columns, SharedX: shared}
		for i := range 5 {
			p := Panel{
				Title: strings.Repeat("a long title ", 1+10*i), LegendTitle: "batch size",
				X: Axis{Label: "Time (s)"}, Y: Axis{Label: "A quantity with a long name (W)"},
				Marks: []Marks{{Name: "something happened", X: []float64{1}}}, Bands: []Bands{{Name: "while", X: [][2]float64{{1, 2}}}},
			}
			for k := range 1 + 12*i {
				p.Series = append(p.Series, Series{Name: fmt.Sprint(strings.Repeat("model ", 1+k%5*k), k), XY: []XY{{0, -1e5 * float64(k)}, {3, 1e6}}})
			}
			f.Panels = append(f.Panels, p)
		}
		return f
	}
	drawn := 0
	for _, f := range []*Figure{many(1, false), many(1, true), many(2, false), many(3, false), someRun(t)} {
		for _, s := range []Style{{WidthIn: 8}, {WidthIn: 3.4}, {WidthIn: 30, HeightIn: 5}, {WidthIn: 4, HeightIn: 9}, {WidthIn: 9, HeightIn: 14}, {WidthIn: 3, HeightIn: 3}} {
			l, err := newLayout(f, s, pngFormat)
			if err != nil {
				if !errors.Is(err, datacenter.ErrInvalidInput) {
					t.Error(err)
				}
				continue
			}
			drawn++
			checkLayout(t, l, vg.Length(s.WidthIn)*vg.Inch)
		}
	}
	if drawn < 15 {
		t.Errorf("only %d pictures had room", drawn)
	}
}

func checkLayout(t *testing.T, l *layout, width vg.Length) {
	t.Helper()
	const rounding = 0.01
	used := 2*outerPad + rowGap*vg.Length((len(l.cells)-1)/len(l.left))
	for i := range l.cells {
		c := &l.cells[i]
		column := i % len(l.left)
		above, bottom := l.rowMargins(i / len(l.left))
		if column == 0 {
			used += above + l.inside + bottom
		}
		if c.above+c.top > above || c.bottom > bottom || c.left > l.left[column]+rounding || c.right > l.right[column]+rounding {
			t.Errorf("panel %d takes more than its place", i)
		}
		inside := l.width - l.left[column] - l.right[column]
		if inside < minData || l.inside < minData {
			t.Errorf("panel %d has an inside of %v by %v", i, inside, l.inside)
		}
		if rows := legendRow(l.legendText()) * vg.Length(len(c.legend)); rows > c.above {
			t.Errorf("the legend of panel %d is %v high and has %v", i, rows, c.above)
		}
		for _, row := range c.legend {
			end := vg.Length(0)
			for _, e := range row {
				end += e.width + entryGap
			}
			// The second round of the layout may still move the axes by a digit or two.
			if end -= entryGap; end > inside+l.size*2 && len(row) > 1 {
				t.Errorf("a row of the legend of panel %d is %v long and has %v: %v", i, end, inside, row)
			}
		}
	}
	if used+0 > l.height+rounding {
		t.Errorf("the rows take %v of %v", used, l.height)
	}
	if total := 2*outerPad + l.width*vg.Length(len(l.left)) + columnGap*vg.Length(len(l.left)-1); total > width+rounding {
		t.Errorf("the columns take %v of %v", total, width)
	}
}

func TestLegendsSayWhatTheyLeaveOut(t *testing.T) {
	l := &layout{theme: Light, size: 9, glyphs: newGlyphs()}
	var all []entry
	for i := range 50 {
		all = append(all, entry{name: fmt.Sprintf("model %d", i), length: thumbLength})
	}
	rows := l.flow(all, 300, 3)
	shown := 0
	for _, row := range rows {
		shown += len(row)
	}
	last := rows[len(rows)-1]
	if want := fmt.Sprintf("and %d more", 50-(shown-1)); len(rows) != 3 || last[len(last)-1].name != want {
		t.Errorf("%d rows of %d entries end in %q, want %q", len(rows), shown, last[len(last)-1].name, want)
	}
	name := strings.Repeat("x", 100) + "-FP8"
	cut := shorten(name, l.legendText(), 100)
	if l.legendText().Width(cut) > 100 || !strings.HasPrefix(cut, "xxxx") || !strings.HasSuffix(cut, "-FP8") || !strings.Contains(cut, "…") {
		t.Errorf("%q is shown as %q", name, cut)
	}
	if got := l.shown("Größe 模"); got != "Größe □" {
		t.Errorf("shown as %q", got)
	}
}
