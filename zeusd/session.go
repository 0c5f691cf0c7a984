package zeusd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// The clock is measured anew every clockRefresh, against drift; whether it
	// still holds is looked at every clockCheck, with one question, and an answer
	// that is off by more than clockTolerance has it measured at once.
	clockRefresh   = time.Minute
	clockCheck     = time.Second
	clockTolerance = 10 * time.Millisecond

	// An event from the future by more than aheadMost, or older than lateMost, has
	// the clock measured before it is believed.
	aheadMost = 50 * time.Millisecond
	lateMost  = 250 * time.Millisecond
	// The pause between such measurements, which doubles as long as they find
	// nothing: then the events really are old.
	recheckFirst = time.Second
	recheckMost  = time.Minute
	// No event of a stream is older than the stream; more than startMargin older
	// is a wrong time.
	startMargin = time.Second
	// stepLeast is the least change of the clock that is counted as a step.
	stepLeast = 25 * time.Millisecond

	// rediscover is how often a daemon that lacks a wanted GPU is asked again.
	rediscover = 5 * time.Second
	// retryOptional is how often a stream is tried again that is not to be had and
	// not necessary.
	retryOptional = 5 * time.Second
)

var (
	errDevicesChanged = errors.New("the daemon's devices changed")
	errMissedChanges  = errors.New("the stream brings nothing although the power changed")
	errStreamEnded    = errors.New("the daemon ended the stream")
	errBadAnswer      = errors.New("bad answer")
)

// session is one connection to a daemon, from discovery to its end.
type session struct {
	*conn
	discovery Discovery
	missing   []int // wanted GPUs that do not exist
	reads     []*read

	clockMu     sync.Mutex
	measuredAt  time.Time
	recheckAt   time.Time
	recheckWait time.Duration
}

// read is the devices of one kind in a session: a stream, and questions when it
// is silent.
type read struct {
	kind    Kind
	indices []int
	// optional: a refusal by the daemon is noted and does not end the session.
	optional bool
	openOnce sync.Once
	opened   chan struct{} // closed once the stream stands, or is refused
	openedAt time.Time     // of the stream's goroutine
	refused  atomic.Bool   // optional, and not to be had

	answer powerEvent // reused
	missed int        // questions in a row that showed changes the stream did not bring
}

// session connects, reads until something breaks, and returns what did.
func (c *conn) session(ctx context.Context) error {
	defer c.peer.close()
	s := &session{conn: c, recheckWait: recheckFirst}
	if err := s.prepare(ctx); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, r := range s.reads {
		group.Go(func() error { return s.streamOrNote(ctx, r) })
	}
	group.Go(func() error { return s.keep(ctx) })
	return group.Wait()
}

// prepare finds out what can be read, and the clock.
func (s *session) prepare(ctx context.Context) error {
	var err error
	if s.discovery, err = s.peer.discover(ctx); err != nil {
		return err
	}
	var id *Identity
	if s.discovery.AuthRequired {
		if id, err = s.peer.authorize(ctx); err != nil {
			return err
		}
	}
	if len(s.target.GPUs) > 0 {
		if err := s.prepareGPUs(id); err != nil {
			return err
		}
	}
	if s.target.CPU {
		if err := s.prepareCPUs(id); err != nil {
			return err
		}
	}
	_, err = s.measureClock(ctx)
	return err
}

func (s *session) prepareGPUs(id *Identity) error {
	if err := s.peer.check(GPU, s.discovery, id); err != nil {
		return err
	}
	gpus, missing, err := s.discovery.checkGPUs(s.target.GPUs)
	if err != nil {
		err = fmt.Errorf("%s: %w", s.peer.endpoint, err)
	}
	s.missing = missing
	s.mu.Lock()
	changed := !slices.Equal(s.status.UnknownGPUs, missing)
	s.unknownErr = err
	s.status.UnknownGPUs = missing
	s.mu.Unlock()
	if len(gpus) == 0 {
		return err
	}
	if err != nil && changed {
		s.log.Warn().Err(err).Msg("zeusd lacks a GPU; reading the others")
	}
	s.reads = append(s.reads, &read{kind: GPU, indices: gpus, opened: make(chan struct{})})
	return nil
}

