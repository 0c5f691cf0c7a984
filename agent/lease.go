package agent

import (
	"math"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// leaseRetryS is the time between two attempts to take back leased shifts that
// there is no room to take back, in seconds of the run.
const leaseRetryS = 1

// lease is what of one model holds only for as long as it is renewed. Times are
// those of steps, in seconds; NaN stands for no lease.
type lease struct {
	batchSizeUntilS float64
	shiftUntilS     float64
	leasedShift     int  // replicas to take back
	overdue         bool // they could not be taken back yet
}

func noLease() lease { return lease{batchSizeUntilS: math.NaN(), shiftUntilS: math.NaN()} }

// refuseLease returns what is wrong with a lease, nil if nothing is.
func refuseLease(leaseS float64) error {
	if !(leaseS >= 0 && leaseS <= datacenter.MaxLeaseS) {
		return refuse("lease_s", datacenter.ErrOutOfRange, "must be from 0 (for ever) to %d s, got %v", datacenter.MaxLeaseS, leaseS)
	}
	return nil
}

// nextStepS is the time of the next step, in seconds.
func (p *Pipeline) nextStepS() float64 { return p.cfg.DT.Times(p.step) }

// leaseBatchSize lets model m's batch size hold for leaseS, 0: for ever.
func (p *Pipeline) leaseBatchSize(m int, leaseS float64) {
	p.leases[m].batchSizeUntilS = math.NaN()
	if leaseS > 0 {
		p.leases[m].batchSizeUntilS = p.nextStepS() + leaseS
	}
}

// leaseShift adds a shift to what the lease of model m covers and renews it,
// unless nothing is left to take back. A shift that is not leased leaves the lease
// as it is.
func (p *Pipeline) leaseShift(m int, c datacenter.ShiftReplicas) {
	if c.LeaseS > 0 {
		l := &p.leases[m]
		l.leasedShift += c.ReplicaDelta
		l.shiftUntilS, l.overdue = p.nextStepS()+c.LeaseS, false
		if l.leasedShift == 0 {
			l.shiftUntilS = math.NaN()
		}
	}
}

// endBatchSizeLeases ends the leases that are over and returns their models,
// which are to be set to their failsafe batch sizes.
func (p *Pipeline) endBatchSizeLeases() []int {
	var ended []int
	for m := range p.leases {
		if p.leases[m].batchSizeUntilS <= p.nextStepS() {
			p.leases[m].batchSizeUntilS = math.NaN()
			ended = append(ended, m)
			p.emit(datacenter.BatchSizeLeaseExpired{ModelLabel: p.cfg.Models[m].ModelLabel, FailsafeBatchSize: p.cfg.Models[m].Failsafe()})
		}
	}
	return ended
}

// endShiftLeases takes back the shifts whose leases are over, as soon as there is
// room: those first that make room for others.
func (p *Pipeline) endShiftLeases() {
	for _, added := range []bool{true, false} {
		for m := range p.leases {
			if l := &p.leases[m]; l.shiftUntilS <= p.nextStepS() && (l.leasedShift > 0) == added {
				p.endShiftLease(m)
			}
		}
	}
}

func (p *Pipeline) endShiftLease(m int) {
	l, label := &p.leases[m], p.cfg.Models[m].ModelLabel
	if !l.overdue {
		p.emit(datacenter.ReplicaLeaseExpired{ModelLabel: label, ReplicaDelta: l.leasedShift})
	}
	back := datacenter.ShiftReplicas{ModelLabel: label, ReplicaDelta: -l.leasedShift}
	if back.ReplicaDelta > 0 && p.checkRoom(m, back) != nil {
		l.overdue, l.shiftUntilS = true, p.nextStepS()+leaseRetryS
		return
	}
	*l = lease{batchSizeUntilS: l.batchSizeUntilS, shiftUntilS: math.NaN()}
	p.shift(m, back)
}
