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
	sum     float64
	steps   int64
}

// MeanW is the mean power over the steps, in watts; 0 without steps.
func (p *PowerSummary) MeanW() float64 {
	if p.steps == 0 {
		return 0
	}
	return p.sum / float64(p.steps)
}

func (p *PowerSummary) add(w, dtS float64) {
	p.sum += w
	p.hold(dtS)
	if p.steps == 0 || w > p.PeakW {
		p.PeakW = w
	}
	p.steps++
}

// hold sets how long each power holds.
func (p *PowerSummary) hold(dtS float64) { p.EnergyJ = p.sum * dtS }

// ITLSummary sums up a model's observed latency over a run.
type ITLSummary struct {
	Steps     int64 // steps with a latency
	OverSteps int64 // of these, steps with one above the deadline
	MaxS      float64
	DeadlineS float64 // NaN: not known
	// ExcessS2 is the latency above the deadline, integrated over the run, in seconds
	// times seconds: a latency 10 ms too long for 100 s is 1.
	ExcessS2 float64

	sum, excess float64
}

// MeanS is the mean latency over the steps that have one, in seconds, else NaN.
func (s *ITLSummary) MeanS() float64 { return s.sum / float64(s.Steps) }

func (s *ITLSummary) add(itlS, dtS float64) {
	if math.IsNaN(itlS) {
		return
	}
	s.Steps++
	s.sum += itlS
	s.MaxS = max(s.MaxS, itlS)
	if itlS > s.DeadlineS {
		s.OverSteps++
		s.excess += itlS - s.DeadlineS
		s.hold(dtS)
	}
}

func (s *ITLSummary) hold(dtS float64) { s.ExcessS2 = s.excess * dtS }

// ThroughputSummary sums up the throughput that the states have: measured in a live
// run, from the data's fits in a replay.
type ThroughputSummary struct {
	Steps  int64   // steps with one that is known
	Tokens float64 // the throughput of each of them held for a step
	sum    float64
}

// MeanTokensPerS is the mean over the steps that have one, else NaN.
func (t *ThroughputSummary) MeanTokensPerS() float64 { return t.sum / float64(t.Steps) }

func (t *ThroughputSummary) add(throughput datacenter.Throughput, dtS float64) {
	if throughput.Known {
		t.Steps++
		t.sum += throughput.TokensPerS
		t.hold(dtS)
	}
}

func (t *ThroughputSummary) hold(dtS float64) { t.Tokens = t.sum * dtS }

// ModelSummary sums up one model.
type ModelSummary struct {
	ModelLabel string
	Power      PowerSummary
	ITL        ITLSummary
	Throughput ThroughputSummary

	performance modelPerformance
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
	// MissingSteps are steps between the first and the last that there is no state of:
	// files can lack some.
	MissingSteps int64

	performance performance
}

// throughput is that of all models, NaN unless it is known of each.
func (s *Summary) throughput() (meanTokensPerS, tokens float64) {
	if len(s.Models) == 0 {
		return math.NaN(), math.NaN()
	}
	for i := range s.Models {
		t := &s.Models[i].Throughput
		if t.Steps == 0 {
			return math.NaN(), math.NaN()
		}
		meanTokensPerS += t.MeanTokensPerS()
		tokens += t.Tokens
	}
	return meanTokensPerS, tokens
}

// NewSummary returns the summary of a run in steps of dt over the given models.
func NewSummary(dt datacenter.Seconds, models []datacenter.ModelSpec) *Summary {
	s := &Summary{dtS: dt.Float64(), Models: make([]ModelSummary, len(models)), performance: newPerformance()}
	for i, m := range models {
		s.Models[i] = ModelSummary{ModelLabel: m.ModelLabel, ITL: ITLSummary{DeadlineS: m.ITLDeadlineS}}
	}
	return s
}

// hold sets the time between two steps.
func (s *Summary) hold(dtS float64) {
	s.dtS = dtS
	s.Total.hold(dtS)
	for i := range s.Phases {
		s.Phases[i].hold(dtS)
	}
	for i := range s.Models {
		m := &s.Models[i]
		m.Power.hold(dtS)
		m.ITL.hold(dtS)
		m.Throughput.hold(dtS)
	}
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
		sum.ITL.add(m.ObservedITLS, s.dtS)
		sum.Throughput.add(m.Throughput, s.dtS)
	}
	s.addPerformance(state)
}
