package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/g2g-agent/g2g-agent/plots"
	"github.com/g2g-agent/g2g-agent/workload"
)

// specsOf is a file of the golden specs of a case, changed.
func specsOf(t *testing.T, name string, change func(spec map[string]any)) string {
	t.Helper()
	raw, err := os.ReadFile(strings.Replace(goldenSpecs(t), "one_task", name, 1))
	if err != nil {
		t.Fatal(err)
	}
	var specs []map[string]any
	if err := json.Unmarshal(raw, &specs); err != nil {
		t.Fatal(err)
	}
	for _, s := range specs {
		change(s)
	}
	if raw, err = json.Marshal(specs); err != nil {
		t.Fatal(err)
	}
	return writeText(t, "specs.json", string(raw))
}

func writeText(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// inferenceData makes data of the golden benchmark.
func inferenceData(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	data := filepath.Join(repositoryRoot(t), "testdata", "golden", "mlenergy", "compiled")
	stdout, _, err = runArgs(t.Context(), append([]string{"generate", "inference-data", "--data", data}, args...)...)
	return stdout, err
}

func TestInferenceDataInLayout01WantsAllBatchSizes(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	args := []string{"--out", out, "--layout=0.1", "--specs", goldenSpecs(t), "--model=Llama-3.1-8B"}
	if _, err := inferenceData(t, append(args, "--batch-size=8")...); err != nil {
		t.Fatal(err)
	}
	if stdout, err := inferenceData(t, append(args, "--batch-size=8")...); err != nil || !strings.Contains(stdout, "was there") {
		t.Errorf("the same again: %v, %q", err, stdout)
	}
	if stdout, err := inferenceData(t, args...); exitStatus(err) != exitInvalid || !strings.Contains(err.Error(), "at batch sizes [") {
		t.Errorf("all of it: %v, %q", err, stdout)
	}
}

// A label may have a comma in it, and several models may be chosen.
func TestInferenceDataOfALabelWithAComma(t *testing.T) {
	specs := specsOf(t, "one_task", func(s map[string]any) { s["model_label"] = s["model_label"].(string) + ", twice" })
	stdout, err := inferenceData(t, "--out", t.TempDir(), "--specs", specs, "--model=Llama-3.1-8B, twice")
	if err != nil || strings.Count(stdout, "written") != 1 || !strings.HasPrefix(stdout, "Llama-3.1-8B, twice: ") {
		t.Errorf("%v, %q", err, stdout)
	}
}

// What the specs come to does not depend on how they are written.
func TestInferenceDataOfYAMLSpecs(t *testing.T) {
	const spec = "---\n- model_label: A\n  model_id: meta-llama/Llama-3.1-8B-Instruct\n  gpu_model: H100\n  task: lm-arena-chat\n  itl_deadline_s: 0.08\n  batch_sizes: [8, 16]\n"
	out := t.TempDir()
	stdout, err := inferenceData(t, "--out", out, "--specs", writeText(t, "specs.yaml", spec))
	if err != nil || strings.Count(stdout, "written") != 1 {
		t.Fatalf("%v, %q", err, stdout)
	}
	const inJSON = `[{"model_label": "A", "model_id": "meta-llama/Llama-3.1-8B-Instruct", "gpu_model": "H100", "task": "lm-arena-chat", "itl_deadline_s": 0.08, "batch_sizes": [8, 16]}]`
	if stdout, err = inferenceData(t, "--out", out, "--specs", writeText(t, "specs.json", inJSON)); err != nil || strings.Count(stdout, "was there") != 1 {
		t.Errorf("the same in JSON: %v, %q", err, stdout)
	}
}

func TestInferenceDataRefuses(t *testing.T) {
	file := writeText(t, "file", "")
	for want, args := range map[string][]string{
		"models[0]: want an object": {"--out", t.TempDir(), "--specs", writeText(t, "specs.json", "[null]")},
		"is not a directory":        {"--out", file, "--specs", goldenSpecs(t)},
		file + ": ":                 {"--out", file, "--specs", goldenSpecs(t), "--layout=0.1"},
	} {
		if stdout, err := inferenceData(t, args...); exitStatus(err) != exitInvalid || !strings.Contains(err.Error(), want) || stdout != "" {
			t.Errorf("%q: %v, %q, want %s", args, err, stdout, want)
		}
	}
}

// TestInferenceDataIsDrawn: what was measured is in the plots that are made with the data,
// and in those of the directory later on, in both layouts.
func TestInferenceDataIsDrawn(t *testing.T) {
	for _, layout := range []string{"0.2", "0.1"} {
		out := filepath.Join(t.TempDir(), "out")
		args := []string{"--out", out, "--specs", goldenSpecs(t), "--model=Llama-3.1-8B", "--layout", layout, "--plots=svg"}
		stdout, err := inferenceData(t, args...)
		if err != nil || !strings.Contains(stdout, "written") {
			t.Fatalf("%v, %q", err, stdout)
		}
		later := filepath.Join(t.TempDir(), "later.svg")
		for kind, want := range map[string]string{"itl": "n = 1200, mean ", "logistic": "measured", "power": "batch size"} {
			if _, stderr, err := runArgs(t.Context(), "plot", out, "--kind", kind, "--out", later); err != nil || stderr != "" {
				t.Fatalf("%s: %v, %q", kind, err, stderr)
			}
			for _, file := range []string{later, filepath.Join(out, plotsFolder, kind+".svg")} {
				if picture, err := os.ReadFile(file); err != nil || !strings.Contains(string(picture), want) {
					t.Errorf("layout %s: %s has no %q: %v", layout, file, want, err)
				}
			}
		}
		if err := os.RemoveAll(filepath.Join(out, plotsFolder)); err != nil {
			t.Fatal(err)
		}
		if stdout, err := inferenceData(t, args...); err != nil || !strings.Contains(stdout, "was there") {
			t.Errorf("the same call: %v, %q", err, stdout)
		}
		if _, err := os.Stat(filepath.Join(out, plotsFolder, "itl.svg")); err != nil {
			t.Errorf("the same call draws them again: %v", err)
		}
	}
}

// TestWithoutHistograms: of many, the fits alone are drawn.
func TestWithoutHistograms(t *testing.T) {
	models := make([]plots.Model, 9)
	for i := range models {
		models[i].Observed.ITL = map[int]*workload.ITLHistogram{8: nil, 16: nil, 32: nil, 64: nil, 128: nil, 256: nil}
	}
	if withoutHistograms(models[:8]) || models[0].Observed.ITL == nil {
		t.Error("48 panels are too many")
	}
	if !withoutHistograms(models) || models[0].Observed.ITL != nil {
		t.Error("54 panels are not too many")
	}
}