func (s *session) prepareCPUs(id *Identity) error {
	err := s.peer.check(CPU, s.discovery, id)
	cpus := s.discovery.cpuIndices()
	switch {
	case err != nil:
	case len(cpus) == 0:
		err = fmt.Errorf("%s: %w", s.peer.endpoint, errNoCPU)
	case len(cpus) > maxDevices || slices.Min(cpus) < 0:
		err = fmt.Errorf("%s: GET /discover: %d CPUs with ids from %d, want at most %d from 0", s.peer.endpoint, len(cpus), slices.Min(cpus), maxDevices)
	}
	r := &read{kind: CPU, indices: cpus, optional: len(s.target.GPUs) > 0, opened: make(chan struct{})}
	if err != nil && r.optional {
		s.setCPUError(err)
		return nil
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	for _, cpu := range cpus {
		if key := (deviceKey{CPU, cpu}); s.devices[key] == nil && len(s.devices) < len(s.target.GPUs)+maxDevices {
			s.devices[key] = &device{}
		}
	}
	r.indices = slices.DeleteFunc(cpus, func(cpu int) bool { return s.devices[deviceKey{CPU, cpu}] == nil })
	s.mu.Unlock()
	s.reads = append(s.reads, r)
	return nil
}

// setCPUError notes why the CPUs beside GPUs are not read. A change is logged.
func (s *session) setCPUError(err error) {
	s.mu.Lock()
	changed := (s.status.CPUErr == nil) != (err == nil)
	s.status.CPUErr = err
	s.mu.Unlock()
	if changed && err != nil {
		s.log.Warn().Err(err).Msg("zeusd gives no CPU power; reading the GPUs alone")
	}
}

// tolerate turns a refusal of what is optional into a note.
func (s *session) tolerate(r *read, err error) error {
	if status := (*StatusError)(nil); !r.optional || !errors.As(err, &status) {
		return err
	}
	s.setCPUError(err)
	r.refused.Store(true)
	return nil
}

// streamOrNote is stream, which never succeeds, but for an optional one that is
// refused: that is noted and, unless the token is refused, tried again later.
func (s *session) streamOrNote(ctx context.Context, r *read) error {
	for {
		err := s.stream(ctx, r)
		if s.tolerate(r, err) != nil {
			return err
		}
		r.openOnce.Do(func() { close(r.opened) })
		if errors.Is(err, ErrRefused) || !wait(ctx, retryOptional) {
			return nil
		}
	}
}

// stream opens the stream and reads it to its end.
func (s *session) stream(ctx context.Context, r *read) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// Only the opening has a time limit: one on the whole request would cut the
	// stream.
	timer := time.AfterFunc(s.cfg.RequestTimeout, func() {
		cancel(fmt.Errorf("%w (%v)", errNoAnswer, s.cfg.RequestTimeout))
	})
	defer timer.Stop()
	path := powerPath(r.kind, "stream_power")
	resp, err := s.peer.open(ctx, path, powerQuery(r.kind, r.indices))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	timer.Stop()
	r.openedAt = time.Now()
	r.openOnce.Do(func() { close(r.opened) })
	if r.optional {
		r.refused.Store(false)
		s.setCPUError(nil)
	} else {
		s.up()
	}
	events := newEventReader(resp.Body, time.Now)
	var event powerEvent
	for {
		data, arrived, err := events.next()
		if errors.Is(err, errEventTooLong) {
			s.bad(err)
			continue
		}
		if err != nil {
			if events.cut() {
				s.bad(fmt.Errorf("event cut off: %w", err))
			}
			if errors.Is(err, io.EOF) {
				err = errStreamEnded
			}
			return s.peer.wrap(ctx, path, err)
		}
		if err := event.parse(r.kind, data); err != nil {
			s.bad(err)
			continue
		}
		if !s.wants(r, event.devices) {
			continue
		}
		s.event(r.kind, event.devices, s.locate(ctx, r, event.timestampMS, arrived), arrived)
	}
}

