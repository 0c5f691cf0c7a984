package agent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/sim"
)

// TestRehearsal runs on power from a file, from its config to its states: two vLLM
// servers, whose GPUs stand in one file and are one source.
// It is long because it goes all the way from the config to the states.
func TestRehearsal(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "power.csv"), []byte("time_s,gpu_index,power_w\n0,0,100\n0,1,300\n0,5,9000\n0.2,0,100\n0.2,1,300\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var urls []any
	for range 2 {
		v, err := sim.StartVLLM(sim.VLLMConfig{Listen: "127.0.0.1:0", ModelID: "org/m", Profile: fastProfile(), Actuator: sim.SetMaxNumSeqs})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = v.Close() })
		urls = append(urls, v.URL())
	}
	text := fmt.Sprintf(`
dt_s: 1/20
models:
  - model_label: m
    model_id: org/m
    gpus_per_replica: 1
    itl_deadline_s: 0.1
    feasible_batch_sizes: [4, 8]
    live:
      simulated_num_replicas: 20
      servers:
        - {vllm_base_url: %q, gpu_endpoints: [{source: file, file: power.csv, gpu_indices: [0]}]}
        - {vllm_base_url: %q, gpu_endpoints: [{source: file, file: ./power.csv, gpu_indices: [1]}]}
live: {stagger_s: 0.3, prometheus_poll_interval_s: 0.1, max_output_tokens: 20}
`, urls...)
	file := filepath.Join(dir, "run.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(file, nil, config.ForLive)
	if err != nil {
		t.Fatal(err)
	}
	setup, err := SetUpLive(c, Secrets{}, zerolog.Nop(), Observer{})
	if err != nil {
		t.Fatal(err)
	}
	if results := setup.Live.Probe(t.Context()); len(results) != 3 || results[0].Server != "file "+filepath.Join(dir, "power.csv") || results[0].Err != nil ||
		!strings.Contains(strings.Join(results[0].Findings, "; "), "power 100, 300 W") {
		t.Errorf("the probe finds %+v, want one file and two servers", results)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var last *datacenter.State
	_, err = setup.Live.Run(ctx, func(s *datacenter.State) error {
		if last = s; s.Seq == 10 {
			cancel()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	m := &last.Models[0] // its 20 GPUs fill 3 servers of 8
	if m.Live.MeasuredPowerW != 400 || m.PowerW != 24*200 || m.Live.Stale || m.Live.AugmentationFactor != 10 {
		t.Errorf("the model draws %v W, measured %v W, stale %v, of which each stands for %v replicas", m.PowerW, m.Live.MeasuredPowerW, m.Live.Stale, m.Live.AugmentationFactor)
	}
	if sources := setup.Live.Stats().Sources; len(sources) != 1 || sources[0].Kind != "file" || sources[0].Counts[0].N < 4 {
		t.Errorf("the sources are %+v", sources)
	}
}
