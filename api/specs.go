package api

import (
	"cmp"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// specBody is what GET /v1/models tells of a model that never changes in a run, beside
// its limits. What nobody says is null.
type specBody struct {
	GPUModel       *string `json:"gpu_model"`
	Task           *string `json:"task"`
	Precision      *string `json:"precision"`
	TensorParallel *int    `json:"tensor_parallel"`
	// BatchSizes are those that it has data for.
	BatchSizes      []int         `json:"batch_sizes"`
	SpecHash        *string       `json:"spec_hash"`
	ReplicaSchedule *scheduleBody `json:"replica_schedule"`
}

// scheduleBody is a replica schedule, in the words of the config.
type scheduleBody struct {
	Initial int        `json:"initial"`
	Ramps   []rampBody `json:"ramps"`
}

type rampBody struct {
	Target int     `json:"target"`
	TStart float64 `json:"t_start"`
	TEnd   float64 `json:"t_end"`
}

// staticBody is what check --json tells of a model: what GET /v1/models does in any run
// of the config.
type staticBody struct {
	ModelLabel         string  `json:"model_label"`
	ModelID            string  `json:"model_id"`
	GPUsPerReplica     int     `json:"gpus_per_replica"`
	ITLDeadlineS       float64 `json:"itl_deadline_s"`
	FeasibleBatchSizes []int   `json:"feasible_batch_sizes"`
	InitialBatchSize   int     `json:"initial_batch_size"`
	FailsafeBatchSize  int     `json:"failsafe_batch_size"`
	specBody
}

// StaticModels returns, for encoding/json, what GET /v1/models tells of models whatever
// their run does.
func StaticModels(models []datacenter.ModelSpec) any {
	bodies := make([]staticBody, len(models))
	for i := range models {
		m := &models[i]
		bodies[i] = staticBody{
			ModelLabel: m.ModelLabel, ModelID: m.ModelID, GPUsPerReplica: m.GPUsPerReplica, ITLDeadlineS: m.ITLDeadlineS,
			FeasibleBatchSizes: append([]int{}, m.FeasibleBatchSizes...), InitialBatchSize: m.InitialBatchSize, FailsafeBatchSize: m.Failsafe(),
			specBody: specOf(m),
		}
	}
	return bodies
}

func specOf(m *datacenter.ModelSpec) specBody {
	measurement := &m.Measurement
	body := specBody{
		GPUModel: said(measurement.GPUModel), Task: said(measurement.Task), Precision: said(measurement.Precision),
		TensorParallel: said(measurement.TensorParallel), SpecHash: said(measurement.SpecHash),
		BatchSizes: measurement.BatchSizes,
	}
	if body.BatchSizes == nil { // on hardware it can run at any of these
		body.BatchSizes = append([]int{}, m.FeasibleBatchSizes...)
	}
	if m.Replicas == nil {
		return body
	}
	body.ReplicaSchedule = &scheduleBody{Initial: m.Replicas.Initial(), Ramps: []rampBody{}}
	for _, r := range m.Replicas.Ramps() {
		body.ReplicaSchedule.Ramps = append(body.ReplicaSchedule.Ramps, rampBody{r.Target, r.TStartS, r.TEndS})
	}
	return body
}

// said returns a pointer to v, nil where it says nothing.
func said[T cmp.Ordered](v T) *T {
	var nothing T
	if v == nothing {
		return nil
	}
	return &v
}
