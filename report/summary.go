// Package report sums up runs from their states.
package report

import (
	"math"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// PowerSummary sums up a power over a run.
type PowerSummary struct {
	EnergyJ float64 // the power of each step held for a step
	PeakW   float64
	meanSum float64
	steps   int64
}

// MeanW is the mean power over the steps, in watts; 0 without steps.
func (p *PowerSummary) MeanW() float64 {
	if p.steps == 0 {
		return 0
	}
	return p.meanSum / float64(p.steps)
}

func (p *PowerSummary) add(w, dtS float64) {
	p.EnergyJ += float64(w * dtS)
	p.meanSum += w
	if p.steps == 0 || w > p.PeakW {
		p.PeakW = w
	}
	p.steps++
}

// ITLSummary sums up a model's observed latency over a run.
type ITLSummary struct {
	Steps     int64 // steps with a latency
	OverSteps int64 // of these, steps with one above the deadline
	MaxS      float64
	sum       float64
	DeadlineS float64
}

// MeanS is the mean latency over the steps that have one, in seconds, else NaN.
func (s *ITLSummary) MeanS() float64 { return s.sum / float64(s.Steps) }

// ModelSummary sums up one model.
type ModelSummary struct {
	ModelLabel string
	Power      PowerSummary
	ITL        ITLSummary
}

// Summary sums up a run as its states come in.
type Summary struct {
	dtS    float64
	Steps  int64
	Total  PowerSummary
	Phases [datacenter.NumPhases]PowerSummary
	Models []ModelSummary
	// WorstImbalance is the largest deviation of a phase from the mean of the
	// three, as a part of that mean, and WorstImbalanceAtS its time in seconds.
	WorstImbalance    float64
	WorstImbalanceAtS float64
}

// NewSummary returns the summary of a run in steps of dt over the given models.
func NewSummary(dt datacenter.Seconds, models []datacenter.ModelSpec) *Summary {
	s := &Summary{dtS: dt.Float64(), Models: make([]ModelSummary, len(models))}
	for i, m := range models {
		s.Models[i] = ModelSummary{ModelLabel: m.ModelLabel, ITL: ITLSummary{DeadlineS: m.ITLDeadlineS}}
	}
	return s
}

// Add takes in the next state.
func (s *Summary) Add(state *datacenter.State) {
	s.Steps++
	phases := state.PowerW.Array()
	total := state.PowerW.Total()
	s.Total.add(total, s.dtS)
	mean := total / datacenter.NumPhases
	for i, w := range phases {
		s.Phases[i].add(w, s.dtS)
		if mean > 0 {
			if imbalance := math.Abs(w-mean) / mean; imbalance > s.WorstImbalance {
				s.WorstImbalance, s.WorstImbalanceAtS = imbalance, state.TimeS
			}
		}
	}
	for i := range state.Models {
		m, sum := &state.Models[i], &s.Models[i]
		sum.Power.add(m.PowerW, s.dtS)
		if math.IsNaN(m.ObservedITLS) {
			continue
		}
		itl := &sum.ITL
		itl.Steps++
		itl.sum += m.ObservedITLS
		itl.MaxS = max(itl.MaxS, m.ObservedITLS)
		if m.ObservedITLS > itl.DeadlineS {
			itl.OverSteps++
		}
	}
}
