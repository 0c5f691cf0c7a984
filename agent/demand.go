package agent

import (
	"fmt"
	"math"
)

// demand is how many replicas the models ask for over time: their schedules,
// shifted by commands.
type demand struct {
	cfg     *Config
	shift   []int // per model
	maxWalk int64 // see firstOverload
}

func newDemand(cfg *Config) demand {
	return demand{cfg: cfg, shift: make([]int, len(cfg.Models)), maxWalk: math.MaxInt64}
}

// replicasAt sets replicas to what each model asks for at time tS. A model whose
// schedule starts at 0 never gets a server, whatever its ramps and shifts, as in
// OpenG2G.
func (d *demand) replicasAt(tS float64, replicas []int) {
	for m := range d.cfg.Models {
		replicas[m] = 0
		if model := &d.cfg.Models[m]; model.InitialReplicas() > 0 {
			replicas[m] = max(0, model.Replicas.ReplicasAt(tS)+d.shift[m])
		}
	}
}

// gpusAt is the number of GPUs asked for at time tS.
func (d *demand) gpusAt(tS float64) int {
	replicas := make([]int, len(d.cfg.Models))
	d.replicasAt(tS, replicas)
	gpus := 0
	for m, n := range replicas {
		gpus += n * d.cfg.Models[m].GPUsPerReplica
	}
	return gpus
}

// overload is a step at which more is asked for than there is.
type overload struct {
	timeS         float64
	gpus, servers int // asked for
}

// firstOverload returns the first step in [from, to) at which the capacity or
// the pool's servers do not suffice, nil if there is none. Servers go to one
// model each, so they may run out before GPUs do. Stretches between the starts
// and ends of ramps that fit whatever the ramps pass through are passed over;
// where more than maxWalk steps would have to be looked at one by one, the last
// of them is taken for an overload.
func (d *demand) firstOverload(from, to int64) *overload {
	replicas := make([]int, len(d.cfg.Models))
	walked := int64(0)
	for k := from; k < to; {
		t := d.cfg.DT.Times(k)
		d.replicasAt(t, replicas)
		over := d.overloadOf(t, replicas)
		if over != nil {
			return over
		}
		end := d.boundUntilNextChange(t, replicas)
		switch {
		case d.overloadOf(t, replicas) == nil && math.IsInf(end, 1):
			return nil
		case d.overloadOf(t, replicas) == nil:
			// One step of margin absorbs rounding.
			k = max(k+1, int64(min(end/d.cfg.DT.Float64(), math.MaxInt64/2))-1)
		case walked == d.maxWalk:
			return d.measure(t, replicas)
		default:
			k++
			walked++
		}
	}
	return nil
}

// measure is what replicas take at tS.
func (d *demand) measure(tS float64, replicas []int) *overload {
	o := &overload{timeS: tS}
	for m, n := range replicas {
		o.gpus += n * d.cfg.Models[m].GPUsPerReplica
		o.servers += d.cfg.Facility.ServersFor(&d.cfg.Models[m], n)
	}
	return o
}

// overloadOf returns what replicas take at tS if that is more than there is.
func (d *demand) overloadOf(tS float64, replicas []int) *overload {
	if o := d.measure(tS, replicas); o.gpus > d.cfg.Facility.TotalGPUCapacity || o.servers > d.cfg.Facility.NumServers() {
		return o
	}
	return nil
}

// boundUntilNextChange raises replicas, those at tS, to the most that each model
// asks for before the next start or end of a ramp, and returns its time, +Inf if
// there is none.
func (d *demand) boundUntilNextChange(tS float64, replicas []int) (endS float64) {
	endS = math.Inf(1)
	for m := range d.cfg.Models {
		model := &d.cfg.Models[m]
		if model.InitialReplicas() == 0 {
			continue
		}
		for _, r := range model.Replicas.Ramps() {
			switch {
			case r.TStartS > tS:
				endS = min(endS, r.TStartS)
			case tS <= r.TEndS:
				replicas[m] = max(replicas[m], r.Target+d.shift[m])
				if r.TEndS > tS {
					endS = min(endS, r.TEndS)
				}
			}
		}
	}
	return endS
}

// describe says what is asked for and what there is.
func (d *demand) describe(o *overload) string {
	f := &d.cfg.Facility
	return fmt.Sprintf("%d GPUs in %d servers at t=%v s, but datacenter.total_gpu_capacity is %d GPUs, which fill %d servers of %d",
		o.gpus, o.servers, o.timeS, f.TotalGPUCapacity, f.NumServers(), f.GPUsPerServer)
}
