package rig

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/g2g-agent/g2g-agent/vllm"
)

const (
	// commandTimeout is for a batch size to be set. The end of a run waits for a
	// command under way and then restores, and is to take less than 10 s.
	commandTimeout = 4 * time.Second
	// keepRetry is the time between two attempts to set a batch size that is to be
	// kept.
	keepRetry = time.Second
)

// withCommandTimeout bounds what a command to a server may take.
func withCommandTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, commandTimeout, fmt.Errorf("no answer within %v: %w", commandTimeout, context.DeadlineExceeded))
}

// order is a setting that somebody waits for the server to accept.
type order struct {
	ctx  context.Context //nolint:containedctx // it is the caller's, whose order travels to the loop
	want setting
	done chan<- orderResult // has room for one
}

type orderResult struct {
	told bool
	err  error
}

// look is what a look at a server brought.
type look struct {
	failed    bool // it does not answer as it should
	mayForget bool // it may have been restarted
}

// attempt is one command under way.
type attempt struct {
	want  setting
	keep  int    // the revision that it keeps, else 0
	order *order // that it carries out, else nil
	err   error
}

// order has the server accept a setting, unless it surely runs it: then it is not
// told. It fails if ctx is done before the server's turn comes.
func (s *Server) order(ctx context.Context, want setting) (told bool, err error) {
	if ctx.Err() != nil {
		return false, fmt.Errorf("not sent: %w", ctx.Err())
	}
	if !s.looping.Load() { // nobody else tells it anything
		if s.applied.surelyRuns(want, time.Now()) {
			return false, nil
		}
		err := s.send(ctx, want)
		s.note(want, err)
		return true, err
	}
	done := make(chan orderResult, 1)
	select {
	case s.orders <- order{ctx, want, done}:
		result := <-done
		return result.told, result.err
	case <-ctx.Done():
		return false, fmt.Errorf("not sent: the server has not answered the command before: %w", context.Cause(ctx))
	}
}

// note takes in what became of a command, and follows with the load.
func (s *Server) note(want setting, err error) {
	switch {
	case err == nil:
		s.applied.accept(want, time.Now())
		if !s.leaving.Load() { // else the load is about to end
			s.load.SetConcurrency(s.concurrencyFor(want.batchSize))
		}
	case OutcomeOf(err) == vllm.OutcomeUnknown:
		s.applied.leaveUnanswered()
	}
}

// OutcomeOf is what became of a command that a server did not carry out, as in
// [Result]; of several servers, what became of it at the first that failed.
func OutcomeOf(err error) Outcome {
	if failed := (*vllm.CommandError)(nil); errors.As(err, &failed) {
		return failed.Outcome
	}
	return vllm.OutcomeUnreachable
}

// Refused reports whether a server answered that it does not do what it was told, as
// [Result] tells of it: once more, it would answer the same.
func Refused(err error) bool {
	if several := (*ServersError)(nil); errors.As(err, &several) {
		return slices.ContainsFunc(several.Failed, func(f ServerError) bool { return OutcomeOf(f.Err) == vllm.OutcomeRefused })
	}
	return err != nil && OutcomeOf(err) == vllm.OutcomeRefused
}

// MayHaveTakenEffect reports whether a server left it open what became of a command,
// as [Result] tells of it.
func MayHaveTakenEffect(err error) bool {
	if several := (*ServersError)(nil); errors.As(err, &several) {
		return slices.ContainsFunc(several.Failed, func(f ServerError) bool { return OutcomeOf(f.Err) == vllm.OutcomeUnknown })
	}
	return err != nil && OutcomeOf(err) == vllm.OutcomeUnknown
}

// reconcile has the server run what it should until ctx is done: it carries out
// orders one after the other, tells a server that may have forgotten its setting
// or missed it, once it answers, and what is to be kept until it is accepted. The
// latter two end with commands. Looks go on while a command is under way.
func (s *Server) reconcile(ctx, commands context.Context) {
	ended := make(chan attempt)
	retry := time.NewTimer(0)
	defer retry.Stop()
	failing := false
	for {
		orders := s.orders
		if s.busy.Load() {
			orders = nil
		}
		select {
		case <-ctx.Done():
			if s.busy.Load() {
				s.conclude(<-ended, &failing)
			}
			return
		case o := <-orders:
			s.begin(o, ended)
		case a := <-ended:
			s.busy.Store(false)
			if s.conclude(a, &failing) {
				retry.Reset(keepRetry)
			} else {
				s.keep(commands, ended)
			}
		case l := <-s.looks:
			s.takeIn(commands, l, ended)
		case <-s.wake:
			s.keep(commands, ended)
		case <-retry.C:
			s.keep(commands, ended)
		}
	}
}

