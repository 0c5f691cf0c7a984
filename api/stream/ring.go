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

// latest returns the last n values that are kept, oldest first.
func (r *ring[T]) latest(n int) []*T {
	end := r.end.Load()
	start := max(end-min(max(int64(n), 0), r.keep), 0)
	values := make([]*T, end-start)
	for i := range values {
		values[i] = r.slot(start + int64(i)).Load()
	}
	// Where values were added meanwhile, the first slots may hold those.
	oldest := r.end.Load() + 1 - int64(len(r.slots))
	return values[min(max(oldest-start, 0), end-start):]
}
