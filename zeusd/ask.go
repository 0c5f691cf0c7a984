package zeusd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// hangPatience is for how long one question about a device that does not answer
// is left open. While its driver hangs, the daemon queues the questions and
// answers all of them afterwards: one in a minute is enough, and is answered as
// soon as the driver is back.
const hangPatience = time.Minute

// confirmByAsking asks for the power of devices that the stream is silent about:
// all of them at the start, and from then on those without news for AskAfter. No
// answer about a device says nothing about the daemon or the other devices; that
// the daemon is dead is noticed by its clock.
func (s *session) confirmByAsking(ctx context.Context, r *read) error {
	// The stream stands before the snapshot is taken, so that no change falls in
	// between. If it does not, the snapshot is still better than nothing.
	select {
	case <-r.opened:
	case <-time.After(s.cfg.RequestTimeout / 2):
	case <-ctx.Done():
		return ctx.Err()
	}
	group, ctx := errgroup.WithContext(ctx)
	if r.kind == GPU {
		group.Go(func() error { s.learnRanges(ctx, r.indices); return nil })
	}
	group.Go(func() error {
		if !r.refused.Load() {
			s.askAll(ctx, group, r, s.toAsk(r, r.indices, time.Now()), nil, true)
		}
		tick := time.NewTicker(max(s.cfg.AskAfter/4, time.Millisecond))
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-tick.C:
			}
			if !r.refused.Load() {
				now := time.Now()
				quiet, failed := s.unconfirmed(r, now)
				s.askAll(ctx, group, r, s.toAsk(r, quiet, now), s.toAsk(r, failed, now), false)
			}
		}
	})
	return group.Wait()
}

// askAll asks for some devices together, and for others one by one: those that
// failed before would spoil the answer for the rest. It does not wait.
func (s *session) askAll(ctx context.Context, group *errgroup.Group, r *read, together, apart []int, first bool) {
	if len(together) > 0 {
		group.Go(func() error {
			err := s.askTogether(ctx, r, together, first)
			if !errors.Is(err, errAskApart) {
				s.asked(r, together)
				return err
			}
			s.askAll(ctx, group, r, nil, together, first)
			return nil
		})
	}
	for _, i := range apart {
		group.Go(func() error {
			defer s.asked(r, []int{i})
			return s.askAlone(ctx, r, i, first)
		})
	}
}

// errAskApart: which of the devices failed was not said, or the others were not
// told because of it.
var errAskApart = errors.New("ask for each device apart")

// askTogether asks for devices with one question. Any error but errAskApart means
// that the connection is dead, or the daemon refuses us.
func (s *session) askTogether(ctx context.Context, r *read, indices []int, first bool) error {
	ctx, cancel := s.peer.limit(ctx)
	defer cancel()
	err := s.ask(ctx, r, indices, first)
	switch status := (*StatusError)(nil); {
	case errors.Is(err, errBadAnswer), errors.As(err, &status) && !errors.Is(err, ErrRefused), errors.Is(err, errNoAnswer):
		return errAskApart
	}
	return err
}

// askAlone asks for one device, and waits long for the answer. That the daemon
// cannot read it is noted.
func (s *session) askAlone(ctx context.Context, r *read, index int, first bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, hangPatience, fmt.Errorf("%w (%v)", errNoAnswer, hangPatience))
	defer cancel()
	key := deviceKey{r.kind, index}
	sent := time.Now()
	overdue := time.AfterFunc(s.peer.timeout, func() {
		s.count(func(st *EndpointStatus) { st.FailedAsks++ })
		s.failUnlessNews(key, sent, fmt.Errorf("%s: %s %d: GET %s: %w (%v), though the daemon lives: does the device's driver hang?",
			s.peer.endpoint, r.kind, index, powerPath(r.kind, "get_power"), errNoAnswer, s.peer.timeout))
	})
	err := s.ask(ctx, r, []int{index}, first)
	overdue.Stop()
	switch status := (*StatusError)(nil); {
	case errors.Is(err, errBadAnswer), errors.As(err, &status) && !errors.Is(err, ErrRefused):
		s.fail(key, err)
		return nil
	case errors.Is(err, errNoAnswer):
		return nil
	}
	return err
}

// ask sends a question and takes over the answer.
func (s *session) ask(ctx context.Context, r *read, indices []int, first bool) error {
	var answer powerEvent
	trip, err := s.peer.power(ctx, r.kind, indices, &answer)
	if err == nil {
		at, ofNow := s.locateAnswer(ctx, trip)
		if !ofNow {
			return fmt.Errorf("%s: GET %s: %w: it says that it was measured at %v, where now is between 0s and %v",
				s.peer.endpoint, powerPath(r.kind, "get_power"), errBadAnswer,
				at.Sub(trip.sent).Round(time.Millisecond), trip.received.Sub(trip.sent).Round(time.Millisecond))
		}
		missed := s.answer(r.kind, indices, &answer, at, trip, first)
		for _, i := range indices {
			if !slices.ContainsFunc(answer.devices, func(p devicePower) bool { return p.index == i }) {
				s.fail(deviceKey{r.kind, i}, fmt.Errorf("%s: GET %s: the answer lacks %s %d",
					s.peer.endpoint, powerPath(r.kind, "get_power"), r.kind, i))
			}
		}
		return s.checkStream(r, missed)
	}
	if errors.Is(err, ErrRefused) {
		return s.ignoreIfOptional(r, err)
	}
	if ctx.Err() == nil || errors.Is(err, errNoAnswer) {
		s.count(func(st *EndpointStatus) { st.FailedAsks++ })
	}
	if errors.Is(err, errBadAnswer) {
		s.bad(err)
	}
	return err
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
