package plots

import (
	"math"
	"slices"
	"testing"
)

func labelsOf(ticks []tick) []string {
	var labels []string
	for _, t := range ticks {
		labels = append(labels, t.label)
	}
	return labels
}

func TestTicks(t *testing.T) {
	log10 := func(low, high float64) span { return span{math.Log10(low), math.Log10(high)} }
	for name, c := range map[string]struct {
		axis Axis
		of   span
		most int
		want []string
	}{
		"whole numbers":    {Axis{}, span{0, 300}, 8, []string{"0", "50", "100", "150", "200", "250", "300"}},
		"parts":            {Axis{}, span{0.71, 1.2}, 4, []string{"0.8", "1.0", "1.2"}},
		"quarters":         {Axis{}, span{0, 1}, 5, []string{"0.00", "0.25", "0.50", "0.75", "1.00"}},
		"below 0":          {Axis{}, span{-1, 1}, 3, []string{"-1", "0", "1"}},
		"large":            {Axis{}, span{0, 3e9}, 4, []string{"0", "1e+09", "2e+09", "3e+09"}},
		"batch sizes":      {Axis{Scale: Log2}, span{2.9, 9.1}, 10, []string{"8", "16", "32", "64", "128", "256", "512"}},
		"few batch sizes":  {Axis{Scale: Log2}, span{2.9, 9.1}, 4, []string{"8", "32", "128", "512"}},
		"given":            {Axis{Scale: Log2, At: []float64{4, 48, 96, 1024}}, span{1, 8}, 2, []string{"4", "48", "96"}},
		"decades":          {Axis{Scale: Log10}, log10(0.01, 1000), 10, []string{"0.01", "0.1", "1", "10", "100", "1000"}},
		"parts of decades": {Axis{Scale: Log10}, log10(6, 310), 10, []string{"10", "20", "50", "100", "200"}},
		"within a decade":  {Axis{Scale: Log10}, log10(21, 28), 10, []string{"22", "24", "26", "28"}},
	} {
		if got := labelsOf(c.axis.ticks(c.of, c.most)); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

// TestTicksOfAnything: ranges of all sizes have ticks, not too many, inside.
func TestTicksOfAnything(t *testing.T) {
	for e := -200; e <= 200; e += 7 {
		for _, low := range []float64{0, 1, -3, 1e3} {
			of := span{low * math.Pow10(e), (low + 1.7) * math.Pow10(e)}
			for _, most := range []int{0, 2, 5, 40} {
				ticks := (&Axis{}).ticks(of, most)
				if len(ticks) == 0 || len(ticks) > max(most, 2) {
					t.Fatalf("%v with at most %d has %q", of, most, labelsOf(ticks))
				}
				margin := 1e-6 * (of.high - of.low)
				for _, tick := range ticks {
					if tick.at < of.low-margin || tick.at > of.high+margin {
						t.Fatalf("%v has a tick at %v", of, tick.at)
					}
				}
			}
		}
	}
}

func TestUnits(t *testing.T) {
	for _, c := range []struct {
		most  float64
		units []unit
		want  string
	}{
		{1.18e6, powerUnits(), "MW"}, {999, powerUnits(), "W"}, {1000, powerUnits(), "kW"}, {0, powerUnits(), "W"},
		{-5e9, powerUnits(), "GW"}, {math.Inf(-1), powerUnits(), "W"}, {0.08, latencyUnits(), "ms"}, {1.5, latencyUnits(), "s"},
		{5e-5, latencyUnits(), "µs"}, {4000, throughputUnits(), "10³ tokens/s"},
	} {
		if got := unitFor(c.most, c.units).name; got != c.want {
			t.Errorf("%v is shown in %s, want %s", c.most, got, c.want)
		}
	}
	for length, want := range map[float64]string{0: "s", 600: "s", 601: "min", 4 * 3600: "h", 5 * 86400: "d"} {
		if got := timeUnit(length).name; got != want {
			t.Errorf("%v s are shown in %s, want %s", length, got, want)
		}
	}
}

func TestRanges(t *testing.T) {
	flat := func(y float64) Panel { return Panel{Series: []Series{{XY: []XY{{0, y}, {299.9, y}}}}} }
	for name, c := range map[string]struct {
		panel Panel
		y     span
	}{
		"far from 0":  {Panel{Series: []Series{{XY: []XY{{0, 100}, {299.9, 150}}}}}, span{97, 153}},
		"near 0":      {Panel{Series: []Series{{XY: []XY{{0, 10}, {299.9, 100}}}}}, span{0, 106}},
		"one value":   {flat(5), span{4.5, 5.5}},
		"zeros":       {flat(0), span{0, 1}},
		"no number":   {flat(math.NaN()), span{0, 1.06}},
		"with a line": {Panel{Series: []Series{{XY: []XY{{0, 1}, {299.9, 100}}}, {Kind: Level, XY: []XY{{0, 200}}}}}, span{0, 212}},
	} {
		x, y := c.panel.ranges()
		if math.Abs(y.low-c.y.low) > 1e-9 || math.Abs(y.high-c.y.high) > 1e-9 {
			t.Errorf("%s: y is %v, want %v", name, y, c.y)
		}
		if x != (span{0, 300}) {
			t.Errorf("%s: x is %v, want 0 to 300, which is near", name, x)
		}
	}
}
