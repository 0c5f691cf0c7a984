package datacenter

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// Ramp is a linear change of a replica count over [TStartS, TEndS] to Target. A
// ramp that starts and ends at one time is a jump.
type Ramp struct {
	Target         int
	TStartS, TEndS float64
}

// ReplicaSchedule is a model's replica count over time: the initial count, then
// linear ramps, the count holding between them. It is immutable.
type ReplicaSchedule struct {
	initial int
	ramps   []Ramp
}

// NewReplicaSchedule returns a schedule of initial replicas and the given ramps,
// which may come in any order. It fails, wrapping [ErrInvalidInput], for a
// negative count, a ramp that ends before it starts, a time that is not a
// finite number, or windows that overlap; they may touch.
func NewReplicaSchedule(initial int, ramps ...Ramp) (*ReplicaSchedule, error) {
	if initial < 0 {
		return nil, fmt.Errorf("%w: initial must be >= 0, got %d", ErrInvalidInput, initial)
	}
	s := &ReplicaSchedule{initial: initial}
	for i, r := range ramps {
		if err := s.add(r); err != nil {
			return nil, fmt.Errorf("%w: ramps[%d]: %w", ErrInvalidInput, i, err)
		}
	}
	return s, nil
}

func (s *ReplicaSchedule) add(r Ramp) error {
	switch {
	case r.Target < 0:
		return fmt.Errorf("target must be >= 0, got %d", r.Target)
	case !isFinite(r.TStartS) || !isFinite(r.TEndS):
		return fmt.Errorf("t_start and t_end must be finite, got %v and %v", r.TStartS, r.TEndS)
	case r.TEndS < r.TStartS:
		return fmt.Errorf("t_end (%v) must be >= t_start (%v)", r.TEndS, r.TStartS)
	}
	for _, o := range s.ramps {
		if r.TStartS < o.TEndS && r.TEndS > o.TStartS {
			return fmt.Errorf("[%v, %v] overlaps the ramp over [%v, %v]", r.TStartS, r.TEndS, o.TStartS, o.TEndS)
		}
	}
	// Ramps that start together keep the order they came in.
	s.ramps = append(s.ramps, r)
	slices.SortStableFunc(s.ramps, func(a, b Ramp) int { return cmp.Compare(a.TStartS, b.TStartS) })
	return nil
}

// Initial is the replica count before any ramp.
func (s *ReplicaSchedule) Initial() int { return s.initial }

// Ramps returns the ramps in order of time. The caller must not change them.
func (s *ReplicaSchedule) Ramps() []Ramp { return s.ramps }

// MaxCount is the largest count the schedule reaches.
func (s *ReplicaSchedule) MaxCount() int {
	most := s.initial
	for _, r := range s.ramps {
		most = max(most, r.Target)
	}
	return most
}

// countAt is the replica count at time tS, fractional within a ramp.
func (s *ReplicaSchedule) countAt(tS float64) float64 {
	level := float64(s.initial)
	for _, r := range s.ramps {
		if tS < r.TStartS {
			return level
		}
		if tS <= r.TEndS {
			if r.TEndS == r.TStartS {
				return float64(r.Target)
			}
			alpha := (tS - r.TStartS) / (r.TEndS - r.TStartS)
			return level + float64((float64(r.Target)-level)*alpha)
		}
		level = float64(r.Target)
	}
	return level
}

// ReplicasAt is countAt rounded to whole replicas, halves to even.
func (s *ReplicaSchedule) ReplicasAt(tS float64) int {
	return int(math.RoundToEven(s.countAt(tS)))
}

func isFinite(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }
