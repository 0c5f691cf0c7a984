package agent

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/rig"
	"github.com/g2g-agent/g2g-agent/zeusd"
)

func liveTestConfig(t *testing.T, dir, more string) *config.Config {
	t.Helper()
	file := filepath.Join(dir, "run.yaml")
	text := `
models:
  - model_label: m
    model_id: org/m
    gpus_per_replica: 1
    itl_deadline_s: 0.1
    feasible_batch_sizes: [8, 16]
    live:
      vllm_base_url: http://n:8000
      simulated_num_replicas: 12
      gpu_endpoints: [{host: N, gpu_indices: [1]}, {socket: /run//z.sock, token_file: token, gpu_indices: [0]}]
      api_key_file: key
live: {requests_dir: requests}
` + more
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(file, nil, config.ForLive)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestSetUpLiveReadsWhatTheConfigNames(t *testing.T) {
	dir := t.TempDir()
	c := liveTestConfig(t, dir, "")
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	fails := func(want string) {
		t.Helper()
		_, err := SetUpLive(c, Secrets{}, zerolog.Nop(), Observer{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %v, want …%s…", err, want)
		}
	}
	fails("models[0].live.api_key_file: open " + filepath.Join(dir, "key"))
	write("key", "\n")
	fails("models[0].live.api_key_file: " + filepath.Join(dir, "key") + " is empty")
	write("key", "secret-key\n")
	fails("models[0].live.gpu_endpoints[1].token_file: ")
	write("token", " secret-token \n")
	setup, err := SetUpLive(c, SecretsFrom([]string{"ZEUSD_TOKEN=other-token", "VLLM_API_KEY=x"}), zerolog.Nop(), Observer{})
	if err != nil {
		t.Fatal(err)
	}
	defer setup.Live.Close()
	if len(setup.Warnings) != 1 || !strings.Contains(setup.Warnings[0], filepath.Join("requests", "m.jsonl")) {
		t.Errorf("the warnings are %q, want one of the missing request file", setup.Warnings)
	}
	h := setup.Live.cfg.Hardware[0].Servers[0]
	token := func(gpu int) string { return h.GPUs[gpu].Source.(*zeusd.Source).Target().Endpoint.Token.Key() }
	if h.Credential.Key() != "secret-key" || token(0) != "other-token" || token(1) != "secret-token" {
		t.Error("a secret did not arrive where it belongs")
	}
	if a, b := h.GPUs[0].Source.String(), h.GPUs[1].Source.String(); a != "n:4938" || b != "/run/z.sock" {
		t.Errorf("the endpoints are %s and %s", a, b)
	}
	if f := setup.Live.cfg.Facility; f.TotalGPUCapacity != 12 || f.NumServers() != 2 {
		t.Errorf("the facility is %+v, want 12 GPUs in 2 servers", f)
	}
	if got := setup.Models[0].Replicas.Initial(); got != 12 {
		t.Errorf("%d replicas without a schedule, want all 12", got)
	}
	write("requests/m.jsonl", "{\"messages\": 5}\n")
	fails("models[0].live.requests_dir: ")
}

// kindSource also has a kind.
type kindSource struct{ namedSource }

func (*kindSource) Kind() string { return "zeusd" }

func TestOddGPUsAreWarnedOf(t *testing.T) {
	n, m := &kindSource{namedSource{name: "n:4938"}}, &kindSource{namedSource{name: "m:4938"}}
	on := func(gpus ...rig.GPU) HardwareConfig { return HardwareConfig{Servers: []rig.ServerConfig{{GPUs: gpus}}} }
	models := []datacenter.ModelSpec{{ModelLabel: "a", GPUsPerReplica: 2}, {ModelLabel: "b", GPUsPerReplica: 1}}
	got := oddGPUs(models, []HardwareConfig{on(rig.GPU{Source: n, Index: 0}, rig.GPU{Source: n, Index: 1}, rig.GPU{Source: n, Index: 2}),
		on(rig.GPU{Source: n, Index: 1}, rig.GPU{Source: m, Index: 0})})
	want := []string{
		`model "a" has 3 GPUs, which is no multiple of its gpus_per_replica 2`,
		`GPU 1 of zeusd n:4938 is counted for models "a" and "b"`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("the warnings are %q, want %q", got, want)
	}
}

func TestShippedLiveConfig(t *testing.T) {
	c, err := config.Load("../configs/live.yaml", nil, config.ForLive)
	if err != nil {
		t.Fatal(err)
	}
	setup, err := SetUpLive(c, Secrets{}, zerolog.Nop(), Observer{})
	if err != nil {
		t.Fatal(err)
	}
	defer setup.Live.Close()
	sources := setup.Live.Stats().Sources
	var of []int
	for _, g := range setup.Live.cfg.Hardware[1].Servers[0].GPUs {
		of = append(of, g.Index)
	}
	if len(sources) != 2 || !slices.Equal(of, []int{0, 1, 2, 3}) {
		t.Errorf("the sources are %v, the GPUs of the second %v", sources, of)
	}
}
