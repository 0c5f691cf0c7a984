package agent

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/vllm"
)

// Apply implements [Controllable]. A batch size that the server runs already is not sent
// again; its lease is renewed.
func (l *Live) Apply(ctx context.Context, command datacenter.Command) (err error) {
	if l.cfg.OnCommand != nil {
		defer func() { l.cfg.OnCommand(command, err) }()
	}
	l.mu.Lock()
	commands := l.commands
	set, isSet := command.(datacenter.SetBatchSize)
	switch {
	case commands == nil || commands.Err() != nil:
		err = refuse("command", datacenter.ErrNotPossible, "the run has not begun, or is over")
	case isSet:
		err = l.pipeline.checkBatchSizes(set)
	default:
		err = l.pipeline.Apply(command)
	}
	l.unlock()
	if err != nil || !isSet {
		return err
	}

	// The end of the run is the end of its commands: whoever gets his turn after it
	// finds his context done.
	caller := ctx
	ctx, cancel := withCommandTimeout(commands) //nolint:contextcheck // the caller's context ends it too
	defer cancel()
	defer context.AfterFunc(caller, cancel)()
	labels := slices.Sorted(maps.Keys(set.BatchSizeByModel))
	errs := make([]error, len(labels))
	sent := make([]bool, len(labels))
	var group sync.WaitGroup
	for i, label := range labels {
		group.Go(func() {
			sent[i], errs[i] = l.command(ctx, l.pipeline.modelIndex(label), order{
				batchSize: set.BatchSizeByModel[label], rampUpRate: set.RampUpRateByModel[label], leaseS: set.LeaseS,
			})
		})
	}
	group.Wait()

	failed := map[string]error{}
	changed := false
	for i, label := range labels {
		if errs[i] != nil {
			failed[label] = errs[i]
		} else if sent[i] {
			changed = true
		}
	}
	if changed {
		l.tellBatchSizes()
	}
	if len(failed) > 0 {
		return &ServersError{failed}
	}
	return nil
}

func (l *Live) tellBatchSizes() {
	l.mu.Lock()
	l.pipeline.emitBatchSizes()
	l.unlock()
}

// withCommandTimeout bounds what a command to a server may take.
func withCommandTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, commandTimeout, fmt.Errorf("no answer within %v: %w", commandTimeout, context.DeadlineExceeded))
}

// order is what one model's server is to be told.
type order struct {
	batchSize  int
	rampUpRate float64
	leaseS     float64
	// failsafe marks the order that follows a lease; a newer command makes it void.
	failsafe bool
}

// command gives model m's server an order, unless that changes nothing, and tells
// the pipeline when it has accepted it.
func (l *Live) command(ctx context.Context, m int, o order) (sent bool, err error) {
	b := l.backends[m]
	if err := b.acquire(ctx); err != nil {
		return false, fmt.Errorf("not sent: the server has not answered the command before: %w", err)
	}
	defer b.release()
	if ctx.Err() != nil { // acquire does not always notice
		return false, fmt.Errorf("not sent: %w", ctx.Err())
	}
	if o.failsafe && !l.wantsFailsafe(m) {
		return false, nil
	}
	if sent = b.setting.mayDifferFrom(o.batchSize, o.rampUpRate); sent {
		err = b.setBatchSize(ctx, o.batchSize, o.rampUpRate)
	}
	l.mu.Lock()
	defer l.unlock()
	switch {
	case err == nil:
		l.pipeline.batchSizes[m] = o.batchSize
		l.pipeline.leaseBatchSize(m, o.leaseS)
		l.failsafe[m] = false
	case OutcomeOf(err) == vllm.OutcomeUnknown && o.leaseS > 0:
		l.pipeline.leaseBatchSize(m, o.leaseS) // it may have taken effect
	}
	return sent, err
}

// endLeases takes back what was leased for until the next step. The servers are
// told by [Live.keepFailsafe].
func (l *Live) endLeases() {
	for _, m := range l.pipeline.endBatchSizeLeases() {
		l.failsafe[m] = true
		select {
		case l.backends[m].leaseEnded <- struct{}{}:
		default: // it is on its way
		}
	}
	l.pipeline.endShiftLeases()
}

func (l *Live) wantsFailsafe(m int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failsafe[m]
}

// leftLeased reports whether model m's server would be left at a batch size that
// was only lent if nobody told it anything any more.
func (l *Live) leftLeased(m int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failsafe[m] || !math.IsNaN(l.pipeline.leases[m].batchSizeUntilS)
}

// failsafeRetry is the time between two attempts to set a failsafe batch size.
const failsafeRetry = time.Second

// keepFailsafe sets model m's server to the failsafe batch size whenever its lease
// has run out, however long the server takes to accept it, until ctx is done.
func (l *Live) keepFailsafe(ctx context.Context, m int) {
	b, spec := l.backends[m], &l.cfg.Models[m]
	failing := false
	for {
		var retry <-chan time.Time
		if l.wantsFailsafe(m) {
			attempt, cancel := withCommandTimeout(ctx)
			sent, err := l.command(attempt, m, order{batchSize: spec.Failsafe(), failsafe: true})
			cancel()
			switch {
			case err == nil && sent:
				l.tellBatchSizes()
				b.log.Info().Int("batch_size", spec.Failsafe()).Msg("the server is back at its failsafe batch size")
			case err != nil && !failing && ctx.Err() == nil:
				b.log.Error().Err(err).Int("batch_size", spec.Failsafe()).Msg("the lease of the batch size ran out and the server does not take its failsafe batch size; it is told again and again")
			}
			if failing = err != nil; failing {
				retry = time.After(failsafeRetry)
			}
		}
		select {
		case <-b.leaseEnded:
		case <-retry:
		case <-ctx.Done():
			return
		}
	}
}

// hasBegun reports whether the warm-up is over.
func (l *Live) hasBegun() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.phase != PhaseStarting
}

func (l *Live) setPhase(phase Phase) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.phase, l.lastStepAt = phase, time.Now()
}

// Status implements [Controllable].
func (l *Live) Status() Status {
	l.mu.Lock()
	s := l.pipeline.status()
	s.Phase, s.LastStepAt = l.phase, l.lastStepAt
	for m := range s.Models {
		s.Models[m].Stale = l.stale[m]
	}
	l.mu.Unlock()
	now := time.Now()
	for m, b := range l.backends {
		s.Models[m].Actuator = string(b.actuator())
		s.Models[m].NoTokenS = b.noTokenS(now)
		s.Models[m].AchievedBatchSize = math.NaN()
		if load := b.ServerLoad(); load != nil {
			s.Models[m].AchievedBatchSize = load.NumRequestsRunning
		}
	}
	return s
}

// ServersError is a command that some vLLM servers did not carry out.
type ServersError struct{ ByModel map[string]error }

// Unwrap returns the models' errors, in the order of their labels.
func (e *ServersError) Unwrap() []error {
	var errs []error
	for _, label := range slices.Sorted(maps.Keys(e.ByModel)) {
		errs = append(errs, e.ByModel[label])
	}
	return errs
}

func (e *ServersError) Error() string {
	var texts []string
	for _, label := range slices.Sorted(maps.Keys(e.ByModel)) {
		texts = append(texts, fmt.Sprintf("model %q: %v", label, e.ByModel[label]))
	}
	return strings.Join(texts, "; ")
}
