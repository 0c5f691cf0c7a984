package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// oneModel is the least a config must say.
const oneModel = `
models:
  - model_label: m
    gpus_per_replica: 1
    itl_deadline_s: 0.1
    feasible_batch_sizes: [8, 16]
`

// sameSeconds compares exact seconds by what they stand for.
var sameSeconds = cmp.Comparer(func(a, b datacenter.Seconds) bool { return a == b })

func parsed(t *testing.T, text string, environ ...string) *Config {
	t.Helper()
	c, problems := parse([]byte(text), environ, ForAnything, "")
	if len(problems) > 0 {
		t.Fatalf("the config is refused: %v", problems)
	}
	return c
}

// refused fails unless the config is refused for exactly the wanted reasons.
func refused(t *testing.T, text string, environ []string, want ...string) {
	t.Helper()
	_, problems := parse([]byte(text), environ, ForAnything, "")
	var got []string
	for _, p := range problems {
		got = append(got, p.String())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

func seconds(t *testing.T, text string) datacenter.Seconds {
	t.Helper()
	s, err := datacenter.ParseSeconds(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestDefaults(t *testing.T) {
	want := Default()
	want.Models = []Model{{ModelLabel: "m", GPUsPerReplica: 1, ITLDeadlineS: 0.1, FeasibleBatchSizes: []int{8, 16}}}
	sections := []string{"datacenter", "augmentation", "control", "replay", "live", "api", "log"}
	for _, empty := range []string{"", ": {}", ":", ": null"} {
		text := oneModel
		if empty != "" {
			for _, section := range sections {
				text += section + empty + "\n"
			}
		}
		if diff := cmp.Diff(&want, parsed(t, text), sameSeconds); diff != "" {
			t.Errorf("sections %q (-want +got):\n%s", empty, diff)
		}
	}
}

// A key without a value keeps its default; it does not become 0.
func TestKeysWithoutValueKeepTheirDefault(t *testing.T) {
	got := parsed(t, oneModel+`
seed:
dt_s: null
training:
augmentation: {amplitude_scale_range: null}
replay: {duration_s: , itl: null, commands: null}
live: {requests_dir: null, stagger_s: ~}
`)
	want := Default()
	want.Models = got.Models
	if diff := cmp.Diff(&want, got, sameSeconds); diff != "" {
		t.Errorf("the config with keys without values (-want +got):\n%s", diff)
	}
}

func TestEveryKeyIsRead(t *testing.T) {
	ptr := func(f float64) *float64 { return &f }
	whole := func(i int) *int { return &i }
	half, tenMinutes := seconds(t, "1/2"), seconds(t, "600")
	want := &Config{
		Seed: 42, DT: seconds(t, "1/10"),
		Datacenter:   Datacenter{"east", 4, 500, 0.9, 2304, true},
		Augmentation: Augmentation{[]float64{0.88, 1.12}, 0.02},
		Models: []Model{{
			ModelLabel: "Llama-3.1-8B", ModelID: "meta-llama/Llama-3.1-8B-Instruct", GPUsPerReplica: 1, ITLDeadlineS: 0.08,
			FeasibleBatchSizes: []int{8, 16}, InitialBatchSize: whole(16), FailsafeBatchSize: whole(8),
			Replicas: &Replicas{whole(720), []Ramp{{whole(144), ptr(150), ptr(200)}}},
			SpecHash: "abc", GPUModel: "H100", Task: "chat", Precision: "fp8", TensorParallel: 2, ExpertParallel: 3,
			BatchSizes: []int{8}, FitExcludeBatchSizes: []int{512},
			Live: &LiveModel{
				VLLMBaseURL: "http://node1:8000", APIKeyFile: "/key", SimulatedNumReplicas: whole(720), BatchSizeActuator: "concurrency",
				GPUEndpoints: []GPUEndpoint{
					{Host: "node1", Port: 4938, TokenFile: "/t", GPUIndices: []int{0, 1}, PowerRangeW: []float64{20, 1200}}, {Socket: "/run/zeusd.sock"},
				},
				RequestExtraBody: map[string]any{"temperature": 0.5, "stop": []any{"x", nil}, "nothing": nil},
			},
		}},
		Training: []Training{{2400, "/t.csv", ptr(400), ptr(60), ptr(120)}},
		Control:  Control{true, 45, true},
		Replay: Replay{"/data", seconds(t, "300"), &tenMinutes, AtEndContinue, 5, false, []Command{
			{&half, map[string]int{"Llama-3.1-8B": 12}, nil},
			{&half, nil, &ShiftReplicas{"Llama-3.1-8B", whole(-20)}},
		}},
		Live: Live{"/r", 0, 100, "Count to 1000.", 2, 3, 4, 0.5, 6, 7, false},
		API:  API{"0.0.0.0:1", "/tok", "/rtok", "/c", "/k", []string{"https://grid.example"}, []string{"agent.example"}, 50, 600, 300, 1000},
		Log:  Log{"debug", "json"},

		Record: Record{"/rec", 2_000_000, 3600, true},
	}
	got, err := Load("testdata/every-key.yaml", nil, ForReplay)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, sameSeconds); diff != "" {
		t.Errorf("the config of every-key.yaml (-want +got):\n%s", diff)
	}
}

func TestExactSeconds(t *testing.T) {
	for _, text := range []string{`"1/10"`, `0.1`, `"0.1"`, `1/10`, `1e-1`, `0.10`} {
		if got := parsed(t, oneModel+"dt_s: "+text).DT; got != seconds(t, "1/10") {
			t.Errorf("dt_s: %s is %v, want 1/10", text, got)
		}
	}
	if got := parsed(t, oneModel+"dt_s: 3").DT; got != seconds(t, "3") {
		t.Errorf("dt_s: 3 is %v", got)
	}
}

func TestVocabulary(t *testing.T) {
	c := parsed(t, `
datacenter: {name: east, gpus_per_server: 4, base_kw_per_phase: 1.5, power_factor: 0.9, total_gpu_capacity: 40}
augmentation: {amplitude_scale_range: [0.5, 2], noise_fraction: 0.25}
models:
  - {model_label: a.b, model_id: org/a, gpus_per_replica: 2, itl_deadline_s: 0.1, feasible_batch_sizes: [16, 8], replicas: {initial: 3, ramps: [{target: 5, t_start: 10, t_end: 10}, {target: 1, t_start: 0, t_end: 10}]}}
  - {model_label: c, gpus_per_replica: 1, itl_deadline_s: 0.2, feasible_batch_sizes: [4, 2], initial_batch_size: 2}
training: [{n_gpus: 8, trace: x, t_start: 1, t_end: 2}, {n_gpus: 8, trace: x, t_start: 1, t_end: 2, target_peak_w_per_gpu: 0}]
replay:
  commands:
    - {t: 2, shift_replicas: {model_label: c, replica_delta: -1}}
    - {t: 1, set_batch_size: {a.b: 8, c: 4}}
`)
	if want := (datacenter.Facility{Name: "east", GPUsPerServer: 4, BaseKWPerPhase: 1.5, PowerFactor: 0.9, TotalGPUCapacity: 40}); c.Facility() != want {
		t.Errorf("the facility is %+v", c.Facility())
	}
	if want := (datacenter.Augmentation{AmplitudeScaleRange: [2]float64{0.5, 2}, NoiseFraction: 0.25}); c.AugmentationConfig() != want {
		t.Errorf("the augmentation is %+v", c.AugmentationConfig())
	}
	specs, err := c.ModelSpecs()
	if err != nil {
		t.Fatal(err)
	}
	if a := specs[0]; a.InitialBatchSize != 16 || a.ModelID != "org/a" || a.Replicas.ReplicasAt(5) != 2 || a.Replicas.ReplicasAt(11) != 5 {
		t.Errorf("the first model is %+v with %+v", a, a.Replicas)
	}
	if b := specs[1]; b.InitialBatchSize != 2 || b.Replicas != nil {
		t.Errorf("the second model is %+v", b)
	}
	if a, b := c.Training[0].Run(), c.Training[1].Run(); a.TargetPeakWPerGPU != 400 || b.TargetPeakWPerGPU != 0 || a.NGPUs != 8 || a.TStartS != 1 || a.TEndS != 2 {
		t.Errorf("the training runs are %+v and %+v", a, b)
	}
	want := []datacenter.ScriptedCommand{
		{T: seconds(t, "2"), Command: datacenter.ShiftReplicas{ModelLabel: "c", ReplicaDelta: -1}},
		{T: seconds(t, "1"), Command: datacenter.SetBatchSize{BatchSizeByModel: map[string]int{"a.b": 8, "c": 4}}},
	}
	if diff := cmp.Diff(want, c.ScriptedCommands(), sameSeconds); diff != "" {
		t.Errorf("commands (-want +got):\n%s", diff)
	}
}

func TestInfeasibleBatchSizesOnRequest(t *testing.T) {
	command := "replay: {commands: [{t: 0, set_batch_size: {m: 12}}]}\n"
	refused(t, oneModel+command, nil,
		"replay.commands[0].set_batch_size.m: 12 must be in feasible_batch_sizes [8 16] (control.allow_infeasible_batch_sizes lifts this)")
	c := parsed(t, oneModel+command+"control: {allow_infeasible_batch_sizes: true}\n")
	if got := c.Replay.Commands[0].SetBatchSize["m"]; got != 12 {
		t.Errorf("the command sets %d", got)
	}
}

// What hangs on a value that could not be read is not complained of.
func TestNoSecondComplaint(t *testing.T) {
	for text, want := range map[string]string{
		"models: [{model_label: 8, gpus_per_replica: 1, itl_deadline_s: 1, feasible_batch_sizes: [8]}]\nreplay: {commands: [{t: 0, set_batch_size: {\"8\": 8}}, {t: 0, shift_replicas: {model_label: \"8\", replica_delta: 1}}]}": "models[0].model_label: want a text, got 8; put it in quotes",
		"models: none\nreplay: {commands: [{t: 0, set_batch_size: {m: 8}}]}":                                                                    `models: want a list, got "none"`,
		strings.Replace(oneModel, "[8, 16]", "[8, x]", 1) + "    initial_batch_size: 16\nreplay: {commands: [{t: 0, set_batch_size: {m: 16}}]}": `models[0].feasible_batch_sizes[1]: want a whole number, got "x"`,
		strings.Replace(oneModel, "[8, 16]", "[8, null, null]", 1):                                                                              "models[0].feasible_batch_sizes[1]: want a whole number, got nothing\nmodels[0].feasible_batch_sizes[2]: want a whole number, got nothing",
		oneModel + "dt_s: []\nreplay: {duration_s: 99999999999}":                                                                                `dt_s: want a number of seconds such as 0.1 or "1/10", got a list`,
		oneModel + "datacenter: {gpus_per_server: x, total_gpu_capacity: 2000000000}":                                                           `datacenter.gpus_per_server: want a whole number, got "x"`,
		oneModel + "training: [{n_gpus: 1, trace: x, t_start: soon, t_end: -1}]":                                                                `training[0].t_start: want a number, got "soon"`,
		oneModel + "    replicas: {initial: 1, ramps: [{target: 1, t_start: soon, t_end: -1}]}":                                                 `models[0].replicas.ramps[0].t_start: want a number, got "soon"`,
		oneModel + "    live: {gpu_endpoints: [{host: 1}]}":                                                                                     "models[0].live.gpu_endpoints[0].host: want a text, got 1; put it in quotes",
		oneModel + "api: {tls_cert_file: c, tls_key_file: 5}":                                                                                   "api.tls_key_file: want a text, got 5; put it in quotes",
		oneModel + "datacenter: {total_gpu_capacity: many}\nreplay: {data_dir: x}":                                                              `datacenter.total_gpu_capacity: want a whole number, got "many"`,
	} {
		refused(t, text, nil, strings.Split(want, "\n")...)
	}
}

func TestEveryOverlapIsReported(t *testing.T) {
	refused(t, oneModel+"    replicas: {initial: 1, ramps: [{target: 1, t_start: 0, t_end: 9}, {target: 1, t_start: 1, t_end: 2}, {target: 1, t_start: 9, t_end: 12}, {target: 1, t_start: 11, t_end: 13}]}", nil,
		"models[0].replicas.ramps[1]: [1, 2] overlaps the ramp over [0, 9]",
		"models[0].replicas.ramps[3]: [11, 13] overlaps the ramp over [9, 12]")
}

func TestEnvironmentOverrides(t *testing.T) {
	const file = oneModel + "seed: 1\nlive: {stagger_s: 4}\n"
	tests := []struct {
		name    string
		environ []string
		got     func(*Config) any
		want    any
	}{
		{"a number", []string{"G2G_AGENT_SEED=7"}, func(c *Config) any { return c.Seed }, uint64(7)},
		{"a key of a section", []string{"G2G_AGENT_LIVE__STAGGER_S=2.5"}, func(c *Config) any { return c.Live.StaggerS }, 2.5},
		{"a section left out of the file", []string{"G2G_AGENT_API__LISTEN=127.0.0.1:1"}, func(c *Config) any { return c.API.Listen }, "127.0.0.1:1"},
		{"a flag", []string{"G2G_AGENT_REPLAY__ITL=false"}, func(c *Config) any { return c.Replay.ITL }, false},
		{"seconds", []string{"G2G_AGENT_DT_S=1/3"}, func(c *Config) any { return c.DT.String() }, "1/3"},
		{"seconds in quotes", []string{`G2G_AGENT_DT_S="1/3"`}, func(c *Config) any { return c.DT.String() }, "1/3"},
		{"a number for a text", []string{"G2G_AGENT_DATACENTER__NAME=12"}, func(c *Config) any { return c.Datacenter.Name }, "12"},
		{"a text that is YAML", []string{"G2G_AGENT_DATACENTER__NAME=a: [b # c"}, func(c *Config) any { return c.Datacenter.Name }, "a: [b # c"},
		{"no text", []string{"G2G_AGENT_DATACENTER__NAME="}, func(c *Config) any { return c.Datacenter.Name }, ""},
		{"no number", []string{"G2G_AGENT_LIVE__STAGGER_S="}, func(c *Config) any { return c.Live.StaggerS }, 10.0},
		{"an element's key", []string{"G2G_AGENT_MODELS__0__GPUS_PER_REPLICA=3"}, func(c *Config) any { return c.Models[0].GPUsPerReplica }, 3},
		{"a new section of an element", []string{"G2G_AGENT_MODELS__0__REPLICAS__INITIAL=3"}, func(c *Config) any { return *c.Models[0].Replicas.Initial }, 3},
		{"an element", []string{"G2G_AGENT_MODELS__0__FEASIBLE_BATCH_SIZES__1=32"}, func(c *Config) any { return c.Models[0].FeasibleBatchSizes }, []int{8, 32}},
		{"a list", []string{"G2G_AGENT_MODELS__0__FEASIBLE_BATCH_SIZES=[1, 2, 4]"}, func(c *Config) any { return c.Models[0].FeasibleBatchSizes }, []int{1, 2, 4}},
		{"a list of maps", []string{"G2G_AGENT_REPLAY__COMMANDS=[{t: 1/3, set_batch_size: {m: 8}}]"}, func(c *Config) any { return c.Replay.Commands[0].SetBatchSize }, map[string]int{"m": 8}},
		{"a list and a key in it, in any order", []string{
			"G2G_AGENT_MODELS__0__MODEL_LABEL=x",
			"G2G_AGENT_MODELS=[{model_label: n, gpus_per_replica: 1, itl_deadline_s: 1, feasible_batch_sizes: [4]}]",
		}, func(c *Config) any { return c.Models[0].ModelLabel }, "x"},
		{"a free map", []string{"G2G_AGENT_MODELS__0__LIVE__REQUEST_EXTRA_BODY__A__B=0.5"}, func(c *Config) any { return c.Models[0].Live.RequestExtraBody },
			map[string]any{"a": map[string]any{"b": 0.5}}},
		{"a free map at once", []string{"G2G_AGENT_MODELS__0__LIVE__REQUEST_EXTRA_BODY={a: [1, x]}"}, func(c *Config) any { return c.Models[0].Live.RequestExtraBody },
			map[string]any{"a": []any{1, "x"}}},
		{"other variables", []string{"PATH=/bin", "G2G_AGENTS_SEED=9", "G2G_SEED=9", "SEED=9", "g2g_agent_seed=9"}, func(c *Config) any { return c.Seed }, uint64(1)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, test.got(parsed(t, file, test.environ...))); diff != "" {
				t.Errorf("the value with %q (-want +got):\n%s", test.environ, diff)
			}
		})
	}
}

func TestEnvironmentMistakes(t *testing.T) {
	for variable, want := range map[string]string{
		"G2G_AGENT_SEED=many":                                `seed: want a whole number, got "many"`,
		"G2G_AGENT_SEDE=1":                                   "sede: unknown key from G2G_AGENT_SEDE; did you mean seed?",
		"G2G_AGENT_LIVE__STAGGER=1":                          "live.stagger: unknown key from G2G_AGENT_LIVE__STAGGER; did you mean stagger_s?",
		"G2G_AGENT_MODELS__1__MODEL_LABEL=x":                 `models.1.model_label: G2G_AGENT_MODELS__1__MODEL_LABEL: "1" does not index a list of 1; elements count from 0`,
		"G2G_AGENT_MODELS__-1__MODEL_LABEL=x":                `models.-1.model_label: G2G_AGENT_MODELS__-1__MODEL_LABEL: "-1" does not index a list of 1; elements count from 0`,
		"G2G_AGENT_MODELS__M__MODEL_LABEL=x":                 `models.m.model_label: G2G_AGENT_MODELS__M__MODEL_LABEL: "m" does not index a list of 1; elements count from 0`,
		"G2G_AGENT_MODELS__0__MODEL_LABEL__X=x":              `models.0.model_label.x: G2G_AGENT_MODELS__0__MODEL_LABEL__X: "x" lies below a key that holds a single value`,
		"G2G_AGENT_MODELS=":                                  "models: must list at least one model",
		"G2G_AGENT_MODELS=x":                                 `models: want a list, got "x"`,
		"G2G_AGENT_MODELS__0__FEASIBLE_BATCH_SIZES__0=":      "models[0].feasible_batch_sizes[0]: want a whole number, got nothing",
		"G2G_AGENT_MODELS__0__FEASIBLE_BATCH_SIZES=[0]":      "models[0].feasible_batch_sizes[0]: must be > 0, got 0",
		"G2G_AGENT_REPLAY__COMMANDS=[{t: 1, set: {}}]":       "replay.commands[0].set: unknown key; known are set_batch_size, shift_replicas, t\nreplay.commands[0]: needs set_batch_size or shift_replicas, has neither",
		"G2G_AGENT_AUGMENTATION__AMPLITUDE_SCALE_RANGE=wide": `augmentation.amplitude_scale_range: want a list, got "wide"`,
	} {
		t.Run(variable, func(t *testing.T) {
			refused(t, oneModel, []string{variable}, strings.Split(want, "\n")...)
		})
	}
}

func TestRelativePaths(t *testing.T) {
	dir := t.TempDir()
	abs := filepath.Join(dir, "elsewhere")
	text := fmt.Sprintf(`%s
    live: {gpu_endpoints: [{host: n, token_file: t/zeusd}, {socket: s, token_file: %q}]}
datacenter: {total_gpu_capacity: 8}
training: [{n_gpus: 1, trace: ../trace.csv, t_start: 0, t_end: 1}]
replay: {data_dir: data}
live: {requests_dir: %q}
api: {tls_cert_file: c.pem, tls_key_file: ./k.pem}
`, strings.TrimRight(oneModel, "\n"), abs, abs)
	file := filepath.Join(dir, "conf", "agent.yaml")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := Load(file, []string{"G2G_AGENT_API__TOKEN_FILE=tok"}, ForReplay)
	if err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(dir, "conf", name) }
	got := []string{
		c.Replay.DataDir, c.Training[0].Trace, c.Live.RequestsDir, c.API.TokenFile, c.API.TLSCertFile, c.API.TLSKeyFile,
		c.Models[0].Live.GPUEndpoints[0].TokenFile, c.Models[0].Live.GPUEndpoints[1].TokenFile, c.Models[0].Live.GPUEndpoints[1].Socket,
	}
	want := []string{in("data"), filepath.Join(dir, "trace.csv"), abs, in("tok"), in("c.pem"), in("k.pem"), in("t/zeusd"), abs, in("s")}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("paths (-want +got):\n%s", diff)
	}
}

