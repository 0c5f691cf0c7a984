package plots

import (
	"context"
	"errors"
	"iter"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// statesOf yields n states, each as at makes it.
func statesOf(n int, at func(i int) *datacenter.State) iter.Seq2[*datacenter.State, error] {
	return func(yield func(*datacenter.State, error) bool) {
		for i := range n {
			if !yield(at(i), nil) {
				return
			}
		}
	}
}

// twoModels is a state of two models at 10 Hz.
func twoModels(i int) *datacenter.State {
	s := &datacenter.State{
		TimeS: float64(i) / 10, PowerW: datacenter.ThreePhase{A: 1e6, B: 2e6, C: 3e6},
		Models: []datacenter.ModelState{
			{ModelLabel: "a", PowerW: 2e5, ActiveReplicas: 10, BatchSize: 64, ObservedITLS: 0.02},
			{ModelLabel: "b", PowerW: 4e5, ActiveReplicas: 20, BatchSize: 128, ObservedITLS: 0.03},
		},
	}
	if i >= 50 {
		s.Models[1].BatchSize = 32
	}
	return s
}

func panelOf(t *testing.T, f *Figure, label string) *Panel {
	t.Helper()
	for i := range f.Panels {
		if strings.HasPrefix(f.Panels[i].Y.Label, label) {
			return &f.Panels[i]
		}
	}
	t.Fatalf("there is no panel %q", label)
	return nil
}

func TestRunHasEverything(t *testing.T) {
	o := RunOptions{ITLDeadlineS: map[string]float64{"a": 0.08, "b": 0.1, "c": 9}, ReplicaShiftsS: []float64{2, 99}}
	f, err := Run(t.Context(), statesOf(100, twoModels), o)
	if err != nil {
		t.Fatal(err)
	}
	var labels []string
	for _, p := range f.Panels {
		labels = append(labels, p.Y.Label)
		if p.X.Label != "Time (s)" {
			t.Errorf("%s has the x axis %q", p.Y.Label, p.X.Label)
		}
	}
	if want := []string{"Phase power (MW)", "Model power (kW)", "ITL (ms)", "Batch size", "Replicas"}; !slices.Equal(labels, want) {
		t.Errorf("panels: %q, want %q", labels, want)
	}
	phases := panelOf(t, f, "Phase")
	for i, name := range []string{"phase A", "phase B", "phase C"} {
		if s := phases.Series[i]; s.Name != name || !slices.Equal(s.XY, []XY{{0, float64(i + 1)}, {9.9, float64(i + 1)}}) {
			t.Errorf("series %d is %q with %v", i, s.Name, s.XY)
		}
	}
	models := panelOf(t, f, "Model")
	if s := models.Series; s[0].Name != "a" || s[1].Name != "b" || s[1].XY[0].Y != 400 || s[0].Color == s[1].Color {
		t.Errorf("models: %+v", s)
	}
	batch := panelOf(t, f, "Batch")
	if s := batch.Series[1]; s.Kind != Step || !slices.Equal(s.XY, []XY{{0, 128}, {4.9, 128}, {5, 32}, {9.9, 32}}) {
		t.Errorf("batch sizes of b: %+v", s)
	}
	if !slices.Equal(batch.Y.At, []float64{32, 64, 128}) || batch.Y.Scale != Log2 {
		t.Errorf("batch sizes are labelled at %v", batch.Y.At)
	}
	var deadlines []float64
	for _, s := range panelOf(t, f, "ITL").Series {
		for _, at := range s.XY {
			if s.Kind == Level {
				deadlines = append(deadlines, at.Y)
			}
		}
	}
	if !slices.Equal(deadlines, []float64{80, 100}) {
		t.Errorf("deadlines at %v ms", deadlines)
	}
	for _, p := range f.Panels {
		if len(p.Marks) != 2 || !slices.Equal(p.Marks[0].X, []float64{5}) || !slices.Equal(p.Marks[1].X, []float64{2}) {
			t.Errorf("%s has the marks %+v, want the change at 5 s and the shift at 2 s, not that after the end", p.Y.Label, p.Marks)
		}
	}
	if m := phases.Marks; m[0].Name != "batch size changed" || m[1].Name != "replicas shifted" || models.Marks[0].Name != "" {
		t.Errorf("marks are named %+v, and again %+v", m, models.Marks)
	}
}

// TestRunWithThroughput: it has a panel where it is known, of some model at some time.
func TestRunWithThroughput(t *testing.T) {
	for low, scale := range map[float64]Scale{1000: Linear, 100: Log10} {
		f, err := Run(t.Context(), statesOf(20, func(i int) *datacenter.State {
			s := twoModels(i)
			s.Models[0].Throughput = datacenter.ThroughputOf(5000)
			if i < 10 {
				s.Models[1].Throughput = datacenter.ThroughputOf(low)
			}
			return s
		}), RunOptions{})
		if err != nil {
			t.Fatal(err)
		}
		p := panelOf(t, f, "Throughput (10³ tokens/s)")
		if p.Y.Scale != scale {
			t.Errorf("beside %v tokens/s it has the scale %v, want %v", low, p.Y.Scale, scale)
		}
		if a := p.Series[0].XY; !slices.Equal(a, []XY{{0, 5}, {1.9, 5}}) {
			t.Errorf("of a: %v", a)
		}
		b := p.Series[1].XY
		if b[0] != (XY{0, low / 1000}) || !math.IsNaN(b[len(b)-1].Y) || p.Series[1].Color != panelOf(t, f, "Model").Series[1].Color {
			t.Errorf("of b: %v", b)
		}
		if next := f.Panels[4].Y.Label; len(f.Panels) != 6 || next != "Batch size" {
			t.Errorf("%d panels, after it comes %q", len(f.Panels), next)
		}
	}
}

func TestRunOfALiveRun(t *testing.T) {
	f, err := Run(t.Context(), statesOf(100, func(i int) *datacenter.State {
		s := twoModels(i)
		s.Models[0].Live.Stale = i >= 20 && i < 30
		s.Models[0].ObservedITLS = math.NaN()
		if i > 90 {
			s.Models[1].ObservedITLS = math.NaN()
		}
		return s
	}), RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if b := f.Panels[0].Bands; len(b) != 1 || b[0].Name != "power stale" || len(b[0].X) != 1 || b[0].X[0] != [2]float64{2, 3} {
		t.Errorf("stale: %+v, want 2 s to 3 s", b)
	}
	itl := panelOf(t, f, "ITL (ms)")
	if points := itl.Series[1].XY; points[0].Y != 30 || !math.IsNaN(points[len(points)-1].Y) {
		t.Errorf("latency of b: %v", points)
	}
	noITL, err := Run(t.Context(), statesOf(5, func(i int) *datacenter.State {
		s := twoModels(i)
		s.Models[0].ObservedITLS, s.Models[1].ObservedITLS = math.NaN(), math.Inf(1)
		return s
	}), RunOptions{ITLDeadlineS: map[string]float64{"a": 1}})
	if err != nil || len(noITL.Panels) != 4 {
		t.Errorf("without latencies: %d panels, %v", len(noITL.Panels), err)
	}
}

func TestRunOfLittle(t *testing.T) {
	if _, err := Run(t.Context(), statesOf(0, nil), RunOptions{}); !errors.Is(err, datacenter.ErrInvalidInput) {
		t.Errorf("without states: %v", err)
	}
	for name, at := range map[string]func(int) *datacenter.State{
		"one state": twoModels,
		"no model":  func(int) *datacenter.State { return &datacenter.State{} },
		"nothing that is a number": func(int) *datacenter.State {
			nan := math.NaN()
			return &datacenter.State{PowerW: datacenter.ThreePhase{A: nan, B: nan, C: nan}, Models: []datacenter.ModelState{
				{ModelLabel: "a", PowerW: nan, ObservedITLS: nan, BatchSize: -1},
			}}
		},
		"large numbers": func(int) *datacenter.State {
			return &datacenter.State{PowerW: datacenter.ThreePhase{A: 1.7e308, B: -1.7e308}, Models: []datacenter.ModelState{
				{ModelLabel: strings.Repeat("long ", 1000), PowerW: 5e-324, ObservedITLS: 1.7e308, BatchSize: math.MaxInt, ActiveReplicas: math.MinInt},
			}}
		},
	} {
		f, err := Run(t.Context(), statesOf(1, at), RunOptions{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, p := range f.Panels {
			if x, y := p.ranges(); !isFinite(x.high-x.low) || !isFinite(y.high-y.low) || !(x.high > x.low) || !(y.high > y.low) {
				t.Errorf("%s: %s is between %v and %v", name, p.Y.Label, x, y)
			}
		}
		for _, as := range []format{pngFormat, svgFormat} {
			if picture, err := f.render(as, Style{DPI: 40}); err != nil || len(picture) < 1000 {
				t.Errorf("%s as %s: %d bytes, %v", name, as, len(picture), err)
			}
		}
	}
}

func TestRunRefuses(t *testing.T) {
	other := func(change func(*datacenter.State)) func(int) *datacenter.State {
		return func(i int) *datacenter.State {
			s := twoModels(i)
			if i == 3 {
				change(s)
			}
			return s
		}
	}
	for want, at := range map[string]func(int) *datacenter.State{
		"state 4: time_s is NaN, want a finite number":            other(func(s *datacenter.State) { s.TimeS = math.NaN() }),
		"state 4: it has 1 models, the states before it have 2":   other(func(s *datacenter.State) { s.Models = s.Models[:1] }),
		`state 4: model 2 is "x\n", in the states before it "b"`:  other(func(s *datacenter.State) { s.Models[1].ModelLabel = "x\n" }),
		"state 4: time_s is +Inf, want a finite number":           other(func(s *datacenter.State) { s.TimeS = math.Inf(1) }),
		"state 4: it has 0 models, the states before it have 2":   other(func(s *datacenter.State) { s.Models = nil }),
		`state 4: model 1 is "b", in the states before it "a"`:    other(func(s *datacenter.State) { s.Models[0].ModelLabel = "b" }),
		"want the states of one run in their order":               other(func(s *datacenter.State) { s.TimeS = twoModels(2).TimeS }), // repeated
		"-1 after 0.2, want the states of one run in their order": other(func(s *datacenter.State) { s.TimeS = -1 }),
	} {
		_, err := Run(t.Context(), statesOf(10, at), RunOptions{})
		if !errors.Is(err, datacenter.ErrInvalidInput) || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	broken := errors.New("line 7 is damaged")
	_, err := Run(t.Context(), func(yield func(*datacenter.State, error) bool) {
		if yield(twoModels(0), nil) {
			yield(nil, broken)
		}
	}, RunOptions{})
	if !errors.Is(err, broken) {
		t.Errorf("got %v, want the error of the states", err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := Run(ended, statesOf(10, twoModels), RunOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("when it is to end: %v", err)
	}
}

// TestRunOfDaysTakesLittleMemory: a day at 5 Hz, whose only peak is there.
func TestRunOfDaysTakesLittleMemory(t *testing.T) {
	const n = 86400 * 5
	const peakAt = 12345
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	s := twoModels(0)
	f, err := Run(t.Context(), statesOf(n, func(i int) *datacenter.State {
		s.TimeS = float64(i) / 5
		s.PowerW.A = 1e6 + float64(i%13)
		if i == peakAt {
			s.PowerW.A = 5e6
		}
		s.Models[0].BatchSize = 32 << (i % 2)
		return s
	}), RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 20<<20 {
		t.Errorf("the figure takes %d MB", grown>>20)
	}
	phase := f.Panels[0].Series[0].XY
	peak := slices.MaxFunc(phase, func(a, b XY) int {
		switch {
		case a.Y < b.Y:
			return -1
		case a.Y > b.Y:
			return 1
		}
		return 0
	})
	size := timeUnit(n / 5).size
	if peak.Y != 5 || math.Abs(peak.X*size-peakAt/5.) > 1e-6 {
		t.Errorf("the peak is %v at %v s", peak.Y, peak.X*size)
	}
	if points := len(phase); points > 4*maxBuckets {
		t.Errorf("%d points are drawn", points)
	}
	runtime.KeepAlive(f)
}
