package datacenter

import (
	"fmt"
	"math"
	"slices"
)

// CheckScheduleCapacity returns an error if the models' replica schedules need
// more GPUs than the facility can host, at the start or where any ramp begins or
// ends, be it after the end of a run.
func CheckScheduleCapacity(f *Facility, models []ModelSpec) error {
	beforeAll := math.Inf(-1)
	times := []float64{beforeAll}
	for i := range models {
		if s := models[i].Replicas; s != nil {
			for _, r := range s.Ramps() {
				times = append(times, r.TStartS, r.TEndS)
			}
		}
	}
	slices.Sort(times)
	for _, t := range times {
		gpus := 0
		for i := range models {
			if s := models[i].Replicas; s != nil {
				// Absurd counts add up to much, not round to little.
				gpus = min(gpus+s.ReplicasAt(t)*models[i].GPUsPerReplica, math.MaxInt64/2)
			}
		}
		if gpus > f.TotalGPUCapacity {
			when := fmt.Sprintf("at t=%v s", t)
			if t == beforeAll {
				when = "at the start"
			}
			return fmt.Errorf("the replica schedules need %d GPUs %s, but datacenter.total_gpu_capacity is %d",
				gpus, when, f.TotalGPUCapacity)
		}
	}
	return nil
}
