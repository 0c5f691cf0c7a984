package agent

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/workload"
)

// A replay that goes on past its duration goes through its templates again, as
// OpenG2G does when it is stepped on.
func TestReplayGoesOnPastItsDuration(t *testing.T) {
	const name = "short_templates_shifts_past_capacity"
	for _, test := range []struct {
		name             string
		duration         string
		templateDuration *datacenter.Seconds
	}{
		{"templates of the run's length", "7.05", nil},
		{"templates of a length of their own", "1", new(seconds(t, "7.05"))},
	} {
		t.Run(test.name, func(t *testing.T) {
			want := golden(t, name)
			s := setUp(t, name, func(c *config.Config) {
				c.Replay.Duration, c.Replay.TemplateDuration, c.Replay.AtEnd = seconds(t, test.duration), test.templateDuration, config.AtEndContinue
			})
			if !s.Replay.Endless() {
				t.Error("the replay is not endless")
			}
			s.Replay.steps = int64(strings.Count(string(want), "\n")) - 1 // what OpenG2G was asked for
			equalCSV(t, runCSV(t, s), want)
		})
	}
}

func TestEndlessReplayDoesNotEnd(t *testing.T) {
	cfg := twoModels(t)
	cfg.Endless, cfg.Duration = true, seconds(t, "5")
	cfg.Commands = []datacenter.ScriptedCommand{at(t, "70", shift("b", 2))} // when "a" has long ended its ramp to all that is left
	if _, err := NewReplay(cfg); !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), "replay.commands[0].shift_replicas: ") {
		t.Errorf("a shift past the capacity, after the duration: %v", err)
	}
	cfg.Commands = []datacenter.ScriptedCommand{at(t, "70", batch("b", 8))}
	replay, err := NewReplay(cfg)
	if err != nil {
		t.Fatal(err)
	}
	served := NewServedReplay(replay)
	for k := range 500 {
		state, err := served.Step(time.Time{})
		if err != nil || state.Seq != int64(k) || state.TimeS != float64(k) {
			t.Fatalf("step %d: %+v, %v", k, state, err)
		}
		if want := map[bool]int{false: 16, true: 8}[k >= 70]; state.Models[1].BatchSize != want {
			t.Fatalf("step %d: batch size %d, want %d", k, state.Models[1].BatchSize, want)
		}
	}
	if phase := served.Status().Phase; phase != PhaseStepping {
		t.Errorf("the phase is %s", phase)
	}
}

// What OpenG2G's available_gpu_capacity was before each step.
func TestAvailableGPUCapacityMatchesOpenG2G(t *testing.T) {
	for _, name := range []string{"long_templates_ramp", "short_templates_shifts_past_capacity"} {
		raw, err := os.ReadFile(filepath.Join("..", "testdata", "golden", "offline", name+".available_gpu_capacity.json"))
		if err != nil {
			t.Fatal(err)
		}
		var want []int
		if err := json.Unmarshal(raw, &want); err != nil {
			t.Fatal(err)
		}
		replay := setUp(t, name, nil).Replay
		if int64(len(want)) != replay.Steps() {
			t.Fatalf("%s: OpenG2G computed %d steps, want %d", name, len(want), replay.Steps())
		}
		served := NewServedReplay(replay)
		differsFromFree := false
		for k := range want {
			if _, err := served.Step(time.Time{}); err != nil {
				t.Fatal(err)
			}
			status := served.Status()
			if status.AvailableGPUCapacity != want[k] {
				t.Fatalf("%s, step %d: %d, want %d", name, k, status.AvailableGPUCapacity, want[k])
			}
			differsFromFree = differsFromFree || status.FreeGPUs != want[k]
		}
		if !differsFromFree {
			t.Errorf("%s: the free GPUs are the same at every step, so that nothing was told apart", name)
		}
	}
}

