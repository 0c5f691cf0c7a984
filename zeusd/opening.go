package zeusd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// A zeusd before 0.5 reads all its devices of a kind in one loop, which tells all
// listeners when any power has changed, and answers get_power with what it tells
// next. While a stream is open and no power changes there is no answer; nor is
// there when the driver of any device hangs. What it does answer at once, and only
// if it can read, is a new first listener: the loop then begins anew and tells all
// it reads. So it is asked by closing the stream and opening it again.
//
// With another listener the loop does not begin anew. Then what the daemon said
// last is taken for true as long as the driver answers other questions: see
// witness.go.

const (
	// pollerPause is for how long there is no listener before a stream is opened. The
	// loop looks for listeners once a poll, by default every 50 ms.
	pollerPause = 150 * time.Millisecond
	// stillPolled is how old what a stream begins with may be, at most, if the loop
	// was running already.
	stillPolled = 80 * time.Millisecond
	// answersWithin is how long a loop that begins anew may take to tell what it
	// reads.
	answersWithin = 250 * time.Millisecond
	// slowTrip is how long it may take until a stream stands for what came meanwhile
	// to have been read for it.
	slowTrip = 25 * time.Millisecond
	// openEvery is the time between two openings at least, and openSeldom that of
	// those that only look whether a device or another listener is still away: who
	// is heard of meanwhile misses what happens in the pause.
	openEvery  = time.Second
	openSeldom = 10 * time.Second
	// aloneAfter is how many openings in a row must be answered before another
	// listener is believed to have left: with him, one is answered by chance, when
	// the power changes just then.
	aloneAfter = 3
)

var (
	// errAskedAnew ends a stream that is to be opened anew.
	errAskedAnew = errors.New("the stream is opened anew")
	errSilent    = errors.New("the daemon says nothing to a new listener, though it lives: does the driver of one of its devices hang?")
)

// others tells whether somebody else listens to a daemon.
type others uint8

const (
	maybeOthers others = iota
	noOthers
	someOthers
)

// audience is what the openings of a stream tell of other listeners. It belongs to
// its conn's mutex.
type audience struct {
	others others
	inARow int // of the latest openings, those that the loop began anew for
}

// answered draws the conclusion from an opening that something new came after, read
// at at, and tells whether all of it was read for us.
func (a *audience) answered(o *opening, at time.Time) (all bool) {
	switch {
	case o.hasReplay && o.replayAge <= stillPolled:
		*a = audience{others: someOthers}
		return false
	case !o.hasReplay && at.Before(o.askedAt), o.standsAt.Sub(o.askedAt) > slowTrip && at.Before(o.standsAt):
		// As far as can be told, it may have been sent to others just before.
		return a.others == noOthers
	}
	a.inARow++
	if a.others == maybeOthers || a.inARow >= aloneAfter {
		a.others = noOthers
	}
	return a.others == noOthers
}

// opening is how a stream began. It belongs to its conn's mutex.
type opening struct {
	anew      context.CancelCauseFunc // ends the stream; nil while none is open
	askedAt   time.Time
	standsAt  time.Time     // when it was known to stand
	hasReplay bool          // it began with what was sent before
	replayed  []devicePower // that
	replayAge time.Duration // how old it was when the stream was asked for
	answered  bool          // something new came
	judged    bool          // conclusions were drawn from it, last at judgedAt
	judgedAt  time.Time
	metered   bool // energy counters were read after it was answered
}

// opens notes that a stream stands.
func (s *session) opens(r *read, askedAt time.Time, end context.CancelCauseFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.opening = opening{anew: end, askedAt: askedAt, standsAt: time.Now()}
}

func (s *session) closes(r *read) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.opening.anew = nil
}

// answers notes an event, and tells whether all that it says was read for it.
//
// A stream begins with what was sent before it was asked for. How old that is
// tells whether somebody else listens; then comes, from a loop that begins anew,
// what was read for us. When a power has changed, a loop repeats the last power of
// devices that it cannot read any more; in its first event there are none of these.
func (s *session) answers(r *read, devices []devicePower, at, arrived time.Time, ofNow bool) (all bool) {
	if !s.discovery.PlainIDs {
		return true
	}
	s.mu.Lock()
	all = s.noteEvent(r, devices, at, arrived, ofNow)
	s.mu.Unlock()
	if !all {
		return false
	}
	for _, i := range r.indices {
		if !slices.ContainsFunc(devices, func(p devicePower) bool { return p.index == i }) {
			s.fail(deviceKey{r.kind, i}, fmt.Errorf("%s: GET %s: the daemon cannot read %s %d",
				s.peer.endpoint, powerPath(r.kind, "stream_power"), r.kind, i))
		}
	}
	return true
}

