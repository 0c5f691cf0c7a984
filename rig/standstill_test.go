package rig

import (
	"math"
	"testing"
	"time"
)

func TestStandstill(t *testing.T) {
	var (
		well    = progress{tokens: 100, inFlight: 8, answers: true, begun: true}
		idle    = progress{tokens: 100, answers: true, begun: true}
		down    = progress{tokens: 100, inFlight: 8, begun: true}
		starts  = progress{inFlight: 8, answers: true}
		hangs   = progress{inFlight: 8, answers: true, begun: true}
		warmsUp = progress{tokens: 100, inFlight: 8, answers: true}
		next    = progress{tokens: 101, inFlight: 8, answers: true, begun: true}
	)
	type look struct {
		atS  float64
		p    progress
		want float64 // since when it stands still; NaN: it does not
	}
	not := math.NaN()
	for name, c := range map[string]struct {
		looks []look
		mute  bool // it does not answer when it is asked once more
	}{
		"tokens come":           {looks: []look{{0, well, not}, {9, well, not}, {9.5, next, not}, {19, next, not}}},
		"none comes":            {looks: []look{{0, well, not}, {9.9, well, not}, {10, well, 0}, {60, well, 0}, {61, next, not}, {70, next, not}, {71, next, 61}}},
		"nothing is in flight":  {looks: []look{{0, well, not}, {5, idle, not}, {60, idle, not}, {61, well, not}, {70, well, not}, {71, well, 61}}},
		"requests are given up": {looks: []look{{0, well, not}, {10, well, 0}, {60, idle, 0}, {61, well, 0}, {62, next, not}}},
		"it is down":            {looks: []look{{0, well, not}, {5, down, not}, {60, down, not}, {61, well, not}, {71, well, 61}}},
		"it goes down":          {looks: []look{{0, well, not}, {10, well, 0}, {11, down, not}, {12, well, not}, {22, well, 12}}},
		"the start":             {looks: []look{{0, starts, not}, {60, starts, not}, {61, warmsUp, not}, {70, warmsUp, not}}},
		"none ever":             {looks: []look{{0, starts, not}, {60, hangs, not}, {69, hangs, not}, {70, hangs, 60}}},
		"in the warm-up":        {looks: []look{{0, warmsUp, not}, {10, warmsUp, 0}}},
		"it does not answer":    {looks: []look{{0, well, not}, {10, well, not}, {11, well, not}, {30, well, not}}, mute: true},
	} {
		var s standstill
		began := time.Now()
		for _, l := range c.looks {
			at := began.Add(time.Duration(l.atS * float64(time.Second)))
			got := not
			if since := s.look(at, l.p, 10*time.Second, func() bool { return !c.mute }); !since.IsZero() {
				got = since.Sub(began).Seconds()
			}
			if got != l.want && !(math.IsNaN(got) && math.IsNaN(l.want)) {
				t.Errorf("%s: after %v s it stands still since %v s, want %v", name, l.atS, got, l.want)
			}
		}
	}
}
