package agent

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/rig"
)

// Apply implements [Controllable]. A batch size that the servers run already is not sent
// again; its lease is renewed.
func (l *Live) Apply(ctx context.Context, command datacenter.Command) (err error) {
	if l.cfg.OnCommand != nil {
		defer func() { l.cfg.OnCommand(command, err) }()
	}
	if l.cfg.Recorder != nil {
		defer func() { l.recordCommand(ctx, command, err) }()
	}
	l.mu.Lock()
	set, isSet := command.(datacenter.SetBatchSize)
	shift, isShift := command.(datacenter.ShiftReplicas)
	_, isRestore := command.(datacenter.Restore)
	switch {
	case !l.takesCommands && l.phase == PhaseStarting:
		err = refuse("command", datacenter.ErrNotStarted, "the run has not begun: hardware is being checked and warmed up")
	case !l.takesCommands:
		err = refuse("command", datacenter.ErrRunOver, "the run is over")
	case isSet:
		err = l.pipeline.checkBatchSizes(set, l.checkBatchSize)
	case isShift:
		err = l.pipeline.shiftReplicas(shift)
	case isRestore:
		// The servers are told after it, as by a command of batch sizes.
		if err = l.pipeline.checkRestore(); err == nil {
			l.pipeline.undoShifts()
			set = l.pipeline.initialBatchSizes()
		}
	default:
		err = fmt.Errorf("%w: unknown command %T", datacenter.ErrInvalidInput, command)
	}
	l.unlock()
	if err != nil || !isSet && !isRestore {
		return err
	}
	return l.setBatchSizes(ctx, set)
}

func (l *Live) checkBatchSize(model, batchSize int, rampUpRate float64) error {
	return l.rig.Model(model).CheckBatchSize(batchSize, rampUpRate)
}

// setBatchSizes tells all models' servers at once, and the watchers of the run.
func (l *Live) setBatchSizes(ctx context.Context, set datacenter.SetBatchSize) error {
	labels := inConfigOrder(l.pipeline, set.BatchSizeByModel)
	results := make([]rig.Result, len(labels))
	var group sync.WaitGroup
	for i, label := range labels {
		group.Go(func() {
			results[i] = l.setBatchSize(ctx, l.pipeline.modelIndex(label), set.BatchSizeByModel[label], set.RampUpRateByModel[label], set.LeaseS)
		})
	}
	group.Wait()

	failed := map[string]error{}
	changed := false
	for i, label := range labels {
		changed = changed || results[i].Told
		if results[i].Err != nil {
			failed[label] = results[i].Err
		}
	}
	if changed {
		l.tellBatchSizes()
	}
	if len(failed) > 0 {
		return &ServersError{ByModel: failed, Order: labels}
	}
	return nil
}

// setBatchSize tells one model's servers, and the pipeline when one has accepted.
func (l *Live) setBatchSize(ctx context.Context, m, batchSize int, rampUpRate, leaseS float64) rig.Result {
	model := l.rig.Model(m)
	return model.SetBatchSize(ctx, batchSize, rampUpRate, func(r rig.Result) {
		l.mu.Lock()
		defer l.unlock()
		switch {
		case r.Accepted:
			l.pipeline.setBatchSize(m, batchSize)
			l.pipeline.leaseBatchSize(m, leaseS)
			l.failsafe[m] = false
			model.Release()
		case rig.MayHaveTakenEffect(r.Err) && leaseS > 0:
			l.pipeline.leaseBatchSize(m, leaseS)
		}
	})
}

func (l *Live) tellBatchSizes() {
	l.mu.Lock()
	l.pipeline.emitBatchSizes()
	l.unlock()
}

// endLeases takes back what was leased for until the next step. The rig sees to
// it that the servers run their failsafe batch sizes; a newer command makes that
// void.
func (l *Live) endLeases() {
	for _, m := range l.pipeline.endBatchSizeLeases() {
		l.failsafe[m] = true
		l.rig.Model(m).Keep(l.cfg.Models[m].Failsafe())
	}
	l.pipeline.endShiftLeases()
}

// failsafeKept notes that a server of model m runs its failsafe batch size.
func (l *Live) failsafeKept(m int, told bool) {
	l.mu.Lock()
	current := l.failsafe[m]
	if current {
		l.pipeline.setBatchSize(m, l.cfg.Models[m].Failsafe())
		l.pipeline.leaseBatchSize(m, 0)
		l.failsafe[m] = false
	}
	l.unlock()
	if current && told {
		l.tellBatchSizes()
	}
}

// leftLeased reports whether model m's servers would be left at a batch size that
// was only lent if nobody told them anything any more.
func (l *Live) leftLeased(m int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failsafe[m] || !math.IsNaN(l.pipeline.leases[m].batchSizeUntilS)
}

// ServersError is a command that some vLLM servers did not carry out.
type ServersError struct {
	ByModel map[string]error
	// Order has the labels of the models commanded in config order; those of ByModel
	// that are not in it come after it.
	Order []string
}

// labels are those of the models that failed, in order.
func (e *ServersError) labels() []string {
	var labels []string
	for _, label := range slices.Concat(e.Order, slices.Sorted(maps.Keys(e.ByModel))) {
		if _, failed := e.ByModel[label]; failed && !slices.Contains(labels, label) {
			labels = append(labels, label)
		}
	}
	return labels
}

// Unwrap returns the models' errors, in their order.
func (e *ServersError) Unwrap() []error {
	var errs []error
	for _, label := range e.labels() {
		errs = append(errs, e.ByModel[label])
	}
	return errs
}

func (e *ServersError) Error() string {
	var texts []string
	for _, label := range e.labels() {
		texts = append(texts, fmt.Sprintf("model %q: %v", label, e.ByModel[label]))
	}
	return strings.Join(texts, "; ")
}
