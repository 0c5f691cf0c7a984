package rig

import (
	"cmp"
	"math/rand/v2"
	"slices"

	"github.com/g2g-agent/g2g-agent/loadgen"
)

// Tap keeps the single latencies of a model's tokens; see [loadgen.Tap].
type Tap struct {
	taps []*loadgen.Tap
	seed uint64
}

// Tap begins to keep single latencies, of so many tokens of each server at most.
func (m *Model) Tap(most int) *Tap {
	t := &Tap{seed: m.rig.cfg.Seed + uint64(m.index)}
	for _, load := range m.loads {
		t.taps = append(t.taps, load.Tap(most))
	}
	return t
}

// Take takes the tap off and returns what it has kept of all servers, of each the same
// share. It is for one call.
func (t *Tap) Take() loadgen.Samples {
	var servers []loadgen.Samples
	for _, tap := range t.taps {
		servers = append(servers, tap.Take())
	}
	return merge(servers, t.seed)
}

// merge puts samples of servers together. Of each the smallest share of all is taken,
// drawn at random by the seed: what each server's tokens count for must not depend on
// how many of the others there are.
func merge(servers []loadgen.Samples, seed uint64) loadgen.Samples {
	all := loadgen.Samples{Share: 1}
	for _, s := range servers {
		all.Share = min(all.Share, s.Share)
	}
	for i, s := range servers {
		random := rand.New(rand.NewPCG(seed, uint64(i)))
		keep := all.Share / s.Share
		for _, sample := range s.All {
			if keep >= 1 || random.Float64() < keep {
				all.All = append(all.All, sample)
			}
		}
	}
	slices.SortStableFunc(all.All, func(a, b loadgen.Sample) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.ITL, b.ITL), cmp.Compare(a.Tokens, b.Tokens))
	})
	return all
}
