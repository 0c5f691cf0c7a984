package zeusd

import (
	"slices"
	"sync/atomic"
	"time"
)

// roundTrips is how many questions for the time make one estimate.
const roundTrips = 5

// roundTrip is one question for the daemon's time; sent and received are on this
// host's monotonic clock.
type roundTrip struct {
	sent, received time.Time
	timestampMS    int64
}

// clock maps a daemon's time stamps to this host's monotonic clock. Only
// differences to anchor are used, so setting this host's clock changes nothing.
// It is safe for use by many goroutines.
type clock struct {
	anchor   time.Time
	estimate atomic.Pointer[estimate]
}

// estimate is the outcome of one measurement of the clock.
type estimate struct {
	// offset is what to add to a daemon's Unix time to get time since the anchor.
	offset time.Duration
	// wallOffset is this host's wall clock less the daemon's, for people to read.
	wallOffset time.Duration
	// roundTrip is the median time of a question.
	roundTrip time.Duration
}

func newClock(anchor time.Time) *clock {
	c := &clock{anchor: anchor}
	c.estimate.Store(&estimate{})
	return c
}

// at returns when, on this host, the daemon's clock showed the time stamp.
func (c *clock) at(timestampMS int64) time.Time {
	return c.anchor.Add(unixDuration(timestampMS) + c.estimate.Load().offset)
}

// contains tells whether a time stamp that the daemon took during the round trip
// lies in it, give or take the tolerance.
func (c *clock) contains(trip roundTrip, tolerance time.Duration) bool {
	at := c.at(trip.timestampMS)
	return !at.Before(trip.sent.Add(-tolerance)) && !at.After(trip.received.Add(tolerance))
}

// set takes over the estimate from the trips, at least one, and returns by how
// much it moved the clock. An estimate is good to half its round trip; a poor one,
// made while a host was busy, does not replace a much better one that it agrees
// with.
func (c *clock) set(trips []roundTrip, wall time.Time) (moved time.Duration) {
	next, last := c.measure(trips, wall), c.estimate.Load()
	moved = next.offset - last.offset
	if last.roundTrip > 0 && next.roundTrip > 4*last.roundTrip && moved.Abs() <= next.roundTrip/2 {
		return 0
	}
	c.estimate.Store(&next)
	return moved
}

// measure takes the median over the trips of (midpoint - daemon time): one trip
// that was held up on one way, or across which a clock was set, does not matter.
// The daemon's time stamps are whole milliseconds, rounded down, here and in
// events, which cancels out.
func (c *clock) measure(trips []roundTrip, wall time.Time) estimate {
	offsets := make([]time.Duration, len(trips))
	durations := make([]time.Duration, len(trips))
	for i, trip := range trips {
		durations[i] = trip.received.Sub(trip.sent)
		midpoint := trip.sent.Sub(c.anchor) + durations[i]/2
		offsets[i] = midpoint - unixDuration(trip.timestampMS)
	}
	slices.Sort(offsets)
	slices.Sort(durations)
	e := estimate{offset: offsets[len(offsets)/2], roundTrip: durations[len(durations)/2]}
	// The anchor's time on the wall clock as it is set now.
	anchorWall := time.Duration(wall.UnixNano()) - wall.Sub(c.anchor)
	e.wallOffset = e.offset + anchorWall
	return e
}

func unixDuration(timestampMS int64) time.Duration {
	return time.Duration(timestampMS) * time.Millisecond
}
