package completion

import (
	"testing"
	"time"
)

// fakeClocks are the two clocks; delays are put between their readings, one
// after the other.
type fakeClocks struct {
	monoNs, offsetNs int64
	delaysNs         []int64
}

func (f *fakeClocks) read() (realNs, monoNs int64) {
	realNs = f.monoNs + f.offsetNs
	f.monoNs += 30
	if len(f.delaysNs) > 0 {
		f.monoNs += f.delaysNs[0]
		f.delaysNs = f.delaysNs[1:]
	}
	return realNs, f.monoNs
}

func newFakeClocks() (*fakeClocks, *stampClock) {
	f := &fakeClocks{monoNs: int64(time.Hour), offsetNs: 1_700_000_000e9}
	c := &stampClock{read: f.read}
	c.calibrate()
	return f, c
}

func TestStampsKeepTheirDistances(t *testing.T) {
	f, c := newFakeClocks()
	var last int64
	for i := range 100 {
		f.monoNs += int64(50 * time.Millisecond)
		stamp := f.monoNs + f.offsetNs
		f.monoNs += int64(i) * 7919 // the read is late
		if i%10 == 3 {
			f.delaysNs = []int64{200_000} // and interrupted between the clocks
		}
		at, lag, kind := c.at(stamp, last)
		if kind != StampKernel {
			t.Fatalf("stamp %d is of kind %d", i, kind)
		}
		if off := at - (stamp - f.offsetNs); off < 0 || off > 100 {
			t.Errorf("stamp %d is off by %d ns", i, off)
		}
		if want := f.monoNs - at; lag < 0 || lag > want {
			t.Errorf("lag %d is %d ns, want at most %d", i, lag, want)
		}
		last = at
	}
}

func TestStampsFromBeforeAClockStepAreDiscarded(t *testing.T) {
	for _, step := range []time.Duration{-time.Hour, -2 * time.Millisecond, 2 * time.Millisecond, time.Hour} {
		f, c := newFakeClocks()
		earliest := f.monoNs
		f.monoNs += 1e6
		stamp := f.monoNs + f.offsetNs
		f.monoNs += 1e5
		f.offsetNs += int64(step)
		at, lag, kind := c.at(stamp, earliest)
		if kind != StampDiscarded || at != f.monoNs || lag != 0 {
			t.Errorf("step %v: time %d, lag %d, kind %d, want the time of the read, %d, and discarded", step, at, lag, kind, f.monoNs)
		}
		f.monoNs += 1e6
		stamp = f.monoNs + f.offsetNs
		f.monoNs += 1e5
		if at, _, kind := c.at(stamp, earliest); kind != StampKernel || at < f.monoNs-2e5 || at > f.monoNs {
			t.Errorf("step %v: the next stamp is %d of kind %d, want the kernel's again", step, at, kind)
		}
	}
}

// The clock may be set between two requests, or before the stamps of bytes that
// wait to be read.
func TestImplausibleStampsAreDiscarded(t *testing.T) {
	f, c := newFakeClocks()
	f.monoNs += 1e9
	for name, stamp := range map[string]int64{
		"in the future":         f.monoNs + f.offsetNs + 1e6,
		"before the last bytes": f.monoNs + f.offsetNs - 2e6,
	} {
		if _, lag, kind := c.at(stamp, f.monoNs-1e6); kind != StampDiscarded || lag != 0 {
			t.Errorf("a stamp %s is of kind %d", name, kind)
		}
	}
	if at, lag, kind := c.at(0, 0); kind != StampMissing || lag != 0 || at != f.monoNs {
		t.Errorf("no stamp: time %d, lag %d, kind %d", at, lag, kind)
	}
}

// A small correction of the clock moves later stamps with it.
func TestSmallStepsAreFollowed(t *testing.T) {
	f, c := newFakeClocks()
	for _, step := range []int64{300_000, -300_000} {
		f.offsetNs += step
		f.monoNs += 1e8
		stamp := f.monoNs + f.offsetNs
		f.monoNs += 1e6
		at, _, kind := c.at(stamp, 0)
		if off := at - (stamp - f.offsetNs); kind != StampKernel || off < 0 || off > 100 {
			t.Errorf("step of %d ns: off by %d ns, kind %d", step, off, kind)
		}
	}
}
