package completion

import "time"

// StampKind says where a receive time comes from.
type StampKind uint8

const (
	// StampKernel says that the kernel noted when the packet came.
	StampKernel StampKind = iota
	// StampMissing says that the kernel did not; the time is that of the read's
	// return.
	StampMissing
	// StampDiscarded says that the kernel's time was implausible, because the
	// clock was set meanwhile; the time is that of the read's return.
	StampDiscarded
)

// stampClock maps the kernel's receive times, which are on the real-time clock,
// to the monotonic clock.
//
// On one host the two differ by a constant, for slewing moves both: only setting
// the clock changes it. So one measured well serves all stamps, and they keep
// their distances exactly; each read checks that it still holds.
type stampClock struct {
	// read reads the real-time clock and then the monotonic one, in nanoseconds
	// since the Unix epoch and since an epoch of the caller's.
	read   func() (realNs, monoNs int64)
	offset int64 // real-time minus monotonic clock
}

const (
	// clockNoise is the difference between two readings of the offset that calls
	// for a new measurement: an interrupt came between the two clocks, or the
	// clock was set.
	clockNoise = int64(10 * time.Microsecond)
	// clockStep is the change of the offset that spoils the stamps before it.
	clockStep = int64(time.Millisecond)
	// clockReadings is the number of readings that a measurement takes the best
	// of.
	clockReadings = 5
)

// calibrate measures the offset and returns the time of the last reading.
//
// The monotonic clock is read last, so whatever comes between the two makes the
// offset too small: the largest of several is the best.
func (c *stampClock) calibrate() (monoNs int64) {
	for i := range clockReadings {
		realNs, mono := c.read()
		if offset := realNs - mono; i == 0 || offset > c.offset {
			c.offset = offset
		}
		monoNs = mono
	}
	return monoNs
}

// now is the monotonic time, and whether the clock was set since the last call.
func (c *stampClock) now() (monoNs int64, stepped bool) {
	realNs, monoNs := c.read()
	before := c.offset
	switch d := realNs - monoNs - before; {
	case d > -clockNoise && d <= 0:
		return monoNs, false
	case d > 0 && d < clockNoise: // a better measurement
		c.offset += d
		return monoNs, false
	}
	monoNs = c.calibrate()
	d := c.offset - before
	return monoNs, d > clockStep || d < -clockStep
}

// at maps a kernel stamp to the monotonic clock, for a read that returned just
// now. The bytes cannot have come before earliest, when the previous ones came
// or the request was sent, nor after the read. A stamp of 0 is a missing one.
func (c *stampClock) at(stampNs, earliest int64) (atNs, lagNs int64, kind StampKind) {
	monoNs, stepped := c.now()
	if stampNs == 0 {
		return monoNs, 0, StampMissing
	}
	atNs = stampNs - c.offset
	if atNs < earliest && earliest-atNs < clockNoise {
		atNs = earliest // the offset is measured better than it was then
	}
	if stepped || atNs > monoNs || atNs < earliest {
		return monoNs, 0, StampDiscarded
	}
	return atNs, monoNs - atNs, StampKernel
}
