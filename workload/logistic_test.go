package workload

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/g2g-agent/g2g-agent/internal/npmath"
)

// goldenRun is a run's row of the benchmark.
type goldenRun struct {
	Task       string  `json:"task"`
	ModelID    string  `json:"model_id"`
	BatchSize  int     `json:"max_num_seqs"`
	PowerW     float64 `json:"avg_power_watts"`
	MeanITLMS  float64 `json:"mean_itl_ms"`
	TokensPerS float64 `json:"output_throughput_tokens_per_sec"`
}

func TestFitLogisticMatchesGolden(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(goldenBenchmark, "expected", "runs.json"))
	if err != nil {
		t.Fatal(err)
	}
	var runs []goldenRun
	if err := json.Unmarshal(raw, &runs); err != nil {
		t.Fatal(err)
	}
	compared := 0
	for _, name := range []string{"one_task", "other_task"} {
		for _, m := range goldenMeasured(t, name) {
			for metric, of := range map[string]func(*goldenRun) float64{
				"power": func(r *goldenRun) float64 { return r.PowerW }, "latency": func(r *goldenRun) float64 { return r.MeanITLMS / 1000 },
				"throughput": func(r *goldenRun) float64 { return r.TokensPerS },
			} {
				byBatch := map[int][]float64{}
				for _, r := range runs {
					if r.Task == m.Spec.Task && r.ModelID == m.Spec.ModelID && !slices.Contains(m.Spec.FitExcludeBatchSizes, r.BatchSize) {
						byBatch[r.BatchSize] = append(byBatch[r.BatchSize], of(&r))
					}
				}
				sizes := sortedKeys(byBatch)
				slices.Reverse(sizes) // the order must not matter
				var y []float64
				for _, b := range sizes {
					y = append(y, npmath.Median(byBatch[b]))
				}
				got, warnings := FitLogistic(sizes, y)
				var want LogisticFit
				for _, of := range logisticMetrics() {
					if of.name == metric {
						want = *of.of(m.Logistic)
					}
				}
				compared++
				if len(sizes) == 2 {
					meetsBoth(t, got, sizes, y)
					if len(warnings) != 1 || !strings.Contains(warnings[0], "two batch sizes (4 and 96)") {
						t.Errorf("the warnings are %q", warnings)
					}
					continue
				}
				if got.X0 != want.X0 || got.K != want.K {
					t.Errorf("%s %s: the cell is %v, want %v", m.Spec.ModelLabel, metric, got, want)
				}
				within(t, metric+" L", got.L, want.L, 1e-12)
				within(t, metric+" b0", got.B0, want.B0, 1e-12)
			}
		}
	}
	if compared != 9 {
		t.Errorf("%d fits were compared, want 9", compared)
	}
}

func meetsBoth(t *testing.T, fit LogisticFit, sizes []int, y []float64) {
	t.Helper()
	for i, b := range sizes {
		within(t, "the curve", fit.At(b), y[i], 1e-9)
	}
}

// Two points get the same cell whatever rounding does: noise in their last bits, or
// another scale.
func TestTwoPointsAreStable(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		sizes := []int{1 << rng.IntN(5), 64 << rng.IntN(5)}
		y := []float64{rng.Float64() + 0.01, 2 + rng.Float64()}
		if rng.IntN(2) == 0 {
			y[0], y[1] = y[1], y[0]
		}
		scale := math.Pow(10, float64(rng.IntN(7)-3))
		first, _ := FitLogistic(sizes, y)
		meetsBoth(t, first, sizes, y)
		moved, _ := FitLogistic(sizes, []float64{math.Nextafter(y[0]*scale, 0), math.Nextafter(y[1]*scale, 1e9)})
		if first.K != moved.K || first.X0 != moved.X0 {
			t.Errorf("%v at %v has the cell %v, with noise %v", y, sizes, first, moved)
		}
		if first.K != 0.01 {
			t.Errorf("%v at %v: k is %v, want the flattest", y, sizes, first.K)
		}
	}
}

func TestFitLogisticRecoversACurve(t *testing.T) {
	x0s := npmath.Linspace(2, 11, 40)
	want := LogisticFit{L: 500, X0: x0s[20], K: gridK()[30], B0: 100}
	sizes := []int{8, 16, 32, 64, 128, 256, 512, 1024}
	var y []float64
	for _, b := range sizes {
		y = append(y, want.At(b))
	}
	got, warnings := FitLogistic(sizes, y)
	if got.X0 != want.X0 || got.K != want.K || len(warnings) > 0 {
		t.Errorf("the fit is %v with %q, want %v", got, warnings, want)
	}
	within(t, "L", got.L, want.L, 1e-12)
	within(t, "b0", got.B0, want.B0, 1e-12)
}

func TestFitLogisticOfLittle(t *testing.T) {
	for _, c := range []struct {
		sizes []int
		y     []float64
		want  LogisticFit
	}{
		{nil, nil, LogisticFit{K: 1}},
		{[]int{16}, []float64{340}, LogisticFit{X0: 4, K: 1, B0: 340}},
		{[]int{0}, []float64{340}, LogisticFit{X0: 0, K: 1, B0: 340}},
		{[]int{16, 8, 32}, []float64{340, 340, 340.001}, LogisticFit{X0: 3, K: 1, B0: 1020.001 / 3}},
		{[]int{8, 16}, []float64{1e-9, 9e-9}, LogisticFit{X0: 3, K: 1, B0: 5e-9}},
	} {
		got, warnings := FitLogistic(c.sizes, c.y)
		if math.Abs(got.B0-c.want.B0) > 1e-12*c.want.B0 || len(warnings) > 0 {
			t.Errorf("%v at %v: %v with %q", c.y, c.sizes, got, warnings)
		}
		if c.want.B0 = got.B0; got != c.want {
			t.Errorf("%v at %v: %v, want %v", c.y, c.sizes, got, c.want)
		}
	}
}

func TestFitLogisticWarns(t *testing.T) {
	sizes := []int{8, 16, 32, 64, 128}
	for _, c := range []struct {
		y    []float64
		want []string
	}{
		{[]float64{1, 2, 3, 4, 5}, []string{"below 0.3", "b0 is"}},
		{[]float64{1, 1.001, 1, 9, 9.001}, []string{"above 3"}},
		{[]float64{9, 8, 5, 3, 2.5}, []string{"falls with the batch size"}},
		{[]float64{1, 1, 1, 1, math.NaN()}, []string{"batch size 128 is left out"}},
		{[]float64{5, 9, 1, 1, 5.1}, []string{"falls with", "while what was measured rises"}},
	} {
		_, warnings := FitLogistic(sizes, c.y)
		all := strings.Join(warnings, "\n")
		for _, want := range c.want {
			if !strings.Contains(all, want) {
				t.Errorf("%v: the warnings are %q, want %q", c.y, warnings, want)
			}
		}
	}
}

func TestGridIsLogspace(t *testing.T) {
	for i, exponent := range npmath.Linspace(-2, 2, 60) {
		within(t, "k", gridK()[i], math.Pow(10, exponent), 1e-15)
	}
}
