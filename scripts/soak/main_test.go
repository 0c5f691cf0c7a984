package main

import (
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestPowerCheck shows the check a minute of the 8B model's power, which is 600 W
// a replica under load and 110 W idle, with a server that is dead from 10 s to 12 s.
func TestPowerCheck(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	after := func(s float64) time.Time { return at.Add(time.Duration(s * float64(time.Second))) }
	faults := []fault{
		{"vllm-8b: dies", after(10), after(12)},
		{"vllm-70b: dies", after(31), after(33)},
		{"node1: zeusd dies", after(40), after(44)},
	}
	// line goes from a to b watts between two times.
	line := func(s, fromS, toS, a, b float64) float64 {
		return a + (b-a)*min(max((s-fromS)/(toS-fromS), 0), 1)
	}
	dip := func(s float64) float64 {
		return line(s, 10, 15, 600, 110) + line(s, 13, 18, 0, 490)
	}
	for name, c := range map[string]struct {
		powerW func(s float64) float64
		want   string // "": nothing to complain of
	}{
		"a dead server, held power":   {dip, ""},
		"half at once":                {func(s float64) float64 { return dip(s) - line(s, 40, 40.01, 0, 300) }, "down at once"},
		"half little by little":       {func(s float64) float64 { return dip(s) - line(s, 40, 45, 0, 300) }, "runs well"},
		"half in the fault":           {func(s float64) float64 { return dip(s) - line(s, 11, 11.01, 0, 251) }, "down at once"},
		"no power in the fault":       {func(s float64) float64 { return line(s, 10, 15, 600, 0) }, "idle"},
		"not loaded after the fault":  {func(s float64) float64 { return line(s, 10, 15, 600, 110) }, "last fault"},
		"another server's fault":      {func(s float64) float64 { return dip(s) - line(s, 31, 36, 0, 490) + line(s, 37, 42, 0, 490) }, "runs well"},
		"a smaller batch size, ramps": {func(s float64) float64 { return dip(s) - line(s, 25, 30, 0, 100) }, ""},
	} {
		check, err := newPowerCheck("Llama-3.1-8B", faults)
		if err != nil {
			t.Fatal(err)
		}
		for k := range 600 {
			s := datacenter.State{Seq: int64(k), TimeS: float64(k) / 10, WallTime: after(float64(k) / 10)}
			check.step(&s, &datacenter.ModelState{PowerW: 720 * c.powerW(s.TimeS), ActiveReplicas: 720})
		}
		switch {
		case c.want == "" && check.first != nil:
			t.Errorf("%s: %v", name, check.first)
		case c.want != "" && (check.first == nil || !strings.Contains(check.first.Error(), c.want)):
			t.Errorf("%s: %v, want %q", name, check.first, c.want)
		}
	}
}