func TestUnreadableFiles(t *testing.T) {
	dir := t.TempDir()
	large := filepath.Join(dir, "large.yaml")
	f, err := os.Create(large)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(maxFileBytes+1), f.Close()); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(dir, "missing.yaml")
	for file, want := range map[string]string{
		missing: missing + ": no such file or directory",
		dir:     dir + ": is a directory",
		large:   large + ": has 16777217 bytes, a config has at most 16777216",
	} {
		c, err := Load(file, nil, ForAnything)
		if c != nil || !errors.Is(err, datacenter.ErrInvalidInput) || err.Error() != want {
			t.Errorf("the error is %v, want %s", err, want)
		}
	}
}

func TestJSONAndDocumentMarkers(t *testing.T) {
	for _, text := range []string{
		`{"models": [{"model_label": "m", "gpus_per_replica": 1, "itl_deadline_s": 1e-1, "feasible_batch_sizes": [8, 16]}]}`,
		"# a comment\n%YAML 1.1\n---\n" + oneModel,
		"---\r\n" + strings.ReplaceAll(oneModel, "\n", "\r\n"),
		"\xef\xbb\xbf" + oneModel,
	} {
		c, problems := parse([]byte(text), nil, ForAnything, "")
		if len(problems) > 0 {
			t.Errorf("%.20q is refused: %v", text, problems)
			continue
		}
		if diff := cmp.Diff(parsed(t, oneModel), c, sameSeconds); diff != "" {
			t.Errorf("the config of %.20q (-want +got):\n%s", text, diff)
		}
	}
}

