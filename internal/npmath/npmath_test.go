package npmath

import (
	"encoding/json"
	"math"
	"os"
	"slices"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// kernels is testdata/numpy/kernels.json, written by scripts/numpy_vectors.py.
type kernels struct {
	Sums []struct {
		X                      []float64
		Sum, Mean, Std, Median float64
	}
	Interp   []struct{ XP, FP, X, Y []float64 }
	Quantile []struct{ X, Q, Values []float64 }
	Arange   []struct {
		Stop, Step float64
		Values     []float64
	}
	Linspace []struct {
		Start, Stop float64
		N           int
		Values      []float64
	}
	BoxSmooth []struct {
		X      []float64
		Width  int
		Values []float64
	} `json:"box_smooth"`
}

func load(t *testing.T) kernels {
	t.Helper()
	raw, err := os.ReadFile("../../testdata/numpy/kernels.json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct{ Kernels kernels }
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	k := v.Kernels
	for what, n := range map[string]int{
		"sums": len(k.Sums), "interp": len(k.Interp), "quantile": len(k.Quantile),
		"arange": len(k.Arange), "linspace": len(k.Linspace), "box_smooth": len(k.BoxSmooth),
	} {
		if n == 0 {
			t.Fatalf("no %s vectors", what)
		}
	}
	return k
}

func same(t *testing.T, what string, got, want float64) {
	t.Helper()
	if got != want {
		t.Errorf("%s is %v, NumPy gives %v", what, got, want)
	}
}

func sameAll(t *testing.T, what string, got, want []float64) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s is %v, NumPy gives %v", what, got, want)
	}
}

func TestKernelsMatchNumPy(t *testing.T) {
	k := load(t)
	for _, c := range k.Sums {
		same(t, "Sum", Sum(c.X), c.Sum)
		if len(c.X) == 0 {
			continue
		}
		before := slices.Clone(c.X)
		same(t, "Mean", Mean(c.X), c.Mean)
		same(t, "Std", Std(c.X), c.Std)
		same(t, "Median", Median(c.X), c.Median)
		sameAll(t, "the argument afterwards", c.X, before)
	}
	for _, c := range k.Interp {
		for i, x := range c.X {
			same(t, "Interp", Interp(x, c.XP, c.FP), c.Y[i])
		}
	}
	for _, c := range k.Quantile {
		for i, q := range c.Q {
			same(t, "Quantile", Quantile(c.X, q), c.Values[i])
		}
	}
	for _, c := range k.Arange {
		sameAll(t, "Arange", Arange(c.Stop, c.Step), c.Values)
	}
	for _, c := range k.Linspace {
		sameAll(t, "Linspace", Linspace(c.Start, c.Stop, c.N), c.Values)
	}
	for _, c := range k.BoxSmooth {
		for i, got := range BoxSmooth(c.X, c.Width) {
			if math.Abs(got-c.Values[i]) > 1e-14 {
				t.Errorf("BoxSmooth of width %d: element %d is %v, NumPy gives %v", c.Width, i, got, c.Values[i])
			}
		}
	}
}

// TestInterpPeriodic holds the one-pass form to the one-by-one form.
func TestInterpPeriodic(t *testing.T) {
	xp := []float64{0, 0.4, 0.4, 1.1, 2.7}
	fp := []float64{5, 1, 8, -2, 6}
	for _, step := range []float64{0.1, 0.25, 1.0 / 3, 2.7, 3.3, 100} {
		got := make([]float64, 500)
		InterpPeriodic(got, step, xp, fp)
		for i, v := range got {
			same(t, "InterpPeriodic", v, Interp(math.Mod(float64(i)*step, 2.7), xp, fp))
		}
	}
}

func TestEmpty(t *testing.T) {
	for what, v := range map[string]float64{
		"Mean": Mean(nil), "Std": Std(nil), "Median": Median(nil), "Quantile": Quantile(nil, 0.5),
		"Interp": Interp(math.NaN(), []float64{0, 1}, []float64{2, 3}),
	} {
		if !math.IsNaN(v) {
			t.Errorf("%s of nothing is %v, want NaN", what, v)
		}
	}
}

func BenchmarkSum(b *testing.B) {
	x := make([]float64, 10000)
	b.ReportAllocs()
	for b.Loop() {
		Sum(x)
	}
}
