package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/loadgen"
)

// requestData is the golden data set.
func requestData(t *testing.T) string {
	return filepath.Join(repositoryRoot(t), "testdata", "golden", "requests", "datasets", "lmarena-ai", "arena-human-preference-100k")
}

// TestGenerateRequestsFromFlags: the golden file of one case, byte by byte.
func TestGenerateRequestsFromFlags(t *testing.T) {
	out := filepath.Join(t.TempDir(), "made", "requests")
	stdout, stderr, err := runArgs(t.Context(), "generate", "requests", "--dataset", "lm-arena-chat", "--data", requestData(t), "--out", out,
		"--num-requests=25", "--model=Llama-3.1-8B=meta-llama/Llama-3.1-8B-Instruct", "--model=Qwen3-32B=Qwen/Qwen3-32B",
		`--extra-body=Qwen3-32B={"chat_template_kwargs": {"enable_thinking": false}, "max_completion_tokens": 64, "temperature": 0.25}`)
	if err != nil || stderr != "" || !strings.HasPrefix(stdout, out+": ") {
		t.Fatalf("%v, %q, %q", err, stdout, stderr)
	}
	for _, label := range []string{"Llama-3.1-8B", "Qwen3-32B"} {
		got, err := os.ReadFile(filepath.Join(out, label+".jsonl"))
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join(repositoryRoot(t), "testdata", "golden", "requests", "expected", "case0", label+".jsonl"))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", label, diff)
		}
	}
}

// TestGenerateRequestsWhereNothingCanBeWritten: it is told before the data is asked for.
func TestGenerateRequestsWhereNothingCanBeWritten(t *testing.T) {
	file := writeText(t, "file", "")
	for _, out := range []string{filepath.Join(file, "requests"), "/proc/self/requests"} {
		stdout, _, err := runArgs(t.Context(), "generate", "requests", "--prompts", filepath.Join(t.TempDir(), "missing.txt"), "--out", out, "--model=a=b")
		if exitStatus(err) != exitInvalid || !strings.Contains(err.Error(), out+": ") || stdout != "" {
			t.Errorf("%s: %v, %q", out, err, stdout)
		}
	}
}

const configForRequests = `
models:
  - model_label: one
    model_id: org/one
    gpus_per_replica: 1
    itl_deadline_s: 0.1
    feasible_batch_sizes: [8]
    live:
      vllm_base_url: "http://127.0.0.1:1"
      simulated_num_replicas: 8
      request_extra_body: {zeta: {y: 1, x: [1.0, null]}, temperature: 0.5, alpha: "é"}
  - model_label: several
    model_id: org/several
    gpus_per_replica: 1
    itl_deadline_s: 0.1
    feasible_batch_sizes: [8]
    live:
      simulated_num_replicas: 8
      request_extra_body: {all: 1}
      servers: [{vllm_base_url: "http://127.0.0.1:2"}, {vllm_base_url: "http://127.0.0.1:3", request_extra_body: {own: 1}}]
  - model_label: same
    model_id: org/same
    gpus_per_replica: 1
    itl_deadline_s: 0.1
    feasible_batch_sizes: [8]
    live:
      simulated_num_replicas: 8
      servers: [{vllm_base_url: "http://127.0.0.1:4", request_extra_body: {b: 1, a: 2}}, {vllm_base_url: "http://127.0.0.1:5", request_extra_body: {a: 2, b: 1}}]
live: {requests_dir: made}
`

