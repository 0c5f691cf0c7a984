package buffer

import (
	"cmp"
	"slices"
)

// Offsets are the times that servers look back, in seconds, sorted once for all
// the samples to come. Any number of goroutines may sample with the same offsets,
// of any buffer, except during [Offsets.Select].
type Offsets struct {
	sorted []offset
	place  []int32 // scratch of Select
}

// offset is how far a server, an index into the caller's list, looks back.
type offset struct {
	offsetS float64
	server  int32
}

// NewOffsets returns the offsets offsetS, of which it keeps a copy. A negative
// offset looks at a time to come, which is answered with the newest reading; a
// NaN gets the oldest one. There can be 2^31-1 offsets at most.
func NewOffsets(offsetS []float64) *Offsets {
	o := &Offsets{sorted: make([]offset, len(offsetS))}
	for i, s := range offsetS {
		o.sorted[i] = offset{s, int32(i)}
	}
	// Ascending. Comparing the negatives the wrong way round puts NaN, the least of
	// all, to the end, where the oldest readings are.
	slices.SortFunc(o.sorted, func(a, b offset) int { return cmp.Compare(-b.offsetS, -a.offsetS) })
	return o
}

// Select makes o the offsets of some of all's servers, in the order of servers,
// which has each at most once. It passes over all once instead of sorting, and
// allocates only if there are more than ever before. It must not run while a
// sample uses o.
func (o *Offsets) Select(all *Offsets, servers []int32) {
	if len(o.place) < len(all.sorted) {
		o.place = make([]int32, len(all.sorted))
	}
	for i, server := range servers {
		o.place[server] = int32(i) + 1
	}
	o.sorted = slices.Grow(o.sorted[:0], len(servers))
	for _, one := range all.sorted {
		if place := o.place[one.server]; place > 0 {
			o.sorted = append(o.sorted, offset{one.offsetS, place - 1})
		}
	}
	for _, server := range servers {
		o.place[server] = 0
	}
}
