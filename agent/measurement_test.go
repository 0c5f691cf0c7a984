package agent

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/workload"
)

// What the data say of a model comes before what the config says, in each data layout.
func TestMeasurement(t *testing.T) {
	configured := datacenter.Measurement{GPUModel: "B200", Task: "gpqa"}
	queries := []workload.DataQuery{
		{ModelLabel: "Llama-3.1-8B", GPUsPerReplica: 1},
		{ModelLabel: "Llama-3.1-405B", GPUsPerReplica: 8},
	}
	sizes := []int{8, 16, 32, 64, 128, 256, 512}
	for dir, want := range map[string][]datacenter.Measurement{
		"../testdata/golden/data_0.2": {
			{SpecHash: "b473220852891f26", GPUModel: "H100", Task: "lm-arena-chat", Precision: "bfloat16", TensorParallel: 1, BatchSizes: sizes},
			{SpecHash: "bc1e7986096ec9a9", GPUModel: "H100", Task: "lm-arena-chat", Precision: "bfloat16", TensorParallel: 1, BatchSizes: sizes[:6]},
		},
		"../configs/example-data": {
			{GPUModel: "B200", Task: "gpqa", BatchSizes: sizes},
			{GPUModel: "B200", Task: "gpqa", BatchSizes: sizes[:6]},
		},
	} {
		data, err := workload.LoadInferenceData(dir, queries, true)
		if err != nil {
			t.Fatal(err)
		}
		models := []datacenter.ModelSpec{{ModelLabel: "Llama-3.1-8B", Measurement: configured}, {ModelLabel: "Llama-3.1-405B", Measurement: configured}}
		got := []datacenter.Measurement{}
		for _, m := range measured(models, data.Models) {
			got = append(got, m.Measurement)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", dir, diff)
		}
		if diff := cmp.Diff(configured, models[0].Measurement); diff != "" {
			t.Errorf("the models given were changed (-want +got):\n%s", diff)
		}
		// A batch size without a latency fit is none to run at.
		delete(data.Models[0].ITL, 512)
		if diff := cmp.Diff(sizes[:6], measured(models, data.Models)[0].Measurement.BatchSizes); diff != "" {
			t.Errorf("%s without a fit (-want +got):\n%s", dir, diff)
		}
	}
}

// A run tells it.
func TestMeasurementInStatus(t *testing.T) {
	s, _ := lockstep(t, nil)
	for _, m := range s.Status().Models {
		if m.Spec.Measurement.BatchSizes == nil {
			t.Errorf("no batch sizes of %s are known", m.Spec.ModelLabel)
		}
	}
}
