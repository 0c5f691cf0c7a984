package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/record"
)

const quickStart = "stagger_s: 0.5, stale_after_s: 1"

// What the agent logs at the turns of a run.
const (
	logSetUp = "vLLM server set up"
	logWarm  = "warm: the steps begin"
	logStale = "power is stale"
	logFresh = "power is fresh again"
	logTold  = "forgotten its batch size and was told again"
)

// readRun reads the states of a run and checks what holds for all runs: they are
// complete and in step, and there is power in each.
func readRun(t *testing.T, file string) []datacenter.State {
	t.Helper()
	if diff := cmp.Diff([]string{filepath.Base(file)}, names(t, filepath.Dir(file))); diff != "" {
		t.Errorf("files that the run left (-want +got):\n%s", diff)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if len(raw) == 0 || raw[len(raw)-1] != '\n' {
		t.Error("the file does not end with a whole line")
	}
	states, err := record.ReadAll(file)
	if err != nil {
		t.Fatal(err)
	}
	for i := range states {
		s := &states[i]
		if s.Seq != int64(i) || s.TimeS != float64(i)/10 || s.Source != datacenter.SourceLive {
			t.Fatalf("state %d is number %d at %v s, %s", i, s.Seq, s.TimeS, s.Source)
		}
		if late := s.WallTime.Sub(states[0].WallTime).Seconds() - s.TimeS; late < -0.1 || late > 0.1 {
			t.Errorf("state %d has the time %v, %v s off", i, s.WallTime, late)
		}
		for m := range s.Models {
			// The simulated GPUs draw 70 W or more.
			if w := s.Models[m].PowerW / float64(max(s.Models[m].ActiveReplicas, 1)); w < 60 || w > 8*700 {
				t.Errorf("state %d: a replica of %s draws %v W", i, s.Models[m].ModelLabel, w)
			}
		}
	}
	return states
}

// checkThroughput holds what a model makes to what its requests under way and their
// latency let expect, and all its replicas to the one real one that each model has.
func checkThroughput(t *testing.T, states []datacenter.State) {
	t.Helper()
	expected, measured := map[string]float64{}, map[string]float64{}
	for i := range states {
		for k := range states[i].Models {
			m := &states[i].Models[k]
			if want := m.Live.MeasuredTokensPerS * float64(m.ActiveReplicas); !m.Throughput.Known || math.Abs(m.Throughput.TokensPerS-want) > 1e-9*want {
				t.Errorf("state %d: %s makes %+v, its %d replicas should make %v", i, m.ModelLabel, m.Throughput, m.ActiveReplicas, want)
			}
			if m.Live.Server != nil && m.ObservedITLS > 0 {
				expected[m.ModelLabel] += m.Live.Server.NumRequestsRunning / m.ObservedITLS
				measured[m.ModelLabel] += m.Live.MeasuredTokensPerS
			}
		}
	}
	for label, want := range expected {
		if ratio := measured[label] / want; ratio < 0.7 || ratio > 1.3 {
			t.Errorf("%s makes %.2f times what its latencies let expect", label, ratio)
		}
	}
	if len(expected) == 0 {
		t.Error("no model has a latency")
	}
}

func outFile(t *testing.T) string { return filepath.Join(t.TempDir(), "states.jsonl") }

// TestLiveDemo runs the demo for 2 s of steps and looks at each line it writes.
func TestLiveDemo(t *testing.T) {
	t.Parallel()
	out := outFile(t)
	// By then the first prefills, which stall the largest model, are over.
	p := startProgram(t, []string{"G2G_AGENT_LIVE__STAGGER_S=3"}, "demo", "--duration-s", "2", "--out", out)
	if status := p.wait(t, time.Minute); status != exitDone {
		t.Fatalf("exited with status %d:\n%s", status, p.stderr.text())
	}
	if stdout := p.stdout.text(); !strings.HasPrefix(stdout, "20 steps in ") || strings.ContainsAny(stdout, "\r\x1b") {
		t.Errorf("stdout: %s", stdout)
	}
	states := readRun(t, out)
	if len(states) != 20 {
		t.Errorf("%d states, want 20", len(states))
	}
	checkThroughput(t, states)
	raw, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	labels := []string{"Llama-3.1-8B", "Llama-3.1-70B", "Llama-3.1-405B"}
	for line := range strings.Lines(string(raw)) {
		var state map[string]json.RawMessage
		if err := json.Unmarshal([]byte(line), &state); err != nil {
			t.Fatal(err)
		}
		for _, member := range []string{"seq", "time_s", "wall_time", "source", "power_w", "measured_power_w", "free_gpus"} {
			if raw, ok := state[member]; !ok || string(raw) == "null" {
				t.Errorf("a state has %q as its %s", raw, member)
			}
			delete(state, member)
		}
		for _, member := range []string{
			"power_by_model_w", "batch_size_by_model", "achieved_batch_size_by_model", "active_replicas_by_model", "observed_itl_s_by_model", "phase_share_by_model",
			"throughput_tokens_per_s_by_model", "measured_throughput_tokens_per_s_by_model", "measured_power_w_by_model", "augmented_power_w_by_model", "augmentation_factor_by_model", "prometheus_metrics_by_model",
			"itl_percentiles_s_by_model", "stale_by_model",
		} {
			var byModel map[string]any
			if err := json.Unmarshal(state[member], &byModel); err != nil {
				t.Fatalf("%s is %q: %v", member, state[member], err)
			}
			for label, value := range byModel {
				if !slices.Contains(labels, label) || value == nil {
					t.Errorf("%s has %v for %q", member, value, label)
				}
			}
			if member != "stale_by_model" && len(byModel) != len(labels) {
				t.Errorf("%s has %d models: %s", member, len(byModel), state[member])
			}
			delete(state, member)
		}
		for member := range state {
			t.Errorf("a state has a member %q, which is not in the contract", member)
		}
	}
}

// TestLiveRunSurvivesItsHost kills the whole simulated host while a run is on,
// starts it again, and ends the run with SIGTERM.
func TestLiveRunSurvivesItsHost(t *testing.T) {
	t.Parallel()
	host, out := startSim(t), outFile(t)
	p := startProgram(t, nil, "run", "--config", host.writeConfig(t, quickStart), "--out", out)
	p.await(t, &p.stderr, logWarm)
	host.kill()
	killed := time.Now()
	p.await(t, &p.stderr, logStale)
	if took := time.Since(killed); took > 4*time.Second {
		t.Errorf("the data was stale after %v, want 1 s", took)
	}
	host.start(t)
	back := time.Now()
	mark := p.seen
	p.await(t, &p.stderr, logFresh)
	p.seen = mark // they come in any order
	p.await(t, &p.stderr, logTold)
	if took := time.Since(back); took > 5*time.Second {
		t.Errorf("the run had recovered after %v, want 2 s", took)
	}
	p.seen = mark
	host.setFaults(t, host.vllm, `{}`)
	p.terminate(t)
	host.terminate(t)

	states := readRun(t, out)
	episodes, was := 0, false
	for i := range states {
		m := &states[i].Models[0]
		if m.Live.Stale && !was {
			episodes++
		}
		was = m.Live.Stale
		if m.BatchSize != 8 || m.ActiveReplicas != simReplicas {
			t.Errorf("state %d: %+v", i, m)
		}
	}
	if episodes != 1 || was {
		t.Errorf("the data was stale %d times, want 1; at the end: %v", episodes, was)
	}
	if stdout := p.stdout.text(); !strings.HasPrefix(stdout, fmt.Sprintf("%d steps in ", len(states))) {
		t.Errorf("%d states; stdout: %s", len(states), stdout)
	}
}

// TestLiveRunEndsWhileServersHang: nothing answers any more, and the run is told
// to end.
func TestLiveRunEndsWhileServersHang(t *testing.T) {
	t.Parallel()
	host, out := startSim(t), outFile(t)
	p := startProgram(t, nil, "run", "--config", host.writeConfig(t, quickStart), "--out", out)
	p.await(t, &p.stderr, logWarm)
	host.setFaults(t, host.zeusd, `{"freeze": true}`)
	host.setFaults(t, host.vllm, `{"freeze": true}`)
	p.await(t, &p.stderr, logStale)
	p.terminate(t)
	if states := readRun(t, out); !states[len(states)-1].Models[0].Live.Stale {
		t.Error("the last state is not stale")
	}
}

// TestLiveRunEndsInTheHealthCheck: a server accepts and never answers, and the run
// is told to end.
func TestLiveRunEndsInTheHealthCheck(t *testing.T) {
	t.Parallel()
	for _, mute := range []string{"zeusd", "vLLM"} {
		host, out := startSim(t), outFile(t)
		ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		servers := simHost{zeusd: host.zeusd, vllm: host.vllm}
		if mute == "zeusd" {
			servers.zeusd = ln.Addr().String()
		} else {
			servers.vllm = ln.Addr().String()
		}
		p := startProgram(t, nil, "run", "--config", servers.writeConfig(t, quickStart), "--out", out)
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
			t.Error(err)
		}
		began := time.Now()
		p.terminate(t)
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("mute %s: the run took %v to end", mute, took)
		}
		if left := names(t, filepath.Dir(out)); left != nil {
			t.Errorf("mute %s: the run left %q", mute, left)
		}
	}
}

