package agent

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/datacenter"
)

// MaxSteps is how many steps a replay is advanced by at most at a time.
const MaxSteps = 10_000

// Advance says how to go on with a replay that is driven step by step.
type Advance struct {
	// Commands are checked whole and carried out before the first step, all or none.
	Commands []datacenter.Command
	// Steps is the number of steps, at most [MaxSteps].
	Steps int
	// UntilS, unless it is nil, is the time in seconds of the last step in place of Steps.
	UntilS *float64
}

// AdvanceError is a refused command among those of an [Advance].
type AdvanceError struct {
	// Index is that of the command.
	Index int
	*datacenter.CommandError
}

func (e *AdvanceError) Unwrap() error { return e.CommandError }

// LockstepReplay is a replay that is driven step by step by [LockstepReplay.Advance],
// and begun anew by [LockstepReplay.Reset], from any goroutines: one of them at a time
// has its turn.
type LockstepReplay struct {
	*ServedReplay
	setup *Setup
	hooks LockstepHooks
	turn  chan struct{} // holds one while it is somebody's, and after End
	ended chan struct{} // closed by End
}

// LockstepHooks are told of what becomes of a replay in lockstep, one at a time.
type LockstepHooks struct {
	// Emit is given each state before who asked for it has it.
	Emit func(*datacenter.State) error
	// MayReset says why a run of so many steps cannot be begun anew; nil: it always can.
	MayReset func(steps int64) error
	// Began is told of a run that was begun anew, before anything of it can be seen; nil:
	// nobody is.
	Began func(Status)
}

// NewLockstepReplay serves the replay of a setup.
func NewLockstepReplay(s *Setup, hooks LockstepHooks) *LockstepReplay {
	return &LockstepReplay{
		ServedReplay: &ServedReplay{replay: s.Replay, phase: PhaseWaiting, driven: true},
		setup:        s, hooks: hooks, turn: make(chan struct{}, 1), ended: make(chan struct{}),
	}
}

// take waits for a turn; the error is ctx's cause, or errEnded. give ends it.
func (l *LockstepReplay) take(ctx context.Context) error {
	select {
	case <-l.ended: // for good
		return errEnded
	default:
	}
	select {
	case l.turn <- struct{}{}:
		return nil
	case <-l.ended:
		return errEnded
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (l *LockstepReplay) give() { <-l.turn }

var errEnded = errors.New("the replay was ended")

// Advance carries out commands and computes the next states, fewer at the end of the
// replay and none after it, and hands each to each; it returns how many. One call waits
// for another. A call whose ctx is done returns its cause, after the step it has begun.
// [LockstepReplay.End] is an end like the replay's own. An error of each is returned. Refused
// commands are an [*AdvanceError], of which nothing has been done then, and too many steps a
// [*datacenter.CommandError].
func (l *LockstepReplay) Advance(ctx context.Context, a Advance, each func(*datacenter.State) error) (steps int, err error) {
	switch err := l.take(ctx); {
	case errors.Is(err, errEnded) && len(a.Commands) == 0:
		return 0, nil
	case errors.Is(err, errEnded):
		return 0, &AdvanceError{0, &datacenter.CommandError{Field: "command", Reason: datacenter.ErrRunOver, Detail: "the replay is over"}}
	case err != nil:
		return 0, err
	}
	defer l.give()
	most, err := l.begin(a)
	if err != nil {
		return 0, err
	}
	for ; steps < most; steps++ {
		select {
		case <-l.ended:
			return steps, nil
		case <-ctx.Done():
			return steps, context.Cause(ctx)
		default:
		}
		state, err := l.Step(time.Time{})
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = l.hooks.Emit(state)
		}
		if err != nil {
			return steps, &StepError{err}
		}
		if err := each(state); err != nil {
			return steps + 1, err
		}
	}
	return steps, nil
}

// StepError is a step that could not be computed or handed to emit: the steps after it
// would fail too.
type StepError struct{ Err error }

func (e *StepError) Error() string { return e.Err.Error() }

func (e *StepError) Unwrap() error { return e.Err }

// begin carries out the commands and returns how many steps are to follow at most.
func (l *LockstepReplay) begin(a Advance) (most int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	most = a.Steps
	if a.UntilS != nil {
		if most, err = l.replay.stepsUntil(*a.UntilS); err != nil {
			return 0, err
		}
	}
	if len(a.Commands) == 0 {
		return most, nil
	}
	if err := l.refuseIfOver(); err != nil {
		var refused *datacenter.CommandError
		errors.As(err, &refused)
		return 0, &AdvanceError{0, refused}
	}
	return most, l.replay.applyAll(a.Commands)
}

// stepsUntil is the number of steps that are left up to a time, which may be too many.
func (r *Replay) stepsUntil(untilS float64) (int, error) {
	tooMany := r.step + MaxSteps
	if tooMany < r.steps && r.cfg.DT.Times(tooMany) <= untilS {
		return 0, refuse("until_s", datacenter.ErrOutOfRange,
			"%v s is more than %d steps away from the next one at %v s: ask for the time of one nearer", untilS, MaxSteps, r.nextStepS())
	}
	steps := 0
	for r.step+int64(steps) < min(r.steps, tooMany) && r.cfg.DT.Times(r.step+int64(steps)) <= untilS {
		steps++
	}
	return steps, nil
}

// Reset begins anew: as the config has it, but for the override. After an error, which is
// as that of [Setup.Renew] or of MayReset, all is as it was. It waits for an Advance under way.
func (l *LockstepReplay) Reset(ctx context.Context, o *config.Override) error {
	switch err := l.take(ctx); {
	case errors.Is(err, errEnded):
		return refuse("command", datacenter.ErrRunOver, "the replay is over: the agent is ending")
	case err != nil:
		return err
	}
	defer l.give()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.hooks.MayReset != nil {
		if err := l.hooks.MayReset(l.replay.step); err != nil {
			return err
		}
	}
	replay, err := l.setup.Renew(o)
	if err != nil {
		return err
	}
	l.replay, l.phase, l.lastStepAt = replay, PhaseWaiting, time.Time{}
	if l.hooks.Began != nil {
		l.hooks.Began(l.status())
	}
	return nil
}

// End ends the replay, once: it waits for the step that a call under way has begun, and
// none is computed any more.
func (l *LockstepReplay) End() {
	close(l.ended)
	l.turn <- struct{}{} // for good
	l.mu.Lock()
	defer l.mu.Unlock()
	l.phase = PhaseEnded
}
