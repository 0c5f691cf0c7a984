package zeusd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/g2g-agent/g2g-agent/internal/backoff"
)

// runStream reads the stream until it fails. One that was ended to be opened anew is
// opened again; an optional one that is refused is no failure: it is tried again
// later, unless the token is refused.
func (s *session) runStream(ctx context.Context, r *read) error {
	for {
		err := s.stream(ctx, r)
		if errors.Is(err, errAskedAnew) {
			continue
		}
		if s.ignoreIfOptional(r, err) != nil {
			return err
		}
		r.openOnce.Do(func() { close(r.opened) })
		if errors.Is(err, ErrRefused) || backoff.Sleep(ctx, retryOptional) != nil {
			return nil
		}
	}
}

// stream opens the stream and reads it to its end.
func (s *session) stream(ctx context.Context, r *read) error {
	if s.discovery.PlainIDs && backoff.Sleep(ctx, pollerPause) != nil {
		return ctx.Err()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// Only the opening has a time limit: one on the whole request would cut the
	// stream.
	timer := time.AfterFunc(s.cfg.RequestTimeout, func() {
		cancel(fmt.Errorf("%w (%v)", errNoAnswer, s.cfg.RequestTimeout))
	})
	defer timer.Stop()
	path := powerPath(r.kind, "stream_power")
	askedAt := time.Now()
	resp, err := s.peer.open(ctx, path, powerQuery(r.kind, r.indices))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	timer.Stop()
	s.opens(r, askedAt, cancel)
	defer s.closes(r)
	r.openOnce.Do(func() { close(r.opened) })
	if r.optional {
		r.refused.Store(false)
		s.setCPUError(nil)
	} else {
		s.up()
	}
	return s.readEvents(ctx, r, newEventReader(resp.Body, time.Now), askedAt)
}

// readEvents reads a stream that was asked for at askedAt, to its end.
func (s *session) readEvents(ctx context.Context, r *read, events *eventReader, askedAt time.Time) error {
	oldEvents := len(r.indices) // that a stream may begin with
	if s.discovery.PlainIDs {
		oldEvents = 1
	}
	var event powerEvent
	for {
		data, arrived, err := events.next()
		if errors.Is(err, errEventTooLong) {
			s.bad(err)
			continue
		}
		if err != nil {
			if events.cut() && ctx.Err() == nil {
				s.bad(fmt.Errorf("event cut off: %w", err))
			}
			if errors.Is(err, io.EOF) {
				err = errStreamEnded
			}
			return s.peer.wrap(ctx, http.MethodGet, powerPath(r.kind, "stream_power"), err)
		}
		if err := event.parse(r.kind, data); err != nil {
			s.bad(err)
			continue
		}
		if !s.wants(r, event.devices) {
			continue
		}
		mayBeOld := oldEvents > 0 && arrived.Sub(askedAt) <= answersWithin
		oldEvents--
		at, ofNow := s.locate(ctx, event.timestampMS, askedAt, arrived, mayBeOld)
		all := s.answers(r, event.devices, at, arrived, ofNow)
		if ofNow && !all {
			event.devices = s.withoutReplays(r, event.devices)
		}
		if ofNow {
			s.event(r.kind, &event, at, arrived, all)
		}
	}
}

// wants tells whether any of an event's devices was asked for, or the event is
// one of a snapshot without any, and counts the event's readings if not.
func (s *session) wants(r *read, devices []devicePower) bool {
	for _, p := range devices {
		if slices.Contains(r.indices, p.index) {
			return true
		}
	}
	s.count(func(st *EndpointStatus) { st.UnwantedReadings += uint64(len(devices)) })
	return len(devices) == 0
}
