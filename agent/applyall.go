package agent

import (
	"errors"
	"slices"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/workload"
)

// commanded is all that commands change in a replay.
type commanded struct {
	batchSizes, shift []int
	leases            []lease
	changed           []changed
	templates         [][]float64
	samplers          []*workload.ITLSampler
	tokensPerS        []datacenter.Throughput
	achieved          []float64
}

func (r *Replay) commanded() commanded {
	return commanded{
		slices.Clone(r.batchSizes), slices.Clone(r.demand.shift), slices.Clone(r.leases), slices.Clone(r.changed),
		slices.Clone(r.readings.templates), slices.Clone(r.readings.samplers), slices.Clone(r.readings.tokensPerS),
		slices.Clone(r.readings.batchSizes),
	}
}

func (r *Replay) putBack(c commanded) {
	r.batchSizes, r.leases, r.changed = c.batchSizes, c.leases, c.changed
	copy(r.demand.shift, c.shift)
	r.readings.templates, r.readings.samplers, r.readings.tokensPerS = c.templates, c.samplers, c.tokensPerS
	r.readings.batchSizes = c.achieved
}

// applyAll applies commands one after the other, all or, if one is refused, none: whether
// there is room for a shift depends on those before it. Events come when all are applied.
// Its error is an [*AdvanceError] for a refused command.
func (r *Replay) applyAll(commands []datacenter.Command) error {
	before, onEvent := r.commanded(), r.cfg.OnEvent
	var events []datacenter.Event
	r.cfg.OnEvent = func(e datacenter.Event) { events = append(events, e) }
	defer func() { r.cfg.OnEvent = onEvent }()
	for i, command := range commands {
		err := r.Apply(command)
		if err == nil {
			continue
		}
		r.putBack(before)
		if refused := (*datacenter.CommandError)(nil); errors.As(err, &refused) {
			return &AdvanceError{i, refused}
		}
		return err
	}
	if onEvent != nil {
		for _, e := range events {
			onEvent(e)
		}
	}
	return nil
}
