package datacenter

import (
	"errors"
	"math"
	"strings"
	"testing"
)

func TestSequence(t *testing.T) {
	at := func(timeS float64, labels ...string) *State {
		s := &State{TimeS: timeS}
		for _, label := range labels {
			s.Models = append(s.Models, ModelState{ModelLabel: label})
		}
		return s
	}
	nan, inf := math.NaN(), math.Inf(1)
	for want, states := range map[string][]*State{
		"": {at(-1, "a", "b"), at(0, "a", "b"), at(1e-9, "a", "b")},
		"state 1: time_s is NaN, want a finite number":                              {at(nan)},
		"state 2: time_s is +Inf, want a finite number":                             {at(0), at(inf)},
		"state 3: time_s is 2 after 2, want the states of one run in their order":   {at(1, "a"), at(2, "a"), at(2, "a")},
		"state 2: time_s is 0.5 after 1, want the states of one run in their order": {at(1, "a"), at(0.5, "a")},
		"state 2: it has 0 models, the states before it have 1":                     {at(1, "a"), at(2)},
		`state 2: model 2 is "c", in the states before it "b"`:                      {at(1, "a", "b"), at(2, "a", "c")},
	} {
		var q Sequence
		var err error
		for i, s := range states {
			if err = q.Next(s); err != nil && i < len(states)-1 {
				t.Fatalf("state %d: %v", i+1, err)
			}
		}
		if want == "" {
			if err != nil {
				t.Error(err)
			}
			continue
		}
		if !errors.Is(err, ErrInvalidInput) || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("the error is %v, want %s", err, want)
		}
	}
}
