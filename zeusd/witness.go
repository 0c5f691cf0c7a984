package zeusd

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// Whether a driver hangs is also told by the energy counters of its GPUs. They are
// the witness when a daemon before 0.5 says nothing, as it does while somebody else
// listens and no power changes.

const (
	// A counter is believed to say that a GPU still draws its last power if it rose
	// since a mark, by meterFraction or meterOffW of that at most more or less. The
	// mark is from markAgeLeast to markAgeMost old.
	meterFraction = 0.1
	meterOffW     = 5
	markAgeLeast  = 700 * time.Millisecond
	markAgeMost   = 10 * time.Second
)

// meterMark is an energy counter at one time.
type meterMark struct {
	mj float64
	at time.Time
}

// askEnergy asks the driver for energy counters, in millijoules. The failures are
// by GPU; that the driver answers is no error.
func (s *session) askEnergy(ctx context.Context, gpus []int) (mj map[int]float64, failures map[int]string, err error) {
	ctx, cancel := s.peer.limit(ctx)
	defer cancel()
	failures = map[int]string{}
	// One that fails keeps the daemon from telling the others.
	for rest := slices.Clone(gpus); len(rest) > 0; {
		mj, err = s.peer.energy(ctx, rest)
		status := (*StatusError)(nil)
		if err == nil {
			for _, gpu := range rest {
				if _, ok := mj[gpu]; !ok {
					failures[gpu] = "the answer lacks it"
				}
			}
		}
		if !errors.As(err, &status) || status.devices == nil {
			return mj, failures, err
		}
		left := slices.DeleteFunc(rest, func(gpu int) bool {
			why, failed := status.devices[gpu]
			if failed {
				failures[gpu] = why
			}
			return failed
		})
		if len(left) == len(rest) {
			return nil, failures, err // it fails because of others
		}
		rest = left
	}
	return mj, failures, nil
}

