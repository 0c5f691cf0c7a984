package stream

import "sync/atomic"

// slack is how many values more than it keeps a ring holds, so that a reader is
// not overtaken at once.
const slack = 64

// ring keeps the latest values added to it. One goroutine at a time adds; any
// number read meanwhile, and nobody waits for anybody.
type ring[T any] struct {
	keep  int64
	slots []atomic.Pointer[T]
	end   atomic.Int64 // the number of values ever added
}

func newRing[T any](keep int) ring[T] {
	return ring[T]{keep: int64(keep), slots: make([]atomic.Pointer[T], keep+slack)}
}

func (r *ring[T]) slot(i int64) *atomic.Pointer[T] { return &r.slots[i%int64(len(r.slots))] }

func (r *ring[T]) add(value *T) {
	end := r.end.Load()
	r.slot(end).Store(value)
	r.end.Store(end + 1)
}

// at returns the value at an index below the end, nil if it is not kept any more.
func (r *ring[T]) at(i int64) *T {
	value := r.slot(i).Load()
	if i < r.overwritten() {
		return nil
	}
	return value
}

// oldest is the index of the oldest value that is kept.
func (r *ring[T]) oldest() int64 { return max(r.end.Load()-r.keep, 0) }

// overwritten is an index below which slots hold newer values, or may.
func (r *ring[T]) overwritten() int64 { return r.end.Load() + 1 - int64(len(r.slots)) }

// latest returns the last n values that are kept and have an index from first on,
// oldest first.
func (r *ring[T]) latest(n int, first int64) []*T {
	end := r.end.Load()
	start := max(end-min(max(int64(n), 0), r.keep), first, 0)
	values := make([]*T, max(end-start, 0))
	for i := range values {
		values[i] = r.slot(start + int64(i)).Load()
	}
	// Where values were added meanwhile, the first slots may hold those.
	return values[min(max(r.overwritten()-start, 0), int64(len(values))):]
}
