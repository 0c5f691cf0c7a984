package agent

import (
	"math"
	"slices"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// checkRestore refuses to undo all shifts where the capacity does not allow it, with
// the schedules and scripts to come.
func (p *Pipeline) checkRestore() error {
	before := slices.Clone(p.demand.shift)
	defer copy(p.demand.shift, before)
	clear(p.demand.shift)
	over := p.firstOverload(p.step, p.horizon)
	if over == nil {
		return nil
	}
	return refuse("command", datacenter.ErrNoCapacity, "without the shifts the models need %s%s", p.demand.describe(over), p.demand.wayOut(over))
}

// undoShifts takes back all shifts, be they leased or not, first those that make room
// for others. There is room for them.
func (p *Pipeline) undoShifts() {
	for m := range p.leases {
		p.leases[m] = lease{batchSizeUntilS: p.leases[m].batchSizeUntilS, shiftUntilS: math.NaN()}
		p.changed[m].shift = p.step
	}
	for _, added := range []bool{true, false} {
		for m := range p.demand.shift {
			if n := p.demand.shift[m]; n != 0 && (n > 0) == added {
				p.shift(m, datacenter.ShiftReplicas{ModelLabel: p.cfg.Models[m].ModelLabel, ReplicaDelta: -n})
			}
		}
	}
}

// initialBatchSizes is the command that a run begins with.
func (p *Pipeline) initialBatchSizes() datacenter.SetBatchSize {
	initial := datacenter.SetBatchSize{BatchSizeByModel: map[string]int{}}
	for m := range p.cfg.Models {
		initial.BatchSizeByModel[p.cfg.Models[m].ModelLabel] = p.cfg.Models[m].InitialBatchSize
	}
	return initial
}
