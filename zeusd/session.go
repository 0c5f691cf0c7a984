package zeusd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
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
	watch     clockWatch
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
	refused  atomic.Bool   // optional, and not to be had

	opening opening // of a daemon that is asked by opening its stream anew
	missed  int     // questions in a row that showed changes the stream did not bring; under conn.mu
}

// session connects, reads until something breaks, and returns what did.
func (c *conn) session(ctx context.Context) error {
	defer c.peer.close()
	c.peer.token = c.target.Endpoint.Token.Key()
	s := &session{conn: c, watch: clockWatch{recheckWait: recheckFirst}}
	if err := s.prepare(ctx); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, r := range s.reads {
		group.Go(func() error { return s.runStream(ctx, r) })
		group.Go(func() error { return s.confirm(ctx, r) })
	}
	group.Go(func() error { return s.keepWatch(ctx) })
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
	if len(s.reads) > 0 && !s.discovery.PlainIDs {
		// Before the first reading, unless that takes long: it must be judged, too.
		ctx, cancel := s.peer.limit(ctx)
		s.learnRanges(ctx, s.reads[0].indices)
		cancel()
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
		err = fmt.Errorf("%s: GET /discover: %d CPUs with ids from %d, want at most %d from 0",
			s.peer.endpoint, len(cpus), slices.Min(cpus), maxDevices)
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
			s.devices[key] = &device{rangeW: defaultRange(CPU)}
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

// ignoreIfOptional returns nil if err is a refusal of what is optional, and notes it
// in the status; else it returns err.
func (s *session) ignoreIfOptional(r *read, err error) error {
	if status := (*StatusError)(nil); !r.optional || !errors.As(err, &status) {
		return err
	}
	s.setCPUError(err)
	r.refused.Store(true)
	return nil
}

// confirm has the daemon asked for devices that it is silent about.
func (s *session) confirm(ctx context.Context, r *read) error {
	if s.discovery.PlainIDs {
		return s.confirmByOpening(ctx, r)
	}
	return s.confirmByAsking(ctx, r)
}

// keepWatch looks after the clock, which is also how a daemon is known to live,
// and for GPUs that are missing.
func (s *session) keepWatch(ctx context.Context) error {
	tick := time.NewTicker(clockCheck)
	defer tick.Stop()
	rediscoverAt := time.Now().Add(rediscover)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if err := s.checkClock(ctx); err != nil {
			return err
		}
		if now := time.Now(); s.missing != nil && !now.Before(rediscoverAt) {
			rediscoverAt = now.Add(rediscover)
			if err := s.lookForMissing(ctx); err != nil {
				return err
			}
		}
	}
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
