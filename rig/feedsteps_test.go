package rig

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/g2g-agent/g2g-agent/power"
)

// What a step reads follows from the readings it was given, not from which GPU's came
// first.
func TestFeedDoesNotDependOnWhoIsQuicker(t *testing.T) {
	ids := []GPU{testGPU("n", 0), testGPU("m", 0), testGPU("m", 1)}
	random := rand.New(rand.NewPCG(1, 2))
	one, other := NewFeed([][]GPU{ids}, 2), NewFeed([][]GPU{ids}, 2)
	for step := range 100 {
		var came [3][]FeedEntry // by GPU, in its order
		for gpu := range came {
			at := time.Duration(step) * 100 * time.Millisecond
			for range random.IntN(4) {
				at += time.Duration(random.IntN(30)) * time.Millisecond
				came[gpu] = append(came[gpu], FeedEntry{GPU: gpu, At: at, PowerMW: int64(random.IntN(700_000)), Lost: random.IntN(30) == 0})
			}
		}
		for _, e := range slices.Concat(came[0], came[1], came[2]) {
			one.Take(e)
		}
		for _, e := range slices.Concat(came[2], came[0], came[1]) {
			other.Take(e)
		}
		a, b := one.Advance(nil), other.Advance(nil)
		if len(a) != len(came[0])+len(came[1])+len(came[2]) || len(a) != len(b) {
			t.Fatalf("step %d took in %d and %d entries", step, len(a), len(b))
		}
		for i := range a {
			a[i].arrival, b[i].arrival = 0, 0
		}
		if !slices.Equal(a, b) {
			t.Fatalf("step %d took in\n%+v\nand\n%+v", step, a, b)
		}
		for back := range 20 {
			nowS := 0.1*float64(step+1) - 0.1*float64(back)
			if x, y := one.History(0).At(nowS), other.History(0).At(nowS); x != y {
				t.Fatalf("step %d sees %v W and %v W at %v s", step, x, y, nowS)
			}
		}
		if x, y := one.AgeAtS(0, 20), other.AgeAtS(0, 20); x != y {
			t.Fatalf("step %d sees ages %v and %v", step, x, y)
		}
	}
}

// From the first step on a reading is seen by the next one; before it, at once.
func TestFeedBetweenSteps(t *testing.T) {
	gpu := testGPU("n", 0)
	f := NewFeed([][]GPU{{gpu}}, 2)
	want := func(watts float64, heard bool) {
		t.Helper()
		if got := f.History(0).At(10); got != watts || f.Heard(0) != heard {
			t.Errorf("%v W and heard %v, want %v W and %v", got, f.Heard(0), watts, heard)
		}
	}
	f.Read(gpu, 1, 100)
	want(100, true)
	if got := f.Advance(nil); len(got) != 1 || got[0].PowerMW != 100_000 {
		t.Errorf("the first step took in %+v", got)
	}
	want(100, true)
	f.Read(gpu, 2, 200.0004)
	want(100, true)
	f.Advance(nil)
	want(200, true)
	if f.AgeAtS(0, 5) != 3 {
		t.Errorf("its age is %v s, want 3", f.AgeAtS(0, 5))
	}
}

// What came long before the first step is forgotten, but for each GPU's last.
func TestFeedKeepsWhatTheFirstStepReads(t *testing.T) {
	ids := []GPU{testGPU("n", 0), testGPU("n", 1)}
	f := NewFeed([][]GPU{ids}, 1)
	f.Read(ids[1], 0.5, 50) // and then is silent
	for i := range 100_000 {
		f.Read(ids[0], 1+0.01*float64(i), float64(i))
	}
	entries := f.Advance(nil)
	if n := len(entries); n > 2000 || n < 300 {
		t.Errorf("%d entries were kept", n)
	}
	if entries[0].GPU != 1 || entries[0].PowerMW != 50_000 {
		t.Errorf("the first is %+v, want the silent GPU's last", entries[0])
	}
	if n := cap(f.arrived); n > 0 {
		t.Errorf("there is still room for %d", n)
	}
	nowS := entries[len(entries)-1].At.Seconds()
	if got, want := f.History(0).At(nowS-1), (99_899.0+50)/2; got != want {
		t.Errorf("a second ago the mean was %v W, want %v", got, want)
	}
}

// A GPU that is lost right after a reading is lost, also where the correction of the
// source's clock is kept and the reading is said to be later.
func TestFeedLosesAGPURightAfterAReading(t *testing.T) {
	ids := []GPU{testGPU("n", 0), testGPU("n", 1)}
	f := NewFeed([][]GPU{ids}, 2)
	f.Advance(nil)
	sink := f.Sink(ids[0].Source)
	const stamp = int64(1_700_000_000_000)
	after := func(us int) time.Time { return f.began.Add(time.Duration(us) * time.Microsecond) }
	sink.Read(power.Reading{Index: 1, PowerW: 40, At: after(90_000)})
	sink.Read(power.Reading{Index: 0, PowerW: 100, At: after(100_900), StampMs: stamp})
	sink.Read(power.Reading{Index: 0, PowerW: 100, At: after(150_000), StampMs: stamp + 50})
	sink.Lose(0, after(150_200))
	f.Advance(nil)
	if got := f.History(0).At(1); got != 40 {
		t.Errorf("the mean is %v W, want 40 of the GPU that is there", got)
	}
}

// A source's clock is corrected in steps of a millisecond at least, and a GPU's times
// do not decrease.
func TestFeedKeepsTheCorrectionOfAClock(t *testing.T) {
	gpu := testGPU("n", 0)
	f := NewFeed([][]GPU{{gpu}}, 2)
	sink := f.Sink(gpu.Source)
	f.Advance(nil)
	stamp := int64(1_700_000_000_000)
	corrections := map[time.Duration]bool{}
	last := time.Duration(0)
	for i := range 100 {
		jitter := time.Duration(i%7) * 100 * time.Microsecond
		if i >= 50 {
			jitter += 40 * time.Millisecond // the clock was found to be off
		}
		at := time.Duration(i)*50*time.Millisecond + jitter
		sink.Read(power.Reading{Index: 0, PowerW: 100, At: f.began.Add(at), StampMs: stamp + 50*int64(i)})
		e := f.Advance(nil)[0]
		if off := e.At - at; off.Abs() >= time.Millisecond {
			t.Errorf("reading %d is at %v, want %v", i, e.At, at)
		}
		if e.At < last {
			t.Errorf("reading %d is at %v, before the one before", i, e.At)
		}
		last = e.At
		corrections[e.At-time.Duration(e.StampMs)*time.Millisecond] = true
	}
	if len(corrections) > 4 {
		t.Errorf("there are %d corrections", len(corrections))
	}
	// Without stamps the host's clock stands in for the source's.
	other := NewFeed([][]GPU{{gpu}}, 2)
	other.Advance(nil)
	other.Sink(gpu.Source).Read(power.Reading{PowerW: 1, At: other.began.Add(1_234_567)})
	if e := other.Advance(nil)[0]; e.At > 1_234_567 || e.At < 234_567 || (time.UnixMilli(e.StampMs).Sub(other.began)-e.At).Abs() > time.Millisecond {
		t.Errorf("without a stamp: %+v, began at %v", e, other.began.UnixMilli())
	}
}
