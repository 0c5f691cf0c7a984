package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// simHost is `g2g-agent sim` as another process: a daemon with two GPUs and a server.
type simHost struct {
	*program
	zeusd, vllm string // host:port
	extra       []string
}

const simModel = "meta-llama/Llama-3.1-8B-Instruct"

func startSim(t *testing.T, extra ...string) *simHost {
	t.Helper()
	h := &simHost{zeusd: "127.0.0.1:0", vllm: "127.0.0.1:0", extra: extra}
	h.start(t)
	return h
}

// start starts it, after the first time at the same addresses.
func (h *simHost) start(t *testing.T) {
	t.Helper()
	args := append([]string{"sim", "--zeusd", h.zeusd, "--gpus", "2", "--vllm", h.vllm + "=" + simModel}, h.extra...)
	h.program = startProgram(t, nil, args...)
	_, h.zeusd = cutBetween(h.await(t, &h.stdout, "zeusd "), "zeusd ", ": GPUs")
	_, h.vllm = cutBetween(h.await(t, &h.stdout, "vLLM "), "http://", ": "+simModel)
	h.setFaults(t, h.vllm, `{"slow_down": 5}`) // it has a machine to share
}

// cutBetween returns what stands before and after, up to end, the first begin.
func cutBetween(text, begin, end string) (before, between string) {
	before, rest, _ := strings.Cut(text, begin)
	between, _, _ = strings.Cut(rest, end)
	return before, between
}

// setFaults tells one of the host's servers what to do wrong.
func (h *simHost) setFaults(t *testing.T, address, faults string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+address+"/sim/faults", strings.NewReader(faults))
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("PUT /sim/faults: %s", resp.Status)
	}
}

const simReplicas = 80

// writeConfig writes the config of a live run on the host; live is further keys of
// that section.
func (h *simHost) writeConfig(t *testing.T, live string) (file string) {
	t.Helper()
	host, port, err := net.SplitHostPort(h.zeusd)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "live.yaml")
	text := fmt.Sprintf(`
seed: 1
dt_s: "1/10"
models:
  - model_label: small
    model_id: %s
    gpus_per_replica: 1
    itl_deadline_s: 0.1
    feasible_batch_sizes: [8, 16]
    live:
      vllm_base_url: http://%s
      simulated_num_replicas: %d
      gpu_endpoints: [{host: %s, port: %s, gpu_indices: [0]}]
live: {prometheus_poll_interval_s: 0.2, max_output_tokens: 20, %s}
`, simModel, h.vllm, simReplicas, host, port, live)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestSimGivesGPUsInTurn: servers take the GPUs in the order of their flags.
func TestSimGivesGPUsInTurn(t *testing.T) {
	t.Parallel()
	p := startProgram(t, nil, "sim", "--zeusd", "127.0.0.1:0", "--gpus", "5",
		"--vllm", "localhost:0=org/Llama-70B", "--vllm", "127.0.0.1:0=org/Llama-8B,x=y")
	p.await(t, &p.stdout, "PUT /sim/faults")
	p.terminate(t)
	got := strings.Split(p.stdout.text(), "\n")
	for i, want := range []string{": GPUs 0 to 4", ": org/Llama-70B on GPUs 0 to 3", ": org/Llama-8B,x=y on GPU 4"} {
		if !strings.HasSuffix(got[i], want) {
			t.Errorf("line %d is %q, want one that ends in %q", i, got[i], want)
		}
	}
	p = startProgram(t, nil, "sim", "--zeusd", "127.0.0.1:0", "--gpus", "0")
	p.await(t, &p.stdout, ": no GPUs")
	p.terminate(t)
}
