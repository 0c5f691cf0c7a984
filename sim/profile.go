package sim

import (
	"errors"
	"fmt"
	"math"
	"strings"
)

// Level is how a model runs at one batch size.
type Level struct {
	// BatchSize is the number of running sequences.
	BatchSize int
	// PowerWPerGPU is the power of each of the replica's GPUs, in watts.
	PowerWPerGPU float64
	// ITLS is the time per token of a sequence while nothing stalls it, in
	// seconds: the mean of the steady part, not counting prefills.
	ITLS float64
}

// Profile says how a model behaves by its running batch: linear between the
// levels, held below the first and above the last.
type Profile struct {
	// Levels are ordered by batch size, which rises.
	Levels []Level
	// IdleWPerGPU is the power per GPU while nothing runs, in watts.
	IdleWPerGPU float64
	// PrefillS is what each new request adds to the iteration that takes it in,
	// in seconds: a stall for all that run.
	PrefillS float64
	// PrefillsPerIteration bounds how many requests one iteration takes in; 0
	// means any number.
	PrefillsPerIteration int
	// ITLSigma is the sigma of the lognormal spread of an iteration's time around
	// its mean; 0 makes all equal.
	ITLSigma float64
}

// LookUpProfile returns the profile of a model: Llama-3.1-8B on one H100,
// Llama-3.1-70B on four, or Llama-3.1-405B on eight, by the size in the name.
//
// The power levels and latencies follow what the ML.ENERGY Benchmark v3
// published. ITLS is the mean of the steady component of its latency fits;
// PrefillS is such that under a closed loop with 512 tokens a request the mean
// with stalls comes near that of the whole fit.
func LookUpProfile(modelID string) (Profile, bool) {
	id := strings.ToLower(modelID)
	switch {
	case strings.Contains(id, "405b"):
		return Profile{
			Levels: []Level{
				{8, 399.9, 0.03321}, {16, 416.4, 0.03405}, {32, 462.1, 0.03635},
				{64, 515.8, 0.03963}, {128, 566.8, 0.06099}, {256, 597.0, 0.08855},
			},
			IdleWPerGPU: 110, PrefillS: 0.078, PrefillsPerIteration: 16, ITLSigma: 0.1,
		}, true
	case strings.Contains(id, "70b"):
		return Profile{
			Levels: []Level{
				{8, 437.7, 0.01658}, {16, 440.0, 0.01771}, {32, 437.8, 0.02006}, {64, 489.2, 0.02254},
				{128, 532.7, 0.02854}, {256, 581.0, 0.04589}, {512, 617.9, 0.07859},
			},
			IdleWPerGPU: 110, PrefillS: 0.026, PrefillsPerIteration: 16, ITLSigma: 0.1,
		}, true
	case strings.Contains(id, "-8b"):
		return Profile{
			Levels: []Level{
				{8, 476.4, 0.00733}, {16, 501.0, 0.00795}, {32, 549.2, 0.00904}, {64, 598.6, 0.01164},
				{128, 657.0, 0.01687}, {256, 672.7, 0.02688}, {512, 676.7, 0.04878},
			},
			IdleWPerGPU: 110, PrefillS: 0.008, PrefillsPerIteration: 16, ITLSigma: 0.1,
		}, true
	}
	return Profile{}, false
}

func (p *Profile) check() error {
	if len(p.Levels) == 0 {
		return errors.New("profile has no levels")
	}
	for i, l := range p.Levels {
		switch {
		case l.BatchSize < 1 || i > 0 && l.BatchSize <= p.Levels[i-1].BatchSize:
			return fmt.Errorf("profile level %d: batch size %d: need 1 or more, rising", i, l.BatchSize)
		case !(l.PowerWPerGPU >= 0) || math.IsInf(l.PowerWPerGPU, 1):
			return fmt.Errorf("profile level %d: power %v W: need 0 or more", i, l.PowerWPerGPU)
		case !(l.ITLS > 0 && l.ITLS <= 3600):
			return fmt.Errorf("profile level %d: ITL %v s: need more than 0", i, l.ITLS)
		}
	}
	switch {
	case !(p.IdleWPerGPU >= 0) || math.IsInf(p.IdleWPerGPU, 1):
		return fmt.Errorf("profile idle power %v W: need 0 or more", p.IdleWPerGPU)
	case !(p.PrefillS >= 0 && p.PrefillS <= 3600):
		return fmt.Errorf("profile prefill %v s: need 0 or more", p.PrefillS)
	case p.PrefillsPerIteration < 0:
		return fmt.Errorf("profile prefills per iteration %d: need 0 (any) or more", p.PrefillsPerIteration)
	case !(p.ITLSigma >= 0 && p.ITLSigma <= 5):
		return fmt.Errorf("profile ITL sigma %v: need 0 to 5", p.ITLSigma)
	}
	return nil
}

// at interpolates the levels; n is at least 1.
func (p *Profile) at(n int) (powerW, itlS float64) {
	levels := p.Levels
	for i, l := range levels {
		if n > l.BatchSize {
			continue
		}
		if i == 0 || n == l.BatchSize {
			return l.PowerWPerGPU, l.ITLS
		}
		low := levels[i-1]
		x := float64(n-low.BatchSize) / float64(l.BatchSize-low.BatchSize)
		return low.PowerWPerGPU + x*(l.PowerWPerGPU-low.PowerWPerGPU), low.ITLS + x*(l.ITLS-low.ITLS)
	}
	last := levels[len(levels)-1]
	return last.PowerWPerGPU, last.ITLS
}

// PowerWPerGPU returns the power per GPU, in watts, with n sequences running.
func (p *Profile) PowerWPerGPU(n int) float64 {
	if n < 1 || len(p.Levels) == 0 {
		return p.IdleWPerGPU
	}
	powerW, _ := p.at(n)
	return powerW
}

// itlS returns the mean time per token without stalls, in seconds, with n
// sequences running; n below 1 is taken as 1.
func (p *Profile) itlS(n int) float64 {
	if len(p.Levels) == 0 {
		return 0
	}
	_, itlS := p.at(max(n, 1))
	return itlS
}
