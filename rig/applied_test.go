package rig

import (
	"testing"
	"time"
)

// TestSurelyRuns: a command is left out only if the server surely does that
// already.
func TestSurelyRuns(t *testing.T) {
	now := time.Now()
	for name, c := range map[string]struct {
		before     func(*applied)
		batchSize  int
		rampUpRate float64
		differs    bool
	}{
		"the same":                       {func(*applied) {}, 8, 2, false},
		"another batch size":             {func(*applied) {}, 4, 2, true},
		"at once, with a ramp under way": {func(*applied) {}, 8, 0, true},
		"a restart":                      {(*applied).forget, 8, 2, true},
		"no answer":                      {(*applied).leaveUnanswered, 8, 2, true},
		"an answer after none":           {func(a *applied) { a.leaveUnanswered(); a.accept(setting{8, 2}, now) }, 8, 2, true},
		"a restart, and told again":      {func(a *applied) { a.forget(); a.accept(setting{8, 2}, now) }, 8, 2, false},
		"a restart, and refused":         {func(a *applied) { a.forget(); a.refuse(setting{8, 2}) }, 8, 2, true},
		"refused, and then accepted":     {func(a *applied) { a.forget(); a.refuse(setting{8, 2}); a.accept(setting{8, 2}, now) }, 8, 2, false},
	} {
		var a applied
		a.accept(setting{8, 2}, now)
		c.before(&a)
		if got := !a.surelyRuns(setting{c.batchSize, c.rampUpRate}, time.Now()); got != c.differs {
			t.Errorf("%s: %v, want %v", name, got, c.differs)
		}
	}
}

// TestDrift: a server is told again what it may not run, and not what it refuses.
func TestDrift(t *testing.T) {
	now := time.Now()
	desired := setting{batchSize: 8}
	for name, c := range map[string]struct {
		before func(*applied)
		after  time.Duration
		want   bool
	}{
		"applied":                            {func(*applied) {}, 0, false},
		"a restart":                          {(*applied).forget, 0, true},
		"no answer":                          {(*applied).leaveUnanswered, 0, true},
		"late, told just now":                {func(a *applied) { a.leaveUnanswered(); a.accept(desired, now) }, 0, false},
		"late":                               {func(a *applied) { a.leaveUnanswered(); a.accept(desired, now) }, repeatEvery, true},
		"too late to take effect":            {func(a *applied) { a.leaveUnanswered(); a.accept(desired, now) }, lateCommand, false},
		"refused":                            {func(a *applied) { a.forget(); a.refuse(desired) }, 0, false},
		"late, and refused":                  {func(a *applied) { a.leaveUnanswered(); a.accept(desired, now); a.refuse(desired) }, repeatEvery, false},
		"late, and another refused":          {func(a *applied) { a.leaveUnanswered(); a.accept(desired, now); a.refuse(setting{batchSize: 2}) }, repeatEvery, true},
		"missed, as the other server's":      {func(a *applied) { a.accept(setting{batchSize: 4}, now) }, 0, true},
		"missed, and refused since":          {func(a *applied) { a.accept(setting{batchSize: 4}, now); a.refuse(desired) }, 0, false},
		"missed, and another refused":        {func(a *applied) { a.accept(setting{batchSize: 4}, now); a.refuse(setting{batchSize: 2}) }, 0, true},
		"missed, and refused, and restarted": {func(a *applied) { a.accept(setting{batchSize: 4}, now); a.refuse(desired); a.forget() }, 0, true},
	} {
		var a applied
		a.accept(desired, now)
		c.before(&a)
		if got := a.drifts(desired, now.Add(c.after)); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
		if a.drifts(setting{}, now.Add(c.after)) {
			t.Errorf("%s: a server that is to run nothing drifts", name)
		}
	}
}