// wants tells whether any of an event's devices was asked for, and counts the
// event's readings if not.
func (s *session) wants(r *read, devices []devicePower) bool {
	for _, p := range devices {
		if slices.Contains(r.indices, p.index) {
			return true
		}
	}
	s.count(func(st *EndpointStatus) { st.UnwantedReadings += uint64(len(devices)) })
	return false
}

// locate returns when an event was measured. A time that cannot be right has the
// clock measured first, with the event held back; one that stays so is replaced
// by the arrival.
func (s *session) locate(ctx context.Context, r *read, timestampMS int64, arrived time.Time) time.Time {
	at := s.clock.at(timestampMS)
	if age := arrived.Sub(at); age < -aheadMost || age > lateMost {
		s.recheckClock(ctx, arrived)
		at = s.clock.at(timestampMS)
	}
	if at.After(arrived.Add(aheadMost)) || at.Before(r.openedAt.Add(-startMargin)) {
		s.count(func(st *EndpointStatus) { st.ImplausibleTimes++ })
		return arrived
	}
	if at.After(arrived) {
		return arrived
	}
	return at
}

// recheckClock measures the clock because an event looks wrong, unless that was
// done lately for nothing.
func (s *session) recheckClock(ctx context.Context, now time.Time) {
	s.clockMu.Lock()
	due := !now.Before(s.recheckAt)
	s.clockMu.Unlock()
	if !due {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.RequestTimeout)
	defer cancel()
	moved, err := s.measureClock(ctx)
	s.clockMu.Lock()
	defer s.clockMu.Unlock()
	if err == nil && moved.Abs() >= clockTolerance {
		s.recheckWait = recheckFirst
		return
	}
	s.recheckAt = time.Now().Add(s.recheckWait)
	s.recheckWait = min(2*s.recheckWait, recheckMost)
}

// measureClock makes a new estimate of the daemon's clock and returns by how much
// it moved.
func (s *session) measureClock(ctx context.Context) (moved time.Duration, err error) {
	trips, err := s.peer.times(ctx)
	if err != nil {
		return 0, err
	}
	now := time.Now()
	s.clockMu.Lock()
	first := s.measuredAt.IsZero()
	s.measuredAt = now
	moved = s.clock.set(trips, now)
	s.clockMu.Unlock()
	if !first && moved.Abs() >= max(stepLeast, s.clock.estimate.Load().roundTrip) {
		s.count(func(st *EndpointStatus) { st.ClockSteps++ })
		s.log.Warn().Dur("by_ms", -moved).Msg("the clock of the zeusd host was set, or one of the hosts slept; times are mapped anew")
	}
	return moved, nil
}

