package main

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/g2g-agent/g2g-agent/internal/backoff"
)

// checkFaults lets the driver hang and lose a GPU, the network break, and the
// power be constant, and looks at every state.
func (s *site) checkFaults(ctx context.Context, r *report) error {
	before := s.descriptors()
	if !s.unix {
		var err error
		if s.relay, err = startRelay(ctx, s.dial); err != nil {
			return err
		}
		defer s.relay.close()
		defer func() { s.relay = nil }()
	}
	states, log, err := s.run(ctx, func(ctx context.Context) error { return s.breakThings(ctx, r) })
	if err != nil {
		return err
	}
	s.judgeStates(r, states)
	r.that(strings.Count(log, "\n") < 60, "%s: the log has %d lines", s, strings.Count(log, "\n"))
	err = waitFor(ctx, 3*time.Second, "descriptors to be closed", func() bool { return s.descriptors() <= before })
	r.that(err == nil, "%s: the daemon has %d descriptors open, before the run it had %d", s, s.descriptors(), before)
	return nil
}

// breakThings is the course of the run, which lasts some 70 s.
// It is long because it is one thing after the other, as in a script.
func (s *site) breakThings(ctx context.Context, r *report) error {
	steady := gpu{power: strconv.Itoa(steadyMW)}
	well := gpu{power: "clock"}
	if err := backoff.Sleep(ctx, 8*time.Second); err != nil {
		return err
	}

	from, connections := time.Now(), s.connections(ctx)
	if err := s.setGPUs(gpu{power: "clock", hang: time.Hour}, steady); err != nil {
		return err
	}
	if err := backoff.Sleep(ctx, 12*time.Second); err != nil {
		return err
	}
	status, body := s.get(ctx, "/readyz")
	r.that(status == 503 && strings.Contains(body, "clock"), "%s: the driver hangs, /readyz answers %d", s, status)
	descriptors := s.descriptors()
	if err := s.setGPUs(well, steady); err != nil {
		return err
	}
	s.hung = append(s.hung, span{from, time.Now()})
	opened := s.connections(ctx) - connections
	r.that(opened <= time.Since(from).Seconds()+1, "%s: the driver hangs for %.0f s: %v streams opened, %d descriptors in the daemon",
		s, time.Since(from).Seconds(), opened, descriptors)
	if err := backoff.Sleep(ctx, 5*time.Second); err != nil {
		return err
	}

	from = time.Now()
	if err := s.setGPUs(gpu{power: "clock", failure: gpuLost}, steady); err != nil {
		return err
	}
	for range 4 {
		if err := backoff.Sleep(ctx, 2500*time.Millisecond); err != nil {
			return err
		}
		if s.relay != nil {
			s.relay.breakAll()
		}
	}
	if err := s.setGPUs(well, steady); err != nil {
		return err
	}
	s.lost = append(s.lost, span{from, time.Now()})
	if err := backoff.Sleep(ctx, 5*time.Second); err != nil {
		return err
	}

	from, connections = time.Now(), s.connections(ctx)
	if err := s.setGPUs(gpu{power: "300000"}, steady); err != nil {
		return err
	}
	if err := backoff.Sleep(ctx, 25*time.Second); err != nil {
		return err
	}
	opened = s.connections(ctx) - connections
	r.that(opened <= time.Since(from).Seconds()+1, "%s: constant power for %.0f s: %v streams opened", s, time.Since(from).Seconds(), opened)
	if err := s.setGPUs(well, steady); err != nil {
		return err
	}
	return backoff.Sleep(ctx, 2*time.Second)
}

