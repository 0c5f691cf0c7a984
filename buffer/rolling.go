package buffer

import (
	"math"
	"math/bits"
	"sync/atomic"
)

// maxCapacity keeps the size of a ring a number that can be allocated.
const maxCapacity = 1 << 30

// Rolling is a ring of the newest readings of power, each with the time from
// which on it holds. Times are seconds on a clock of the caller's choice, power
// is in watts.
//
// [Rolling.Append] and [Rolling.Amend] are the writer's and must not run at the
// same time; everything else may be called from any goroutine at any time.
// Nothing but [New] allocates.
//
// A reading that the ring no longer holds is lost: a lookup that reaches farther
// back is answered with the oldest reading held, like a lookup before the first
// reading, and [Stats.BeyondOldest] counts it.
type Rolling struct {
	mask  uint64
	slots []slot

	// The entries are numbered from 0 in the order of their appending; entry i
	// lies in slot i&mask until entry i+len(slots) takes its place. begun counts
	// the entries whose writing has begun, done those that are complete. So what
	// was read from a slot is entry i, whole, if done was above i before and begun
	// is at most i+len(slots) after.
	begun, done atomic.Uint64

	disordered, beyondOldest atomic.Uint64
}

// slot is one entry. Its words are atomic so that a reader may look at a slot
// that is being overwritten; it finds out afterwards.
type slot struct{ timeS, powerW atomic.Uint64 }

// Stats says what happened since the buffer was made.
type Stats struct {
	// Appended is the number of readings taken.
	Appended uint64
	// Disordered is the number of appended readings whose time was before the
	// last one's or not a finite number.
	Disordered uint64
	// BeyondOldest is the number of calls of [Rolling.At] and [Rolling.Sample]
	// that reached back beyond the oldest reading held after older ones had been
	// dropped: the capacity is too small for how far they look back.
	BeyondOldest uint64
}

// New returns a buffer that holds the newest capacity readings, rounded up to a
// power of two and at least 2. While a reading is being appended, the oldest one
// is gone already. It should hold more than the farthest look back: readings per
// second times seconds, and some.
func New(capacity int) *Rolling {
	capacity = min(max(capacity, 2), maxCapacity)
	n := uint64(1) << bits.Len64(uint64(capacity-1))
	return &Rolling{mask: n - 1, slots: make([]slot, n)}
}

// Append adds a reading that holds from timeS on; it is for the writer alone.
// Times must not decrease: a time before the last one's, or one that is not a
// finite number, is taken as the last one's and counted ([Stats.Disordered]).
// Without a last one, a reading whose time is not finite is dropped, and counted
// too. The power is kept as it is, whatever it is.
func (r *Rolling) Append(timeS, powerW float64) {
	i := r.done.Load()
	lastS := -math.MaxFloat64
	if i > 0 {
		lastS = math.Float64frombits(r.slots[(i-1)&r.mask].timeS.Load())
	}
	if !(timeS >= lastS && timeS <= math.MaxFloat64) {
		r.disordered.Add(1)
		if i == 0 {
			return
		}
		timeS = lastS
	}
	s := &r.slots[i&r.mask]
	r.begun.Store(i + 1)
	s.timeS.Store(math.Float64bits(timeS))
	s.powerW.Store(math.Float64bits(powerW))
	r.done.Store(i + 1)
}

// Amend replaces the power of the last reading, and does nothing without one. It
// is for the writer alone. A sample that runs at the same time has the old power
// for all its servers or the new one for all.
func (r *Rolling) Amend(powerW float64) {
	if i := r.done.Load(); i > 0 {
		r.slots[(i-1)&r.mask].powerW.Store(math.Float64bits(powerW))
	}
}

// Len returns the number of readings held.
func (r *Rolling) Len() int { return int(min(r.done.Load(), uint64(len(r.slots)))) }

// Stats returns the counts so far.
func (r *Rolling) Stats() Stats {
	return Stats{
		Appended:     r.done.Load(),
		Disordered:   r.disordered.Load(),
		BeyondOldest: r.beyondOldest.Load(),
	}
}

// Last returns the newest reading; ok is false if there is none yet.
func (r *Rolling) Last() (timeS, powerW float64, ok bool) {
	_, timeS, powerW, ok = r.newest()
	return timeS, powerW, ok
}

// At returns the power at timeS, in watts: that of the latest reading at or
// before timeS; if none is, that of the oldest reading held; 0 while the buffer
// is empty. A NaN is before every reading.
func (r *Rolling) At(timeS float64) float64 {
	hi, hiS, hiW, ok := r.newest()
	if !ok || hiS <= timeS {
		return hiW
	}
	// Entry hi is after timeS and those before lo are at or before it, or gone.
	lo := uint64(0)
	if begun, n := r.begun.Load(), uint64(len(r.slots)); begun > n {
		lo = begun - n
	}
	var foundW float64
	found := false // foundW is the power of entry lo-1
	for lo < hi {
		mid := lo + (hi-lo)/2
		midS, midW, ok := r.read(mid)
		switch {
		case !ok:
			lo, found = mid+1, false
		case midS <= timeS:
			lo, foundW, found = mid+1, midW, true
		default:
			hi, hiW = mid, midW
		}
	}
	if found {
		return foundW
	}
	if hi > 0 {
		r.beyondOldest.Add(1)
	}
	return hiW
}

// Sample sets powerW[i] to the power at nowS minus the i-th offset, in watts, for
// all offsets in one pass: each is, to the last bit, what [Rolling.At] would
// return, and all are from the same state of the buffer, the one at the call. If
// readings are dropped meanwhile, before the pass gets to them, then those
// offsets that needed them are answered with the oldest reading that it got to
// (the oldest one held at that moment); to start over would only find fewer.
//
// powerW should have as many elements as there are offsets. Elements beyond are
// left as they are; if there are fewer, the offsets beyond are left out.
func (r *Rolling) Sample(nowS float64, offsets *Offsets, powerW []float64) {
	rest := offsets.sorted
	// From the newest entry to older ones, and with the offsets from the nearest
	// time to farther ones.
	i, entryS, entryW, ok := r.newest()
	for ok && len(rest) > 0 {
		n := 0
		for n < len(rest) && entryS <= nowS-rest[n].offsetS {
			if to := int(rest[n].server); to < len(powerW) {
				powerW[to] = entryW
			}
			n++
		}
		rest = rest[n:]
		if i == 0 || len(rest) == 0 {
			break
		}
		olderS, olderW, held := r.read(i - 1)
		if !held {
			r.beyondOldest.Add(1)
			break
		}
		i, entryS, entryW = i-1, olderS, olderW
	}
	for _, o := range rest {
		if to := int(o.server); to < len(powerW) {
			powerW[to] = entryW
		}
	}
}

// newest returns the number of the last entry and what it says.
func (r *Rolling) newest() (i uint64, timeS, powerW float64, ok bool) {
	for {
		done := r.done.Load()
		if done == 0 {
			return 0, 0, 0, false
		}
		// It is gone only if a whole ring was written since the line above.
		if timeS, powerW, ok = r.read(done - 1); ok {
			return done - 1, timeS, powerW, true
		}
	}
}

// read returns what entry i says; ok is false if the ring no longer holds it. The
// entry must be complete.
func (r *Rolling) read(i uint64) (timeS, powerW float64, ok bool) {
	s := &r.slots[i&r.mask]
	t, p := s.timeS.Load(), s.powerW.Load()
	if r.begun.Load() > i+uint64(len(r.slots)) {
		return 0, 0, false
	}
	return math.Float64frombits(t), math.Float64frombits(p), true
}
