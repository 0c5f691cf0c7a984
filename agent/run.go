package agent

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// Stepper computes states until it returns io.EOF.
type Stepper interface {
	// Step is given when the step is due, zero for one that follows no clock.
	Step(due time.Time) (*datacenter.State, error)
}

// lateAfter is how far behind its due time a step may start without being
// counted as late.
const lateAfter = 5 * time.Millisecond

// Timing tells how well a run kept to its times.
type Timing struct {
	Steps int64
	// LateSteps started more than 5 ms after they were due.
	LateSteps int64
	// MaxLateness is the longest any step started after it was due.
	MaxLateness time.Duration
	// Elapsed is the time from the first step's start to the last one's, in a paced
	// run.
	Elapsed time.Duration
}

// StepTiming tells how one step of a paced run kept to its time.
type StepTiming struct {
	// Lateness is how long after it was due the step started, Took how long
	// computing the state and handing it on took.
	Lateness, Took time.Duration
}

// Late reports whether the step counts as late.
func (t StepTiming) Late() bool { return t.Lateness > lateAfter }

// RunFast computes states as fast as it can until the end, an error, or ctx is
// done, and hands each to emit. It returns ctx's cause when ctx ended it.
func RunFast(ctx context.Context, s Stepper, emit func(*datacenter.State) error) (Timing, error) {
	var timing Timing
	for {
		if ctx.Err() != nil {
			return timing, context.Cause(ctx)
		}
		if done, err := stepOnce(s, time.Time{}, emit); done {
			return timing, err
		}
		timing.Steps++
	}
}

// RunPaced is RunFast in real time: step k is due at the start plus k*dt, and
// starts no earlier. A late step is counted and does not delay those after it.
// Each step's timing is handed to onStep, unless that is nil.
func RunPaced(ctx context.Context, s Stepper, dt datacenter.Seconds, emit func(*datacenter.State) error, onStep func(StepTiming)) (Timing, error) {
	return runPacedFrom(ctx, time.Now(), s, dt, emit, onStep)
}

// runPacedFrom is RunPaced with the time that step 0 is due.
func runPacedFrom(ctx context.Context, start time.Time, s Stepper, dt datacenter.Seconds, emit func(*datacenter.State) error, onStep func(StepTiming)) (Timing, error) {
	var timing Timing
	var first time.Time
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		due := start.Add(dueAfter(dt, timing.Steps))
		timer.Reset(time.Until(due))
		select {
		case <-ctx.Done():
			return timing, context.Cause(ctx)
		case <-timer.C:
		}
		// When steps are late both are ready, and there are to be no more.
		if ctx.Err() != nil {
			return timing, context.Cause(ctx)
		}
		now := time.Now()
		step := StepTiming{Lateness: now.Sub(due)}
		if timing.Steps == 0 {
			first = now
		}
		// Both clocks as they are now: the time of day may have been set since the start.
		if done, err := stepOnce(s, now.Add(-step.Lateness), emit); done {
			return timing, err
		}
		timing.Steps++
		timing.Elapsed = now.Sub(first)
		timing.MaxLateness = max(timing.MaxLateness, step.Lateness)
		if step.Late() {
			timing.LateSteps++
		}
		if onStep != nil {
			step.Took = time.Since(now)
			onStep(step)
		}
	}
}

// dueAfter is how long after step 0 a step is due.
func dueAfter(dt datacenter.Seconds, step int64) time.Duration {
	return time.Duration(dt.Times(step) * float64(time.Second))
}

// stepOnce reports whether the run is over, and why unless it came to its end.
func stepOnce(s Stepper, due time.Time, emit func(*datacenter.State) error) (done bool, err error) {
	state, err := s.Step(due)
	switch {
	case errors.Is(err, io.EOF):
		return true, nil
	case err != nil:
		return true, err
	}
	if err := emit(state); err != nil {
		return true, err
	}
	return false, nil
}