// judgeStates checks each state against what was wrong when.
func (s *site) judgeStates(r *report, states []state) {
	wrong := append(append([]span(nil), s.hung...), s.lost...)
	var ages []time.Duration
	var steadyStale, steadyOff, fresh, freshLate, earlyFresh, stale int
	for i := range states {
		st := &states[i]
		if st.MeasuredW["steady"] != steadyMW/1e3 {
			steadyOff++
		}
		if st.stale("steady") && !s.excused(st.WallTime) {
			steadyStale++
		}
		in := within(st.WallTime, wrong, 0, 0)
		surely := within(st.WallTime, wrong, staleAfter+poll+step+late, 0)
		switch isStale := st.stale("clock"); {
		case surely && isStale:
			stale++
		case surely:
			earlyFresh++
		case !in && isStale && !within(st.WallTime, wrong, 0, 2*time.Second):
			freshLate++
		case !in && !isStale:
			fresh++
			if age, ok := clockAge(st); ok {
				ages = append(ages, age)
			}
		}
	}
	r.that(steadyOff == 0, "%s: constant power is %v W in all but %d of %d states", s, steadyMW/1e3, steadyOff, len(states))
	r.that(steadyStale == 0, "%s: constant power is stale in %d states", s, steadyStale)
	r.that(earlyFresh == 0 && stale > 100, "%s: with a driver that hangs or a GPU lost, stale after %v in %d states, fresh in %d",
		s, staleAfter+poll+step+late, stale, earlyFresh)
	r.that(freshLate == 0 && fresh > 200, "%s: otherwise fresh in %d states, stale in %d", s, fresh, freshLate)
	worst := time.Duration(0)
	for _, age := range ages {
		worst = max(worst, age.Abs())
	}
	r.that(len(ages) > 100 && worst < poll+step+2*late,
		"%s: power to the milliwatt in %d states, of which the oldest by %v", s, len(ages), worst)
}

// excused: while the driver of one GPU hangs, the older daemon reads none.
func (s *site) excused(t time.Time) bool {
	return strings.HasPrefix(s.version, "0.4") && within(t, s.hung, 0, 2*time.Second)
}

// within tells whether t lies in a span whose beginning and end are moved on.
func within(t time.Time, spans []span, begin, end time.Duration) bool {
	for _, s := range spans {
		if t.After(s.from.Add(begin)) && t.Before(s.to.Add(end)) {
			return true
		}
	}
	return false
}

// clockAge is how old the power of the GPU is that draws what the clock says, if
// it was drawing that.
func clockAge(st *state) (age time.Duration, ok bool) {
	mw := st.MeasuredW["clock"] * 1e3
	if mw == 300_000 || math.Abs(mw-math.Round(mw)) > 1e-6 {
		return 0, false
	}
	ms := (st.WallTime.UnixMilli() - int64(math.Round(mw)) + clockMW) % clockSpan
	if ms > clockSpan/2 {
		ms -= clockSpan
	}
	return time.Duration(ms) * time.Millisecond, true
}

// checkAnotherListener: somebody opens a stream and forgets it, before the run or
// during it, and no power changes. Nothing is stale.
func (s *site) checkAnotherListener(ctx context.Context, r *report, during bool) error {
	if err := s.setGPUs(gpu{power: "300000"}, gpu{power: strconv.Itoa(steadyMW)}); err != nil {
		return err
	}
	what := "with another listener and constant power"
	if during {
		what += ", who came during the run"
	}
	var other net.Conn
	listen := func() (err error) {
		if other, err = s.dial(ctx); err != nil {
			return err
		}
		_, err = io.WriteString(other, "GET /gpu/stream_power HTTP/1.1\r\nHost: x\r\n\r\n")
		return err
	}
	defer func() {
		if other != nil {
			_ = other.Close()
		}
	}()
	if !during {
		if err := errors.Join(listen(), backoff.Sleep(ctx, time.Second)); err != nil {
			return err
		}
	}
	states, _, err := s.run(ctx, func(ctx context.Context) error {
		if during {
			if err := errors.Join(backoff.Sleep(ctx, 3*time.Second), listen()); err != nil {
				return err
			}
		}
		return backoff.Sleep(ctx, 15*time.Second)
	})
	if err != nil {
		r.that(false, "%s: %s: %v", s, what, err)
		return nil
	}
	stale := 0
	for i := range states {
		if len(states[i].StaleS) > 0 {
			stale++
		}
	}
	r.that(stale == 0 && len(states) > 100, "%s: %s, stale in %d of %d states", s, what, stale, len(states))
	return nil
}
