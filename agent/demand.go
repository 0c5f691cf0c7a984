package agent

import (
	"fmt"
	"math"
)

// demand is how many replicas the models ask for over time: their schedules,
// shifted by commands.
type demand struct {
	cfg   *Config
	shift []int // per model
}

func newDemand(cfg *Config) demand { return demand{cfg, make([]int, len(cfg.Models))} }

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
// model each, so they may run out before GPUs do.
func (d *demand) firstOverload(from, to int64) *overload {
	f := &d.cfg.Facility
	replicas := make([]int, len(d.cfg.Models))
	for k := from; k < to; {
		t := d.cfg.DT.Times(k)
		d.replicasAt(t, replicas)
		gpus, servers := 0, 0
		for m, n := range replicas {
			gpus += n * d.cfg.Models[m].GPUsPerReplica
			servers += f.ServersFor(&d.cfg.Models[m], n)
		}
		if gpus > f.TotalGPUCapacity || servers > f.NumServers() {
			return &overload{t, gpus, servers}
		}
		next, ramping := d.nextRamp(t)
		switch {
		case ramping:
			k++
		case math.IsInf(next, 1):
			return nil
		default:
			// Nothing changes before the next ramp; one step of margin absorbs rounding.
			k = max(k+1, int64(min(next/d.cfg.DT.Float64(), math.MaxInt64/2))-1)
		}
	}
	return nil
}

// nextRamp returns the start of the first ramp after tS (+Inf if there is none)
// and whether one is under way at tS.
func (d *demand) nextRamp(tS float64) (start float64, ramping bool) {
	start = math.Inf(1)
	for m := range d.cfg.Models {
		if d.cfg.Models[m].Replicas == nil {
			continue
		}
		for _, r := range d.cfg.Models[m].Replicas.Ramps() {
			switch {
			case r.TStartS > tS:
				start = min(start, r.TStartS)
			case tS <= r.TEndS:
				ramping = true
			}
		}
	}
	return start, ramping
}

// describe says what is asked for and what there is.
func (d *demand) describe(o *overload) string {
	f := &d.cfg.Facility
	return fmt.Sprintf("%d GPUs in %d servers at t=%v s, but datacenter.total_gpu_capacity is %d GPUs, which fill %d servers of %d",
		o.gpus, o.servers, o.timeS, f.TotalGPUCapacity, f.NumServers(), f.GPUsPerServer)
}
