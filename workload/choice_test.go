package workload

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// twins is a directory with two measurements of one model, which differ in task,
// GPU model and precision.
func twins(t *testing.T) (string, []DataSpec) {
	t.Helper()
	var specs []DataSpec
	files := map[string]string{}
	for i, s := range []DataSpec{
		{ModelLabel: "m", ModelID: "org/m", GPUModel: "H100", Task: "chat", Precision: "bfloat16", GPUsPerReplica: 2, TensorParallel: 1, ExpertParallel: 1, BatchSizes: []int{8}, FitExcludeBatchSizes: []int{}},
		{ModelLabel: "m", ModelID: "org/m", GPUModel: "B200", Task: "qa", Precision: "fp8", GPUsPerReplica: 2, TensorParallel: 2, ExpertParallel: 4, BatchSizes: []int{8, 16}, FitExcludeBatchSizes: []int{16}},
	} {
		raw, err := json.Marshal(manifest{OpenG2GVersion: "0.2.0", Spec: &s})
		if err != nil {
			t.Fatal(err)
		}
		dir := s.Hash() + "/"
		files[dir+"trace.csv"] = rows(measureHead, fmt.Sprintf("8,%%d,%d", 100*(i+1)), 5)
		files[dir+"_manifest.json"] = string(raw)
		specs = append(specs, s)
	}
	files["no-manifest/trace.csv"] = rows(measureHead, "8,%d,300", 5)
	return folder(t, files), specs
}

func TestChoiceAmongMeasurements(t *testing.T) {
	dir, specs := twins(t)
	byHash := func(q *DataQuery) { q.Spec.Hash = specs[1].Hash() }
	for name, test := range map[string]struct {
		edit func(*DataQuery)
		want float64 // power of the measurement chosen
	}{
		"hash": {byHash, 200},
		"hash of a folder without manifest, whatever else is said": {func(q *DataQuery) { q.Spec = SpecFilter{Hash: "no-manifest", Task: "other"} }, 300},
		"task":            {func(q *DataQuery) { q.Spec.Task = "qa" }, 200},
		"GPU model":       {func(q *DataQuery) { q.Spec.GPUModel = "H100" }, 100},
		"precision":       {func(q *DataQuery) { q.Spec.Precision = "fp8" }, 200},
		"tensor parallel": {func(q *DataQuery) { q.Spec.TensorParallel = 1 }, 100},
		"expert parallel": {func(q *DataQuery) { q.Spec.ExpertParallel = 4 }, 200},
		"batch sizes":     {func(q *DataQuery) { q.Spec.BatchSizes = []int{16, 8} }, 200},
		"excluded sizes":  {func(q *DataQuery) { q.Spec.FitExcludeBatchSizes = []int{} }, 100},
		"model id":        {func(q *DataQuery) { q.ModelLabel, q.Spec.Task = "other", "chat" }, 100},
		"all fields, with OpenG2G's defaults": {func(q *DataQuery) {
			q.Spec = SpecFilter{GPUModel: "H100", Task: "chat", BatchSizes: []int{8}}
		}, 100},
		"GPU model and task, with fewer feasible sizes than were measured": {func(q *DataQuery) {
			q.FeasibleBatchSizes, q.Spec = []int{8}, SpecFilter{GPUModel: "B200", Task: "qa"}
		}, 200},
	} {
		t.Run(name, func(t *testing.T) {
			q := query()
			test.edit(&q)
			data, err := LoadInferenceData(dir, []DataQuery{q}, false)
			if err != nil {
				t.Fatal(err)
			}
			if got := data.Models[0].Traces[8].PowerW[0]; got != test.want {
				t.Errorf("the measurement with %v W is chosen, want %v W", got, test.want)
			}
		})
	}
}

func TestFullFieldsNeedNoManifest(t *testing.T) {
	dir, specs := twins(t)
	for _, s := range specs {
		if err := os.Remove(filepath.Join(dir, s.Hash(), manifestFile)); err != nil {
			t.Fatal(err)
		}
	}
	q := query()
	q.Spec = SpecFilter{GPUModel: "B200", Task: "qa", Precision: "fp8", TensorParallel: 2, ExpertParallel: 4, BatchSizes: []int{16, 8}, FitExcludeBatchSizes: []int{16}}
	data, err := LoadInferenceData(dir, []DataQuery{q}, false)
	if err != nil {
		t.Fatal(err)
	}
	if got := data.Models[0].Traces[8].PowerW[0]; got != 200 {
		t.Errorf("the measurement with %v W is chosen", got)
	}
}

func TestNoChoiceListsMeasurements(t *testing.T) {
	dir, specs := twins(t)
	lines := []string{
		"\n  " + specs[0].Hash() + ": m (org/m), gpu_model H100, task chat, precision bfloat16, gpus_per_replica 2, tensor_parallel 1, expert_parallel 1, batch_sizes [8], fit_exclude_batch_sizes []",
		"\n  " + specs[1].Hash() + ": m (org/m), gpu_model B200, task qa, precision fp8, gpus_per_replica 2, tensor_parallel 2, expert_parallel 4, batch_sizes [8 16], fit_exclude_batch_sizes [16]",
		"\n  no-manifest: no _manifest.json",
	}
	slices.Sort(lines)
	all := strings.Join(lines, "")
	both := strings.Replace(all, "\n  no-manifest: no _manifest.json", "", 1)
	for name, test := range map[string]struct {
		edit func(*DataQuery)
		want string
	}{
		"two measurements": {func(*DataQuery) {}, `DIR: has several measurements of model "m"; choose one with spec_hash or the fields that tell them apart:` + both},
		"wrong hash":       {func(q *DataQuery) { q.Spec.Hash = "0123" }, `DIR: has no measurement 0123, which model "m" asks for; it has:` + all},
		"none matches":     {func(q *DataQuery) { q.Spec.Task = "code" }, `DIR: has no measurement of model "m" (org/m) as configured; it has:` + all},
		"unknown model":    {func(q *DataQuery) { q.ModelLabel, q.ModelID = "x", "" }, `DIR: has no measurement of model "x" () as configured; it has:` + all},
	} {
		t.Run(name, func(t *testing.T) {
			q := query()
			test.edit(&q)
			_, err := LoadInferenceData(dir, []DataQuery{q}, false)
			wantInvalid(t, err, dir, test.want)
		})
	}
}
