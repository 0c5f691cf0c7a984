package workload

import (
	"cmp"
	"fmt"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// MissingBatchError reports a batch size that a model has no data for.
type MissingBatchError struct {
	What       string // "trace" or "ITL fit"
	ModelLabel string
	BatchSize  int
	Available  []int // ascending
	Origin     string
}

func (e *MissingBatchError) Error() string {
	return fmt.Sprintf("no %s for model %q at batch size %d in %s; there are %v", e.What, e.ModelLabel, e.BatchSize, e.Origin, e.Available)
}

// Unwrap makes the error a [datacenter.ErrInvalidInput].
func (e *MissingBatchError) Unwrap() error { return datacenter.ErrInvalidInput }

// TemplateStore holds the power templates of several models on one grid. A
// template is built when it is first asked for. The store is not safe for use by
// several goroutines at once.
type TemplateStore struct {
	grid   Grid
	labels []string
	data   []ModelData
	built  []map[int][]float64
}

// NewTemplateStore returns a store over the models' traces. It fails, wrapping
// [datacenter.ErrInvalidInput], if a trace has no time span left on the grid.
func NewTemplateStore(grid Grid, labels []string, data []ModelData) (*TemplateStore, error) {
	s := &TemplateStore{grid: grid, labels: labels, data: data, built: make([]map[int][]float64, len(data))}
	for m := range data {
		s.built[m] = map[int][]float64{}
		for _, batchSize := range sortedKeys(data[m].Traces) {
			if _, err := data[m].Traces[batchSize].perGPU(grid.SteadySkipS); err != nil {
				return nil, err
			}
		}
	}
	return s, nil
}

// Len is the number of samples of every template.
func (s *TemplateStore) Len() int { return s.grid.templateLen() }

// Template returns model m's template at a batch size: watts per GPU at every
// step. It fails with a [*MissingBatchError]. The caller must not change it.
func (s *TemplateStore) Template(m, batchSize int) ([]float64, error) {
	if t, ok := s.built[m][batchSize]; ok {
		return t, nil
	}
	trace, ok := s.data[m].Traces[batchSize]
	if !ok {
		return nil, &MissingBatchError{"trace", s.labels[m], batchSize, sortedKeys(s.data[m].Traces), s.data[m].Origin}
	}
	t, err := trace.template(s.grid)
	if err != nil {
		return nil, err
	}
	s.built[m][batchSize] = t
	return t, nil
}

// ITL returns model m's latency fit at a batch size. It fails with a
// [*MissingBatchError].
func (s *TemplateStore) ITL(m, batchSize int) (ITLMixture, error) {
	fit, ok := s.data[m].ITL[batchSize]
	if !ok {
		return ITLMixture{}, &MissingBatchError{"ITL fit", s.labels[m], batchSize, sortedKeys(s.data[m].ITL), cmp.Or(s.data[m].ITLOrigin, s.data[m].Origin)}
	}
	return fit, nil
}