// noteEvent is the part of answers that s.mu is held for.
func (s *session) noteEvent(r *read, devices []devicePower, at, arrived time.Time, ofNow bool) (all bool) {
	o := &r.opening
	first := !o.hasReplay && !o.answered
	if !ofNow || first && o.askedAt.Sub(at) > clockTolerance {
		// A clock that was set since may have it in the future.
		o.hasReplay = true
		o.replayed = slices.Clone(devices)
		o.replayAge = o.askedAt.Sub(at).Abs()
		return false
	}
	s.lastEvent[r.kind] = arrived // also of a snapshot without devices
	if !o.answered && arrived.Sub(o.askedAt) <= answersWithin {
		all = s.audiences[r.kind].answered(o, at)
	}
	o.answered = true
	return all
}

// withoutReplays leaves out of an event that was not read for us what a loop may only
// repeat, of a device that was never read: it is the witness that confirms it.
func (s *session) withoutReplays(r *read, devices []devicePower) []devicePower {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := &r.opening
	return slices.DeleteFunc(devices, func(p devicePower) bool {
		d := s.devices[deviceKey{r.kind, p.index}]
		if d == nil || d.known {
			return false
		}
		at := slices.IndexFunc(o.replayed, func(q devicePower) bool { return q.index == p.index })
		if at < 0 {
			o.replayed = append(o.replayed, p)
			return true
		}
		return o.replayed[at].powerMW == p.powerMW
	})
}

// confirmByOpening opens the stream anew when a device was not heard of for
// AskAfter, and draws the conclusions from what each stream begins with.
func (s *session) confirmByOpening(ctx context.Context, r *read) error {
	if r.kind == GPU {
		s.learnMeters(ctx, r.indices)
	}
	tick := time.NewTicker(max(min(s.cfg.AskAfter/4, answersWithin/2), time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if s.openAnew(r, time.Now()) {
			continue
		}
		if err := s.judgeOpening(ctx, r, time.Now()); err != nil {
			return err
		}
	}
}

// openAnew ends the stream, which is then opened again, if a device is silent.
func (s *session) openAnew(r *read, now time.Time) (opened bool) {
	quiet, failed := s.unconfirmed(r, now)
	s.mu.Lock()
	defer s.mu.Unlock()
	o, a := &r.opening, &s.audiences[r.kind]
	every := openEvery
	heard := now.Sub(s.lastEvent[r.kind]) < s.cfg.AskAfter
	if len(quiet) == 0 && heard || a.others == someOthers && a.inARow == 0 {
		every = openSeldom
	}
	if o.anew == nil || now.Sub(o.askedAt) < every || len(quiet)+len(failed) == 0 {
		return false
	}
	s.status.Reopenings++
	o.anew(errAskedAnew)
	o.anew = nil
	return true
}

// judgeOpening draws the conclusions, once a stream had time to bring something
// new, and again when a device is silent that no opening can ask about. It returns
// an error if the daemon refuses us.
func (s *session) judgeOpening(ctx context.Context, r *read, now time.Time) error {
	quiet, failed := s.unconfirmed(r, now)
	silent := append(quiet, failed...)
	s.mu.Lock()
	o, a := &r.opening, &s.audiences[r.kind]
	timeUp := o.anew != nil && now.Sub(o.askedAt) >= answersWithin
	alone, answered := a.others == noOthers, o.answered
	due := timeUp && len(silent) > 0 && (!o.judged || !(alone && answered) && now.Sub(o.judgedAt) >= s.cfg.AskAfter)
	if due {
		o.judged, o.judgedAt = true, now
	}
	if due && !answered {
		a.inARow = 0
	}
	// The loop may hang on any GPU of the host, also after it has answered.
	saysNothing := !answered || now.Sub(s.lastEvent[r.kind]) >= s.cfg.AskAfter
	meter := timeUp && r.kind == GPU && alone && answered && !o.metered
	o.metered = o.metered || meter
	s.mu.Unlock()
	switch {
	case meter:
		s.markMeters(ctx, r.indices)
	case !due || alone && answered:
	case r.kind == GPU && alone:
		return s.weighSilence(ctx, r)
	case r.kind == GPU:
		return s.askWitness(ctx, r, silent, saysNothing)
	case alone:
		s.failAll(r, silent, errSilent)
	}
	return nil
}

func (s *session) failAll(r *read, indices []int, why error) {
	for _, i := range indices {
		s.fail(deviceKey{r.kind, i}, fmt.Errorf("%s: %s %d: GET %s: %w", s.peer.endpoint, r.kind, i, powerPath(r.kind, "stream_power"), why))
	}
}