// begin carries out an order.
func (s *Server) begin(o order, ended chan<- attempt) {
	switch {
	case o.ctx.Err() != nil: // the order and the end may come at once
		o.done <- orderResult{err: fmt.Errorf("not sent: %w", o.ctx.Err())}
	case s.applied.surelyRuns(o.want, time.Now()):
		o.done <- orderResult{}
	default:
		s.attempt(o.ctx, attempt{want: o.want, order: &o}, ended)
	}
}

// attempt sends a command while the loop goes on.
func (s *Server) attempt(ctx context.Context, a attempt, ended chan<- attempt) {
	s.busy.Store(true)
	go func() {
		ctx, cancel := withCommandTimeout(ctx)
		defer cancel()
		a.err = s.send(ctx, a.want)
		ended <- a
	}()
}

// conclude takes in how an attempt ended, and reports whether it is to be made
// again.
func (s *Server) conclude(a attempt, failing *bool) (again bool) {
	s.note(a.want, a.err)
	switch {
	case a.order != nil:
		a.order.done <- orderResult{true, a.err}
		return false
	case a.keep > 0:
		return s.concludeKeep(a, failing)
	}
	if a.err != nil && OutcomeOf(a.err) == vllm.OutcomeRefused {
		s.applied.refuse(a.want)
	}
	if a.err == nil {
		s.log.Info().Int("batch_size", a.want.batchSize).Msg("the vLLM server may have forgotten its batch size and was told again")
	}
	if began, _ := s.refusals.look(time.Now(), a.err != nil && !errors.Is(a.err, context.Canceled)); began {
		s.log.Warn().Err(a.err).Msg("the vLLM server may have forgotten its batch size and does not take it again")
	}
	return false
}

func (s *Server) concludeKeep(a attempt, failing *bool) (again bool) {
	switch {
	case a.err == nil:
		s.kept(a.keep, true)
		s.log.Info().Int("batch_size", a.want.batchSize).Msg("the server is back at its failsafe batch size")
	case !*failing && !errors.Is(a.err, context.Canceled):
		s.log.Error().Err(a.err).Int("batch_size", a.want.batchSize).
			Msg("the lease of the batch size ran out and the server does not take its failsafe batch size; it is told again and again")
	}
	*failing = a.err != nil
	return *failing
}

// kept notes that the server runs what was to be kept.
func (s *Server) kept(revision int, told bool) {
	s.keptRev = revision
	s.model.kept(revision, told)
}

// takeIn draws the consequences of a look. A server that answers is told what it
// should run, if it may run something else; while a command is under way, that
// waits for the next look.
func (s *Server) takeIn(commands context.Context, l look, ended chan<- attempt) {
	if l.failed || l.mayForget {
		s.applied.forget()
	}
	if l.failed || s.busy.Load() || commands.Err() != nil {
		return
	}
	desired, keep, commanded := s.model.wants()
	switch {
	case commanded || keep.revision > s.keptRev || s.byLoad() && s.applied.setting == desired:
	case s.applied.drifts(desired, time.Now()):
		s.attempt(commands, attempt{want: desired}, ended)
		return
	}
	s.refusals.look(time.Now(), false)
}

// keep tells the server what is to be kept, if it has not accepted that yet.
func (s *Server) keep(commands context.Context, ended chan<- attempt) {
	_, keep, commanded := s.model.wants()
	if keep.revision <= s.keptRev || commanded || s.busy.Load() || commands.Err() != nil {
		return
	}
	want := setting{batchSize: keep.batchSize}
	if s.applied.surelyRuns(want, time.Now()) {
		s.kept(keep.revision, false)
		return
	}
	s.attempt(commands, attempt{want: want, keep: keep.revision}, ended)
}
