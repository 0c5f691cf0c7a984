package agent

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// ServedReplay is a replay that may be watched and commanded from any goroutine
// while it runs: as a [Stepper] in real time, or step by step by
// [ServedReplay.Advance]. Commands between two steps give the states that the
// same commands give in the replay's script.
type ServedReplay struct {
	lockstep bool
	emit     func(*datacenter.State) error
	turn     chan struct{} // holds one while an Advance is under way, and after End
	ended    chan struct{} // closed by End

	mu         sync.Mutex // guards what follows
	replay     *Replay
	phase      Phase
	lastStepAt time.Time
}

// NewServedReplay serves a replay in real time.
func NewServedReplay(r *Replay) *ServedReplay {
	return &ServedReplay{replay: r, phase: PhaseStarting}
}

// NewLockstepReplay serves a replay that [ServedReplay.Advance] drives. Each
// state is handed to emit before Advance returns it.
func NewLockstepReplay(r *Replay, emit func(*datacenter.State) error) *ServedReplay {
	return &ServedReplay{replay: r, phase: PhaseWaiting, lockstep: true, emit: emit, turn: make(chan struct{}, 1), ended: make(chan struct{})}
}

// Step implements [Stepper].
func (s *ServedReplay) Step(due time.Time) (*datacenter.State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.endLeases()
	var state *datacenter.State
	if err == nil {
		state, err = s.replay.Step(due)
	}
	switch {
	case err != nil:
		s.phase = PhaseEnded
	case s.phase == PhaseStarting:
		s.phase = PhaseStepping
	}
	s.lastStepAt = time.Now()
	return state, err
}

// endLeases takes back what was leased for until the next step, if there is one.
func (s *ServedReplay) endLeases() error {
	r := s.replay
	if s.currentPhase() == PhaseEnded {
		return nil
	}
	for _, m := range r.endBatchSizeLeases() {
		model := &r.cfg.Models[m]
		if err := r.setBatchSizes(datacenter.SetBatchSize{BatchSizeByModel: map[string]int{model.ModelLabel: model.Failsafe()}}); err != nil {
			return err
		}
	}
	r.endShiftLeases()
	return nil
}

// Advance computes the next n states, fewer at the end of the replay and none
// after it. One call waits for another; a call whose ctx is done returns its
// cause, after the step it has begun. [ServedReplay.End] is an end like the
// replay's own.
func (s *ServedReplay) Advance(ctx context.Context, n int) ([]*datacenter.State, error) {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-s.ended:
		return nil, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	states := make([]*datacenter.State, 0, n)
	for range n {
		select {
		case <-s.ended:
			return states, nil
		case <-ctx.Done():
			return states, context.Cause(ctx)
		default:
		}
		state, err := s.Step(time.Time{})
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = s.emit(state)
		}
		if err != nil {
			return states, err
		}
		states = append(states, state)
	}
	return states, nil
}

// End ends a replay that Advance drives, once: it waits for the step that a call
// under way has begun, and none is computed any more.
func (s *ServedReplay) End() {
	close(s.ended)
	s.turn <- struct{}{} // for good
	s.mu.Lock()
	defer s.mu.Unlock()
	s.phase = PhaseEnded
}

// Apply implements [Controllable].
func (s *ServedReplay) Apply(_ context.Context, command datacenter.Command) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.currentPhase() == PhaseEnded {
		return refuse("command", datacenter.ErrNotPossible, "the replay is over")
	}
	return s.replay.Apply(command)
}

// Status implements [Controllable].
func (s *ServedReplay) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	status := s.replay.status()
	status.Phase, status.LastStepAt = s.currentPhase(), s.lastStepAt
	return status
}

// currentPhase is the phase, which is the last one from the last step on.
func (s *ServedReplay) currentPhase() Phase {
	if s.replay.step >= s.replay.steps {
		return PhaseEnded
	}
	return s.phase
}
