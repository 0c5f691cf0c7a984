package datacenter

import (
	"errors"
	"math"
	"strings"
	"testing"
)

func TestTrainingRunValidate(t *testing.T) {
	valid := TrainingRun{NGPUs: 8, TargetPeakWPerGPU: 400, TStartS: 1, TEndS: 2}
	for name, c := range map[string]struct {
		edit func(*TrainingRun)
		want string // empty: valid
	}{
		"valid":         {func(*TrainingRun) {}, ""},
		"no length":     {func(r *TrainingRun) { r.TEndS = 1 }, ""},
		"no power":      {func(r *TrainingRun) { r.TargetPeakWPerGPU = 0 }, ""},
		"before t=0":    {func(r *TrainingRun) { r.TStartS = -5 }, ""},
		"no GPUs":       {func(r *TrainingRun) { r.NGPUs = 0 }, "n_gpus must be > 0, got 0"},
		"negative GPUs": {func(r *TrainingRun) { r.NGPUs = -8 }, "n_gpus must be > 0, got -8"},
		"negative peak": {func(r *TrainingRun) { r.TargetPeakWPerGPU = -1 }, "target_peak_w_per_gpu must be a finite number >= 0, got -1"},
		"NaN peak":      {func(r *TrainingRun) { r.TargetPeakWPerGPU = math.NaN() }, "target_peak_w_per_gpu must be a finite number >= 0, got NaN"},
		"infinite peak": {func(r *TrainingRun) { r.TargetPeakWPerGPU = math.Inf(1) }, "got +Inf"},
		"NaN start":     {func(r *TrainingRun) { r.TStartS = math.NaN() }, "t_start and t_end must be finite, got NaN and 2"},
		"infinite end":  {func(r *TrainingRun) { r.TEndS = math.Inf(1) }, "t_start and t_end must be finite, got 1 and +Inf"},
		"ends early":    {func(r *TrainingRun) { r.TEndS = 0.5 }, "t_end (0.5) must be >= t_start (1)"},
	} {
		r := valid
		c.edit(&r)
		err := r.Validate()
		if c.want == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if !errors.Is(err, ErrInvalidInput) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got error %v, want invalid input: …%s…", name, err, c.want)
		}
	}
}

func TestTrainingScheduleIsInOrderOfStart(t *testing.T) {
	runs := []TrainingRun{{NGPUs: 1, TStartS: 5}, {NGPUs: 2, TStartS: 3}, {NGPUs: 3, TStartS: 5}, {NGPUs: 4, TStartS: -1}, {NGPUs: 5, TStartS: 3}}
	var got []int
	for _, r := range NewTrainingSchedule(runs...) {
		got = append(got, r.NGPUs)
	}
	for i, want := range []int{4, 2, 5, 1, 3} {
		if got[i] != want {
			t.Fatalf("got the runs %v, want 4, 2, 5, 1, 3", got)
		}
	}
	if runs[0].NGPUs != 1 || runs[3].NGPUs != 4 {
		t.Errorf("the caller's runs were sorted too: %v", runs)
	}
	if s := NewTrainingSchedule(); len(s) != 0 {
		t.Errorf("got %v from no runs", s)
	}
}

func TestCommandErrorIsItsReason(t *testing.T) {
	for _, reason := range []error{ErrUnknownModel, ErrOutOfRange, ErrNotPossible} {
		var err error = &CommandError{Field: "batch_size_by_model.x", Reason: reason, Detail: "must be > 0, got -1"}
		for _, other := range []error{ErrUnknownModel, ErrOutOfRange, ErrNotPossible, ErrInvalidInput} {
			if errors.Is(err, other) != errors.Is(reason, other) {
				t.Errorf("an error for %q is %q: %t", reason, other, errors.Is(err, other))
			}
		}
		if got, want := err.Error(), "batch_size_by_model.x: must be > 0, got -1"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestServersHoldWholeReplicas(t *testing.T) {
	f := Facility{GPUsPerServer: 8, TotalGPUCapacity: 100}
	if got := f.NumServers(); got != 13 {
		t.Errorf("100 GPUs fill %d servers of 8, want 13", got)
	}
	m := &ModelSpec{GPUsPerReplica: 4}
	for replicas, want := range map[int]int{0: 0, 1: 1, 2: 1, 3: 2, 180: 90} {
		if got := f.ServersFor(m, replicas); got != want {
			t.Errorf("%d replicas need %d servers, want %d", replicas, got, want)
		}
	}
	if got := m.InitialReplicas(); got != 0 {
		t.Errorf("%d replicas without a schedule", got)
	}
	m.Replicas = mustSchedule(t, 5, Ramp{9, 0, 0})
	if got := m.InitialReplicas(); got != 5 {
		t.Errorf("%d initial replicas, want 5", got)
	}
}
