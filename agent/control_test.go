package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/workload"
)

// trace is a made-up power trace of one GPU.
func trace(base float64) *workload.InferenceTrace {
	return &workload.InferenceTrace{
		TS: []float64{0, 1, 2, 3, 4, 5}, PowerW: []float64{base, base + 10, base + 5, base, base + 20, base}, MeasuredGPUs: 1, Origin: "made up",
	}
}

func seconds(t testing.TB, text string) datacenter.Seconds {
	t.Helper()
	s, err := datacenter.ParseSeconds(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// twoModels is a replay of models "a" (2 GPUs a replica) and "b" (4) on 40 GPUs
// in servers of 8, for 100 s; "a" ramps from 8 to 12 replicas over [50, 60].
func twoModels(t testing.TB) ReplayConfig {
	t.Helper()
	schedule := func(initial int, ramps ...datacenter.Ramp) *datacenter.ReplicaSchedule {
		s, err := datacenter.NewReplicaSchedule(initial, ramps...)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	sizes := []int{8, 16}
	data := workload.ModelData{Traces: map[int]*workload.InferenceTrace{8: trace(100), 16: trace(200)}, Origin: "made up"}
	return ReplayConfig{
		Config: Config{
			Seed: 1, DT: seconds(t, "1"),
			Facility:     datacenter.Facility{GPUsPerServer: 8, PowerFactor: 1, TotalGPUCapacity: 40},
			Augmentation: datacenter.Augmentation{AmplitudeScaleRange: [2]float64{1, 1}},
			Models: []datacenter.ModelSpec{
				{ModelLabel: "a", GPUsPerReplica: 2, ITLDeadlineS: 1, FeasibleBatchSizes: sizes, InitialBatchSize: 8, Replicas: schedule(8, datacenter.Ramp{Target: 12, TStartS: 50, TEndS: 60})},
				{ModelLabel: "b", GPUsPerReplica: 4, ITLDeadlineS: 1, FeasibleBatchSizes: sizes, InitialBatchSize: 16, Replicas: schedule(4)},
				{ModelLabel: "idle", GPUsPerReplica: 1, ITLDeadlineS: 1, FeasibleBatchSizes: sizes, InitialBatchSize: 8},
			},
		},
		Duration: seconds(t, "100"), Data: []workload.ModelData{data, data, data},
	}
}

func at(t testing.TB, when string, c datacenter.Command) datacenter.ScriptedCommand {
	t.Helper()
	return datacenter.ScriptedCommand{T: seconds(t, when), Command: c}
}

func shift(label string, delta int) datacenter.Command {
	return datacenter.ShiftReplicas{ModelLabel: label, ReplicaDelta: delta}
}

func batch(label string, size int) datacenter.Command {
	return datacenter.SetBatchSize{BatchSizeByModel: map[string]int{label: size}}
}

func TestNewReplayRefusesWhatWouldFailLater(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(*ReplayConfig)
		want string
	}{
		{"initial replicas", func(c *ReplayConfig) { c.Facility.TotalGPUCapacity = 31 },
			"models: the replica schedules need 32 GPUs at the start, but datacenter.total_gpu_capacity is 31"},
		{"a ramp's end", func(c *ReplayConfig) { c.Facility.TotalGPUCapacity = 39 },
			"models: the replica schedules need 40 GPUs at t=60 s, but datacenter.total_gpu_capacity is 39"},
		{"a ramp after the run", func(c *ReplayConfig) { c.Facility.TotalGPUCapacity = 39; c.Duration = seconds(t, "10") },
			"models: the replica schedules need 40 GPUs at t=60 s, but datacenter.total_gpu_capacity is 39"},
		{"servers, within a ramp", func(c *ReplayConfig) {
			// 5 servers of 8; both models always need whole ones.
			s, _ := datacenter.NewReplicaSchedule(5)
			c.Models[1].Replicas = s // 20 GPUs, 3 servers
			s, _ = datacenter.NewReplicaSchedule(8, datacenter.Ramp{Target: 10, TStartS: 50, TEndS: 60})
			c.Models[0].Replicas = s // 16 to 20 GPUs, 2 to 3 servers
		}, "models: the replica schedules need 38 GPUs in 6 servers at t=53 s, but datacenter.total_gpu_capacity is 40 GPUs, which fill 5 servers of 8"},
		{"a shift", func(c *ReplayConfig) { c.Commands = []datacenter.ScriptedCommand{at(t, "10", shift("b", 3))} },
			"replay.commands[0].shift_replicas: with this shift, before which 8 GPUs are free, the models need 44 GPUs in 6 servers at t=10 s, but datacenter.total_gpu_capacity is 40 GPUs, which fill 5 servers of 8"},
		{"a shift, at a later ramp", func(c *ReplayConfig) {
			c.Commands = []datacenter.ScriptedCommand{at(t, "70", batch("a", 16)), at(t, "10", shift("b", 2))}
		}, "replay.commands[1].shift_replicas: with this shift, before which 8 GPUs are free, the models need 42 GPUs in 6 servers at t=52 s, but datacenter.total_gpu_capacity is 40 GPUs, which fill 5 servers of 8"},
		{"GPUs that servers would have room for, within a ramp", func(c *ReplayConfig) {
			c.Facility.TotalGPUCapacity = 33 // which fill 5 servers of 8
			c.Models[0].Replicas, _ = datacenter.NewReplicaSchedule(4, datacenter.Ramp{Target: 12, TStartS: 0, TEndS: 100})
			c.Models[1].Replicas, _ = datacenter.NewReplicaSchedule(4, datacenter.Ramp{Target: 0, TStartS: 90, TEndS: 90})
			c.Commands = []datacenter.ScriptedCommand{at(t, "0", shift("b", -1)), at(t, "80", shift("b", 1))}
		}, "replay.commands[1].shift_replicas: with this shift, before which 1 GPUs are free, the models need 36 GPUs in 5 servers at t=80 s, but datacenter.total_gpu_capacity is 33 GPUs, which fill 5 servers of 8"},
		{"everything at once", func(c *ReplayConfig) {
			c.Models[0].InitialBatchSize = 32
			c.Commands = []datacenter.ScriptedCommand{at(t, "10", shift("b", 30))}
		}, `models[0].initial_batch_size: no trace for model "a" at batch size 32`},
		{"initial batch size without a trace", func(c *ReplayConfig) { c.Models[0].InitialBatchSize = 32 },
			`models[0].initial_batch_size: no trace for model "a" at batch size 32 in made up; there are [8 16]`},
		{"commanded batch size without a trace", func(c *ReplayConfig) { c.Commands = []datacenter.ScriptedCommand{at(t, "10", batch("b", 64))} },
			`replay.commands[0].set_batch_size.b: no trace for model "b" at batch size 64 in made up; there are [8 16]`},
		{"batch size without a fit", func(c *ReplayConfig) { c.ITL = true },
			`models[0].initial_batch_size: no ITL fit for model "a" at batch size 8 in made up; there are []`},
		{"a trace without time span", func(c *ReplayConfig) {
			flat := trace(1)
			clear(flat.TS)
			c.Data[1].Traces = map[int]*workload.InferenceTrace{16: flat}
		}, "made up: the trace has no time span: all its times are 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := twoModels(t)
			c.edit(&cfg)
			_, err := NewReplay(cfg)
			if !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v\nwant %s", err, c.want)
			}
		})
	}
}

