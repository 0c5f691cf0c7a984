package workload

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"

	"github.com/g2g-agent/g2g-agent/internal/pyjson"
)

// DefaultPrecision is OpenG2G's, for specs that name none.
const DefaultPrecision = "bfloat16"

// DataSpec says what was measured: which model, how it was served, at which batch
// sizes. It is the spec of a 0.2 manifest.
type DataSpec struct {
	ModelLabel     string `json:"model_label"`
	ModelID        string `json:"model_id"`
	GPUModel       string `json:"gpu_model"`
	Task           string `json:"task"`
	Precision      string `json:"precision"`
	GPUsPerReplica int    `json:"gpus_per_replica"`
	TensorParallel int    `json:"tensor_parallel"`
	ExpertParallel int    `json:"expert_parallel"`
	// BatchSizes are those that were asked for; FitExcludeBatchSizes are among
	// them and have no part in the logistic fits.
	BatchSizes           []int `json:"batch_sizes"`
	FitExcludeBatchSizes []int `json:"fit_exclude_batch_sizes"`

	// What follows does not tell measurements apart.

	ITLDeadlineS       float64 `json:"itl_deadline_s"`
	FeasibleBatchSizes []int   `json:"feasible_batch_sizes"`
}

// Hash is the name of the measurement's folder: the first 16 hex digits of the
// SHA-256 of Python's json.dumps(…, sort_keys=True) of the identifying fields.
func (s *DataSpec) Hash() string {
	text, err := pyjson.Append(nil, map[string]any{
		"batch_sizes": slices.Sorted(slices.Values(s.BatchSizes)), "expert_parallel": s.ExpertParallel,
		"fit_exclude_batch_sizes": slices.Sorted(slices.Values(s.FitExcludeBatchSizes)), "gpu_model": s.GPUModel,
		"gpus_per_replica": s.GPUsPerReplica, "model_id": s.ModelID, "precision": s.Precision, "task": s.Task,
		"tensor_parallel": s.TensorParallel,
	})
	if err != nil {
		return "" // cannot be: texts and whole numbers all have their place in JSON
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])[:16]
}

// object is the spec as a manifest has it.
func (s *DataSpec) object() map[string]any {
	return map[string]any{
		"model_label": s.ModelLabel, "model_id": s.ModelID, "gpu_model": s.GPUModel, "task": s.Task, "precision": s.Precision,
		"gpus_per_replica": s.GPUsPerReplica, "tensor_parallel": s.TensorParallel, "expert_parallel": s.ExpertParallel,
		"itl_deadline_s": s.ITLDeadlineS,
		"batch_sizes":    s.BatchSizes, "feasible_batch_sizes": s.FeasibleBatchSizes, "fit_exclude_batch_sizes": s.FitExcludeBatchSizes,
	}
}