// TestOneGPUHoweverItsHostIsSpelled counts once, as do the servers of a model.
func TestOneGPUHoweverItsHostIsSpelled(t *testing.T) {
	live := strings.TrimRight(oneModel, "\n") + "\n    live: "
	for _, pair := range [][2]string{
		{"host: node1", "host: NODE1"}, {"host: node1", "host: node1."}, {"host: Node1., port: 4938", "host: node1"}, {"host: \"::1\"", "host: \"0:0:0:0:0:0:0:1\""},
		{"host: 127.0.0.1", "host: \"::ffff:127.0.0.1\""}, {"host: localhost", "host: 127.0.0.1"}, {"host: \"::1\"", "host: Localhost."}, {"host: 10.0.0.1", "host: \"::FFFF:a00:1\""},
		{"host: \"fe80::1%eth0\"", "host: \"FE80:0::1%eth0\""}, {"socket: /run/z.sock", "socket: /run/../run//z.sock"}, {"source: file, file: a.csv", "source: file, file: ./b/../a.csv"},
	} {
		refused(t, live+"{gpu_endpoints: [{"+pair[0]+", gpu_indices: [0]}, {"+pair[1]+", gpu_indices: [1, 0]}]}", nil,
			"models[0].live.gpu_endpoints[1].gpu_indices[1]: GPU 0 of this endpoint stands there twice")
		refused(t, live+"{servers: [{vllm_base_url: 'http://a', gpu_endpoints: [{"+pair[0]+", gpu_indices: [0]}]}, {vllm_base_url: 'http://b', gpu_endpoints: [{"+pair[1]+", gpu_indices: [0]}]}]}", nil,
			"models[0].live.servers[1].gpu_endpoints[0].gpu_indices[0]: GPU 0 of this endpoint stands there twice")
	}
	for _, pair := range [][2]string{
		{"host: node1", "host: node11"}, {"host: node1", "host: node1, port: 5000"}, {"host: node1", "host: node1.dc"}, {"host: 127.0.0.1", "host: 127.0.0.2"},
		{"host: \"fe80::1%eth0\"", "host: \"fe80::1%eth1\""}, {"socket: /run/z.sock", "socket: /run/Z.sock"},
	} {
		parsed(t, live+"{gpu_endpoints: [{"+pair[0]+", gpu_indices: [0]}, {"+pair[1]+", gpu_indices: [0]}]}")
	}
	for _, pair := range [][2]string{
		{"http://n:8000", "http://N:8000/"}, {"http://n", "http://n.:80"}, {"https://n/a", "https://n:443/a//"}, {"http://localhost:1", "http://[::1]:1"}, {"http://127.0.0.1:1", "http://[::ffff:127.0.0.1]:1"},
	} {
		refused(t, live+"{servers: [{vllm_base_url: 'http://first'}, {vllm_base_url: '"+pair[0]+"'}, {vllm_base_url: '"+pair[1]+"'}]}", nil,
			"models[0].live.servers[2].vllm_base_url: is that of servers[1] already")
	}
	parsed(t, live+"{servers: [{vllm_base_url: 'http://n:8000'}, {vllm_base_url: 'http://n:8001'}, {vllm_base_url: 'http://n:8000/a'}, {vllm_base_url: 'http://n:8000/A'}]}")
}

