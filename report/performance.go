package report

import (
	"math"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// PerformanceStats are OpenG2G's (metrics.PerformanceStats, of one site), to the last
// bit: whatever the states know of throughput, that of a step is taken to be batch
// size / observed latency for each active replica. What there is none of is NaN.
type PerformanceStats struct {
	// MeanThroughputTPS is the mean over the steps of all models together, in tokens
	// per second, IntegratedThroughputTokens that mean times the time from the first
	// step to the last (one second if there is none between).
	MeanThroughputTPS, IntegratedThroughputTokens float64
	// ITLDeadlineFraction is the part of the latencies above their model's deadline,
	// over all models: the share of time over the deadline.
	ITLDeadlineFraction float64
	// Models are in the order of the summary's.
	Models []ModelPerformanceStats
}

// ModelPerformanceStats is the part of [PerformanceStats] of one model.
type ModelPerformanceStats struct {
	MeanThroughputTPS       float64
	MeanBatch, MeanReplicas float64
	MeanITLS                float64
	ITLDeadlineFraction     float64
}

// performance is what of the statistics belongs to no model.
type performance struct {
	throughputSum     float64
	firstS, lastS     float64 // the least and the largest time
	itlSteps, overITL int64
}

func newPerformance() performance {
	return performance{firstS: math.Inf(1), lastS: math.Inf(-1)}
}

// durationS is the time that OpenG2G integrates over.
func (p *performance) durationS() float64 {
	if d := p.lastS - p.firstS; d > 0 {
		return d
	}
	return 1
}

type modelPerformance struct {
	throughputSum, batchSum, replicasSum, itlSum float64
	itlSteps, overITL                            int64
}

// addPerformance adds in the order in which OpenG2G does: models, then steps.
func (s *Summary) addPerformance(state *datacenter.State) {
	p := &s.performance
	p.firstS, p.lastS = min(p.firstS, state.TimeS), max(p.lastS, state.TimeS)
	step := 0.0
	for i := range state.Models {
		m, sum := &state.Models[i], &s.Models[i].performance
		sum.batchSum += float64(m.BatchSize)
		sum.replicasSum += float64(m.ActiveReplicas)
		itl := m.ObservedITLS
		if m.ActiveReplicas <= 0 || m.BatchSize <= 0 || !(itl > 0) || math.IsInf(itl, 1) {
			continue
		}
		throughput := float64(float64(m.BatchSize) / itl * float64(m.ActiveReplicas))
		sum.throughputSum += throughput
		step += throughput
		sum.itlSum += itl
		sum.itlSteps++
		p.itlSteps++
		if itl > s.Models[i].ITL.DeadlineS {
			sum.overITL++
			p.overITL++
		}
	}
	p.throughputSum += step
}

// Performance returns the statistics of the states so far.
func (s *Summary) Performance() PerformanceStats {
	p := &s.performance
	steps := float64(s.Steps)
	stats := PerformanceStats{
		MeanThroughputTPS: p.throughputSum / steps, ITLDeadlineFraction: float64(p.overITL) / float64(p.itlSteps),
		Models: make([]ModelPerformanceStats, len(s.Models)),
	}
	stats.IntegratedThroughputTokens = stats.MeanThroughputTPS * p.durationS()
	for i := range s.Models {
		m := &s.Models[i].performance
		stats.Models[i] = ModelPerformanceStats{
			MeanThroughputTPS: m.throughputSum / steps, MeanBatch: m.batchSum / steps, MeanReplicas: m.replicasSum / steps,
			MeanITLS: m.itlSum / float64(m.itlSteps), ITLDeadlineFraction: float64(m.overITL) / float64(m.itlSteps),
		}
		if math.IsNaN(s.Models[i].ITL.DeadlineS) {
			stats.Models[i].ITLDeadlineFraction, stats.ITLDeadlineFraction = math.NaN(), math.NaN()
		}
	}
	return stats
}
