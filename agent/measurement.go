package agent

import (
	"cmp"
	"maps"
	"slices"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/workload"
)

// measured are the models with what the data say of where they were measured, before
// what the config says: that only chooses among data.
func measured(models []datacenter.ModelSpec, data []workload.ModelData) []datacenter.ModelSpec {
	models = slices.Clone(models)
	for i := range min(len(models), len(data)) {
		m, d := &models[i].Measurement, &data[i]
		m.SpecHash = cmp.Or(d.SpecHash, m.SpecHash)
		if s := d.Spec; s != nil {
			m.GPUModel, m.Task, m.Precision = cmp.Or(s.GPUModel, m.GPUModel), cmp.Or(s.Task, m.Task), cmp.Or(s.Precision, m.Precision)
			m.TensorParallel = cmp.Or(s.TensorParallel, m.TensorParallel)
		}
		m.BatchSizes = slices.DeleteFunc(slices.Sorted(maps.Keys(d.Traces)), func(n int) bool {
			_, fitted := d.ITL[n]
			return d.ITL != nil && !fitted
		})
	}
	return models
}