// learnMeters finds out which GPUs have an energy counter.
func (s *session) learnMeters(ctx context.Context, gpus []int) {
	mj, _, err := s.askEnergy(ctx, gpus)
	if err != nil {
		return // it is learnt when it is asked again
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for gpu := range mj {
		if d := s.devices[deviceKey{GPU, gpu}]; d != nil {
			d.hasEnergy = true
		}
	}
}

// markMeters reads the energy counters while nobody else listens, so that one who
// comes can be told from a driver that hangs.
func (s *session) markMeters(ctx context.Context, gpus []int) {
	s.mu.Lock()
	gpus = slices.DeleteFunc(slices.Clone(gpus), func(gpu int) bool { return !s.devices[deviceKey{GPU, gpu}].hasEnergy })
	s.mu.Unlock()
	sent := time.Now()
	mj, _, err := s.askEnergy(ctx, gpus)
	if err != nil {
		return // the next opening is the judge
	}
	now := sent.Add(time.Since(sent) / 2)
	s.mu.Lock()
	defer s.mu.Unlock()
	for gpu, mj := range mj {
		if d := s.devices[deviceKey{GPU, gpu}]; d != nil {
			d.mark = meterMark{mj, now}
		}
	}
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
	_, failures, err := s.askEnergy(ctx, asked)
	if err != nil {
		return s.noWitness(r, quiet, err)
	}
	if silent { // its driver does not hang, and a new listener got nothing
		s.mu.Lock()
		s.audiences[GPU].others = someOthers
		s.mu.Unlock()
	}
	for _, gpu := range quiet {
		s.witnessed(r, gpu, failures[gpu], sent)
	}
	return nil
}

// noWitness is what follows from a question for energy without an answer.
func (s *session) noWitness(r *read, gpus []int, err error) error {
	if errors.Is(err, ErrRefused) {
		return err
	}
	s.count(func(st *EndpointStatus) { st.FailedAsks++ })
	s.failAll(r, gpus, fmt.Errorf("%w; nor do the energy counters tell: %w", errSilent, err))
	return nil
}

// witnessed confirms the last power of a GPU whose driver answers, though perhaps
// only that the GPU has no energy counter. One that had a counter, or fails in any
// other way, is lost.
func (s *session) witnessed(r *read, gpu int, failure string, sent time.Time) {
	s.mu.Lock()
	d := s.devices[deviceKey{GPU, gpu}]
	lost := failure != "" && (d.hasEnergy || !saysNoMeter(failure))
	d.hasEnergy = d.hasEnergy || failure == ""
	last, known := s.lastPower(r, gpu)
	nonsense := d.nonsense
	s.mu.Unlock()
	switch {
	case lost:
		s.failEnergy(gpu, failure)
	case known && !nonsense:
		s.confirmed(GPU, last, sent)
	}
}

// saysNoMeter tells whether a GPU fails to tell its energy for the reason that it
// has no counter, in the words of NVML.
func saysNoMeter(failure string) bool {
	failure = strings.ToLower(failure)
	return strings.Contains(failure, "not available") || strings.Contains(failure, "not supported")
}

// lastPower is the power of a GPU as far as it was ever told; s.mu is held.
//
// What a stream began with is newer than what an earlier one told: in between the
// power may have changed.
func (s *session) lastPower(r *read, gpu int) (last devicePower, known bool) {
	at := slices.IndexFunc(r.opening.replayed, func(p devicePower) bool { return p.index == gpu })
	if at >= 0 && !r.opening.answered {
		return r.opening.replayed[at], true
	}
	if d := s.devices[deviceKey{GPU, gpu}]; d.known {
		return devicePower{index: gpu, powerMW: d.reading.PowerW * 1e3}, true
	}
	if at >= 0 {
		return r.opening.replayed[at], true
	}
	return devicePower{}, false
}

func (s *session) failEnergy(gpu int, failure string) {
	s.fail(deviceKey{GPU, gpu}, fmt.Errorf("%s: GPU %d: GET %s: %s", s.peer.endpoint, gpu, energyPath, failure))
}

// weighSilence is asked when an opening brought nothing although nobody else was
// known to listen: the driver of some GPU of the host hangs, or somebody came. That
// somebody came is told by energy counters that all go on rising by the last power.
// It returns an error if the daemon refuses us.
func (s *session) weighSilence(ctx context.Context, r *read) error {
	sent := time.Now()
	mj, failures, err := s.askEnergy(ctx, s.discovery.gpuIndices())
	if err != nil {
		return s.noWitness(r, r.indices, err)
	}
	now := sent.Add(time.Since(sent) / 2)
	var rising, hanging int
	asked := slices.Clone(r.indices)
	for _, gpu := range r.indices {
		if why := failures[gpu]; why != "" && !saysNoMeter(why) {
			s.failEnergy(gpu, why)
			asked = slices.DeleteFunc(asked, func(i int) bool { return i == gpu })
		} else if counterMJ, ok := mj[gpu]; ok {
			switch s.weigh(r, gpu, meterMark{counterMJ, now}) {
			case meterRises:
				rising++
			case meterDiffers:
				hanging++
			case meterUnknown:
				return nil // the next time it is known
			}
		}
	}
	if hanging > 0 || rising == 0 {
		s.failAll(r, asked, errSilent)
		return nil
	}
	s.mu.Lock()
	s.audiences[GPU] = audience{others: someOthers}
	s.mu.Unlock()
	for _, gpu := range asked {
		s.witnessed(r, gpu, failures[gpu], now)
	}
	return nil
}

// verdict is what an energy counter tells of a GPU's power.
type verdict uint8

const (
	meterNothing verdict = iota // there is no last power
	meterUnknown                // as yet
	meterRises                  // it is still the last one
	meterDiffers
)

// weigh compares a GPU's energy counter with its last power.
func (s *session) weigh(r *read, gpu int, current meterMark) verdict {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.devices[deviceKey{GPU, gpu}]
	d.hasEnergy = true
	last, known := s.lastPower(r, gpu)
	age := current.at.Sub(d.mark.at)
	switch {
	case !known:
		return meterNothing
	case d.mark.at.IsZero() || age > markAgeMost:
		d.mark = current
		return meterUnknown
	case age < markAgeLeast:
		return meterUnknown
	}
	meanMW := (current.mj - d.mark.mj) / age.Seconds()
	if math.Abs(meanMW-last.powerMW) > meterFraction*last.powerMW+meterOffW*1e3 {
		return meterDiffers
	}
	return meterRises
}
