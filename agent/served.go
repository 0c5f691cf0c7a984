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
	if err := s.endLeases(); err != nil {
		return nil, err
	}
	state, err := s.replay.Step(due)
	switch {
	case err != nil:
		s.phase = PhaseEnded
	case s.phase == PhaseStarting:
		s.phase = PhaseStepping
	}
	s.lastStepAt = time.Now()
	return state, err
}

func (s *ServedReplay) endLeases() error {
	r := s.replay
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
// cause, after the step it has begun.
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
		if ctx.Err() != nil {
			return states, context.Cause(ctx)
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

// End ends a replay that Advance drives, once: it waits for a call under way, and
// later ones compute nothing.
func (s *ServedReplay) End() {
	s.turn <- struct{}{} // for good
	close(s.ended)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.phase = PhaseEnded
}

// Apply implements [Site].
func (s *ServedReplay) Apply(_ context.Context, command datacenter.Command) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase == PhaseEnded {
		return refuse("command", datacenter.ErrNotPossible, "the replay is over")
	}
	return s.replay.Apply(command)
}

// Status implements [Site].
func (s *ServedReplay) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	status := s.replay.status()
	status.Phase, status.LastStepAt = s.phase, s.lastStepAt
	if s.phase != PhaseEnded && s.replay.step >= s.replay.steps {
		status.Phase = PhaseEnded
	}
	return status
}
