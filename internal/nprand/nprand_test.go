package nprand

import (
	"encoding/json"
	"math"
	"os"
	"slices"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// golden is one seed's entry of the vectors NumPy printed; every field was
// drawn from a fresh generator.
type golden struct {
	Seed           uint64            `json:"seed"`
	Random         []float64         `json:"random"`
	Uniform        []float64         `json:"uniform_0_88_1_12"`
	IntegersSmall  []int64           `json:"integers_below_600"`
	IntegersLarge  []int64           `json:"integers_below_5e9"`
	StandardNormal []float64         `json:"standard_normal"`
	LogNormal      []float64         `json:"lognormal_m2_s05"`
	Poisson10      []int64           `json:"poisson_10"`
	PoissonHalf    []int64           `json:"poisson_0_5"`
	Poisson400     []int64           `json:"poisson_400"`
	Shuffle10      []int             `json:"shuffle_10"`
	Shuffle1000    []int             `json:"shuffle_1000"`
	Choice         []int             `json:"choice_5000_40_without_replacement"`
	Permutation    []int             `json:"permutation_12"`
	Mixed          []json.RawMessage `json:"mixed"`
}

func load[T any](t *testing.T, path string) T {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func draw[T any](n int, next func() T) []T {
	out := make([]T, n)
	for i := range out {
		out[i] = next()
	}
	return out
}

func equal[T comparable](t *testing.T, what string, got, want []T) {
	t.Helper()
	if len(want) == 0 {
		t.Fatalf("%s: no golden values", what)
	}
	if i := firstDifference(got, want); i >= 0 {
		t.Errorf("%s: draw %d is %v, NumPy gives %v", what, i, got[i], want[i])
	}
}

func firstDifference[T comparable](got, want []T) int {
	for i := range want {
		if got[i] != want[i] {
			return i
		}
	}
	return -1
}

// equalNormal holds normal draws to the bit, and those of the ziggurat's tail,
// which go through the platform's log1p, to one unit in the last place.
func equalNormal(t *testing.T, what string, got, want []float64) {
	t.Helper()
	for i := range want {
		if got[i] == want[i] {
			continue
		}
		if math.Abs(want[i]) > zigguratR && ulps(got[i], want[i]) <= 1 {
			continue
		}
		t.Errorf("%s: draw %d is %v, NumPy gives %v", what, i, got[i], want[i])
	}
}

func ulps(a, b float64) uint64 {
	d := int64(math.Float64bits(a)) - int64(math.Float64bits(b))
	return uint64(max(d, -d))
}

func TestGeneratorMatchesNumPy(t *testing.T) {
	for _, g := range load[[]golden](t, "../../testdata/golden/components/numpy_default_rng.json") {
		rng := func() *Generator { return New(g.Seed) }
		equal(t, "random", draw(len(g.Random), rng().Random), g.Random)
		r := rng()
		equal(t, "uniform", draw(len(g.Uniform), func() float64 { return r.Uniform(0.88, 1.12) }), g.Uniform)
		r = rng()
		equal(t, "integers below 600", draw(len(g.IntegersSmall), func() int64 { return r.Integers(0, 600) }), g.IntegersSmall)
		r = rng()
		equal(t, "integers below 5e9", draw(len(g.IntegersLarge), func() int64 { return r.Integers(0, 5e9) }), g.IntegersLarge)

		equalNormal(t, "standard normal", draw(len(g.StandardNormal), rng().StandardNormal), g.StandardNormal)
		filled := make([]float64, len(g.StandardNormal))
		rng().FillStandardNormal(filled)
		equalNormal(t, "filled standard normal", filled, g.StandardNormal)

		r = rng()
		for i, want := range g.LogNormal {
			if got := r.LogNormal(-2, 0.5); math.Abs(got-want) > 1e-12*want {
				t.Errorf("seed %d: lognormal draw %d is %v, NumPy gives %v", g.Seed, i, got, want)
			}
		}
		for _, c := range []struct {
			lam  float64
			want []int64
		}{{10, g.Poisson10}, {0.5, g.PoissonHalf}, {400, g.Poisson400}} {
			r = rng()
			equal(t, "poisson", draw(len(c.want), func() int64 { return r.Poisson(c.lam) }), c.want)
		}
		for _, want := range [][]int{g.Shuffle10, g.Shuffle1000} {
			s := iota0(len(want))
			Shuffle(rng(), s)
			equal(t, "shuffle", s, want)
		}
		equal(t, "choice", rng().Choice(5000, 40), g.Choice)
		permuted := iota0(12)
		Shuffle(rng(), permuted)
		equal(t, "permutation", permuted, g.Permutation)
	}
}

// TestMixedDraws interleaves 32-bit and 64-bit draws: the kept half of a 64-bit
// draw survives the draws between.
func TestMixedDraws(t *testing.T) {
	for _, g := range load[[]golden](t, "../../testdata/golden/components/numpy_default_rng.json") {
		r := New(g.Seed)
		below7 := func() int64 { return r.Integers(0, 7) }
		got := []any{
			r.Random(), draw(3, below7), r.Normal(0, 1), r.Uniform(2, 3), draw(2, below7), r.Random(),
		}
		for i := range g.Mixed {
			text, err := json.Marshal(got[i])
			if err != nil {
				t.Fatal(err)
			}
			var g1, w1 any
			if json.Unmarshal(text, &g1) != nil || json.Unmarshal(g.Mixed[i], &w1) != nil {
				t.Fatalf("not JSON: %s, %s", text, g.Mixed[i])
			}
			gs, _ := json.Marshal(g1)
			ws, _ := json.Marshal(w1)
			if string(gs) != string(ws) {
				t.Errorf("seed %d: mixed draw %d is %s, NumPy gives %s", g.Seed, i, gs, ws)
			}
		}
	}
}

func TestZigguratTablesFollowFromWidths(t *testing.T) {
	table := load[struct {
		R  float64   `json:"r"`
		Wi []float64 `json:"wi"`
	}](t, "../../testdata/golden/components/ziggurat_normal.json")
	if zigguratR != table.R || len(table.Wi) != len(zigguratNormal) {
		t.Fatalf("r is %v and %d layers, want %v and %d", zigguratR, len(zigguratNormal), table.R, len(table.Wi))
	}
	for i, w := range table.Wi {
		if zigguratNormal[i].width != w {
			t.Errorf("layer %d: width %v, want %v", i, zigguratNormal[i].width, w)
		}
		x := w * 0x1p52
		if want := math.Exp(-x * x / 2); i > 0 && math.Abs(zigguratDensity[i]-want) > 1e-15 {
			t.Errorf("layer %d: density %v, want %v", i, zigguratDensity[i], want)
		}
		if i > 1 && zigguratNormal[i].accept >= 1<<52 {
			t.Errorf("layer %d accepts above 2^52", i)
		}
	}
}

func TestDegenerateArguments(t *testing.T) {
	r := New(1)
	if got := r.Integers(5, 5); got != 5 {
		t.Errorf("Integers of an empty range is %d, want its low end 5", got)
	}
	if got := r.Integers(5, 6); got != 5 {
		t.Errorf("Integers(5, 6) is %d", got)
	}
	for _, lam := range []float64{0, -1, math.NaN(), math.Inf(1)} {
		if got := r.Poisson(lam); got != 0 {
			t.Errorf("Poisson(%v) is %d, want 0", lam, got)
		}
	}
	Shuffle(r, []int{})
	Shuffle(r, []int{1})
	if r.Uint64() != New(1).Uint64() {
		t.Error("a draw with one possible outcome moved the generator, NumPy's does not")
	}
	for _, c := range [][3]int{{5, 9, 5}, {0, 1, 0}, {-3, 2, 0}, {4, -1, 0}} {
		got := r.Choice(c[0], c[1])
		slices.Sort(got)
		if len(got) != c[2] || len(slices.Compact(got)) != c[2] {
			t.Errorf("Choice(%d, %d) is %v, want %d distinct numbers", c[0], c[1], got, c[2])
		}
	}
}

func BenchmarkFillStandardNormal(b *testing.B) {
	g, dst := New(1), make([]float64, 10000)
	b.ReportAllocs()
	for b.Loop() {
		g.FillStandardNormal(dst)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(dst)), "ns/draw")
}

// more is an entry of testdata/numpy/default_rng.json, written by
// scripts/numpy_vectors.py; every field was drawn from a fresh generator.
type more struct {
	Seed     uint64
	Raw      []uint64
	Integers []struct {
		Low, High int64
		Values    []int64
	}
	Choice []struct {
		N, K   int
		Values []int
	}
	ChoiceAllSum int `json:"choice_all_of_10001_sum"`
	Poisson      []struct {
		Lam    float64
		Values []int64
	}
	Normal            []float64 `json:"normal_5_2"`
	ShuffleThenNormal struct {
		Shuffle  []int
		Random   float64
		Integers []int64
	} `json:"shuffle_then_normal"`
}

func TestGeneratorMatchesNumPyAtTheEdges(t *testing.T) {
	entries := load[struct {
		DefaultRNG []more `json:"default_rng"`
	}](t, "../../testdata/numpy/default_rng.json").DefaultRNG
	for _, g := range entries {
		rng := func() *Generator { return New(g.Seed) }
		equal(t, "raw", draw(len(g.Raw), rng().Uint64), g.Raw)
		for _, c := range g.Integers {
			r := rng()
			equal(t, "integers", draw(len(c.Values), func() int64 { return r.Integers(c.Low, c.High) }), c.Values)
		}
		for _, c := range g.Choice {
			equal(t, "choice", rng().Choice(c.N, c.K), c.Values)
		}
		sum := 0
		for i, v := range rng().Choice(10001, 10001) {
			sum += i * v
		}
		if sum != g.ChoiceAllSum {
			t.Errorf("seed %d: choice of all 10001 sums to %d, NumPy's to %d", g.Seed, sum, g.ChoiceAllSum)
		}
		for _, c := range g.Poisson {
			r := rng()
			equal(t, "poisson", draw(len(c.Values), func() int64 { return r.Poisson(c.Lam) }), c.Values)
		}
		r := rng()
		equal(t, "normal(5, 2)", draw(len(g.Normal), func() float64 { return r.Normal(5, 2) }), g.Normal)
		r = rng()
		s := iota0(len(g.ShuffleThenNormal.Shuffle))
		Shuffle(r, s)
		equal(t, "shuffle", s, g.ShuffleThenNormal.Shuffle)
		equal(t, "random after a shuffle", []float64{r.Random()}, []float64{g.ShuffleThenNormal.Random})
		ints := draw(len(g.ShuffleThenNormal.Integers), func() int64 { return r.Integers(0, 9) })
		equal(t, "integers after a shuffle", ints, g.ShuffleThenNormal.Integers)
	}
}
