package agent

import (
	"fmt"
	"math"
	"slices"
)

// demand is how many replicas the models ask for over time: their schedules,
// shifted by commands.
type demand struct {
	cfg     *Config
	shift   []int // per model
	maxWalk int64 // see firstOverload
	// fromZero: a model whose schedule starts at 0 gets servers later, as in
	// OpenG2G's live datacenter. In its replays it never does, whatever its ramps.
	fromZero bool
}

func newDemand(cfg *Config) demand {
	return demand{cfg: cfg, shift: make([]int, len(cfg.Models)), maxWalk: math.MaxInt64}
}

// hasServers reports whether model m ever gets a server.
func (d *demand) hasServers(m int) bool {
	return d.cfg.Models[m].InitialReplicas() > 0 || d.fromZero && d.cfg.Models[m].Replicas != nil
}

// replicasAt sets replicas to what each model asks for at time tS.
func (d *demand) replicasAt(tS float64, replicas []int) {
	for m := range d.cfg.Models {
		replicas[m] = 0
		if d.hasServers(m) {
			replicas[m] = max(0, d.cfg.Models[m].Replicas.ReplicasAt(tS)+d.shift[m])
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

// availableGPUCapacity is OpenG2G's accounting, in which replicas that a schedule
// adds or takes away do not show.
func (d *demand) availableGPUCapacity() int {
	left := d.cfg.Facility.TotalGPUCapacity
	for m := range d.cfg.Models {
		left -= max(0, d.cfg.Models[m].InitialReplicas()+d.shift[m]) * d.cfg.Models[m].GPUsPerReplica
	}
	return max(0, left)
}

// overload is a step at which more is asked for than there is.
type overload struct {
	timeS         float64
	gpus, servers int // asked for
	// unsure: that is not too much, but so near that it takes too long to find out
	// about the steps to come.
	unsure bool
}

// firstOverload returns the first step in [from, to) at which the capacity or
// the pool's servers do not suffice, nil if there is none. Servers go to one
// model each, so they may run out before GPUs do. Only stretches that come near
// the capacity are walked step by step, at most maxWalk steps: a stretch that
// would take more is taken for an overload.
func (d *demand) firstOverload(from, to int64) *overload {
	replicas := make([]int, len(d.cfg.Models))
	walked := int64(0)
	for k := from; k < to; {
		t := d.cfg.DT.Times(k)
		d.replicasAt(t, replicas)
		if over := d.overloadOf(t, replicas); over != nil {
			return over
		}
		end := d.nextChange(t)
		switch fits := d.fitsUntil(t, end, replicas); {
		case fits && math.IsInf(end, 1):
			return nil
		case fits:
			// One step of margin absorbs rounding.
			k = max(k+1, int64(min(end/d.cfg.DT.Float64(), math.MaxInt64/2))-1)
		case walked == d.maxWalk:
			d.replicasAt(t, replicas)
			over := d.measure(t, replicas)
			over.unsure = true
			return over
		default:
			k++
			walked++
		}
	}
	return nil
}

// fitsUntil reports whether all steps from tS until before endS surely fit, with
// replicas as scratch. Between changes what each model asks for is linear in
// time but for rounding, to replicas and to servers: with one more of both for
// each model that changes, the two ends bound what is between.
func (d *demand) fitsUntil(tS, endS float64, replicas []int) bool {
	d.replicasAt(tS, replicas)
	atStart := slices.Clone(replicas)
	d.replicasAt(math.Nextafter(endS, math.Inf(-1)), replicas)
	changing := 0
	for m := range replicas {
		if replicas[m] != atStart[m] {
			changing++
			replicas[m]++
			atStart[m]++
		}
	}
	for _, n := range [][]int{atStart, replicas} {
		o := d.measure(tS, n)
		o.servers += changing
		if d.isTooMuch(o) {
			return false
		}
	}
	return true
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
	if o := d.measure(tS, replicas); d.isTooMuch(o) {
		return o
	}
	return nil
}

func (d *demand) isTooMuch(o *overload) bool {
	f := &d.cfg.Facility
	return o.servers > f.NumServers() || o.gpus > f.TotalGPUCapacity && !d.cfg.AllowShiftsPastCapacity
}

// wayOut says how an overload of GPUs that have servers can be had, if it is one.
func (d *demand) wayOut(o *overload) string {
	if o.unsure || o.servers > d.cfg.Facility.NumServers() {
		return ""
	}
	return "; the servers would (control.allow_shifts_past_capacity)"
}

// nextChange is the next start or end of a ramp after tS, +Inf if there is none.
func (d *demand) nextChange(tS float64) float64 {
	next := math.Inf(1)
	for m := range d.cfg.Models {
		if !d.hasServers(m) {
			continue
		}
		for _, r := range d.cfg.Models[m].Replicas.Ramps() {
			for _, change := range []float64{r.TStartS, r.TEndS} {
				if change > tS {
					next = min(next, change)
				}
			}
		}
	}
	return next
}

// describe says what is asked for and what there is.
func (d *demand) describe(o *overload) string {
	f := &d.cfg.Facility
	if o.unsure {
		return fmt.Sprintf("close to the %d GPUs in %d servers of datacenter.total_gpu_capacity for so long from t=%v s on that it is "+
			"not certain they suffice; leave them more room",
			f.TotalGPUCapacity, f.NumServers(), o.timeS)
	}
	return fmt.Sprintf("%d GPUs in %d servers at t=%v s, but datacenter.total_gpu_capacity is %d GPUs, which fill %d servers of %d",
		o.gpus, o.servers, o.timeS, f.TotalGPUCapacity, f.NumServers(), f.GPUsPerServer)
}
