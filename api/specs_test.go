package api

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/agent"
	"github.com/g2g-agent/g2g-agent/datacenter"
)

// TestStaticModelsAreThoseOfTheAPI: each member is there, as GET /v1/models has it.
func TestStaticModelsAreThoseOfTheAPI(t *testing.T) {
	schedule, err := datacenter.NewReplicaSchedule(3, datacenter.Ramp{Target: 1, TStartS: 2, TEndS: 4})
	if err != nil {
		t.Fatal(err)
	}
	specs := []datacenter.ModelSpec{
		{ModelLabel: "a", ModelID: "o/a", GPUsPerReplica: 2, ITLDeadlineS: 0.1, FeasibleBatchSizes: []int{8, 16}, InitialBatchSize: 16, Replicas: schedule,
			Measurement: datacenter.Measurement{SpecHash: "0123", GPUModel: "H100", Task: "chat", Precision: "fp8", TensorParallel: 2, BatchSizes: []int{8}}},
		{ModelLabel: "b"},
	}
	decoded := func(v any) (models []map[string]any) {
		text, err := json.Marshal(v)
		if err == nil {
			err = json.Unmarshal(text, &models)
		}
		if err != nil {
			t.Fatal(err)
		}
		return models
	}
	status := &agent.Status{}
	for _, spec := range specs {
		status.Models = append(status.Models, agent.ModelStatus{Spec: spec})
	}
	whole := decoded(modelBodies(status))
	for i, static := range decoded(StaticModels(specs)) {
		for name, value := range static {
			if diff := cmp.Diff(whole[i][name], value); diff != "" {
				t.Errorf("%s of model %d (-/v1/models +static):\n%s", name, i, diff)
			}
		}
		if len(static) != 14 {
			t.Errorf("model %d has %d members: %v", i, len(static), static)
		}
	}
}
