package agent

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/g2g-agent/g2g-agent/augment"
	"github.com/g2g-agent/g2g-agent/buffer"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/loadgen"
	"github.com/g2g-agent/g2g-agent/power"
	"github.com/g2g-agent/g2g-agent/rig"
)

// namedSource is a power source that only has a name.
type namedSource struct {
	power.Source
	name string
}

func (s namedSource) String() string { return s.name }

// quietHardware has GPUs whose power the test feeds, and nothing else.
type quietHardware struct{}

func (quietHardware) TakeStep(_ time.Time, s *loadgen.StepITL)                  { *s = loadgen.StepITL{} }
func (quietHardware) LoadReadings(readings []rig.LoadReading) []rig.LoadReading { return readings }

// onlineRun is a recorded run of OpenG2G on real servers: its configuration, and what
// each poll of the GPUs brought.
type onlineRun struct {
	Seed       uint64 `json:"seed"`
	DT         string `json:"dt_s"`
	Datacenter struct {
		GPUsPerServer  int     `json:"gpus_per_server"`
		BaseKWPerPhase float64 `json:"base_kw_per_phase"`
	} `json:"datacenter"`
	Augmentation struct {
		AmplitudeScaleRange [2]float64 `json:"amplitude_scale_range"`
		NoiseFraction       float64    `json:"noise_fraction"`
	} `json:"augmentation"`
	Deployments []struct {
		Spec struct {
			ModelLabel         string `json:"model_label"`
			GPUsPerReplica     int    `json:"gpus_per_replica"`
			FeasibleBatchSizes []int  `json:"feasible_batch_sizes"`
		} `json:"spec"`
		SimulatedNumReplicas int `json:"simulated_num_replicas"`
		InitialBatchSize     int `json:"initial_batch_size"`
		GPUEndpoints         []struct {
			Host       string `json:"host"`
			Port       int    `json:"port"`
			GPUIndices []int  `json:"gpu_indices"`
		} `json:"gpu_endpoints"`
		Replicas *struct {
			Initial int `json:"initial"`
			Ramps   []struct {
				Target int     `json:"target"`
				TStart float64 `json:"t_start"`
				TEnd   float64 `json:"t_end"`
			} `json:"ramps"`
		} `json:"replicas"`
	} `json:"deployments"`
	Polls []onlinePoll `json:"polls"`
}

type onlinePoll struct {
	NowS     float64                       `json:"now_s"`
	Readings map[string]map[string]float64 `json:"readings_w"`
	Step     bool                          `json:"step"`
}

