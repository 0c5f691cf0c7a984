package augment

// powerSource is where the tests' readings come from, as a pipeline's do.
type powerSource interface {
	Assign(model int, servers []int32)
	PerGPUPower(model int, perGPUW []float64)
}

// sourced is an augmenter that is driven as a pipeline drives it.
type sourced struct {
	*Augmenter
	source powerSource
}

func newSourced(pool *Pool, gpusPerReplica []int, source powerSource, seed uint64) sourced {
	return sourced{NewAugmenter(pool, gpusPerReplica, seed), source}
}

// Augment is one step.
func (s sourced) Augment(replicas []int) (*Power, error) {
	changed, err := s.Allocate(replicas)
	if err != nil {
		return nil, err
	}
	for _, m := range changed {
		s.source.Assign(m, s.Servers(m))
	}
	for m := range replicas {
		w := s.PerGPU(m)
		s.source.PerGPUPower(m, w)
		s.Add(m, w)
	}
	return s.Power(), nil
}
