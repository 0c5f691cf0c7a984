package workload

import (
	"fmt"
	"math"
)

// ITLHistogram is the distribution of measured inter-token latencies, in bars that are
// even on a logarithmic axis.
type ITLHistogram struct {
	// Samples is how many latencies there were, and MeanS their mean in seconds.
	Samples int     `json:"samples"`
	MeanS   float64 `json:"mean_s"`
	// Bar i is from 10^(FromDecade + i·Decades) seconds to that of i + 1, and
	// Counts[i] of the latencies are in it.
	FromDecade float64 `json:"from_decade"`
	Decades    float64 `json:"decades"`
	Counts     []int   `json:"counts"`
}

// How a histogram is made: of bins that are finer than what is seen, put together to no
// more than so many bars. Latencies that are all within aloneDecades have one bar.
const (
	fineBins     = 1 << 16
	mostBars     = 400
	aloneDecades = 0.01
	leastDecades = 1e-9
)

// NewITLHistogram counts the latencies of several runs, in seconds; those that are not
// finite and above 0 are left out. It is nil if none is left. The width of the bars is
// for the latencies without a thousandth at each end, so that a single one far off does
// not make it coarse.
func NewITLHistogram(runsS ...[]float64) *ITLHistogram {
	h := &ITLHistogram{}
	shortest, longest, sum := math.Inf(1), 0.0, 0.0
	for _, run := range runsS {
		for _, v := range run {
			if v > 0 && !math.IsInf(v, 1) {
				h.Samples++
				shortest, longest, sum = min(shortest, v), max(longest, v), sum+v
			}
		}
	}
	if h.Samples == 0 {
		return nil
	}
	n := float64(h.Samples)
	if h.MeanS = sum / n; math.IsInf(h.MeanS, 1) {
		h.MeanS = longest // the sum is beyond the largest number
	}
	low, high := float64(math.Log10(shortest)), float64(math.Log10(longest)) // the product that each ends with
	h.FromDecade = low
	length := high - low
	if length < leastDecades {
		h.FromDecade, h.Decades, h.Counts = low-aloneDecades/2, aloneDecades, []int{h.Samples}
		return h
	}
	fine := make([]int, fineBins)
	lowest, perBin := math.Log(shortest), fineBins/(length*math.Ln10)
	for _, run := range runsS {
		for _, v := range run {
			if v > 0 && !math.IsInf(v, 1) {
				at := int((math.Log(v) - lowest) * perBin) // there are many: Log takes half as long as Log10
				fine[min(max(at, 0), fineBins-1)]++
			}
		}
	}
	from, to := withoutTails(fine, h.Samples/1000)
	spread := float64(to-from) / fineBins * length
	width := max(spread/max(2*math.Cbrt(n), 1), length/mostBars)
	together := max(int(math.Ceil(float64(width/length*fineBins)-1e-6)), 1)
	h.Decades = length / fineBins * float64(together)
	h.Counts = make([]int, (fineBins+together-1)/together)
	for i, count := range fine {
		h.Counts[i/together] += count
	}
	return h
}

// withoutTails are the bins that have all but so many at each end.
func withoutTails(bins []int, tail int) (from, to int) {
	from, to = 0, len(bins)
	for sum := bins[from]; sum <= tail; sum += bins[from] {
		from++
	}
	for sum := bins[to-1]; sum <= tail; sum += bins[to-1] {
		to--
	}
	return from, to
}

// validate refuses what is no histogram.
func (h *ITLHistogram) validate() error {
	const most = 10 * mostBars
	switch {
	case len(h.Counts) == 0 || len(h.Counts) > most:
		return fmt.Errorf("counts has %d elements, want 1 to %d", len(h.Counts), most)
	case !(h.MeanS > 0):
		return fmt.Errorf("mean_s is %v, want more than 0", h.MeanS)
	case !(math.Abs(h.FromDecade) <= 400) || !(h.Decades > 0 && h.Decades <= 400):
		return fmt.Errorf("from_decade is %v and decades %v, want at most 400, and decades above 0", h.FromDecade, h.Decades)
	}
	left := h.Samples
	for _, count := range h.Counts {
		if count < 0 || count > left {
			return fmt.Errorf("counts are not those of %d samples", h.Samples)
		}
		left -= count
	}
	if h.Samples < 1 || left != 0 {
		return fmt.Errorf("counts are not those of %d samples", h.Samples)
	}
	return nil
}
