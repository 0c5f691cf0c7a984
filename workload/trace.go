package workload

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/npmath"
)

// minTraceSamples is the fewest samples an inference trace may have.
const minTraceSamples = 5

// InferenceTrace is the measured power of one model at one batch size.
type InferenceTrace struct {
	// TS are the sample times in seconds, ascending.
	TS []float64
	// PowerW is the power of all measured GPUs together at each time, in watts.
	PowerW []float64
	// MeasuredGPUs is the number of GPUs measured, at least 1.
	MeasuredGPUs int
	// Origin is where the trace was read from, for messages.
	Origin string
}

// sortByTime puts samples in order of time, keeping the order of those that
// share one.
func sortByTime(tS, powerW []float64) {
	if slices.IsSorted(tS) {
		return
	}
	order := make([]int, len(tS))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(tS[a], tS[b]) })
	t, p := slices.Clone(tS), slices.Clone(powerW)
	for i, from := range order {
		tS[i], powerW[i] = t[from], p[from]
	}
}

// perGPU is a trace made ready for templates: watts per GPU over one period.
type perGPU struct {
	tS     []float64 // from 0, ascending; the last is the period
	powerW []float64
}

// perGPU divides the trace by its GPUs, clips it at 0 and drops the first
// steadySkipS seconds, unless that would leave five samples or fewer. It fails
// for a trace without time span.
func (tr *InferenceTrace) perGPU(steadySkipS float64) (perGPU, error) {
	t := tr.TS
	skipped := 0
	if steadySkipS > 0 {
		i, _ := slices.BinarySearch(t, t[0]+steadySkipS)
		if i < len(t)-minTraceSamples {
			skipped = i
		}
	}
	t = t[skipped:]
	out := perGPU{tS: make([]float64, len(t)), powerW: make([]float64, len(t))}
	for i := range t {
		out.tS[i] = t[i] - t[0]
		out.powerW[i] = max(tr.PowerW[skipped+i]/float64(tr.MeasuredGPUs), 0)
	}
	if last := out.tS[len(t)-1]; !(last > 0) {
		return perGPU{}, fmt.Errorf("%w: %s: the trace has no time span: all its times are %v", datacenter.ErrInvalidInput, tr.Origin, t[0])
	}
	return out, nil
}

// Grid is the time grid of a run, which templates are laid on.
type Grid struct {
	DT       datacenter.Seconds
	Duration datacenter.Seconds
	// SteadySkipS is dropped from the start of every trace, to leave out
	// warm-up, in seconds.
	SteadySkipS float64
}

// templateLen is the number of samples of every template on the grid.
func (g Grid) templateLen() int {
	return int(math.Ceil(g.Duration.Float64()/g.DT.Float64())) + 1
}

// template returns the power of one GPU, in watts, at each point of the grid:
// the trace repeated over the run, linearly interpolated.
func (tr *InferenceTrace) template(grid Grid) ([]float64, error) {
	one, err := tr.perGPU(grid.SteadySkipS)
	if err != nil {
		return nil, err
	}
	template := make([]float64, grid.templateLen())
	npmath.InterpPeriodic(template, grid.DT.Float64(), one.tS, one.powerW)
	for i, v := range template {
		template[i] = max(v, 0)
	}
	return template, nil
}

// Timeline is the power of all GPUs of one benchmark run.
type Timeline struct {
	TS     []float64 // relative to the run's start, in seconds
	PowerW []float64
}

// MedianTrace merges repeated runs into one trace: each is interpolated on a
// grid of step dtS up to the median of their end times, and the median over the
// runs is taken point by point. Runs of fewer than two samples are left out. It
// fails, wrapping [datacenter.ErrInvalidInput], when none remains.
func MedianTrace(runs []Timeline, dtS float64, measuredGPUs int) (*InferenceTrace, error) {
	var kept []Timeline
	var ends []float64
	for _, r := range runs {
		if len(r.TS) < 2 {
			continue
		}
		r = Timeline{slices.Clone(r.TS), slices.Clone(r.PowerW)}
		sortByTime(r.TS, r.PowerW)
		kept = append(kept, r)
		ends = append(ends, r.TS[len(r.TS)-1])
	}
	if len(kept) == 0 {
		return nil, fmt.Errorf("%w: no run has the two samples a timeline needs", datacenter.ErrInvalidInput)
	}
	// The grid includes an end that is a multiple of the step.
	const endTolerance = 1e-12
	grid := npmath.Arange(npmath.Median(ends)+endTolerance, dtS)
	trace := &InferenceTrace{TS: grid, PowerW: make([]float64, len(grid)), MeasuredGPUs: measuredGPUs}
	atOnce := make([]float64, len(kept))
	for i, t := range grid {
		for r := range kept {
			atOnce[r] = npmath.Interp(t, kept[r].TS, kept[r].PowerW)
		}
		trace.PowerW[i] = npmath.Median(atOnce)
	}
	return trace, nil
}