// readOnlineRun reads the run, and the rows of its golden file, the header first.
func readOnlineRun(t *testing.T, name string) (run onlineRun, rows [][]string) {
	t.Helper()
	raw, err := os.ReadFile("../testdata/golden/online/" + name + ".json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &run); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open("../testdata/golden/online/" + name + ".csv")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err = csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	return run, rows
}

// config is the run's configuration, and the GPUs of each of its models.
func (run *onlineRun) config(t *testing.T) (cfg Config, gpus [][]rig.GPU) {
	t.Helper()
	dt, err := datacenter.ParseSeconds(run.DT)
	if err != nil {
		t.Fatal(err)
	}
	cfg = Config{
		Seed: run.Seed, DT: dt,
		Facility:     datacenter.Facility{GPUsPerServer: run.Datacenter.GPUsPerServer, BaseKWPerPhase: run.Datacenter.BaseKWPerPhase},
		Augmentation: datacenter.Augmentation{AmplitudeScaleRange: run.Augmentation.AmplitudeScaleRange, NoiseFraction: run.Augmentation.NoiseFraction},
	}
	for _, d := range run.Deployments {
		cfg.Facility.TotalGPUCapacity += d.SimulatedNumReplicas * d.Spec.GPUsPerReplica
		initial, ramps := d.SimulatedNumReplicas, []datacenter.Ramp(nil)
		if d.Replicas != nil {
			initial = d.Replicas.Initial
			for _, r := range d.Replicas.Ramps {
				ramps = append(ramps, datacenter.Ramp{Target: r.Target, TStartS: r.TStart, TEndS: r.TEnd})
			}
		}
		schedule, err := datacenter.NewReplicaSchedule(initial, ramps...)
		if err != nil {
			t.Fatal(err)
		}
		if d.SimulatedNumReplicas == 0 {
			schedule = nil
		}
		cfg.Models = append(cfg.Models, datacenter.ModelSpec{
			ModelLabel: d.Spec.ModelLabel, GPUsPerReplica: d.Spec.GPUsPerReplica, FeasibleBatchSizes: d.Spec.FeasibleBatchSizes,
			InitialBatchSize: d.InitialBatchSize, Replicas: schedule,
		})
		var ids []rig.GPU
		for _, e := range d.GPUEndpoints {
			for _, i := range e.GPUIndices {
				ids = append(ids, rig.GPU{Source: namedSource{name: fmt.Sprintf("%s:%d", e.Host, e.Port)}, Index: i})
			}
		}
		gpus = append(gpus, ids)
	}
	return cfg, gpus
}

// feedTo feeds a poll's readings: a GPU of a host that answered and did not name it is
// lost, one of a host that did not answer keeps its last reading.
func (poll *onlinePoll) feedTo(feed *rig.Feed, gpus [][]rig.GPU) {
	for _, ids := range gpus {
		for _, id := range ids {
			readings, named := poll.Readings[id.Source.String()]
			if !named {
				continue
			}
			if w, there := readings[strconv.Itoa(id.Index)]; there {
				feed.Read(id, poll.NowS, w)
			} else {
				feed.Lose(id, poll.NowS)
			}
		}
	}
}

// TestLiveMatchesOpenG2G feeds scripted readings of real GPUs through the power
// feed, its rolling buffers, the live readings and the augmenter.
func TestLiveMatchesOpenG2G(t *testing.T) {
	for _, name := range []string{"two_models", "measured_only_and_without_gpus"} {
		t.Run(name, func(t *testing.T) { testOnlineRun(t, name) })
	}
}

func testOnlineRun(t *testing.T, name string) {
	t.Helper()
	run, rows := readOnlineRun(t, name)
	cfg, gpus := run.config(t)
	const staggerS = 10
	feed := rig.NewFeed(gpus, staggerS)
	pool := cfg.newPool(augment.StaggerSeconds(staggerS))
	nowS := 0.0
	readings := &liveReadings{
		feed: feed, stagger: buffer.NewOffsets(pool.StaggerSeconds()), staleAfterS: 2, dtS: cfg.DT.Float64(),
		clock: func(time.Time) time.Duration { return time.Duration(math.RoundToEven(nowS * 1e9)) },
	}
	for m, d := range run.Deployments {
		readings.models = append(readings.models, newLiveModel(quietHardware{}, loadgen.NewStepWindow(1), len(gpus[m]), d.Spec.GPUsPerReplica, d.SimulatedNumReplicas))
	}
	pipeline, err := newPipeline(cfg, pool, readings)
	if err != nil {
		t.Fatal(err)
	}

	step := 0
	for _, poll := range run.Polls {
		nowS = poll.NowS
		poll.feedTo(feed, gpus)
		if !poll.Step {
			continue
		}
		state, err := pipeline.Step(time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		step++
		wantRow(t, step, rows[0], rows[step], nowS, state)
	}
	if step != len(rows)-1 || step == 0 || !slices.Contains(rows[0], run.Deployments[1].Spec.ModelLabel+":measured_power_w") {
		t.Errorf("%d steps, the golden file has %d", step, len(rows)-1)
	}
}

// wantRow compares a step with its row of the golden file.
func wantRow(t *testing.T, step int, columns, row []string, nowS float64, state *datacenter.State) {
	t.Helper()
	got := map[string]float64{
		"now_s": nowS, "time_s": state.TimeS, "power_a_w": state.PowerW.A, "power_b_w": state.PowerW.B, "power_c_w": state.PowerW.C,
		"measured_power_per_phase_w": state.MeasuredPowerW.B,
	}
	for i := range state.Models {
		m := &state.Models[i]
		got[m.ModelLabel+":measured_power_w"] = m.Live.MeasuredPowerW
		got[m.ModelLabel+":augmented_power_w"] = m.PowerW
		got[m.ModelLabel+":active_replicas"] = float64(m.ActiveReplicas)
		got[m.ModelLabel+":augmentation_factor"] = m.Live.AugmentationFactor
	}
	for j, column := range columns {
		v, known := got[column]
		if !known {
			t.Fatalf("column %s is not compared", column)
		}
		if want, err := strconv.ParseFloat(row[j], 64); err != nil || v != want {
			t.Errorf("step %d, %s: %v, want %s", step, column, v, row[j])
		}
	}
}
