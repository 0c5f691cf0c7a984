package workload

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/treetest"
)

// observedModels are golden measurements with what was observed, one of it with unknown
// values.
func observedModels(t *testing.T) []Measured {
	t.Helper()
	models := goldenMeasured(t, "one_task")
	for i := range models {
		models[i].Observed = Observed{
			Points: []Point{
				{BatchSize: 8, PowerW: 300.25, LatencyS: 0.0125, ThroughputTokensPerS: 700},
				{BatchSize: 8, PowerW: math.NaN(), LatencyS: 0.01, ThroughputTokensPerS: math.Inf(1), NotInFit: true},
			},
			ITL: map[int]*ITLHistogram{
				8:  NewITLHistogram([]float64{0.01, 0.02, 0.011}, []float64{0.5}),
				16: NewITLHistogram([]float64{0.01 * float64(i+1)}),
			},
		}
	}
	return models
}

// TestObserved: what was measured is kept beside the data in both layouts, changes none of
// its files, and is not taken for that of data made anew.
func TestObserved(t *testing.T) {
	for _, layout := range []Layout{Layout01, Layout02} {
		t.Run(string(layout), func(t *testing.T) {
			dir, plain := t.TempDir(), t.TempDir()
			models, without := observedModels(t), goldenMeasured(t, "one_task")
			if err := errors.Join(WriteData(dir, models, layout, WriteOptions{}), WriteData(plain, without, layout, WriteOptions{})); err != nil {
				t.Fatal(err)
			}
			want, got := treetest.Files(t, plain), treetest.Files(t, dir)
			files := 0
			for name := range got {
				if filepath.Base(name) == observedFile {
					files++
					delete(got, name)
				}
			}
			if diff := cmp.Diff(want, got); diff != "" || files == 0 {
				t.Errorf("%d files of what was observed; the others (-without +with):\n%s", files, diff)
			}

			queries, err := ListModels(dir)
			if err != nil {
				t.Fatal(err)
			}
			observed, warnings, err := LoadObserved(dir, queries)
			if err != nil || len(warnings) > 0 {
				t.Fatalf("%v, warnings %q", err, warnings)
			}
			for i, q := range queries {
				for _, m := range models {
					if m.Spec.ModelLabel != q.ModelLabel {
						continue
					}
					want := m.Observed
					want.Points[1].ThroughputTokensPerS = math.NaN() // as unknown as the power
					if diff := cmp.Diff(want, observed[i], sameBits); diff != "" {
						t.Errorf("%s (-want +got):\n%s", q.ModelLabel, diff)
					}
				}
			}

			if err := WriteData(dir, without, layout, WriteOptions{}); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, treetest.Files(t, dir)); diff != "" {
				t.Errorf("after data of which nothing was observed (-want +got):\n%s", diff)
			}
		})
	}
}

// TestObservedOfOthers: a file that cannot be used, or is that of other data, is a warning
// that names it.
func TestObservedOfOthers(t *testing.T) {
	dir := t.TempDir()
	if err := WriteData(dir, observedModels(t), Layout01, WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	queries, err := ListModels(dir)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, observedFile)
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	replace := func(old, by string) string {
		if !strings.Contains(string(good), old) {
			t.Fatalf("there is no %s in\n%s", old, good)
		}
		return strings.Replace(string(good), old, by, 1)
	}
	for _, c := range []struct{ content, want string }{
		{string(good[:len(good)/2]), "unexpected end of JSON input"},
		{"[]", "an object"},
		{replace("observed_v1", "observed_v9"), `schema is "observed_v9", want "observed_v1"`},
		{replace(`"samples": 4`, `"samples": 5`), "models[0].itl[0]: counts are not those of 5 samples"},
		{replace(`"counts": [`, `"counts": [-1, `), "counts are not those of 4 samples"},
		{replace(`"decades": `, `"decades": -`), "decades above 0"},
		{replace(`"mean_s": `, `"mean_s": -`), "want more than 0"},
		{replace(`"batch_size": 8`, `"batch_size": 0`), "models[0].points[0].batch_size is 0"},
		{replace(`"itl_fits_sha256": "`, `"itl_fits_sha256": "0`), latencyFitsFile + " was changed since"},
	} {
		if err := os.WriteFile(file, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		observed, warnings, err := LoadObserved(dir, queries)
		if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], c.want) || !strings.Contains(warnings[0], file) {
			t.Errorf("want %q: %v, warnings %q", c.want, err, warnings)
		}
		for i := range observed {
			if !observed[i].isEmpty() {
				t.Errorf("%q: something is taken of it", c.want)
			}
		}
	}
	if _, _, err := LoadObserved(t.TempDir(), queries); !errors.Is(err, datacenter.ErrInvalidInput) {
		t.Errorf("of no data directory: %v", err)
	}
}

// TestITLHistogram: no sample is lost, bars are as wide as most samples ask for, and few or
// odd samples are no exception.
func TestITLHistogram(t *testing.T) {
	var samples []float64
	for i := range 10_000 {
		samples = append(samples, 0.02*math.Exp(math.Sin(float64(i))))
	}
	whole, parts := NewITLHistogram(samples), NewITLHistogram(samples[:10], nil, samples[10:])
	if diff := cmp.Diff(whole, parts, sameBits); diff != "" {
		t.Errorf("runs of their own (-whole +parts):\n%s", diff)
	}
	// Two decades over e, at 2·21.5 bars.
	if n := len(whole.Counts); n < 40 || n > 46 {
		t.Errorf("%d bars", n)
	}
	if far := NewITLHistogram(samples, []float64{20}); far.Decades > 1.1*whole.Decades || len(far.Counts) < 60 {
		t.Errorf("one sample far off makes bars of %v decades, %v without", far.Decades, whole.Decades)
	}
	// Each bar has what lies in it.
	for i, count := range whole.Counts {
		want := 0
		for _, v := range samples {
			if at := (math.Log10(v) - whole.FromDecade) / whole.Decades; at >= float64(i)-1e-9 && at < float64(i+1)-1e-9 {
				want++
			}
		}
		if math.Abs(float64(count-want)) > 2 { // at an edge
			t.Errorf("bar %d has %d, want %d", i, count, want)
		}
	}
	for _, few := range [][]float64{{0.5}, {0.5, 0.5}, {1e-300, 1e300}, {5e-324, math.MaxFloat64, math.MaxFloat64}, {1, math.Nextafter(1, 2)}, {0, -1, math.NaN(), math.Inf(1), 3}} {
		h := NewITLHistogram(few)
		if err := h.validate(); err != nil {
			t.Errorf("%v: %v: %+v", few, err, h)
		}
	}
	if h := NewITLHistogram([]float64{0, math.NaN(), math.Inf(1)}, nil); h != nil {
		t.Errorf("of nothing: %+v", h)
	}
}