// TestLiveRunEndsBeforeItsFirstStep: in the warm-up.
func TestLiveRunEndsBeforeItsFirstStep(t *testing.T) {
	t.Parallel()
	host, out := startSim(t), outFile(t)
	p := startProgram(t, nil, "run", "--config", host.writeConfig(t, "stagger_s: 50"), "--out", out)
	p.await(t, &p.stderr, logSetUp)
	p.terminate(t)
	if left := names(t, filepath.Dir(out)); left != nil {
		t.Errorf("the run left %q", left)
	}
	if strings.Contains(p.stdout.text(), "NaN") {
		t.Errorf("stdout: %s", p.stdout.text())
	}
}

// TestLiveRunFails: data is missing for longer than is allowed. What was
// measured before is kept.
func TestLiveRunFails(t *testing.T) {
	t.Parallel()
	host, out := startSim(t), outFile(t)
	p := startProgram(t, nil, "run", "--config", host.writeConfig(t, quickStart+", stale_error_after_s: 1.5"), "--out", out)
	p.await(t, &p.stderr, logWarm)
	host.kill()
	status := p.wait(t, soon)
	if log := p.stderr.text(); status != exitFailed || !strings.Contains(log, "g2g-agent: ") || !strings.Contains(log, `the power of model "small" has been stale`) {
		t.Errorf("exited with status %d:\n%s", status, log)
	}
	if states := readRun(t, out); len(states) == 0 || !states[len(states)-1].Models[0].Live.Stale {
		t.Errorf("%d states, the last one not stale", len(states))
	}
}

