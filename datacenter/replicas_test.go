package datacenter

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func mustSchedule(t testing.TB, initial int, ramps ...Ramp) *ReplicaSchedule {
	t.Helper()
	s, err := NewReplicaSchedule(initial, ramps...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestReplicaScheduleMatchesOpenG2G(t *testing.T) {
	raw, err := os.ReadFile("../testdata/golden/components/replica_schedule.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Initial int
		Ramps   []struct {
			Target int
			TStart float64 `json:"t_start"`
			TEnd   float64 `json:"t_end"`
		}
		T, Count []float64
		Rounded  []int
		MaxCount int `json:"max_count"`
	}
	if err := json.Unmarshal(raw, &cases); err != nil || len(cases) == 0 {
		t.Fatal(len(cases), err)
	}
	for i, c := range cases {
		ramps := make([]Ramp, len(c.Ramps))
		for j, r := range c.Ramps {
			ramps[j] = Ramp{r.Target, r.TStart, r.TEnd}
		}
		s := mustSchedule(t, c.Initial, ramps...)
		if got := s.MaxCount(); got != c.MaxCount {
			t.Errorf("schedule %d: MaxCount() = %d, want %d", i, got, c.MaxCount)
		}
		for j, at := range c.T {
			if got := s.countAt(at); got != c.Count[j] {
				t.Errorf("schedule %d: countAt(%v) = %v, want %v", i, at, got, c.Count[j])
			}
			if got := s.ReplicasAt(at); got != c.Rounded[j] {
				t.Errorf("schedule %d: ReplicasAt(%v) = %d, want %d", i, at, got, c.Rounded[j])
			}
		}
	}
}

func TestReplicaScheduleRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		initial int
		ramps   []Ramp
		want    string
	}{
		"negative initial": {-1, nil, "initial must be >= 0, got -1"},
		"negative target":  {1, []Ramp{{-2, 0, 1}}, "ramps[0]: target must be >= 0, got -2"},
		"ends too early":   {1, []Ramp{{2, 0, 1}, {2, 3, 2}}, "ramps[1]: t_end (2) must be >= t_start (3)"},
		"NaN start":        {1, []Ramp{{2, math.NaN(), 1}}, "ramps[0]: t_start and t_end must be finite, got NaN and 1"},
		"NaN end":          {1, []Ramp{{2, 0, math.NaN()}}, "must be finite, got 0 and NaN"},
		"infinite start":   {1, []Ramp{{2, math.Inf(-1), 1}}, "must be finite, got -Inf and 1"},
		"infinite end":     {1, []Ramp{{2, 0, math.Inf(1)}}, "must be finite, got 0 and +Inf"},
		"overlap":          {1, []Ramp{{2, 0, 10}, {3, 9.5, 20}}, "ramps[1]: [9.5, 20] overlaps the ramp over [0, 10]"},
		"overlap before":   {1, []Ramp{{2, 9.5, 20}, {3, 0, 10}}, "ramps[1]: [0, 10] overlaps the ramp over [9.5, 20]"},
		"around another":   {1, []Ramp{{2, 4, 5}, {3, 0, 10}}, "overlaps the ramp over [4, 5]"},
		"same window":      {1, []Ramp{{2, 4, 5}, {2, 4, 5}}, "overlaps the ramp over [4, 5]"},
		"jump inside":      {1, []Ramp{{2, 0, 10}, {3, 5, 5}}, "ramps[1]: [5, 5] overlaps the ramp over [0, 10]"},
		"around a jump":    {1, []Ramp{{3, 5, 5}, {2, 0, 10}}, "ramps[1]: [0, 10] overlaps the ramp over [5, 5]"},
		"not the last":     {1, []Ramp{{2, 0, 10}, {3, 20, 30}, {4, 9, 10}}, "ramps[2]: [9, 10] overlaps the ramp over [0, 10]"},
	} {
		s, err := NewReplicaSchedule(c.initial, c.ramps...)
		if s != nil || !errors.Is(err, ErrInvalidInput) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, error %v, want invalid input: …%s…", name, s, err, c.want)
		}
	}
}

