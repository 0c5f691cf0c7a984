package agent

import (
	"testing"
	"time"
)

// TestSettingMayDiffer: a command is left out only if the server surely does that
// already.
func TestSettingMayDiffer(t *testing.T) {
	now := time.Now()
	for name, c := range map[string]struct {
		before     func(*setting)
		batchSize  int
		rampUpRate float64
		want       bool
	}{
		"the same":                       {func(*setting) {}, 8, 2, false},
		"another batch size":             {func(*setting) {}, 4, 2, true},
		"at once, with a ramp under way": {func(*setting) {}, 8, 0, true},
		"a restart":                      {(*setting).doubt, 8, 2, true},
		"no answer":                      {(*setting).leftUnanswered, 8, 2, true},
		"an answer after none":           {func(s *setting) { s.leftUnanswered(); s.told(8, 2, now) }, 8, 2, true},
		"a restart, and told again":      {func(s *setting) { s.doubt(); s.told(8, 2, now) }, 8, 2, false},
		"a restart, and refused":         {func(s *setting) { s.doubt(); s.refused() }, 8, 2, true},
		"refused, and then accepted":     {func(s *setting) { s.doubt(); s.refused(); s.told(8, 2, now) }, 8, 2, false},
	} {
		var s setting
		s.told(8, 2, now)
		c.before(&s)
		if got := s.mayDifferFrom(c.batchSize, c.rampUpRate); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	var s setting
	s.told(8, 0, now)
	s.doubt()
	s.refused()
	if _, _, again := s.toTell(now); again {
		t.Error("what was refused is told again")
	}
}