func TestScriptIsJudgedAsAWhole(t *testing.T) {
	cfg := twoModels(t)
	// The second shift makes room for the ramp that the first would block.
	cfg.Commands = []datacenter.ScriptedCommand{at(t, "10", shift("b", 2)), at(t, "40", shift("b", -2))}
	replay, err := NewReplay(cfg)
	if err != nil {
		t.Fatal(err)
	}
	active := func() int {
		s, err := replay.Step(time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		return s.Models[1].ActiveReplicas
	}
	got := map[int64]int{}
	for k := range replay.Steps() {
		if n := active(); n != got[-1] {
			got[-1], got[k] = n, n
		}
	}
	delete(got, -1)
	if want := map[int64]int{0: 4, 10: 6, 40: 4}; !maps.Equal(got, want) {
		t.Errorf("replicas of b change to %v, want %v", got, want)
	}
	if _, err := replay.Step(time.Time{}); !errors.Is(err, io.EOF) {
		t.Errorf("after the last step: %v, want io.EOF", err)
	}
}

func TestCommandsAreCheckedWhole(t *testing.T) {
	cfg := twoModels(t)
	var events []datacenter.Event
	cfg.OnEvent = func(e datacenter.Event) { events = append(events, e) }
	replay, err := NewReplay(cfg)
	if err != nil {
		t.Fatal(err)
	}
	wantRefusals(t, replay)
	if len(events) > 0 {
		t.Errorf("refused commands gave events %v", events)
	}
	if s, err := replay.Step(time.Time{}); err != nil || s.Models[0].BatchSize != 8 || s.Models[1].BatchSize != 16 || s.Models[1].ActiveReplicas != 4 {
		t.Errorf("refused commands changed the state: %+v (%v)", s, err)
	}

	for _, c := range []datacenter.Command{batch("a", 16), shift("b", -9), shift("idle", 5)} {
		if err := replay.Apply(c); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
	want := []datacenter.Event{
		{TimeS: 1, Topic: "datacenter.batch_size.updated", Data: datacenter.BatchSizesUpdated{BatchSizeByModel: datacenter.ByModel[int]{{ModelLabel: "a", Value: 16}, {ModelLabel: "b", Value: 16}, {ModelLabel: "idle", Value: 8}}}},
		{TimeS: 1, Topic: "datacenter.replicas.shifted", Data: datacenter.ReplicasShifted{ModelLabel: "b", ReplicaDelta: -9, EffectiveReplicas: 0}},
		{TimeS: 1, Topic: "datacenter.replicas.shifted", Data: datacenter.ReplicasShifted{ModelLabel: "idle", ReplicaDelta: 5, EffectiveReplicas: 0}},
	}
	if fmt.Sprint(events) != fmt.Sprint(want) {
		t.Errorf("events %v, want %v", events, want)
	}
	s, err := replay.Step(time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if m := s.Models[1]; m.ActiveReplicas != 0 || m.PowerW != 0 || m.PhaseShare != datacenter.UniformShare() || !math.IsNaN(m.ObservedITLS) {
		t.Errorf("model b without replicas is %+v", m)
	}
	if m := s.Models[0]; m.BatchSize != 16 || m.PowerW < 16*200 {
		t.Errorf("model a at batch size 16 is %+v", m)
	}
	if m := s.Models[2]; m.PowerW != 0 || m.ActiveReplicas != 0 {
		t.Errorf("a model that starts without replicas is %+v, OpenG2G never gives it any", m)
	}
}

// wantRefusals gives a replay of [twoModels] at its start commands that it has to
// refuse.
func wantRefusals(t *testing.T, replay *Replay) {
	t.Helper()
	for _, c := range []struct {
		command datacenter.Command
		reason  error
		want    string
	}{
		{datacenter.SetBatchSize{}, datacenter.ErrOutOfRange, "batch_size_by_model: names no model"},
		{batch("c", 8), datacenter.ErrUnknownModel, `batch_size_by_model.c: unknown model; the models are ["a" "b" "idle"]`},
		{datacenter.SetBatchSize{BatchSizeByModel: map[string]int{"a": 16, "b": 9}}, datacenter.ErrInfeasibleBatchSize,
			"batch_size_by_model.b: 9 is not one of the feasible batch sizes [8 16]"},
		{batch("a", -8), datacenter.ErrInfeasibleBatchSize, "batch_size_by_model.a: -8 is not one of the feasible batch sizes [8 16]"},
		{datacenter.SetBatchSize{BatchSizeByModel: map[string]int{"a": 16}, RampUpRateByModel: map[string]float64{"a": 2}}, datacenter.ErrOutOfRange,
			"ramp_up_rate_by_model.a: a replay changes batch sizes at once and knows no ramp_up_rate, got 2"},
		{datacenter.SetBatchSize{BatchSizeByModel: map[string]int{"a": 16}, RampUpRateByModel: map[string]float64{"a": math.NaN()}}, datacenter.ErrOutOfRange,
			"ramp_up_rate_by_model.a: must be a finite number >= 0, got NaN"},
		{datacenter.SetBatchSize{BatchSizeByModel: map[string]int{"a": 16}, RampUpRateByModel: map[string]float64{"b": 1}}, datacenter.ErrOutOfRange,
			"ramp_up_rate_by_model.b: the model is not in batch_size_by_model"},
		{shift("c", 1), datacenter.ErrUnknownModel, `model_label: unknown model "c"; the models are ["a" "b" "idle"]`},
		{shift("a", math.MinInt), datacenter.ErrOutOfRange, fmt.Sprintf("replica_delta: %d is too large", math.MinInt)},
		{shift("b", 3), datacenter.ErrNoCapacity, "replica_delta: +3 replicas of \"b\" need 12 GPUs; of 40 GPUs 8 are free now, and at t=0 s they would not suffice"},
		{shift("b", 1), datacenter.ErrNoCapacity, "replica_delta: +1 replicas of \"b\" need 4 GPUs; of 40 GPUs 8 are free now, and at t=52 s they would not suffice"},
	} {
		err := replay.Apply(c.command)
		if !errors.Is(err, c.reason) || err.Error() != c.want {
			t.Errorf("%+v: error %v\nwant %s", c.command, err, c.want)
		}
	}
}

func TestNumbersThatOverflowEndTheRun(t *testing.T) {
	cfg := twoModels(t)
	cfg.Facility.BaseKWPerPhase = 1e308
	replay, err := NewReplay(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := replay.Step(time.Time{}); !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), "the power at t=0 s is not a finite number") {
		t.Errorf("error %v", err)
	}
}

func TestInfeasibleBatchSizesWhereAllowed(t *testing.T) {
	cfg := twoModels(t)
	cfg.Models[0].FeasibleBatchSizes = []int{8}
	cfg.AllowInfeasibleBatchSizes = true
	replay, err := NewReplay(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := replay.Apply(batch("a", 16)); err != nil {
		t.Error(err)
	}
	if err := replay.Apply(batch("a", 0)); !errors.Is(err, datacenter.ErrInfeasibleBatchSize) {
		t.Errorf("batch size 0: %v, want it refused", err)
	}
}

// TestPacedRunKeepsItsTimes runs in a bubble whose clock moves only when all
// sleep: every step must start exactly when due, and one that was held up must
// not delay the others.
func TestPacedRunKeepsItsTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := twoModels(t)
		cfg.DT, cfg.Duration = seconds(t, "1/3"), seconds(t, "10")
		cfg.Models[0].Replicas = cfg.Models[1].Replicas
		replay, err := NewReplay(cfg)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		var lateSteps []int
		steps := 0
		timing, err := RunPaced(t.Context(), replay, cfg.DT, func(s *datacenter.State) error {
			due := time.Duration(s.TimeS * float64(time.Second))
			if late := time.Since(start) - due; s.Seq != 8 && s.Seq != 9 && (late < 0 || late > time.Microsecond) {
				t.Errorf("step %d ran %v after its time", s.Seq, late)
			}
			if !s.WallTime.Equal(start.Add(due)) {
				t.Errorf("step %d has wall time %v, want %v", s.Seq, s.WallTime, start.Add(due))
			}
			if s.Seq == 7 {
				<-time.After(900 * time.Millisecond) // held up beyond the next two steps
			}
			return nil
		}, func(step StepTiming) {
			if step.Late() {
				lateSteps = append(lateSteps, steps)
			}
			if held := steps == 7; held != (step.Took >= 900*time.Millisecond) {
				t.Errorf("step %d took %v", steps, step.Took)
			}
			steps++
		})
		if !slices.Equal(lateSteps, []int{8, 9}) || timing.Elapsed.Round(time.Millisecond) != 9667*time.Millisecond {
			t.Errorf("steps %v were reported late and %v elapsed, want steps 8 and 9 and 9.667 s", lateSteps, timing.Elapsed)
		}
		if err != nil || timing.Steps != 30 || timing.LateSteps != 2 || timing.MaxLateness.Round(time.Millisecond) != 567*time.Millisecond {
			t.Errorf("timing %+v (%v), want 30 steps, 2 of them late, by 567 ms at most", timing, err)
		}
		if took := time.Since(start); took.Round(time.Millisecond) != 10*time.Second {
			t.Errorf("the run took %v, want 10 s", took)
		}
	})
}

