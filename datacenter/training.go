package datacenter

import (
	"cmp"
	"fmt"
	"slices"
)

// TrainingTrace is the power of one GPU of a training job over time.
type TrainingTrace struct {
	// TS are the sample times in seconds, ascending, at least two.
	TS []float64
	// PowerW is the power at each time in watts, never negative.
	PowerW []float64
}

// TrainingRun is a training job that runs beside the served models.
type TrainingRun struct {
	// NGPUs is the number of GPUs the job runs on, above 0.
	NGPUs int
	// TargetPeakWPerGPU is the power, in watts, that the peak of Trace is
	// scaled to.
	TargetPeakWPerGPU float64
	// TStartS and TEndS bound the job, both inclusive; the trace repeats from
	// its beginning as often as needed.
	TStartS, TEndS float64
	Trace          TrainingTrace
}

// Validate returns what is wrong with the run, wrapping [ErrInvalidInput].
func (r *TrainingRun) Validate() error {
	switch {
	case r.NGPUs <= 0:
		return fmt.Errorf("%w: n_gpus must be > 0, got %d", ErrInvalidInput, r.NGPUs)
	case !isFinite(r.TargetPeakWPerGPU) || r.TargetPeakWPerGPU < 0:
		return fmt.Errorf("%w: target_peak_w_per_gpu must be a finite number >= 0, got %v", ErrInvalidInput, r.TargetPeakWPerGPU)
	case !isFinite(r.TStartS) || !isFinite(r.TEndS):
		return fmt.Errorf("%w: t_start and t_end must be finite, got %v and %v", ErrInvalidInput, r.TStartS, r.TEndS)
	case r.TEndS < r.TStartS:
		return fmt.Errorf("%w: t_end (%v) must be >= t_start (%v)", ErrInvalidInput, r.TEndS, r.TStartS)
	}
	return nil
}

// TrainingSchedule is a set of training runs in order of their start; runs that
// start together keep the order they were given in. It may be empty.
type TrainingSchedule []TrainingRun

// NewTrainingSchedule returns the runs sorted into a schedule.
func NewTrainingSchedule(runs ...TrainingRun) TrainingSchedule {
	s := slices.Clone(runs)
	slices.SortStableFunc(s, func(a, b TrainingRun) int { return cmp.Compare(a.TStartS, b.TStartS) })
	return s
}