func TestReplicaScheduleCounts(t *testing.T) {
	for name, c := range map[string]struct {
		schedule *ReplicaSchedule
		want     map[float64]float64
	}{
		"touching": {
			mustSchedule(t, 0, Ramp{10, 0, 10}, Ramp{0, 10, 20}),
			map[float64]float64{-1: 0, 0: 0, 5: 5, 10: 10, 15: 5, 20: 0, 21: 0},
		},
		"in any order": {
			mustSchedule(t, 0, Ramp{0, 10, 20}, Ramp{4, 30, 30}, Ramp{10, 0, 10}),
			map[float64]float64{5: 5, 10: 10, 15: 5, 25: 0, 30: 4, 31: 4},
		},
		"jump": {
			mustSchedule(t, 7, Ramp{3, 5, 5}),
			map[float64]float64{4.999: 7, 5: 3, 5.001: 3},
		},
		"jump at the start of a ramp": { // at 5 the first to come decides
			mustSchedule(t, 0, Ramp{10, 5, 5}, Ramp{0, 5, 9}),
			map[float64]float64{4: 0, 5: 10, 7: 5, 9: 0, 10: 0},
		},
		"ramp before the jump at its start": {
			mustSchedule(t, 0, Ramp{8, 5, 9}, Ramp{10, 5, 5}),
			map[float64]float64{4: 0, 5: 0, 7: 4, 9: 8, 10: 10},
		},
		"two jumps at once": {
			mustSchedule(t, 0, Ramp{8, 5, 5}, Ramp{2, 5, 5}),
			map[float64]float64{4: 0, 5: 8, 6: 2},
		},
		"before the run": {
			mustSchedule(t, 0, Ramp{8, -10, -5}, Ramp{0, -4, 4}),
			map[float64]float64{0: 4},
		},
	} {
		for at, want := range c.want {
			if got := c.schedule.countAt(at); got != want {
				t.Errorf("%s: countAt(%v) = %v, want %v", name, at, got, want)
			}
		}
	}
}

func TestReplicasAreRoundedHalfToEven(t *testing.T) {
	s := mustSchedule(t, 0, Ramp{8, 0, 8})
	for at, want := range map[float64]int{0.5: 0, 1.5: 2, 2.5: 2, 2.51: 3, 3.5: 4} {
		if got := s.ReplicasAt(at); got != want {
			t.Errorf("ReplicasAt(%v) = %d, want %d", at, got, want)
		}
	}
}

func TestRampsAreInOrderOfTime(t *testing.T) {
	s := mustSchedule(t, 1, Ramp{2, 8, 9}, Ramp{3, 5, 5}, Ramp{4, 0, 1}, Ramp{5, 5, 5}, Ramp{6, 5, 8})
	want := []Ramp{{4, 0, 1}, {3, 5, 5}, {5, 5, 5}, {6, 5, 8}, {2, 8, 9}}
	if diff := cmp.Diff(want, s.Ramps()); diff != "" {
		t.Errorf("ramps (-want +got):\n%s", diff)
	}
	if s.Initial() != 1 {
		t.Errorf("Initial() = %d, want 1", s.Initial())
	}
}

// ramps draws touching, separate and vertical ramps in a random order.
func ramps(t *rapid.T) []Ramp {
	at := float64(rapid.IntRange(-100, 100).Draw(t, "start"))
	list := make([]Ramp, rapid.IntRange(0, 6).Draw(t, "n"))
	for i := range list {
		start := at + rapid.SampledFrom([]float64{0, 0.1, 30}).Draw(t, "gap")
		at = start + rapid.OneOf(rapid.Just(0.0), rapid.Float64Range(0, 1e3)).Draw(t, "length")
		list[i] = Ramp{rapid.IntRange(0, 1e6).Draw(t, "target"), start, at}
	}
	return rapid.Permutation(list).Draw(t, "ramps")
}

func TestCountsStayWithinTheLevels(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		initial := rapid.IntRange(0, 1e6).Draw(t, "initial")
		list := ramps(t)
		s, err := NewReplicaSchedule(initial, list...)
		if err != nil {
			t.Fatal(err)
		}
		least, most := initial, initial
		for _, r := range list {
			least, most = min(least, r.Target), max(most, r.Target)
		}
		if got := s.MaxCount(); got != most {
			t.Errorf("MaxCount() = %d, want %d", got, most)
		}
		at := rapid.Float64Range(-200, 8e3).Draw(t, "t")
		if got := s.countAt(at); !(float64(least) <= got && got <= float64(most)) {
			t.Errorf("countAt(%v) = %v, want a number within [%d, %d]", at, got, least, most)
		}
		if len(list) == 0 {
			return
		}
		// Where a ramp with a length ends, its target is reached.
		r := rapid.SampledFrom(list).Draw(t, "ramp")
		if got := s.countAt(r.TEndS); r.TEndS > r.TStartS && got != float64(r.Target) {
			t.Errorf("countAt(%v) = %v at the end of a ramp to %d", r.TEndS, got, r.Target)
		}
	})
}
