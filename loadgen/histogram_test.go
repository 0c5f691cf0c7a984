package loadgen

import (
	"slices"
	"testing"
	"time"
)

func TestBucketBoundsRise(t *testing.T) {
	bounds := BucketBoundsS()
	if !slices.IsSorted(bounds[:]) || len(slices.Compact(bounds[:])) != NumBuckets {
		t.Errorf("the bounds %v do not rise", BucketBoundsS())
	}
	if first, last := BucketBoundsS()[0], BucketBoundsS()[NumBuckets-1]; first != 0.005 || last != 60 {
		t.Errorf("the bounds go from %v to %v s, want 0.005 to 60", first, last)
	}
}

// Counts are exact at the bounds, where the bins are 1.6 % wide.
func TestCumulativeCountsAreExact(t *testing.T) {
	durations := map[time.Duration]uint64{ // to their number
		-ms: 1, 0: 1, 5*ms - 1: 2, 5 * ms: 3, 5*ms + 1: 4, 79_999 * time.Microsecond: 5, 80 * ms: 6, 80_001 * time.Microsecond: 7,
		2 * time.Second: 8, time.Minute: 9, time.Minute + 1: 10, time.Hour: 11,
	}
	var parts [3]histogram
	var wantCount uint64
	var wantSumS float64
	i := 0
	for d, n := range durations {
		parts[i%len(parts)].add(d, n)
		wantCount += n
		wantSumS += d.Seconds() * float64(n)
		i++
	}
	var whole histogram
	for i := range parts {
		whole.merge(&parts[i])
	}
	got := whole.distribution()
	for i, bound := range bucketBounds() {
		var want uint64
		for d, n := range durations {
			if d <= bound {
				want += n
			}
		}
		if got.Cumulative[i] != want {
			t.Errorf("%d durations of at most %v, want %d", got.Cumulative[i], bound, want)
		}
	}
	if got.Count != wantCount || !near(got.SumS, wantSumS, 1e-12) {
		t.Errorf("%d durations of %v s altogether, want %d of %v", got.Count, got.SumS, wantCount, wantSumS)
	}
}

func TestNoDurationsAreCountedInNoBucket(t *testing.T) {
	var none histogram
	if got := none.distribution(); got.Count != 0 || got.SumS != 0 || got.Cumulative != [NumBuckets]uint64{} {
		t.Errorf("a histogram of nothing has %d durations of %v s, %v", got.Count, got.SumS, got.Cumulative)
	}
}

func TestStatsCountTokensInBuckets(t *testing.T) {
	m := newMeter(time.Second)
	r := &reader{meter: m}
	r.read(1000*ms, tokens(1))
	r.read(1040*ms, tokens(2))
	r.read(1240*ms, tokens(6)) // four of 50 ms each
	var s Stats
	m.sumUp(&s)
	at := func(d Distribution, boundS float64) uint64 {
		bounds := BucketBoundsS()
		return d.Cumulative[slices.Index(bounds[:], boundS)]
	}
	if at(s.ITL, 0.03) != 0 || at(s.ITL, 0.04) != 1 || at(s.ITL, 0.05) != 5 || at(s.ITL, 60) != 5 {
		t.Errorf("ITL %+v", s.ITL)
	}
	if at(s.TTFT, 0.75) != 0 || at(s.TTFT, 1) != 1 {
		t.Errorf("TTFT %+v", s.TTFT)
	}
}
