package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/workload"
)

func TestDataSpecOf(t *testing.T) {
	t.Parallel()
	model := config.Model{
		ModelLabel: "L", ModelID: "org/L", GPUModel: "H100", Task: "chat", GPUsPerReplica: 2, ITLDeadlineS: 0.1,
		FeasibleBatchSizes: []int{8, 16, 32}, BatchSizes: []int{8, 16, 32, 64}, FitExcludeBatchSizes: []int{64},
	}
	whole := workload.DataSpec{
		ModelLabel: "L", ModelID: "org/L", GPUModel: "H100", Task: "chat", Precision: "bfloat16",
		GPUsPerReplica: 2, TensorParallel: 1, ExpertParallel: 1, ITLDeadlineS: 0.1,
		BatchSizes: []int{8, 16, 32, 64}, FeasibleBatchSizes: []int{8, 16, 32}, FitExcludeBatchSizes: []int{64},
	}
	some := whole
	some.GPUModel, some.Task = "B200", "code"
	some.BatchSizes, some.FeasibleBatchSizes, some.FitExcludeBatchSizes = []int{16, 32}, []int{16, 32}, []int{}
	excluded := whole
	excluded.BatchSizes, excluded.FeasibleBatchSizes = []int{64}, []int{64}
	bare := model
	bare.BatchSizes, bare.FitExcludeBatchSizes, bare.Precision, bare.TensorParallel = nil, nil, "fp8", 2
	feasible := whole
	feasible.BatchSizes, feasible.FitExcludeBatchSizes, feasible.Precision, feasible.TensorParallel = []int{8, 16, 32}, []int{}, "fp8", 2

	for name, test := range map[string]struct{ got, want workload.DataSpec }{
		"the config's":             {dataSpecOf(&model, nil, "", ""), whole},
		"some, of other hardware":  {dataSpecOf(&model, []int{16, 32}, "B200", "code"), some},
		"none that is feasible":    {dataSpecOf(&model, []int{64}, "", ""), excluded},
		"no batch_sizes, no lists": {dataSpecOf(&bare, nil, "", ""), feasible},
	} {
		if diff := cmp.Diff(test.want, test.got); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", name, diff)
		}
	}
}
