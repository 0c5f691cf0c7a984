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

// ServedReplay is a replay that may be watched and commanded from any goroutine
// while it runs: as a [Stepper] in real time, or step by step as the part of a
// [LockstepReplay]. Commands between two steps give the states that the same commands
// give in the replay's script.
type ServedReplay struct {
	// driven: it is driven step by step, and may be commanded after its last one.
	driven bool

	mu         sync.Mutex // guards what follows
	replay     *Replay
	phase      Phase
	lastStepAt time.Time
}

// NewServedReplay serves a replay in real time.
func NewServedReplay(r *Replay) *ServedReplay {
	return &ServedReplay{replay: r, phase: PhaseStarting}
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
	case errors.Is(err, io.EOF) && s.driven: // there may be commands, and a reset
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

// Apply implements [Controllable].
func (s *ServedReplay) Apply(_ context.Context, command datacenter.Command) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.refuseIfOver(); err != nil {
		return err
	}
	return s.replay.Apply(command)
}

// refuseIfOver refuses commands to a run that is over. Who drives a replay may command
// after its last step too, as in OpenG2G: a controller does so at the very end.
func (s *ServedReplay) refuseIfOver() error {
	if s.phase == PhaseEnded || !s.driven && s.currentPhase() == PhaseEnded {
		return refuse("command", datacenter.ErrRunOver, "the replay is over")
	}
	return nil
}

// Status implements [Controllable].
func (s *ServedReplay) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status()
}

// status is Status; mu is held.
func (s *ServedReplay) status() Status {
	r := s.replay
	status := r.status()
	status.AtEnd = config.AtEndContinue
	if !r.Endless() {
		status.AtEnd, status.DurationS, status.TotalSteps = config.AtEndStop, r.duration.Float64(), r.steps
	}
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
