package plots

import (
	"math"
	"math/rand/v2"
	"testing"
)

// TestReducerKeepsPeaks: whatever the length, the extremes of every stretch are
// there, in order, and memory is bounded.
func TestReducerKeepsPeaks(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{1, 2, maxBuckets - 1, maxBuckets, maxBuckets + 1, 5*maxBuckets + 3, 40 * maxBuckets} {
		var r reducer
		all := make([]XY, n)
		for i := range all {
			all[i] = XY{float64(i), rng.NormFloat64()}
			if rng.IntN(1000) == 0 {
				all[i].Y *= 100 // a peak of one sample
			}
			r.add(all[i])
		}
		points := r.points()
		if len(points) > 4*maxBuckets || n <= maxBuckets && len(points) != n {
			t.Fatalf("%d samples gave %d points", n, len(points))
		}
		kept := map[XY]bool{}
		for i, at := range points {
			if kept[at] = true; i > 0 && at.X <= points[i-1].X {
				t.Fatalf("of %d samples, point %d is at %v after %v", n, i, at.X, points[i-1].X)
			}
		}
		for from := 0; from < n; from += r.perBucket {
			low, high := all[from], all[from]
			for _, at := range all[from:min(from+r.perBucket, n)] {
				if at.Y < low.Y {
					low = at
				}
				if at.Y > high.Y {
					high = at
				}
			}
			if !kept[low] || !kept[high] || !kept[all[from]] {
				t.Fatalf("of %d samples, %v or %v of the %d from %d on is not kept", n, low, high, r.perBucket, from)
			}
		}
		if last := points[len(points)-1]; last != all[n-1] {
			t.Errorf("of %d samples, the last is %v, want %v", n, last, all[n-1])
		}
	}
}

func TestReducerKeepsGaps(t *testing.T) {
	var short, long reducer
	for i := range 10 {
		at := XY{float64(i), 1}
		if i == 4 {
			at.Y = math.Inf(1) // no number to draw either
		}
		short.add(at)
	}
	gaps := func(points []XY) (n int) {
		for _, at := range points {
			if math.IsNaN(at.Y) {
				n++
			}
		}
		return n
	}
	if points := short.points(); gaps(points) != 1 || len(points) != 5 {
		t.Errorf("got %v, want two level lines with a gap between", points)
	}
	// One missing sample among thousands a bucket is too short to be seen; half of them
	// are not.
	for i := range 100 * maxBuckets {
		at := XY{float64(i), float64(i % 7)}
		if i == 1000 || i > 50*maxBuckets {
			at.Y = math.NaN()
		}
		long.add(at)
	}
	points := long.points()
	first := 0
	for first < len(points) && !math.IsNaN(points[first].Y) {
		first++
	}
	if first == len(points) || points[first].X < 49*maxBuckets || points[first].X > 51*maxBuckets {
		t.Errorf("the first gap is point %d of %d", first, len(points))
	}
}

// TestReducerKeepsWhatIsBetweenGaps: every other sample is missing, the first too.
func TestReducerKeepsWhatIsBetweenGaps(t *testing.T) {
	var r reducer
	for i := range 10 * maxBuckets {
		at := XY{float64(i), math.NaN()}
		if i%2 == 1 {
			at.Y = float64(i % 11)
		}
		if i == 5001 {
			at.Y = 99
		}
		r.add(at)
	}
	peak := false
	for _, at := range r.points() {
		if math.IsNaN(at.Y) {
			t.Fatalf("there is a gap at %v, shorter than %d samples", at.X, r.perBucket)
		}
		peak = peak || at == XY{5001, 99}
	}
	if !peak {
		t.Error("the peak is lost")
	}
}

func TestReducerDropsLevelPoints(t *testing.T) {
	var r reducer
	for i := range 1000 {
		y := 5.0
		if i >= 600 {
			y = 7
		}
		r.add(XY{float64(i), y})
	}
	want := []XY{{0, 5}, {599, 5}, {600, 7}, {999, 7}}
	got := r.points()
	if len(got) != len(want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("point %d is %v, want %v", i, got[i], want[i])
		}
	}
}

func TestMarksAreBounded(t *testing.T) {
	var few, many thinner
	for i := range 100 {
		few.add(float64(i))
	}
	for i := range 1_000_000 {
		many.add(float64(i))
	}
	if len(few.at) != 100 {
		t.Errorf("of 100 moments, %d are kept", len(few.at))
	}
	if n := len(many.at); n < maxMarks/4 || n > maxMarks {
		t.Errorf("of a million moments, %d are kept", n)
	}
	for i := 1; i < len(many.at); i++ {
		if gap := many.at[i] - many.at[i-1]; gap < 1 || gap > 1e6/200 {
			t.Fatalf("after %v the next kept moment is %v", many.at[i-1], many.at[i])
		}
	}
}

func TestSpansAreBounded(t *testing.T) {
	var few, many spans
	for i := range 20 {
		few.add(float64(i), i >= 3 && i < 6 || i == 10)
	}
	if want := [][2]float64{{3, 6}, {10, 11}}; len(few.all) != 2 || few.all[0] != want[0] || few.all[1] != want[1] {
		t.Errorf("got %v, want %v: a state holds until the next", few.all, want)
	}
	for i := range 1_000_000 {
		many.add(float64(i), i%2 == 0)
	}
	if n := len(many.all); n == 0 || n > maxMarks || many.all[0][0] != 0 || many.all[n-1][1] < 999_000 {
		t.Errorf("of a million states, %d spans are kept: %v", n, many.all[:min(n, 3)])
	}
}
