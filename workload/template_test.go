package workload

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

func wantMissing(t *testing.T, err error, want string) {
	t.Helper()
	var missing *MissingBatchError
	if !errors.As(err, &missing) || !errors.Is(err, datacenter.ErrInvalidInput) || err.Error() != want {
		t.Errorf("the error is %v, want %s", err, want)
	}
}

func wantFileError(t *testing.T, err error, file string) {
	t.Helper()
	var fileErr *FileError
	if !errors.As(err, &fileErr) || fileErr.File != file || fileErr.Line < 0 || !errors.Is(err, datacenter.ErrInvalidInput) {
		t.Errorf("%v is not an invalid input in %s", err, file)
	}
}

func TestTemplateStaysWithinTheTrace(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(minTraceSamples, 40).Draw(t, "samples")
		trace := InferenceTrace{
			TS:           rapid.SliceOfN(rapid.Float64Range(-1e4, 1e4), n, n).Draw(t, "t"),
			PowerW:       rapid.SliceOfN(rapid.Float64Range(-100, 1e5), n, n).Draw(t, "power"),
			MeasuredGPUs: rapid.IntRange(1, 16).Draw(t, "gpus"),
		}
		trace.TS[0], trace.TS[1] = 20000, -20000 // a time span, unsorted, that no skip below takes away
		sortByTime(trace.TS, trace.PowerW)
		steps, tenths := rapid.IntRange(1, 300).Draw(t, "steps"), rapid.IntRange(1, 1000).Draw(t, "dt in tenths")
		dt, err1 := datacenter.ParseSeconds(fmt.Sprintf("%d/10", tenths))
		duration, err2 := datacenter.ParseSeconds(fmt.Sprintf("%d/10", tenths*steps))
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		grid := Grid{dt, duration, rapid.Float64Range(0, 100).Draw(t, "skip")}
		got, err := trace.template(grid)
		if err != nil {
			t.Fatal(err)
		}
		// In floating point the quotient may end up just above a whole number.
		if len(got) != steps+1 && len(got) != steps+2 || len(got) != grid.templateLen() {
			t.Fatalf("the template has %d samples for %d steps", len(got), steps)
		}
		most := max(slices.Max(trace.PowerW)/float64(trace.MeasuredGPUs), 0)
		for i, v := range got {
			// Interpolation may overshoot by its rounding.
			if !(v >= 0) || v > most+1e-12*most+1e-9 {
				t.Fatalf("sample %d is %v W, the trace has at most %v W", i, v, most)
			}
		}
	})
}

func TestSteadySkip(t *testing.T) {
	trace := InferenceTrace{TS: []float64{10, 11, 12, 13, 14, 15, 16, 17}, PowerW: []float64{1, 2, 3, 4, 5, 6, 7, 8}, MeasuredGPUs: 1}
	for skip, want := range map[float64]float64{
		0:   1,
		0.5: 2, // the first sample at or after 10.5 s
		1:   2,
		2:   3, // six samples are left
		2.1: 1, // five would be left: nothing is skipped
		9:   1,
	} {
		got, err := trace.template(Grid{seconds(t, "1"), seconds(t, "2"), skip})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, []float64{want, want + 1, want + 2}) {
			t.Errorf("with %v s skipped the template is %v, want it to begin with %v", skip, got, want)
		}
	}
}

func BenchmarkTemplate(b *testing.B) {
	trace := InferenceTrace{MeasuredGPUs: 8}
	for i := range 3000 {
		trace.TS = append(trace.TS, float64(i)*0.1)
		trace.PowerW = append(trace.PowerW, 4000+500*math.Sin(float64(i)))
	}
	dt, err1 := datacenter.ParseSeconds("1/10")
	duration, err2 := datacenter.ParseSeconds("3600")
	if err := errors.Join(err1, err2); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := trace.template(Grid{dt, duration, 5}); err != nil {
			b.Fatal(err)
		}
	}
}
