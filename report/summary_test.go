package report

import (
	"math"
	"testing"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

func TestSummary(t *testing.T) {
	dt, err := datacenter.ParseSeconds("1/2")
	if err != nil {
		t.Fatal(err)
	}
	models := []datacenter.ModelSpec{{ModelLabel: "a", ITLDeadlineS: 0.02}}
	s := NewSummary(dt, models)
	for i, p := range []datacenter.ThreePhase{{A: 100, B: 100, C: 100}, {A: 120, B: 90, C: 90}} {
		s.Add(&datacenter.State{TimeS: float64(i) / 2, PowerW: p, Models: []datacenter.ModelState{{PowerW: 50, ObservedITLS: 0.01 + 0.02*float64(i)}}})
	}
	s.Add(&datacenter.State{TimeS: 1, PowerW: datacenter.ThreePhase{A: 10, B: 10, C: 10}, Models: []datacenter.ModelState{{PowerW: 10, ObservedITLS: math.NaN()}}})
	check := func(what string, got, want float64) {
		if math.Abs(got-want) > 1e-12*math.Abs(want) {
			t.Errorf("%s is %v, want %v", what, got, want)
		}
	}
	check("energy", s.Total.EnergyJ, 630.0/2)
	check("mean power", s.Total.MeanW(), 210)
	check("peak power", s.Total.PeakW, 300)
	check("phase A's peak", s.Phases[0].PeakW, 120)
	check("imbalance", s.WorstImbalance, 0.2)
	check("its time", s.WorstImbalanceAtS, 0.5)
	m := &s.Models[0]
	check("model energy", m.Power.EnergyJ, 55)
	check("mean ITL", m.ITL.MeanS(), 0.02)
	check("largest ITL", m.ITL.MaxS, 0.03)
	if m.ITL.Steps != 2 || m.ITL.OverSteps != 1 || s.Steps != 3 {
		t.Errorf("%d of %d steps over the deadline in %d, want 1 of 2 in 3", m.ITL.OverSteps, m.ITL.Steps, s.Steps)
	}
	if n := testing.AllocsPerRun(10, func() { s.Add(&datacenter.State{TimeS: 2, Models: []datacenter.ModelState{{PowerW: 1}}}) }); n > 1 { // the models' slice
		t.Errorf("a state costs %v allocations", n)
	}
	check("mean power of no steps", new(PowerSummary).MeanW(), 0)
}