func TestRunsEndWithTheirContext(t *testing.T) {
	stop := errors.New("stop")
	for name, run := range map[string]func(context.Context, Stepper, func(*datacenter.State) error) (Timing, error){
		"fast": RunFast,
		"paced": func(ctx context.Context, s Stepper, emit func(*datacenter.State) error) (Timing, error) {
			return RunPaced(ctx, s, seconds(t, "1"), emit, nil)
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			replay, err := NewReplay(twoModels(t))
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancelCause(t.Context())
			timing, err := run(ctx, replay, func(s *datacenter.State) error {
				if s.Seq == 3 {
					cancel(stop)
				}
				return nil
			})
			if !errors.Is(err, stop) || timing.Steps != 4 {
				t.Errorf("%s: %d steps, error %v; want 4 and the context's cause", name, timing.Steps, err)
			}
			failed := errors.New("full")
			if _, err := run(t.Context(), replay, func(*datacenter.State) error { return failed }); !errors.Is(err, failed) {
				t.Errorf("%s: error %v, want that of emit", name, err)
			}
		})
	}
}

// A run that is behind its time ends as exactly: no step is caught up after its end.
func TestLateRunEndsWithItsContext(t *testing.T) {
	for range 20 { // a run that left it to chance would hold for each step with one half
		synctest.Test(t, func(t *testing.T) {
			replay, err := NewReplay(twoModels(t))
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			timing, err := RunPaced(ctx, replay, seconds(t, "1"), func(s *datacenter.State) error {
				if s.Seq == 3 {
					<-time.After(5 * time.Second)
					cancel()
				}
				return nil
			}, nil)
			if !errors.Is(err, context.Canceled) || timing.Steps != 4 {
				t.Errorf("%d steps, error %v; want 4 and the context's", timing.Steps, err)
			}
		})
	}
}

func TestShippedConfigRunsTheGoldenCase(t *testing.T) {
	c, err := config.Load("../configs/replay.yaml", nil, config.ForReplay)
	if err != nil {
		t.Fatal(err)
	}
	s, err := SetUpReplay(c, nil)
	if err != nil {
		t.Fatal(err)
	}
	equalCSV(t, runCSV(t, s), golden(t, "three_models_noise_ramps_training"))
}