// Whole servers hold a shift past the capacity, if that is allowed; at most as many
// servers as there are hold any.
func TestShiftsPastTheCapacity(t *testing.T) {
	// As in OpenG2G: 10 GPUs fill 2 servers of 8, 5 replicas of 1 GPU run.
	served := func(allow bool, commands ...datacenter.ScriptedCommand) (*ServedReplay, error) {
		cfg := twoModels(t)
		cfg.Facility.TotalGPUCapacity, cfg.AllowShiftsPastCapacity, cfg.Commands = 10, allow, commands
		cfg.Models, cfg.Data = cfg.Models[:1], cfg.Data[:1]
		cfg.Models[0].GPUsPerReplica = 1
		cfg.Models[0].Replicas, _ = datacenter.NewReplicaSchedule(5)
		replay, err := NewReplay(cfg)
		if err != nil {
			return nil, err
		}
		return NewServedReplay(replay), nil
	}
	strict, err := served(false)
	if err != nil {
		t.Fatal(err)
	}
	allowed, err := served(true)
	if err != nil {
		t.Fatal(err)
	}
	if free := strict.Status().Models[0].FreeReplicas; free != 5 {
		t.Errorf("%d replicas are free, want 5", free)
	}
	if free := allowed.Status().Models[0].FreeReplicas; free != 11 {
		t.Errorf("%d replicas are free in the servers, want 11", free)
	}
	for _, delta := range []int{7, 11} {
		const wayOut = "the servers would (control.allow_shifts_past_capacity)"
		if err := strict.Apply(t.Context(), shift("a", delta)); !errors.Is(err, datacenter.ErrNoCapacity) || !strings.HasSuffix(err.Error(), wayOut) {
			t.Errorf("%+d: %v", delta, err)
		}
		if _, err := served(false, at(t, "3", shift("a", delta))); !errors.Is(err, datacenter.ErrInvalidInput) || !strings.HasSuffix(err.Error(), wayOut) {
			t.Errorf("%+d, scripted: %v", delta, err)
		}
		if _, err := served(true, at(t, "3", shift("a", delta))); err != nil {
			t.Errorf("%+d, scripted and allowed: %v", delta, err)
		}
		if err := allowed.Apply(t.Context(), shift("a", delta)); err != nil {
			t.Errorf("%+d, allowed: %v", delta, err)
		}
		state, err := allowed.Step(time.Time{})
		if err != nil || state.Models[0].ActiveReplicas != 16 {
			t.Errorf("%+d: %+v, %v", delta, state, err)
		}
		if status := allowed.Status(); status.AvailableGPUCapacity != 0 || status.FreeGPUs != 0 {
			t.Errorf("%+d: %d GPUs available, %d free, want none", delta, status.AvailableGPUCapacity, status.FreeGPUs)
		}
		if err := allowed.Apply(t.Context(), shift("a", -delta)); err != nil {
			t.Fatal(err)
		}
	}
	if err := allowed.Apply(t.Context(), shift("a", 12)); !errors.Is(err, datacenter.ErrNoCapacity) || strings.Contains(err.Error(), "control.") {
		t.Errorf("more than the servers hold: %v", err)
	}
	if _, err := served(true, at(t, "3", shift("a", 12))); !errors.Is(err, datacenter.ErrInvalidInput) || strings.Contains(err.Error(), "control.") {
		t.Errorf("more than the servers hold, scripted: %v", err)
	}
}

// A latency that outgrows a double ends the run, as OpenG2G's OverflowError does:
// it is not "no latency".
func TestLatencyThatOverflows(t *testing.T) {
	for _, test := range []struct {
		name     string
		replicas int
		fit      workload.ITLMixture
	}{
		{"the mean and the variance", 40, workload.ITLMixture{PiSteady: 0.9, SigmaSteady: 0.1, ScaleSteady: 0.01, PiStall: 0.1, SigmaStall: 40, ScaleStall: 0.1}},
		{"those of a part of no weight", 40, workload.ITLMixture{PiSteady: 1, SigmaSteady: 0.1, ScaleSteady: 0.01, SigmaStall: 40, ScaleStall: 0.1}},
		{"the variance alone", 40, workload.ITLMixture{PiSteady: 0.9, SigmaSteady: 0.1, ScaleSteady: 0.01, PiStall: 0.1, SigmaStall: 20, ScaleStall: 1}},
		{"a draw", 8, workload.ITLMixture{PiStall: 1, SigmaStall: 1e300, ScaleStall: 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := twoModels(t)
			cfg.ITL, cfg.Models, cfg.Facility.TotalGPUCapacity = true, cfg.Models[:1], 400
			cfg.Models[0].Replicas, _ = datacenter.NewReplicaSchedule(test.replicas)
			cfg.Data = []workload.ModelData{cfg.Data[0]}
			cfg.Data[0].ITL = map[int]workload.ITLMixture{8: test.fit}
			replay, err := NewReplay(cfg)
			if err != nil {
				t.Fatal(err)
			}
			for range 20 { // a draw may be of either side
				if _, err = replay.Step(time.Time{}); err != nil {
					break
				}
			}
			if !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), "the inter-token latency of a at t=") {
				t.Errorf("got %v", err)
			}
		})
	}
	// What is not needed may overflow, as there.
	cfg := twoModels(t)
	cfg.ITL, cfg.Models = true, cfg.Models[:1]
	cfg.Data[0].ITL = map[int]workload.ITLMixture{8: {PiSteady: 1, SigmaSteady: 0.1, ScaleSteady: 0.01, SigmaStall: 40, ScaleStall: 0.1}}
	cfg.Data = cfg.Data[:1]
	replay, err := NewReplay(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if state, err := replay.Step(time.Time{}); err != nil || math.IsNaN(state.Models[0].ObservedITLS) {
		t.Errorf("%+v, %v", state, err)
	}
}
