package rig

import (
	"testing"
	"time"

	"github.com/g2g-agent/g2g-agent/vllm"
)

func TestUnknownNumbersAreSaidOnce(t *testing.T) {
	missing := func(metrics ...string) []*vllm.MetricError {
		var errs []*vllm.MetricError
		for _, m := range metrics {
			errs = append(errs, &vllm.MetricError{Metric: m, Err: vllm.ErrMissingMetric})
		}
		return errs
	}
	both, one := missing("a", "b"), missing("b")
	var u unknownNumbers
	began := time.Now()
	for _, l := range []struct {
		atS             float64
		unknown         []*vllm.MetricError
		became, became2 bool
	}{
		{0, both, false, false}, {4, both, false, false}, // before the first request
		{4.5, nil, false, false}, {5, one, false, false}, {9.9, one, false, false}, {10, one, true, false}, {11, one, false, false}, {99, one, false, false},
		{100, both, false, false}, {101, one, false, false}, // for a moment
		{102, both, false, false}, {107, both, true, false}, {108, both, false, false},
		{109, nil, false, true}, {110, nil, false, false}, {120, one, false, false}, {125, one, true, false},
	} {
		became, became2 := u.look(began.Add(time.Duration(l.atS*float64(time.Second))), l.unknown)
		if became != l.became || became2 != l.became2 {
			t.Errorf("after %v s: unknown %v, known %v; want %v, %v", l.atS, became, became2, l.became, l.became2)
		}
	}
	others := &vllm.OtherModelsError{ModelID: "m", Names: []string{"x", "y"}}
	if got := distinct([]*vllm.MetricError{{Metric: "a", Err: others}, {Metric: "b", Err: vllm.ErrMissingMetric}, {Metric: "c", Err: others}}); len(got) != 2 {
		t.Errorf("%v", got)
	}
}

func TestEpisode(t *testing.T) {
	var e episode
	at := time.Now()
	for i, c := range []struct {
		afterS            float64
		wrong, began, end bool
	}{
		{0, false, false, false}, {1, true, true, false},
		{0.1, false, false, false}, {0.1, true, false, false}, {4.9, false, false, false}, {0.05, true, false, false}, // every now and then
		{4.9, false, false, false}, {0.1, false, false, true}, {9, false, false, false}, {1, true, true, false},
	} {
		at = at.Add(time.Duration(c.afterS * float64(time.Second)))
		if began, end := e.look(at, c.wrong); began != c.began || end != c.end {
			t.Errorf("look %d: began %v, over %v, want %v, %v", i, began, end, c.began, c.end)
		}
	}
}