// TestGenerateRequestsFromConfig: models, extra bodies in the order of the file, and
// the directory are the config's; the load generator takes the files.
func TestGenerateRequestsFromConfig(t *testing.T) {
	dir := t.TempDir()
	file, prompts := filepath.Join(dir, "c.yaml"), filepath.Join(dir, "p.txt")
	for path, text := range map[string]string{file: configForRequests, prompts: "hello\n\n\"two\"\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"generate", "requests", "--config", file, "--prompts", prompts, "--num-requests", "5", "--system-prompt", ""}
	if _, stderr, err := runArgs(t.Context(), args...); err != nil || stderr != "" {
		t.Fatalf("%v, %q", err, stderr)
	}
	for label, extra := range map[string]string{
		"one":     `, "zeta": {"y": 1, "x": [1.0, null]}, "temperature": 0.5, "alpha": "\u00e9"`,
		"several": "", "same": `, "b": 1, "a": 2`,
	} {
		path := filepath.Join(dir, "made", label+".jsonl")
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		request := func(text string) string {
			return fmt.Sprintf(`{"model": "org/%s", "messages": [{"role": "user", "content": [{"type": "text", "text": "%s"}]}], "max_completion_tokens": 512, `+
				`"stream": true, "stream_options": {"include_usage": true, "continuous_usage_stats": true}%s}`+"\n", label, text, extra)
		}
		hello, two := request("hello"), request(`\"two\"`)
		if strings.Count(string(raw), hello)+strings.Count(string(raw), two) != 5 || !strings.Contains(string(raw), hello) || !strings.Contains(string(raw), two) {
			t.Errorf("%s holds\n%swant 5 lines, each one of\n%s%s", path, raw, hello, two)
		}
		if loaded, err := loadgen.LoadRequests(path); err != nil || len(loaded) != 5 {
			t.Errorf("%s: the load generator takes %d requests (%v)", path, len(loaded), err)
		}
	}

	// What is there is used, whatever is in it; --force makes it anew.
	if err := os.Remove(filepath.Join(dir, "made", "one.jsonl")); err != nil {
		t.Fatal(err)
	}
	stdout, stderr, err := runArgs(t.Context(), append(args, "--prompts", "nowhere")...)
	if err != nil || !strings.Contains(stdout, "is there already") || stderr != "warning: there is no "+filepath.Join(dir, "made", "one.jsonl")+": the model would be loaded with a minimal request\n" {
		t.Errorf("%v, %q, %q", err, stdout, stderr)
	}
	if _, _, err := runArgs(t.Context(), append(args, "--force")...); err != nil {
		t.Error(err)
	}
	if _, err := loadgen.LoadRequests(filepath.Join(dir, "made", "one.jsonl")); err != nil {
		t.Error(err)
	}
}

// TestGeneratedRequestsAreLoaded: those of both data sets.
func TestGeneratedRequestsAreLoaded(t *testing.T) {
	for set, data := range map[string]string{"lm-arena-chat": requestData(t), "gpqa": filepath.Join(repositoryRoot(t), "testdata", "golden", "requests", "datasets", "Idavidrein", "gpqa")} {
		out := filepath.Join(t.TempDir(), "out")
		if _, _, err := runArgs(t.Context(), "generate", "requests", "--dataset", set, "--data", data, "--out", out, "--model", "m=org/m"); err != nil {
			t.Fatal(err)
		}
		if loaded, err := loadgen.LoadRequests(filepath.Join(out, "m.jsonl")); err != nil || len(loaded) != 1000 {
			t.Errorf("%s: %d requests (%v), want 1000", set, len(loaded), err)
		}
	}
}

func TestGenerateRequestsRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "c.yaml")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(configForRequests, "model_id: org/one", "")), 0o600); err != nil {
		t.Fatal(err)
	}
	noID := filepath.Join(dir, "noid.yaml")
	if err := os.WriteFile(noID, []byte("models: [{model_label: m, gpus_per_replica: 1, itl_deadline_s: 0.1, feasible_batch_sizes: [8]}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out")
	for want, args := range map[string][]string{
		"--out DIR is missing":                           {"--model=a=b"},
		"whom to ask is missing":                         {"--out", out},
		`--model "a": want LABEL=MODEL_ID`:               {"--out", out, "--model=a"},
		`--extra-body "b={}": want LABEL=JSON`:           {"--out", out, "--model=a=b", "--extra-body=b={}"},
		`--extra-body "a={": unexpected EOF`:             {"--out", out, "--model=a=b", "--extra-body=a={"},
		`--extra-body "a=[]": want a JSON object`:        {"--out", out, "--model=a=b", "--extra-body=a=[]"},
		`extra body of model "a": n must be 1`:           {"--out", out, "--model=a=b", `--extra-body=a={"n": 2}`, "--data", requestData(t)},
		`model label "../a"`:                             {"--out", out, "--model=../a=b"},
		`--dataset "x": unknown, want lm-arena-chat or `: {"--out", out, "--model=a=b", "--dataset=x", "--data=."},
		"name one, or set HOME":                          {"--out", out, "--model=a=b", "--dataset=gpqa"},
		"want either it, or --dataset and --data":        {"--out", out, "--model=a=b", "--data=x", "--prompts=y"},
		"want at least 1 request":                        {"--out", out, "--model=a=b", "--data", requestData(t), "--num-requests=0"},
		"is a file, want a directory":                    {"--out", file, "--model=a=b"},
		"model_id: is missing":                           {"--config", file, "--out", out},
		"models[0].model_id: is missing; a request":      {"--config", noID, "--out", out},
		"neither in it nor in its data/":                 {"--out", out, "--model=a=b", "--data", dir},
	} {
		stdout, _, err := runArgs(t.Context(), append([]string{"generate", "requests"}, args...)...)
		if err == nil || exitStatus(err) != exitInvalid || !strings.Contains(err.Error(), want) || stdout != "" {
			t.Errorf("%q: %v, want %q; %s", args, err, want, stdout)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := runArgs(ended, "generate", "requests", "--out", out, "--model=a=b", "--data", requestData(t)); err == nil || err.Error() != "interrupted; "+out+" was not written" {
		t.Errorf("interrupted: %v", err)
	}
	if got := names(t, dir); len(got) != 2 {
		t.Errorf("there are %q, want the configs alone", got)
	}
}
