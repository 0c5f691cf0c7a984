package datacenter

import (
	"fmt"
	"math"

	"github.com/g2g-agent/g2g-agent/internal/excerpt"
)

// Sequence is the rule that states of a file must be those of one run in their order,
// for all who read such files. The zero value waits for the first state.
type Sequence struct {
	states int64
	lastS  float64
	labels []string
}

// Next takes in the next state. An error, which says which state it is of, from 1, wraps
// [ErrInvalidInput]: the time is no finite number or not after that of the state before,
// or the models are others than its.
func (q *Sequence) Next(s *State) error {
	if err := q.check(s); err != nil {
		return fmt.Errorf("%w: state %d: %w", ErrInvalidInput, q.states+1, err)
	}
	if q.states == 0 {
		for i := range s.Models {
			q.labels = append(q.labels, s.Models[i].ModelLabel)
		}
	}
	q.states++
	q.lastS = s.TimeS
	return nil
}

func (q *Sequence) check(s *State) error {
	const maxQuoted = 100 // bytes
	switch {
	case math.IsNaN(s.TimeS) || math.IsInf(s.TimeS, 0):
		return fmt.Errorf("time_s is %v, want a finite number", s.TimeS)
	case q.states == 0:
		return nil
	case s.TimeS <= q.lastS:
		return fmt.Errorf("time_s is %v after %v, want the states of one run in their order", s.TimeS, q.lastS)
	case len(s.Models) != len(q.labels):
		return fmt.Errorf("it has %d models, the states before it have %d", len(s.Models), len(q.labels))
	}
	for i, want := range q.labels {
		if got := s.Models[i].ModelLabel; got != want {
			return fmt.Errorf("model %d is %s, in the states before it %s", i+1, excerpt.Quote(got, maxQuoted), excerpt.Quote(want, maxQuoted))
		}
	}
	return nil
}
