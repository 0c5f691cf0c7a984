package datacenter

import (
	"math"
	"testing"
)

func TestCheckScheduleCapacity(t *testing.T) {
	model := func(gpus, initial int, ramps ...Ramp) ModelSpec {
		s, err := NewReplicaSchedule(initial, ramps...)
		if err != nil {
			t.Fatal(err)
		}
		return ModelSpec{GPUsPerReplica: gpus, Replicas: s}
	}
	huge := model(math.MaxInt32, math.MaxInt32)
	for name, c := range map[string]struct {
		models []ModelSpec
		want   string
	}{
		"fits":          {[]ModelSpec{model(4, 10), {GPUsPerReplica: 99}}, ""},
		"start":         {[]ModelSpec{model(4, 11)}, "the replica schedules need 44 GPUs at the start, but datacenter.total_gpu_capacity is 40"},
		"before 0":      {[]ModelSpec{model(4, 11, Ramp{1, -9, -8})}, "the replica schedules need 44 GPUs at the start, but datacenter.total_gpu_capacity is 40"},
		"end of a ramp": {[]ModelSpec{model(1, 3, Ramp{8, 10, 20}), model(4, 9)}, "the replica schedules need 44 GPUs at t=20 s, but datacenter.total_gpu_capacity is 40"},
		"absurd":        {[]ModelSpec{huge, huge, huge, huge}, "the replica schedules need 4611686018427387903 GPUs at the start, but datacenter.total_gpu_capacity is 40"},
	} {
		got := ""
		if err := CheckScheduleCapacity(&Facility{GPUsPerServer: 8, TotalGPUCapacity: 40}, c.models); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
