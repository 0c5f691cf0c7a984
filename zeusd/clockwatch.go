package zeusd

import (
	"context"
	"errors"
	"sync"
	"time"
)

const (
	// The clock is measured anew every clockRefresh, against drift; whether it
	// still holds is looked at every clockCheck, with one question, and an answer
	// that is off by more than clockTolerance has it measured at once.
	clockRefresh   = time.Minute
	clockCheck     = time.Second
	clockTolerance = 10 * time.Millisecond

	// An event from the future by more than aheadMost, or older than lateMost, or
	// than its stream by more than replayMargin, has the clock measured before that
	// is believed.
	aheadMost    = 50 * time.Millisecond
	lateMost     = 250 * time.Millisecond
	replayMargin = 50 * time.Millisecond
	// The pause between such measurements, which doubles as long as they find
	// nothing: then the events really are old.
	recheckFirst = time.Second
	recheckMost  = time.Minute
	// justMeasured is for how long after a measurement another one is of no use.
	justMeasured = 100 * time.Millisecond
	// stepLeast is the least change of the clock that is counted as a step.
	stepLeast = 25 * time.Millisecond
	// stepQuiet is for how long a clock must not step for the next step to be logged.
	stepQuiet = 10 * time.Second
)

// clockWatch is when a session measured the daemon's clock.
type clockWatch struct {
	recheck sync.Mutex // held by who measures since something looks wrong

	mu          sync.Mutex
	measuredAt  time.Time
	recheckAt   time.Time
	recheckWait time.Duration
}

// locate returns when an event of a stream that was asked for at askedAt was
// measured, and whether it is one of now: a daemon begins a stream with what it
// sent last, however long ago and to whomever. What does not lie between the
// stream's beginning and the arrival, and is not expected to be old, has the clock
// measured first, with the event held back. If it still does not, it is of then, by
// a clock that was perhaps set since.
func (s *session) locate(ctx context.Context, timestampMS int64, askedAt, arrived time.Time, mayBeOld bool) (at time.Time, ofNow bool) {
	at = s.clock.at(timestampMS)
	oldest, newest := askedAt.Add(-replayMargin), arrived.Add(aheadMost)
	if at.After(newest) || !mayBeOld && (at.Before(oldest) || arrived.Sub(at) > lateMost) {
		s.recheckClock(ctx, arrived)
		at = s.clock.at(timestampMS)
	}
	if !s.within(at, oldest, newest) {
		return at, false
	}
	if at.After(arrived) {
		return arrived, true
	}
	return at, true
}

// within tells whether a time of the daemon's is one of now, and counts it if it is of
// then or of the future.
func (s *session) within(at, oldest, newest time.Time) bool {
	switch {
	case at.After(newest):
		s.count(func(st *EndpointStatus) { st.ImplausibleTimes++ })
		return false
	case at.Before(oldest):
		s.count(func(st *EndpointStatus) { st.ReplayedEvents++ })
		return false
	}
	return true
}

// locateAnswer returns when an answer was measured, and whether that is between the
// question and the answer. What is not has the clock measured before that is
// believed.
func (s *session) locateAnswer(ctx context.Context, trip roundTrip) (at time.Time, ofNow bool) {
	at = s.clock.at(trip.timestampMS)
	clockError := s.clock.estimate.Load().roundTrip / 2 // at most
	oldest := trip.sent.Add(-replayMargin - clockError)
	newest := trip.received.Add(aheadMost + clockError)
	if at.Before(oldest) || at.After(newest) {
		s.recheckClock(ctx, trip.received)
		at = s.clock.at(trip.timestampMS)
	}
	if !s.within(at, oldest, newest) {
		return at, false
	}
	switch {
	case at.Before(trip.sent):
		return trip.sent, true
	case at.After(trip.received):
		return trip.received, true
	}
	return at, true
}

// recheckClock measures the clock because an event looks wrong, unless that was
// done lately for nothing.
func (s *session) recheckClock(ctx context.Context, now time.Time) {
	w := &s.watch
	w.recheck.Lock() // who comes meanwhile waits for what is found
	defer w.recheck.Unlock()
	w.mu.Lock()
	due := !now.Before(w.recheckAt) && now.Sub(w.measuredAt) >= justMeasured
	w.mu.Unlock()
	if !due {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.RequestTimeout)
	defer cancel()
	moved, err := s.measureClock(ctx)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil && moved.Abs() >= clockTolerance {
		w.recheckWait = recheckFirst
		return
	}
	w.recheckAt = time.Now().Add(w.recheckWait)
	w.recheckWait = min(2*w.recheckWait, recheckMost)
}

// measureClock makes a new estimate of the daemon's clock and returns by how much
// it moved.
func (s *session) measureClock(ctx context.Context) (moved time.Duration, err error) {
	trips, err := s.peer.times(ctx)
	if err != nil {
		return 0, err
	}
	now := time.Now()
	s.watch.mu.Lock()
	first := s.watch.measuredAt.IsZero()
	s.watch.measuredAt = now
	moved = s.clock.set(trips, now)
	s.watch.mu.Unlock()
	if !first && moved.Abs() >= max(stepLeast, s.clock.estimate.Load().roundTrip) {
		s.mu.Lock()
		s.status.ClockSteps++
		quiet := now.Sub(s.steppedAt) >= stepQuiet
		s.steppedAt = now
		s.mu.Unlock()
		if !quiet {
			return moved, nil
		}
		s.log.Warn().Dur("by_ms", -moved).Msg("the clock of the zeusd host was set, or one of the hosts slept; times are mapped anew")
	}
	return moved, nil
}

// checkClock asks for the time once, and measures the clock anew if it does not
// fit or the last measurement is long ago. It returns an error if the peer is dead.
func (s *session) checkClock(ctx context.Context) error {
	s.watch.mu.Lock()
	due := time.Since(s.watch.measuredAt) >= clockRefresh
	s.watch.mu.Unlock()
	trip, err := s.peer.time(ctx)
	if err == nil && (due || !s.clock.contains(trip, clockTolerance)) {
		_, err = s.measureClock(ctx)
	}
	status := (*StatusError)(nil)
	switch {
	case err == nil, ctx.Err() == nil && s.heardSince(trip.sent):
		return nil
	case errors.Is(err, ErrRefused) && s.heardSince(time.Now().Add(-s.cfg.AskAfter)):
		return nil // as long as events come, it does not matter
	case errors.As(err, &status) && !errors.Is(err, ErrRefused):
		return nil // it lives
	}
	return err
}
