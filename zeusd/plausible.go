package zeusd

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/g2g-agent/g2g-agent/power"
)

const (
	// mostGPUW is more than one GPU draws, in watts. It is below what 32 bits hold
	// in milliwatts, which is what a driver gives for no value.
	mostGPUW = 4000
	// mostCPUW is more than one CPU package draws, in watts.
	mostCPUW = 4000
	// leastGPUW is the least that zeusd can tell, in watts. A GPU that can be read
	// draws something; 0 is what is left of a value that is missing.
	leastGPUW = 0.001
	// leastLimitW is less than the largest power limit of any GPU, in watts.
	leastLimitW = 10
	// overLimit is how far beyond its power limit a GPU may be for a moment.
	overLimit = 2
)

// powerRange is the power that a device can draw, in watts.
type powerRange struct{ minW, maxW float64 }

func defaultRange(kind Kind) powerRange {
	if kind == CPU {
		return powerRange{0, mostCPUW}
	}
	return powerRange{leastGPUW, mostGPUW}
}

func (r powerRange) contains(powerW float64) bool { return powerW >= r.minW && powerW <= r.maxW }

// String says what is accepted.
func (r powerRange) String() string { return fmt.Sprintf("%v to %v W", r.minW, r.maxW) }

// gpuKey names a GPU of any daemon.
type gpuKey struct {
	endpoint Endpoint // an address
	index    int
}

// givenRanges are the ranges that targets give for their GPUs.
func givenRanges(targets []Target) (map[gpuKey]powerRange, error) {
	ranges := map[gpuKey]powerRange{}
	var errs []error
	for i, t := range targets {
		if t.PowerRangeW == [2]float64{} {
			continue
		}
		r := powerRange{t.PowerRangeW[0], t.PowerRangeW[1]}
		for _, p := range power.CheckRange(t.PowerRangeW[:]) {
			errs = append(errs, fmt.Errorf("zeusd target %d (%s): %s: %s", i, t.Endpoint, p.Key, p.Text))
		}
		for _, gpu := range t.GPUs {
			key := gpuKey{t.Endpoint.daemon(), gpu}
			if before, ok := ranges[key]; ok && before != r {
				errs = append(errs, fmt.Errorf("zeusd target %d (%s): another target gives GPU %d another power range", i, t.Endpoint, gpu))
			}
			ranges[key] = r
		}
	}
	return ranges, errors.Join(errs...)
}

// learnRanges asks the daemon for the largest power limits of GPUs whose range was
// not given: no reading is far beyond. What it does not tell stays as it is.
func (s *session) learnRanges(ctx context.Context, gpus []int) {
	s.mu.Lock()
	unknown := slices.DeleteFunc(slices.Clone(gpus), func(gpu int) bool { return s.devices[deviceKey{GPU, gpu}].rangeKnown })
	s.mu.Unlock()
	if len(unknown) == 0 {
		return
	}
	mostW, err := s.peer.powerLimits(ctx, unknown)
	if err != nil && len(mostW) == 0 && len(unknown) > 1 {
		for _, gpu := range unknown { // one that fails keeps the daemon from telling the others
			s.learnRanges(ctx, []int{gpu})
		}
		return
	}
	s.mu.Lock()
	for gpu, mostW := range mostW {
		d := s.devices[deviceKey{GPU, gpu}]
		d.rangeW.maxW, d.rangeKnown = overLimit*mostW, true
	}
	log := err != nil && ctx.Err() == nil && !s.logged["power limit"]
	s.logged["power limit"] = s.logged["power limit"] || log
	s.mu.Unlock()
	if log {
		s.log.Debug().Err(err).Float64("taken_w", mostGPUW).Msg("zeusd does not tell the power limit of a GPU; what one GPU can draw is taken")
	}
}
