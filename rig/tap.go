package rig

import (
	"cmp"
	"slices"

	"github.com/g2g-agent/g2g-agent/loadgen"
)

// Tap keeps the single latencies of a model's tokens; see [loadgen.Tap].
type Tap struct{ taps []*loadgen.Tap }

// Tap begins to keep single latencies, of so many tokens of each server at most.
func (m *Model) Tap(most int) *Tap {
	t := &Tap{}
	for _, load := range m.loads {
		t.taps = append(t.taps, load.Tap(most))
	}
	return t
}

// Take takes the tap off and returns what it has kept of all servers. It is for one
// call.
func (t *Tap) Take() loadgen.Samples {
	all := loadgen.Samples{Share: 1}
	for _, tap := range t.taps {
		one := tap.Take()
		all.Share = min(all.Share, one.Share)
		all.All = append(all.All, one.All...)
	}
	slices.SortStableFunc(all.All, func(a, b loadgen.Sample) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.ITL, b.ITL), cmp.Compare(a.Tokens, b.Tokens))
	})
	return all
}
