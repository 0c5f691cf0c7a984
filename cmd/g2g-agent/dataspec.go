package main

import (
	"cmp"
	"slices"

	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/workload"
)

// dataSpecOf is the measurement that a model of a config stands for, with OpenG2G's
// defaults.
//
// batchSizes are those measured; nil: the config's batch_sizes, else what is feasible.
// gpuModel and task go before the config's unless they are empty; OpenG2G has no
// defaults for them.
func dataSpecOf(m *config.Model, batchSizes []int, gpuModel, task string) workload.DataSpec {
	s := workload.DataSpec{
		ModelLabel: m.ModelLabel, ModelID: m.ModelID, GPUModel: cmp.Or(gpuModel, m.GPUModel), Task: cmp.Or(task, m.Task),
		Precision:      cmp.Or(m.Precision, workload.DefaultPrecision),
		GPUsPerReplica: m.GPUsPerReplica, TensorParallel: max(m.TensorParallel, 1), ExpertParallel: max(m.ExpertParallel, 1),
		BatchSizes: slices.Clone(m.BatchSizes), FeasibleBatchSizes: slices.Clone(m.FeasibleBatchSizes),
		FitExcludeBatchSizes: append([]int{}, m.FitExcludeBatchSizes...), // a list in a manifest even if it is empty
		ITLDeadlineS:         m.ITLDeadlineS,
	}
	if s.BatchSizes == nil {
		s.BatchSizes = slices.Clone(s.FeasibleBatchSizes)
	}
	if batchSizes != nil {
		s.BatchSizes = slices.Clone(batchSizes)
		limitToBatchSizes(&s)
	}
	return s
}

// limitToBatchSizes takes from a spec's other lists what is not in its batch sizes:
// OpenG2G refuses a manifest that calls feasible what was not measured.
func limitToBatchSizes(s *workload.DataSpec) {
	other := func(b int) bool { return !slices.Contains(s.BatchSizes, b) }
	s.FitExcludeBatchSizes = slices.DeleteFunc(slices.Clone(s.FitExcludeBatchSizes), other)
	s.FeasibleBatchSizes = slices.DeleteFunc(slices.Clone(s.FeasibleBatchSizes), other)
	if len(s.FeasibleBatchSizes) == 0 { // it wants one at least
		s.FeasibleBatchSizes = slices.Clone(s.BatchSizes)
	}
}
