package agent

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/datacenter"
)

// ServedRecorded is a run from a recording that may be watched from any goroutine while it
// runs, in real time as a [Stepper] or step by step by [ServedRecorded.Advance]. It takes no
// commands: what the recorded ones changed is part of the recording.
type ServedRecorded struct {
	driven bool
	hooks  LockstepHooks
	ended  chan struct{} // closed by End
	once   sync.Once

	turn       sync.Mutex // held while steps are computed in a row
	mu         sync.Mutex // guards what follows
	setup      *RecordedSetup
	phase      Phase
	lastStepAt time.Time
}

// NewServedRecorded serves a run from a recording in real time, or in lockstep if it is
// driven.
func NewServedRecorded(s *RecordedSetup, driven bool, hooks LockstepHooks) *ServedRecorded {
	phase := PhaseStarting
	if driven {
		phase = PhaseWaiting
	}
	return &ServedRecorded{setup: s, driven: driven, hooks: hooks, phase: phase, ended: make(chan struct{})}
}

// Step implements [Stepper].
func (s *ServedRecorded) Step(due time.Time) (*datacenter.State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	state, err := s.setup.Run.Step(due)
	switch {
	case err != nil:
		s.phase = PhaseEnded
	case s.phase == PhaseStarting:
		s.phase = PhaseStepping
	}
	s.lastStepAt = time.Now()
	return state, err
}

// Apply implements [Controllable]: a recorded run takes no commands.
func (*ServedRecorded) Apply(context.Context, datacenter.Command) error { return errRecorded() }

func errRecorded() *datacenter.CommandError {
	return &datacenter.CommandError{
		Field: "command", Reason: datacenter.ErrNotPossible,
		Detail: "a recording is run again as it was, and takes no commands: replay a data directory, or begin anew with another config",
	}
}

// Status implements [Controllable].
func (s *ServedRecorded) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status()
}

func (s *ServedRecorded) status() Status {
	status := s.setup.Run.status()
	status.AtEnd, status.Phase, status.LastStepAt = config.AtEndStop, s.phase, s.lastStepAt
	return status
}

// Comparison is how the states so far compare with the recorded ones.
func (s *ServedRecorded) Comparison() Comparison {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.setup.Run.Comparison()
}

// Advance computes the next states, fewer at the end of the recording, as
// [LockstepReplay.Advance] does. Commands are refused.
func (s *ServedRecorded) Advance(ctx context.Context, a Advance, each func(*datacenter.State) error) (steps int, err error) {
	if len(a.Commands) > 0 {
		return 0, &AdvanceError{0, errRecorded()}
	}
	s.turn.Lock()
	defer s.turn.Unlock()
	for a.UntilS != nil || steps < a.Steps {
		select {
		case <-s.ended:
			return steps, nil
		case <-ctx.Done():
			return steps, context.Cause(ctx)
		default:
		}
		if a.UntilS != nil {
			if done, err := s.reached(*a.UntilS, steps); done || err != nil {
				return steps, err
			}
		}
		state, err := s.Step(time.Time{})
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = s.hooks.Emit(state)
		}
		if err != nil {
			return steps, &StepError{err}
		}
		steps++
		if err := each(state); err != nil {
			return steps, err
		}
	}
	return steps, nil
}

// reached reports whether the next step is after a time.
func (s *ServedRecorded) reached(untilS float64, steps int) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.setup.Run.nextStepS() > untilS:
		return true, nil
	case steps >= MaxSteps:
		return true, refuse("until_s", datacenter.ErrOutOfRange, "%v s is more than %d steps away: ask for the time of one nearer", untilS, MaxSteps)
	}
	return false, nil
}

// Reset begins the recording anew, with what the override has otherwise.
func (s *ServedRecorded) Reset(ctx context.Context, o *config.Override) error {
	s.turn.Lock()
	defer s.turn.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hooks.MayReset != nil {
		if err := s.hooks.MayReset(s.setup.Run.outcome.Steps); err != nil {
			return err
		}
	}
	renewed, err := s.setup.Renew(context.WithoutCancel(ctx), o)
	if err != nil {
		return err
	}
	s.setup.Run.Close()
	s.setup, s.phase, s.lastStepAt = renewed, PhaseWaiting, time.Time{}
	if s.hooks.Began != nil {
		s.hooks.Began(s.status())
	}
	return nil
}

// End ends the run: no more steps are computed after the one under way.
func (s *ServedRecorded) End() {
	s.once.Do(func() { close(s.ended) })
	s.turn.Lock()
	defer s.turn.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.phase = PhaseEnded
	s.setup.Run.Close()
}
