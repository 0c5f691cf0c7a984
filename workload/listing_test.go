package workload

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

func TestListModels(t *testing.T) {
	for dir, want := range map[string][]DataQuery{
		"../configs/example-data": {
			{ModelLabel: "Llama-3.1-405B", GPUsPerReplica: 8}, {ModelLabel: "Llama-3.1-70B", GPUsPerReplica: 4}, {ModelLabel: "Llama-3.1-8B", GPUsPerReplica: 1},
		},
		"../testdata/golden/data_0.2": {
			{
				ModelLabel: "Llama-3.1-70B", ModelID: "meta-llama/Llama-3.1-70B-Instruct", GPUsPerReplica: 4,
				Spec: SpecFilter{Hash: "2234120f055ca377"},
			},
			{
				ModelLabel: "Llama-3.1-8B", ModelID: "meta-llama/Llama-3.1-8B-Instruct", GPUsPerReplica: 1,
				Spec: SpecFilter{Hash: "b473220852891f26"},
			},
			{
				ModelLabel: "Llama-3.1-405B", ModelID: "meta-llama/Llama-3.1-405B-Instruct-FP8", GPUsPerReplica: 8,
				Spec: SpecFilter{Hash: "bc1e7986096ec9a9"},
			},
		},
	} {
		got, err := ListModels(dir)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s:\n%s", dir, diff)
		}
		// They are queries that the loader answers.
		data, err := LoadInferenceData(dir, got, true)
		if err != nil || len(data.Models) != len(want) {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

func TestListModelsRefuses(t *testing.T) {
	for want, files := range map[string]map[string]string{
		"is not an OpenG2G data directory":                                 {},
		"holds both OpenG2G layouts":                                       {"traces_summary.csv": "", "x/trace.csv": ""},
		"traces_summary.csv: is empty":                                     {"traces_summary.csv": ""},
		"traces_summary.csv: has no rows":                                  {"traces_summary.csv": "model_label,num_gpus\n"},
		`traces_summary.csv:2: num_gpus: "x" is not a finite number`:       {"traces_summary.csv": "model_label,num_gpus\na,x\n"},
		"_manifest.json: spec.gpus_per_replica must be at least 1, got -2": {"x/trace.csv": "", "x/_manifest.json": `{"spec":{"gpus_per_replica":-2}}`},
		"_manifest.json:1: unexpected end of JSON input":                   {"x/trace.csv": "", "x/_manifest.json": `{"spec":`},
	} {
		dir := t.TempDir()
		for name, text := range files {
			path := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := ListModels(dir); !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
