package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/datacenter"
)

// checkJSON runs check --json and returns the one line that it prints.
func checkJSON(t *testing.T, environ []string, file string) (line []byte, err error) {
	t.Helper()
	var out bytes.Buffer
	err = run(t.Context(), []string{"check", "--json", "--config", file}, terminal{stdout: &out, stderr: io.Discard, environ: environ})
	if text := out.String(); strings.Count(text, "\n") != 1 || !strings.HasSuffix(text, "\n") {
		t.Errorf("%s: want one line, got %q", file, text)
	}
	return out.Bytes(), err
}

func TestCheckJSON(t *testing.T) {
	environ := []string{"G2G_AGENT_API__LISTEN=127.0.0.1:0"}
	line, err := checkJSON(t, environ, shippedReplay(t))
	if err != nil {
		t.Fatal(err)
	}
	var got checkedBody
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&got); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(shippedReplay(t), environ, config.ForReplay)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := c.Digest()
	if err != nil {
		t.Fatal(err)
	}
	effective, err := c.Effective()
	if err != nil {
		t.Fatal(err)
	}
	if !got.OK || got.Version != programVersion() || got.DT != "1/10" || got.DTS != 0.1 || *got.DurationS != 300 || *got.TotalSteps != lockstepSteps ||
		got.Seed != c.Seed || got.ConfigDigest != digest || !slices.Equal(got.For, []string{"replay"}) || len(got.Warnings) != 0 {
		t.Errorf("got %s", line)
	}
	if diff := cmp.Diff(string(effective), string(got.Config)); diff != "" {
		t.Errorf("the config is not the effective one:\n%s", diff)
	}
	models, err := json.Marshal(got.Models)
	if err != nil {
		t.Fatal(err)
	}
	// Keys by name, since it was read into maps.
	const want = `"batch_sizes":[8,16,32,64,128,256,512],"failsafe_batch_size":128,"feasible_batch_sizes":[8,16,32,64,128,256,512],"gpu_model":null,` +
		`"gpus_per_replica":4,"initial_batch_size":128,"itl_deadline_s":0.1,"model_id":"meta-llama/Llama-3.1-70B-Instruct","model_label":"Llama-3.1-70B",` +
		`"precision":null,"replica_schedule":{"initial":180,"ramps":[{"t_end":140,"t_start":100,"target":150}]},"spec_hash":null,"task":null,"tensor_parallel":null}`
	if n := strings.Count(string(models), `"model_label"`); n != 3 || !strings.Contains(string(models), want) {
		t.Errorf("%d models, want\n%s\namong\n%s", n, want, models)
	}

	// The effective config in a file anywhere is the same config.
	again := filepath.Join(t.TempDir(), "again.json")
	if err := os.WriteFile(again, got.Config, 0o600); err != nil {
		t.Fatal(err)
	}
	if second, err := checkJSON(t, nil, again); err != nil || string(second) != string(line) {
		t.Errorf("the effective config is checked as (%v)\n%s\nwant\n%s", err, second, line)
	}
}

func TestCheckJSONOfOtherRuns(t *testing.T) {
	live := filepath.Join(repositoryRoot(t), "configs", "live.yaml")
	for name, c := range map[string]struct {
		file    string
		environ []string
		want    []string
	}{
		"a live run":             {live, nil, []string{`"for":["run"]`, `"duration_s":null`, `"total_steps":null`, `"initial":`}},
		"a replay without end":   {shippedReplay(t), []string{"G2G_AGENT_REPLAY__AT_END=continue"}, []string{`"for":["replay"]`, `"duration_s":null`, `"total_steps":null`}},
		"an exact step":          {shippedReplay(t), []string{`G2G_AGENT_DT_S="1/3"`, "G2G_AGENT_REPLAY__COMMANDS=[]"}, []string{`"dt":"1/3"`, `"dt_s":"1/3"`, `"dt_s":0.333`, `"total_steps":900`}},
		"a model without server": {shippedReplay(t), []string{"G2G_AGENT_MODELS__0__REPLICAS={initial: 0, ramps: [{target: 1, t_start: 0, t_end: 1}]}", "G2G_AGENT_REPLAY__COMMANDS=[]"}, []string{`"warnings":["model \"Llama-3.1-8B\" starts with 0 replicas`}},
	} {
		line, err := checkJSON(t, append(c.environ, "G2G_AGENT_API__LISTEN=127.0.0.1:0"), c.file)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, want := range c.want {
			if !strings.Contains(string(line), want) {
				t.Errorf("%s: want %s in %s", name, want, line)
			}
		}
	}
}

func TestCheckJSONOfWhatIsWrong(t *testing.T) {
	file := func(text string) string {
		name := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	const model = "models: [{model_label: Llama-3.1-8B, gpus_per_replica: 1, itl_deadline_s: 0.08, feasible_batch_sizes: [128]%s}]\n"
	withModel := func(more string) string { return strings.Replace(model, "%s", more, 1) }
	for name, c := range map[string]struct {
		file string
		want []wrongInput
	}{
		"keys": {file("datacenter: {power_factor: 2}\nmodell: 1\n" + withModel("")), []wrongInput{
			{"modell", "unknown key; did you mean models?"}, {"datacenter.power_factor", "must be in (0, 1], got 2"}}},
		"no YAML": {file("["), []wrongInput{{"", "line 1: did not find expected node content"}}},
		"no file": {filepath.Join(t.TempDir(), "none.yaml"), []wrongInput{{"", "no such file or directory"}}},
		"no data": {file("datacenter: {total_gpu_capacity: 8}\nreplay: {data_dir: /none}\n" + withModel("")),
			[]wrongInput{{"replay.data_dir", "/none: no such file or directory"}}},
		"data and a live run": {file("datacenter: {total_gpu_capacity: 8}\nreplay: {data_dir: /none}\n" + withModel(", live: {vllm_base_url: http://h:1, gpu_endpoints: [{host: h}]}")),
			[]wrongInput{{"replay.data_dir", "/none: no such file or directory"}, {"models[0].model_id", "is missing; a live run asks the vLLM server for it"},
				{"models[0].live.simulated_num_replicas", "is missing; must be >= 0, and 0 only measures the model"}}},
		"a token file": {file("api: {token_file: /none/token}\n" + withModel("")), []wrongInput{{"api.token_file", "open /none/token: no such file or directory"}}},
	} {
		line, err := checkJSON(t, nil, c.file)
		if !errors.Is(err, datacenter.ErrInvalidInput) {
			t.Errorf("%s: the error is %v, want one of exit status %d", name, err, exitInvalid)
		}
		var got refusedBody
		if err := json.Unmarshal(line, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(refusedBody{Errors: c.want}, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
