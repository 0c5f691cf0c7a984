// Command plot draws a recording as the picture in the README: phase power,
// per-model power and inter-token latency over time.
//
//	go run ./scripts/plot RECORDING.csv PICTURE.png
package main

import (
	"errors"
	"fmt"
	"image/color"
	"math"
	"os"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/record"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: plot RECORDING PICTURE.png")
	}
	states, err := record.ReadAll(args[0])
	if err != nil {
		return err
	}
	if len(states) == 0 {
		return fmt.Errorf("%s: no states to plot", args[0])
	}
	phases, err := panel("phase power (MW)", states, []string{"A", "B", "C"}, func(s *datacenter.State, i int) float64 {
		return s.PowerW.Array()[i] / 1e6
	})
	if err != nil {
		return err
	}
	var labels []string
	for _, m := range states[0].Models {
		labels = append(labels, m.ModelLabel)
	}
	models, err := panel("model power (MW)", states, labels, func(s *datacenter.State, i int) float64 {
		return s.Models[i].PowerW / 1e6
	})
	if err != nil {
		return err
	}
	itl, err := panel("inter-token latency (ms)", states, labels, func(s *datacenter.State, i int) float64 {
		return s.Models[i].ObservedITLS * 1e3
	})
	if err != nil {
		return err
	}
	itl.X.Label.Text = "time (s)"
	return write(args[1], phases, models, itl)
}

// panel is one plot of several series over time.
func panel(title string, states []datacenter.State, names []string, value func(*datacenter.State, int) float64) (*plot.Plot, error) {
	colors := []color.Color{
		color.RGBA{0x1f, 0x77, 0xb4, 0xff}, color.RGBA{0xff, 0x7f, 0x0e, 0xff}, color.RGBA{0x2c, 0xa0, 0x2c, 0xff},
		color.RGBA{0xd6, 0x27, 0x28, 0xff}, color.RGBA{0x94, 0x67, 0xbd, 0xff},
	}
	p := plot.New()
	p.Y.Label.Text = title
	p.Y.Min = 0
	p.X.Tick.Marker = plot.TickerFunc(timeTicks)
	p.Legend.Top = true
	p.Add(plotter.NewGrid())
	for i, name := range names {
		var points plotter.XYs
		for k := range states {
			if y := value(&states[k], i); y == y { // not a number: no point
				points = append(points, plotter.XY{X: states[k].TimeS, Y: y})
			}
		}
		if len(points) == 0 {
			continue
		}
		line, err := plotter.NewLine(points)
		if err != nil {
			return nil, fmt.Errorf("%s of %s: %w", title, name, err)
		}
		line.Color = colors[i%len(colors)]
		p.Add(line)
		p.Legend.Add(name, line)
	}
	p.Y.Max *= 1.25 // room for the legend
	return p, nil
}

// timeTicks marks about ten round times.
func timeTicks(lo, hi float64) []plot.Tick {
	step := math.Pow(10, math.Floor(math.Log10(hi-lo)))
	for _, part := range []float64{0.1, 0.2, 0.5, 1} {
		if (hi-lo)/(step*part) <= 10 {
			step *= part
			break
		}
	}
	var ticks []plot.Tick
	for t := math.Ceil(lo/step) * step; t <= hi; t += step {
		ticks = append(ticks, plot.Tick{Value: t, Label: strconv.FormatFloat(t, 'g', 6, 64)})
	}
	return ticks
}

// write stacks the plots into one picture.
func write(file string, plots ...*plot.Plot) error {
	img := vgimg.NewWith(vgimg.UseWH(9*vg.Inch, 7.5*vg.Inch), vgimg.UseDPI(110))
	column := make([][]*plot.Plot, len(plots))
	for i, p := range plots {
		column[i] = []*plot.Plot{p}
	}
	tiles := draw.Tiles{Rows: len(plots), Cols: 1, PadTop: 6, PadBottom: 6, PadRight: 12, PadLeft: 6, PadY: 8}
	for i, row := range plot.Align(column, tiles, draw.New(img)) {
		plots[i].Draw(row[0])
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	if _, err := (vgimg.PngCanvas{Canvas: img}).WriteTo(f); err != nil {
		return errors.Join(err, f.Close())
	}
	return f.Close()
}
