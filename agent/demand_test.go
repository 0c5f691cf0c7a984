package agent

import (
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// TestFirstOverloadIsThatOfAWalk compares with looking at every step.
func TestFirstOverloadIsThatOfAWalk(t *testing.T) {
	dt, err := datacenter.ParseSeconds("1/10")
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		cfg := &Config{DT: dt, Facility: datacenter.Facility{GPUsPerServer: 8, TotalGPUCapacity: rapid.IntRange(8, 600).Draw(t, "capacity")}}
		for range rapid.IntRange(1, 3).Draw(t, "models") {
			var ramps []datacenter.Ramp
			at := 0.0
			for range rapid.IntRange(0, 3).Draw(t, "ramps") {
				start := at + rapid.SampledFrom([]float64{0, 0.05, 0.3, 2}).Draw(t, "pause")
				at = start + rapid.SampledFrom([]float64{0, 0.05, 0.7, 5}).Draw(t, "length")
				ramps = append(ramps, datacenter.Ramp{Target: rapid.IntRange(0, 200).Draw(t, "target"), TStartS: start, TEndS: at})
			}
			schedule, err := datacenter.NewReplicaSchedule(rapid.IntRange(0, 200).Draw(t, "initial"), ramps...)
			if err != nil {
				t.Fatal(err)
			}
			cfg.Models = append(cfg.Models, datacenter.ModelSpec{GPUsPerReplica: rapid.SampledFrom([]int{1, 4, 12}).Draw(t, "GPUs"), Replicas: schedule})
		}
		d := newDemand(cfg)
		d.fromZero = rapid.Bool().Draw(t, "from zero")
		for m := range d.shift {
			d.shift[m] = rapid.IntRange(-50, 50).Draw(t, "shift")
		}
		const steps = 250
		from := rapid.Int64Range(0, 100).Draw(t, "from")
		var want *overload
		replicas := make([]int, len(cfg.Models))
		for k := from; k < steps && want == nil; k++ {
			d.replicasAt(dt.Times(k), replicas)
			want = d.overloadOf(dt.Times(k), replicas)
		}
		got := d.firstOverload(from, steps)
		if (got == nil) != (want == nil) || got != nil && *got != *want {
			t.Fatalf("the first overload is %+v, a walk finds %+v", got, want)
		}
	})
}

// TestFirstOverloadLooksFarAhead: an endless run with ramps that last for years.
func TestFirstOverloadLooksFarAhead(t *testing.T) {
	dt, err := datacenter.ParseSeconds("1/10")
	if err != nil {
		t.Fatal(err)
	}
	const years = 1e9
	up, err := datacenter.NewReplicaSchedule(1, datacenter.Ramp{Target: 90, TStartS: 10, TEndS: years})
	if err != nil {
		t.Fatal(err)
	}
	down, err := datacenter.NewReplicaSchedule(90, datacenter.Ramp{Target: 1, TStartS: 10, TEndS: years})
	if err != nil {
		t.Fatal(err)
	}
	cfg := &Config{
		DT: dt, Facility: datacenter.Facility{GPUsPerServer: 1, TotalGPUCapacity: 96},
		Models: []datacenter.ModelSpec{{GPUsPerReplica: 1, Replicas: up}, {GPUsPerReplica: 1, Replicas: down}},
	}
	d := newDemand(cfg)
	d.maxWalk = 1000
	if over := d.firstOverload(0, math.MaxInt64); over != nil {
		t.Errorf("91 replicas in 96 servers overload at %+v", over)
	}
	d.shift[0] = 6
	if over := d.firstOverload(0, math.MaxInt64); over == nil || over.unsure {
		t.Error("97 replicas fit into 96 servers")
	}
	d.shift[0] = 4
	if over := d.firstOverload(0, math.MaxInt64); over == nil || !over.unsure {
		t.Errorf("95 replicas, give or take one, in 96 servers are taken for %+v", over)
	}
}