// keep asks for what the streams do not say: the snapshot at the start, the power
// of silent devices, the daemon's time. It returns when the peer is dead.
func (s *session) keep(ctx context.Context) error {
	// The streams stand before the snapshot is taken, so that no change falls in
	// between. If they do not, the snapshot is still better than nothing.
	opening := time.NewTimer(s.cfg.RequestTimeout / 2)
	defer opening.Stop()
	for _, r := range s.reads {
		select {
		case <-r.opened:
		case <-opening.C:
			opening.Reset(0)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for _, r := range s.reads {
		if r.refused.Load() {
			continue
		}
		if err := s.ask(ctx, r, r.indices, true); err != nil {
			return err
		}
	}
	tick := time.NewTicker(max(s.cfg.AskAfter/4, time.Millisecond))
	defer tick.Stop()
	checkAt := time.Now().Add(clockCheck)
	rediscoverAt := time.Now().Add(rediscover)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		for _, r := range s.reads {
			if err := s.askSilent(ctx, r); err != nil {
				return err
			}
		}
		if now := time.Now(); !now.Before(checkAt) {
			checkAt = now.Add(clockCheck)
			if err := s.checkClock(ctx); err != nil {
				return err
			}
		}
		if now := time.Now(); s.missing != nil && !now.Before(rediscoverAt) {
			rediscoverAt = now.Add(rediscover)
			if err := s.lookForMissing(ctx); err != nil {
				return err
			}
		}
	}
}

// askSilent asks for the devices that were silent for long.
func (s *session) askSilent(ctx context.Context, r *read) error {
	if r.refused.Load() {
		return nil
	}
	quiet, failed := s.silent(r.kind, r.indices, time.Now())
	if len(quiet) > 0 {
		if err := s.ask(ctx, r, quiet, false); err != nil {
			return err
		}
	}
	for _, i := range failed {
		if err := s.ask(ctx, r, []int{i}, false); err != nil {
			return err
		}
	}
	return nil
}

// ask asks for devices. An error means that the connection is dead, or the daemon
// refuses us; a device that the daemon cannot read is noted, and costs the others
// nothing.
func (s *session) ask(ctx context.Context, r *read, indices []int, first bool) error {
	trip, err := s.peer.power(ctx, r.kind, indices, &r.answer)
	switch status := (*StatusError)(nil); {
	case err == nil:
		missed := s.answer(r.kind, indices, &r.answer, trip, first)
		for _, i := range indices {
			var failure error
			if !slices.ContainsFunc(r.answer.devices, func(p devicePower) bool { return p.index == i }) {
				failure = fmt.Errorf("%s: GET %s: the answer lacks %s %d", s.peer.endpoint, powerPath(r.kind, "get_power"), r.kind, i)
			}
			s.fail(deviceKey{r.kind, i}, failure)
		}
		return s.checkStream(r, missed)
	case errors.Is(err, ErrRefused):
		return s.tolerate(r, err)
	case errors.Is(err, errBadAnswer), errors.As(err, &status):
		s.count(func(st *EndpointStatus) { st.FailedAsks++ })
		if errors.Is(err, errBadAnswer) {
			s.bad(err)
		}
		if len(indices) == 1 {
			s.fail(deviceKey{r.kind, indices[0]}, err)
			return nil
		}
		for _, i := range indices {
			if err := s.ask(ctx, r, []int{i}, first); err != nil {
				return err
			}
		}
		return nil
	case ctx.Err() == nil && s.eventSince(trip.sent):
		// Slow to answer, but alive.
		s.count(func(st *EndpointStatus) { st.FailedAsks++ })
		return nil
	default:
		s.count(func(st *EndpointStatus) { st.FailedAsks++ })
		return err
	}
}

// checkStream notices a stream that is dead while the daemon is not, as when a
// firewall forgot it: again and again an answer differs from what the stream
// said, and no event comes.
func (s *session) checkStream(r *read, missed bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !missed || time.Since(s.lastEvent[r.kind]) < s.cfg.AskAfter {
		r.missed = 0
		return nil
	}
	r.missed++
	if r.missed < s.patience[r.kind] {
		return nil
	}
	s.patience[r.kind] = min(2*s.patience[r.kind], patienceMost)
	return fmt.Errorf("%s: GET %s: %w", s.peer.endpoint, powerPath(r.kind, "stream_power"), errMissedChanges)
}

// checkClock asks for the time once, and measures the clock anew if it does not
// fit or the last measurement is long ago. It returns an error if the peer is dead.
func (s *session) checkClock(ctx context.Context) error {
	s.clockMu.Lock()
	due := time.Since(s.measuredAt) >= clockRefresh
	s.clockMu.Unlock()
	trip, err := s.peer.time(ctx)
	if err == nil && (due || !s.clock.contains(trip, clockTolerance)) {
		_, err = s.measureClock(ctx)
	}
	if err == nil || ctx.Err() == nil && !errors.Is(err, ErrRefused) && s.eventSince(trip.sent) {
		return nil
	}
	if status := (*StatusError)(nil); errors.As(err, &status) && !errors.Is(err, ErrRefused) {
		return nil // it lives
	}
	return err
}

// lookForMissing returns errDevicesChanged once a missing GPU is there.
func (s *session) lookForMissing(ctx context.Context) error {
	d, err := s.peer.discover(ctx)
	if err != nil {
		return nil //nolint:nilerr // whether the peer lives is not asked here
	}
	if _, missing, _ := d.checkGPUs(s.missing); len(missing) < len(s.missing) {
		return errDevicesChanged
	}
	return nil
}
