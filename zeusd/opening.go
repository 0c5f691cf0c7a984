package zeusd

import (
	"context"
	"errors"
	"fmt"
	"math"
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
// last is taken for true as long as the driver answers other questions.

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
	// openEvery is the time between two openings at least, and openSeldom that of
	// those that only look whether a device or another listener is still away: who
	// is heard of meanwhile misses what happens in the pause.
	openEvery  = time.Second
	openSeldom = 10 * time.Second
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

// opening is how a stream began. It belongs to its conn's mutex.
type opening struct {
	anew     context.CancelCauseFunc // ends the stream; nil while none is open
	askedAt  time.Time
	replayed []devicePower // what it began with
	// replayAge is how old that was when the stream was asked for.
	replayAge time.Duration
	answered  bool // something new came
	judged    bool // conclusions were drawn from it, last at judgedAt
	judgedAt  time.Time
}

// opens notes that a stream stands.
func (s *session) opens(r *read, askedAt time.Time, end context.CancelCauseFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.opening = opening{anew: end, askedAt: askedAt, replayAge: math.MaxInt64}
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
			s.fail(deviceKey{r.kind, i}, fmt.Errorf("%s: GET %s: the daemon cannot read %s %d", s.peer.endpoint, powerPath(r.kind, "stream_power"), r.kind, i))
		}
	}
	return true
}

// noteEvent is the part of answers that s.mu is held for.
func (s *session) noteEvent(r *read, devices []devicePower, at, arrived time.Time, ofNow bool) (all bool) {
	o := &r.opening
	first := o.replayed == nil && !o.answered
	if !ofNow || first && o.askedAt.Sub(at) > clockTolerance {
		// A clock that was set since may have it in the future.
		o.replayed, o.replayAge = slices.Clone(devices), o.askedAt.Sub(at).Abs()
		return false
	}
	s.lastEvent[r.kind] = arrived // also of a snapshot without devices
	if !o.answered && arrived.Sub(o.askedAt) <= answersWithin {
		all = o.replayed == nil || o.replayAge > stillPolled
		switch {
		case o.replayed == nil: // nobody has ever listened, or he began just now
		case all:
			s.others[r.kind] = noOthers
		default:
			s.others[r.kind] = someOthers
		}
	}
	o.answered = true
	return all
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
	o := &r.opening
	every := openEvery
	heard := now.Sub(s.lastEvent[r.kind]) < s.cfg.AskAfter
	if len(quiet) == 0 && heard || s.others[r.kind] == someOthers {
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
// new, and again when a device is silent that no opening can ask about.
func (s *session) judgeOpening(ctx context.Context, r *read, now time.Time) error {
	quiet, failed := s.unconfirmed(r, now)
	silent := append(quiet, failed...)
	s.mu.Lock()
	o := &r.opening
	alone, answered := s.others[r.kind] == noOthers, o.answered
	due := o.anew != nil && now.Sub(o.askedAt) >= answersWithin && len(silent) > 0 &&
		(!o.judged || !alone && now.Sub(o.judgedAt) >= s.cfg.AskAfter)
	if due {
		o.judged, o.judgedAt = true, now
	}
	s.mu.Unlock()
	switch {
	case !due:
		return nil
	case !answered && alone:
		s.failAll(r, silent, errSilent)
	case r.kind == GPU && !alone:
		return s.askWitness(ctx, r, silent, !answered)
	}
	return nil
}

func (s *session) failAll(r *read, indices []int, why error) {
	for _, i := range indices {
		s.fail(deviceKey{r.kind, i}, fmt.Errorf("%s: %s %d: GET %s: %w", s.peer.endpoint, r.kind, i, powerPath(r.kind, "stream_power"), why))
	}
}

// learnMeters finds out which GPUs have an energy counter.
func (s *session) learnMeters(ctx context.Context, gpus []int) {
	failures, err := s.askEnergy(ctx, gpus)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, gpu := range gpus {
		if d := s.devices[deviceKey{GPU, gpu}]; err == nil && failures[gpu] == "" {
			d.hasEnergy = true
		}
	}
}

// askEnergy asks the driver for energy counters. That it answers is what counts; the
// failures are by GPU.
func (s *session) askEnergy(ctx context.Context, gpus []int) (failures map[int]string, err error) {
	ctx, cancel := s.peer.limit(ctx)
	defer cancel()
	err = s.peer.energy(ctx, gpus)
	if status := (*StatusError)(nil); errors.As(err, &status) && status.devices != nil {
		return status.devices, nil
	}
	return nil, err
}

// askWitness asks the driver about GPUs whose power cannot be asked for, since the
// daemon has other listeners: a driver that answers does not hang, and the daemon
// would have told of another power. If its loop says nothing at all, any GPU of the
// host may hold it up, and all are asked. It returns an error if the daemon refuses
// us.
func (s *session) askWitness(ctx context.Context, r *read, quiet []int, silent bool) error {
	asked := quiet
	if silent {
		asked = s.discovery.gpuIndices()
	}
	sent := time.Now()
	failures, err := s.askEnergy(ctx, asked)
	switch {
	case errors.Is(err, ErrRefused):
		return err
	case err != nil:
		s.count(func(st *EndpointStatus) { st.FailedAsks++ })
		s.failAll(r, quiet, errSilent)
		return nil
	}
	if silent { // its driver does not hang, and a new listener got nothing
		s.mu.Lock()
		s.others[r.kind] = someOthers
		s.mu.Unlock()
	}
	for _, i := range quiet {
		s.witnessed(r, i, failures[i], sent)
	}
	return nil
}

// witnessed confirms the last power of a GPU whose driver answers. One that used
// to have an energy counter and has none any more is lost; one that never had any
// answers all the same.
func (s *session) witnessed(r *read, index int, failure string, sent time.Time) {
	key := deviceKey{r.kind, index}
	s.mu.Lock()
	d := s.devices[key]
	known, lost := d.known, failure != "" && d.hasEnergy
	d.hasEnergy = d.hasEnergy || failure == ""
	last := devicePower{index: index, powerMW: d.reading.PowerW * 1e3}
	if i := slices.IndexFunc(r.opening.replayed, func(p devicePower) bool { return p.index == index }); !known && i >= 0 {
		known, last = true, r.opening.replayed[i]
	}
	s.mu.Unlock()
	switch {
	case lost:
		s.fail(key, fmt.Errorf("%s: GPU %d: GET %s: %s", s.peer.endpoint, index, energyPath, failure))
	case known:
		s.confirmed(r.kind, last, sent)
	}
}
