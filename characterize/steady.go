package characterize

import (
	"math"

	"github.com/g2g-agent/g2g-agent/internal/npmath"
)

// Power and latency are taken for steady if they drift by no more than this over the
// window, as shares of their means.
const (
	powerTolerance = 0.01
	itlTolerance   = 0.03
)

// longestWindow is how many times the steady window is extended to see through noise.
const longestWindow = 16

// Drift is how a quantity moves over a stretch of time: the mean of the second half
// less that of the first, and the standard error of that, as shares of the mean of
// all. NaN for fewer than four values.
type Drift struct {
	Share         float64
	StandardError float64
}

// driftOf is the drift over values at equal distances. Of an odd number the middle one
// is left out.
func driftOf(values []float64) Drift {
	half := len(values) / 2
	if half < 2 {
		return Drift{math.NaN(), math.NaN()}
	}
	first, second := values[:half], values[len(values)-half:]
	mean := npmath.Mean(values)
	a, b := npmath.Std(first), npmath.Std(second)
	n := float64(half)
	// Std divides by n; the variance of a mean is s²/n with s² over n-1.
	variance := (float64(a*a) + float64(b*b)) / (n - 1)
	return Drift{(npmath.Mean(second) - npmath.Mean(first)) / mean, math.Sqrt(variance) / math.Abs(mean)}
}

// steady reports whether the drift is within tolerance, or cannot be told from noise,
// while the noise is small enough for a drift to be seen.
func (d Drift) steady(tolerance float64) bool {
	return d.StandardError <= tolerance && math.Abs(d.Share) <= max(tolerance, 2*d.StandardError)
}

// series are the values of one-by-one stretches of time, side by side.
type series struct{ powerW, itlS []float64 }

func (s *series) add(powerW, itlS float64) {
	s.powerW, s.itlS = append(s.powerW, powerW), append(s.itlS, itlS)
}

// drifts are those over the latest n stretches.
func (s *series) drifts(n int) (power, itl Drift) {
	return driftOf(s.powerW[len(s.powerW)-n:]), driftOf(s.itlS[len(s.itlS)-n:])
}

// steady reports whether power and latency were steady over the latest n stretches, or,
// where noise hides that, over twice as many, four times as many and so on.
func (s *series) steady(n int) bool {
	for factor := 1; factor <= longestWindow && n*factor <= len(s.powerW); factor *= 2 {
		power, itl := s.drifts(n * factor)
		if power.steady(powerTolerance) && itl.steady(itlTolerance) {
			return true
		}
	}
	return false
}
