package agent

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/datacenter"
)

// A model may be measured without being simulated, and simulated without GPUs.
func TestLiveMeasuresOnlyAndSimulatesOnly(t *testing.T) {
	s := newLiveSite(t, func(c *siteConfig) {
		c.Models[0].Replicas, c.Hardware[0].SimulatedReplicas = nil, 0
		c.gpus[1][0] = nil
		c.Facility.TotalGPUCapacity = 2 * 100
		c.StaleErrorAfter = time.Hour
	})
	s.start(t)
	state := s.await(t, "latencies of both models", func(state *datacenter.State) bool {
		return !math.IsNaN(state.Models[0].ObservedITLS) && !math.IsNaN(state.Models[1].ObservedITLS)
	})
	measured, simulated := &state.Models[0], &state.Models[1]
	if measured.PowerW != 0 || measured.ActiveReplicas != 0 || measured.Live.AugmentationFactor != 0 || measured.Live.MeasuredPowerW < 200 {
		t.Errorf("the model that is only measured is %+v", measured)
	}
	if simulated.PowerW != 0 || simulated.ActiveReplicas != 100 || simulated.Live.AugmentationFactor != 100 || simulated.Live.MeasuredPowerW != 0 || simulated.Live.Stale {
		t.Errorf("the model without GPUs is %+v", simulated)
	}
	if err := s.live.Apply(t.Context(), batch("patched", 8)); err != nil {
		t.Errorf("a batch size for the model that is only measured: %v", err)
	}
	if err := s.live.Apply(t.Context(), batch("stock", 8)); err != nil {
		t.Errorf("a batch size for the model without GPUs: %v", err)
	}
	s.await(t, "both batch sizes", func(state *datacenter.State) bool {
		return state.Models[0].BatchSize == 8 && state.Models[1].BatchSize == 8
	})
	s.stop(t)
}

// Where no model is simulated there is still a server, as in OpenG2G, and nothing
// on it.
func TestLiveThatOnlyMeasures(t *testing.T) {
	s := newLiveSite(t, func(c *siteConfig) {
		for m := range c.Models {
			c.Models[m].Replicas, c.Hardware[m].SimulatedReplicas = nil, 0
		}
		c.Facility.TotalGPUCapacity, c.Augmentation.NoiseFraction = 0, 0.1
	})
	s.start(t)
	state := s.await(t, "a state", func(*datacenter.State) bool { return true })
	if state.PowerW.Total() != 3*1000 || state.MeasuredPowerW.Total() < 3*1000+4*100 {
		t.Errorf("%v W and %v W measured", state.PowerW, state.MeasuredPowerW)
	}
	if status := s.live.Status(); status.FreeGPUs != 0 || status.AvailableGPUCapacity != 0 || status.Models[0].FreeReplicas != 0 {
		t.Errorf("the status is %+v", status)
	}
	s.stop(t)
}

func TestSetUpLiveAsOpenG2GDoes(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "run.yaml")
	const model = `, model_id: org/m, gpus_per_replica: 1, itl_deadline_s: 0.1, feasible_batch_sizes: [8], live: {vllm_base_url: "http://n:8000/`
	text := `models:
  - {model_label: a` + model + `a", simulated_num_replicas: 8, gpu_endpoints: [{host: n}, {socket: /run/z.sock}]}}
  - {model_label: b` + model + `b", simulated_num_replicas: 0, gpu_endpoints: [{host: n, gpu_indices: [1]}]}, replicas: {initial: 3}}
  - {model_label: c` + model + `c", simulated_num_replicas: 8}}
live: {requests_dir: .}
`
	for name, content := range map[string]string{"run.yaml": text, "a.jsonl": "\n", "b.jsonl": `{"messages":[{"role":"user","content":"x"}]}`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := config.Load(file, nil, config.ForLive)
	if err != nil {
		t.Fatal(err)
	}
	setup, err := SetUpLive(c, Secrets{}, zerolog.Nop(), Observer{})
	if err != nil {
		t.Fatal(err)
	}
	defer setup.Live.Close()
	want := []string{
		filepath.Join(dir, "a.jsonl") + ` holds no request: model "a" is loaded with a minimal request`,
		"there is no " + filepath.Join(dir, "c.jsonl") + `: model "c" is loaded with a minimal request`,
		`model "b" is only measured, as its simulated_num_replicas is 0: its replicas have no effect`,
		`model "c" has no gpu_endpoints: its 8 simulated replicas draw 0 W`,
	}
	if !slices.Equal(setup.Warnings, want) {
		t.Errorf("the warnings are %q, want %q", setup.Warnings, want)
	}
	var indices []int
	for _, g := range setup.Live.cfg.Hardware[0].Servers[0].GPUs {
		indices = append(indices, g.Index)
	}
	if !slices.Equal(indices, []int{0, 0}) {
		t.Errorf("the GPUs of two endpoints without gpu_indices are %v, want the first of each", indices)
	}
	if setup.Models[1].Replicas != nil || setup.Models[2].InitialReplicas() != 8 || setup.Live.cfg.Facility.TotalGPUCapacity != 16 {
		t.Errorf("the models are %+v on %+v", setup.Models, setup.Live.cfg.Facility)
	}
}