// Hyphens that begin a key begin no document.
func TestHyphensInAKey(t *testing.T) {
	refused(t, oneModel+"---seed: 1\n", nil,
		"---seed: unknown key; known are api, augmentation, control, datacenter, dt_s, live, log, models, record, replay, seed, training")
}

// Every config that is shipped or used by tests loads.
func TestShippedConfigsLoad(t *testing.T) {
	found := 0
	for _, root := range []string{"../configs", "../testdata/configs"} {
		err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(path) != ".yaml" {
				return err
			}
			found++
			if _, err := Load(path, nil, ForAnything); err != nil {
				t.Error(err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if found == 0 {
		t.Error("there are no configs")
	}
}

func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/*.yaml", "../configs/*.yaml", "../testdata/configs/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			f.Fatalf("no seeds in %s: %v", pattern, err)
		}
		for _, file := range files {
			raw, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(raw, "")
		}
	}
	f.Add([]byte(oneModel), "MODELS__0__LIVE__REQUEST_EXTRA_BODY__A__B={x: [1]}")
	f.Add([]byte(oneModel), "MODELS=[{model_label: x}]")
	f.Add([]byte(oneModel), "DT_S=1e-30")
	f.Add([]byte("\ufeff%YAML 1.2\n---\n"+oneModel+"...\n"), "MODELS__0__BATCH_SIZES=[8, 1,024]")
	f.Add([]byte("{\"log\": {\"level\": \"\\ud83d\\udd0b\\/\"}, \"seed\": 010, '\\ud83d\\udd0b': !!float 0x1F}"), "SEED=1_000")
	f.Add([]byte(inUTF16(oneModel, true)), "PORT_8480_TCP=tcp://10.96.3.4:8480")
	f.Add([]byte("a: &a {k: 1}\nb: {<<: [*a, *a], k: 2}\n---\n? [*a]\n: 2001-01-01\n"), "DATACENTER={name: 1:30, <<: {gpus_per_server: 0o17}}")
	f.Fuzz(func(t *testing.T, raw []byte, variable string) {
		c, problems := parse(raw, []string{envPrefix + variable}, ForReplay, "")
		if (c == nil) != (len(problems) > 0) {
			t.Fatalf("a config %v together with problems %v", c, problems)
		}
		for _, p := range problems {
			if p.Message == "" {
				t.Errorf("no message for %q", p.Path)
			}
			if shown := p.String(); strings.ContainsFunc(shown, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) {
				t.Errorf("the message %q cannot be printed", shown)
			}
		}
		if c == nil {
			return
		}
		specs, err := c.ModelSpecs()
		if err != nil || len(specs) != len(c.Models) {
			t.Fatalf("a valid config gives %d specs for %d models: %v", len(specs), len(c.Models), err)
		}
		for i := range c.Training {
			run := c.Training[i].Run()
			if err := run.Validate(); err != nil {
				t.Errorf("a valid config gives an invalid training run: %v", err)
			}
		}
		facility := c.Facility()
		if facility.NumServers() < 1 || c.AugmentationConfig().AmplitudeScaleRange[0] <= 0 {
			t.Errorf("a valid config gives %+v and %+v", facility, c.AugmentationConfig())
		}
		for _, command := range c.ScriptedCommands() {
			if command.Command == nil {
				t.Error("a command is empty")
			}
		}
		c.resolvePaths("dir")
	})
}

func TestGPUsOfEndpointsWithoutIndices(t *testing.T) {
	c := parsed(t, oneModel+`    live: {gpu_endpoints: [{host: n}, {socket: /s}, {host: m, gpu_indices: [3]}]}
`)
	var got [][]int
	for _, e := range c.Models[0].Live.GPUEndpoints {
		got = append(got, e.Endpoint().GPUIndices)
	}
	if diff := cmp.Diff([][]int{{0}, {0}, {3}}, got); diff != "" {
		t.Errorf("indices (-want +got):\n%s", diff)
	}
	refused(t, oneModel+"    live: {gpu_endpoints: [{host: n}, {host: n, gpu_indices: [0]}]}\n", nil,
		"models[0].live.gpu_endpoints[1].gpu_indices[0]: GPU 0 of this endpoint stands there twice")
}

func TestRecordLimits(t *testing.T) {
	parsed(t, oneModel+"record: {dir: rec, max_bytes: 0, max_age_s: 0}\n")
	parsed(t, oneModel+"record: {max_bytes: 1048576, max_age_s: 86400}\n")
	refused(t, oneModel+"record: {max_bytes: 1048575}\n", nil, "record.max_bytes: must be 0 for no limit, or at least 1048576, got 1048575")
	refused(t, oneModel+"record: {max_bytes: -1}\n", nil, "record.max_bytes: must be 0 for no limit, or at least 1048576, got -1")
	refused(t, oneModel+"record: {max_age_s: -1}\n", nil, "record.max_age_s: must be from 0 for no limit to 3155760000, got -1")
}