func TestLiveRunRefusesItsInput(t *testing.T) {
	t.Parallel()
	// Nothing is contacted, so nothing needs to be there.
	host := simHost{zeusd: "127.0.0.1:1", vllm: "127.0.0.1:1"}
	good := host.writeConfig(t, quickStart)
	for name, c := range map[string]struct {
		args  []string
		env   []string
		wants []string
	}{
		"no config":          {[]string{"run"}, nil, []string{"--config"}},
		"no such config":     {[]string{"run", "--config", "none.yaml"}, nil, []string{"none.yaml"}},
		"unknown key":        {[]string{"run", "--config", host.writeConfig(t, "stager_s: 1")}, nil, []string{"live.stager_s", "stagger_s"}},
		"several":            {[]string{"run", "--config", host.writeConfig(t, "stagger_s: -1, itl_window_s: 0")}, nil, []string{"live.stagger_s", "live.itl_window_s"}},
		"warm-up too short":  {[]string{"run", "--config", host.writeConfig(t, "stagger_s: 20, warmup_timeout_s: 10")}, nil, []string{"live.warmup_timeout_s"}},
		"not for live":       {[]string{"run", "--config", oneModelConfig(t)}, nil, []string{"live"}},
		"wrong environment":  {[]string{"run", "--config", good}, []string{"G2G_AGENT_MODELS__0__LIVE__VLLM_BASE_URL=node1:8000"}, []string{"vllm_base_url"}},
		"no such token file": {[]string{"run", "--config", good}, []string{"G2G_AGENT_MODELS__0__LIVE__GPU_ENDPOINTS__0__TOKEN_FILE=/none"}, []string{"models[0].live.gpu_endpoints[0].token_file"}},
		"unknown ending":     {[]string{"run", "--config", good, "--out", "states.txt"}, nil, []string{".jsonl"}},
		"duration":           {[]string{"run", "--config", good, "--duration-s", "-1"}, nil, []string{"--duration-s"}},
		"probe":              {[]string{"check", "--probe", "--config", oneModelConfig(t)}, nil, []string{"live"}},
		"demo":               {[]string{"demo"}, []string{"G2G_AGENT_LIVE__STAGGER_S=100"}, []string{"warmup_timeout_s"}},
		"sim, too few GPUs":  {[]string{"sim", "--zeusd", "127.0.0.1:0", "--gpus", "1", "--vllm", "127.0.0.1:0=llama-70b"}, nil, []string{"--gpus"}},
		"sim, wrong model":   {[]string{"sim", "--zeusd", "127.0.0.1:0", "--vllm", "127.0.0.1:0=other"}, nil, []string{"other"}},
		"sim, no model":      {[]string{"sim", "--zeusd", "127.0.0.1:0", "--vllm", "127.0.0.1:0"}, nil, []string{"--vllm 127.0.0.1:0: ", "ADDRESS=MODEL_ID"}},
		"sim, no GPUs":       {[]string{"sim", "--zeusd", "127.0.0.1:0", "--gpus", "0", "--vllm", "127.0.0.1:0=llama-8b"}, nil, []string{"needs GPU 0, but there are 0"}},
	} {
		p := startProgram(t, c.env, c.args...)
		if status := p.wait(t, soon); status != exitInvalid || p.stdout.text() != "" {
			t.Errorf("%s: exited with status %d, stdout %q", name, status, p.stdout.text())
		}
		for _, want := range append(c.wants, "g2g-agent: ") {
			if !strings.Contains(p.stderr.text(), want) {
				t.Errorf("%s: stderr lacks %q:\n%s", name, want, p.stderr.text())
			}
		}
	}
	if _, err := os.Stat("states.txt"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("states.txt: %v", err)
	}
}
