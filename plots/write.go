package plots

import (
	"bytes"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/g2g-agent/g2g-agent/internal/atomicfile"
)

// format is a kind of picture.
type format string

const (
	pngFormat format = ".png"
	svgFormat format = ".svg"
)

// formatOf returns the format that the ending of path asks for.
func formatOf(path string) (format, error) {
	switch f := format(strings.ToLower(filepath.Ext(path))); f {
	case pngFormat, svgFormat:
		return f, nil
	}
	return "", invalidf("%q must end in %s or %s", path, pngFormat, svgFormat)
}

// CheckPath fails, wrapping [datacenter.ErrInvalidInput], for a path that [WriteFile]
// cannot write because of its ending.
func CheckPath(path string) error {
	_, err := formatOf(path)
	return err
}

// WriteFile draws the figure as the file at path, in the format that its ending names:
// .png or .svg. The file appears under its name when it is complete, in place of an
// earlier one. It fails, wrapping [datacenter.ErrInvalidInput], for another ending, a
// style that makes no sense, a size without room for the panels, and a path that
// cannot be written to.
func WriteFile(path string, f *Figure, s Style) error {
	format, err := formatOf(path)
	if err != nil {
		return err
	}
	picture, err := f.render(format, s)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	file, err := atomicfile.Create(path)
	if err != nil {
		return invalidf("%w", err)
	}
	defer file.Abort()
	if _, err := file.Write(picture); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return file.Commit()
}

// render draws the figure.
func (f *Figure) render(as format, s Style) ([]byte, error) {
	if len(f.Panels) == 0 || f.Columns < 1 {
		return nil, invalidf("there is nothing to draw")
	}
	s, err := s.check(f)
	if err != nil {
		return nil, err
	}
	l, err := newLayout(f, s, as)
	if err != nil {
		return nil, err
	}
	width, height := vg.Length(s.WidthIn)*vg.Inch, l.height
	s.HeightIn = height.Points() / vg.Inch.Points()
	if as == pngFormat && s.pixels() > maxPixels {
		return nil, invalidf("%.3g by %.3g inches at %d dpi are %.3g pixels, at most %.3g are drawn: use a smaller dpi, or .svg",
			s.WidthIn, s.HeightIn, s.DPI, s.pixels(), float64(maxPixels))
	}
	var canvas interface {
		vg.CanvasSizer
		io.WriterTo
	}
	if as == pngFormat {
		canvas = vgimg.PngCanvas{Canvas: vgimg.NewWith(vgimg.UseWH(width, height), vgimg.UseDPI(s.DPI),
			vgimg.UseBackgroundColor(s.Theme.background()))} // the last row may be a part of a pixel
	} else {
		canvas = vgsvg.New(width, height)
	}
	l.draw(draw.New(canvas))
	var out bytes.Buffer
	if _, err := canvas.WriteTo(&out); err != nil {
		return nil, err
	}
	if as == svgFormat {
		// Fonts of the same widths, for who has not the first.
		return bytes.ReplaceAll(out.Bytes(), []byte("font-family:Liberation Sans;"),
			[]byte("font-family:'Liberation Sans',Arial,Helvetica,sans-serif;")), nil
	}
	return out.Bytes(), nil
}
