package sim

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// exact are the figures of the samples, the long way.
func exact(samples []itlSample) ITL {
	itl := ITL{Chunks: int64(len(samples))}
	var all []float64
	for _, s := range samples {
		itl.Tokens += int64(s.inc)
		itl.SumS += float64(s.gapNS) / 1e9
		for range s.inc {
			all = append(all, float64(s.gapNS)/float64(s.inc)/1e9)
		}
	}
	if len(all) == 0 {
		return itl
	}
	slices.Sort(all)
	at := func(q float64) float64 { return all[int(math.Ceil(q*float64(len(all))))-1] }
	itl.MeanS = itl.SumS / float64(itl.Tokens)
	itl.P50S, itl.P90S, itl.P95S, itl.P99S, itl.P999S = at(0.5), at(0.9), at(0.95), at(0.99), at(0.999)
	return itl
}

func near(a, b ITL, tolerance float64) bool {
	if a.Tokens != b.Tokens || a.Chunks != b.Chunks {
		return false
	}
	for _, pair := range [][2]float64{
		{a.SumS, b.SumS}, {a.MeanS, b.MeanS}, {a.P50S, b.P50S}, {a.P90S, b.P90S}, {a.P95S, b.P95S}, {a.P99S, b.P99S}, {a.P999S, b.P999S},
	} {
		if math.Abs(pair[0]-pair[1]) > tolerance*pair[1]+1e-9 {
			return false
		}
	}
	return true
}

func TestTruthOfITL(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		truth := newITLTruth(1 << 20)
		samples := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) itlSample {
			return itlSample{
				atNS:  rapid.Int64Range(0, 1000).Draw(t, "at"),
				gapNS: rapid.Int64Range(0, 1<<rapid.IntRange(1, 45).Draw(t, "bits")).Draw(t, "gap"),
				inc:   rapid.Int32Range(1, 9).Draw(t, "inc"),
			}
		}), 0, 200).Draw(t, "samples")
		half := len(samples) / 2
		truth.add(samples[:half])
		truth.add(samples[half:])
		if got, want := truth.all(), exact(samples); !near(got, want, 0.002) || !got.Complete {
			t.Fatalf("all: %+v, want %+v", got, want)
		}
		from := rapid.Int64Range(0, 1000).Draw(t, "from")
		to := rapid.Int64Range(0, 1000).Draw(t, "to")
		var within []itlSample
		for _, s := range samples {
			if s.atNS >= from && s.atNS < to {
				within = append(within, s)
			}
		}
		if got, want := truth.between(from, to), exact(within); !near(got, want, 1e-12) || !got.Complete {
			t.Fatalf("window: %+v, want %+v", got, want)
		}
		truth.reset()
		if got := truth.all(); got != (ITL{Complete: true}) {
			t.Fatalf("after a reset: %+v", got)
		}
	})
}

func TestTruthForgetsTheOldest(t *testing.T) {
	truth := newITLTruth(100)
	for i := range int64(12) {
		batch := make([]itlSample, 10)
		for j := range batch {
			batch[j] = itlSample{atNS: 10*i + int64(j), gapNS: 1000, inc: 2}
		}
		truth.add(batch)
	}
	if got := truth.all(); got.Tokens != 240 || !got.Complete {
		t.Error(got.Tokens)
	}
	const lost = 19 // when the latest one forgotten was written
	if got := truth.between(lost, math.MaxInt64); got.Complete || got.Chunks != 100 {
		t.Errorf("%+v", got)
	}
	if got := truth.between(lost+1, math.MaxInt64); !got.Complete || got.Chunks != 100 || math.Abs(got.MeanS-5e-7) > 1e-15 {
		t.Errorf("%+v", got)
	}
}

func TestHistogramBuckets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ns := rapid.Int64Min(0).Draw(t, "ns")
		bucket := bucketOf(ns)
		if bucket < 0 || bucket >= histBuckets {
			t.Fatal(bucket)
		}
		if got := bucketValue(bucket); math.Abs(got-float64(ns)) > 0.002*float64(ns) {
			t.Fatalf("%d ns is in a bucket of %v ns", ns, got)
		}
	})
}
