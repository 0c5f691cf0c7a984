package report

import (
	"encoding/json"
	"io"
	"math"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// number is a number in JSON, null if it is not finite.
type number float64

// MarshalJSON implements [json.Marshaler].
func (n number) MarshalJSON() ([]byte, error) {
	if !isFinite(float64(n)) {
		return []byte("null"), nil
	}
	return datacenter.AppendFloat(nil, float64(n)), nil
}

type powerJSON struct {
	MeanW   number `json:"mean_w"`
	PeakW   number `json:"peak_w"`
	EnergyJ number `json:"energy_j"`
}

func (p *PowerSummary) json() powerJSON {
	return powerJSON{number(p.MeanW()), number(p.PeakW), number(p.EnergyJ)}
}

type itlJSON struct {
	Steps        int64  `json:"steps"`
	MeanS        number `json:"mean_s"`
	MaxS         number `json:"max_s"`
	DeadlineS    number `json:"deadline_s"`
	OverSteps    *int64 `json:"over_steps"`
	OverFraction number `json:"over_fraction"`
	ExcessS2     number `json:"integrated_excess_s2"`
}

func (s *ITLSummary) json() itlJSON {
	out := itlJSON{Steps: s.Steps, MeanS: number(s.MeanS()), MaxS: number(math.NaN()), DeadlineS: number(s.DeadlineS)}
	if s.Steps > 0 {
		out.MaxS = number(s.MaxS)
	}
	if math.IsNaN(s.DeadlineS) {
		out.OverFraction, out.ExcessS2 = number(math.NaN()), number(math.NaN())
		return out
	}
	out.OverSteps, out.OverFraction, out.ExcessS2 = &s.OverSteps, number(float64(s.OverSteps)/float64(s.Steps)), number(s.ExcessS2)
	return out
}

type throughputJSON struct {
	MeanTokensPerS number `json:"mean_tokens_per_s"`
	Tokens         number `json:"tokens"`
}

// performanceJSON has OpenG2G's names.
type performanceJSON struct {
	MeanThroughputTPS          number                     `json:"mean_throughput_tps"`
	IntegratedThroughputTokens number                     `json:"integrated_throughput_tokens"`
	ThroughputByModelTPS       datacenter.ByModel[number] `json:"throughput_by_model_tps"`
	MeanBatchByModel           datacenter.ByModel[number] `json:"mean_batch_by_model"`
	MeanReplicasByModel        datacenter.ByModel[number] `json:"mean_replicas_by_model"`
	MeanITLSByModel            datacenter.ByModel[number] `json:"mean_itl_s_by_model"`
	ITLDeadlineFraction        number                     `json:"itl_deadline_fraction"`
	ITLDeadlineFractionByModel datacenter.ByModel[number] `json:"itl_deadline_fraction_by_model"`
}

func (s *Summary) performanceJSON() performanceJSON {
	p := s.Performance()
	ofModels := func(value func(*ModelPerformanceStats) float64) datacenter.ByModel[number] {
		all := make(datacenter.ByModel[number], len(p.Models))
		for i := range all {
			all[i].ModelLabel, all[i].Value = s.Models[i].ModelLabel, number(value(&p.Models[i]))
		}
		return all
	}
	return performanceJSON{
		MeanThroughputTPS: number(p.MeanThroughputTPS), IntegratedThroughputTokens: number(p.IntegratedThroughputTokens),
		ITLDeadlineFraction:        number(p.ITLDeadlineFraction),
		ThroughputByModelTPS:       ofModels(func(m *ModelPerformanceStats) float64 { return m.MeanThroughputTPS }),
		MeanBatchByModel:           ofModels(func(m *ModelPerformanceStats) float64 { return m.MeanBatch }),
		MeanReplicasByModel:        ofModels(func(m *ModelPerformanceStats) float64 { return m.MeanReplicas }),
		MeanITLSByModel:            ofModels(func(m *ModelPerformanceStats) float64 { return m.MeanITLS }),
		ITLDeadlineFractionByModel: ofModels(func(m *ModelPerformanceStats) float64 { return m.ITLDeadlineFraction }),
	}
}

type modelJSON struct {
	ModelLabel string         `json:"model_label"`
	Power      powerJSON      `json:"power"`
	ITL        itlJSON        `json:"itl"`
	Throughput throughputJSON `json:"throughput"`
}

// summaryJSON is a summary as [Summary.WriteJSON] writes it.
type summaryJSON struct {
	Steps             int64                `json:"steps"`
	MissingSteps      int64                `json:"missing_steps"`
	DTS               number               `json:"dt_s"`
	Power             powerJSON            `json:"power"`
	PowerByPhase      map[string]powerJSON `json:"power_by_phase"`
	WorstImbalance    number               `json:"worst_phase_imbalance"`
	WorstImbalanceAtS number               `json:"worst_phase_imbalance_at_s"`
	Throughput        throughputJSON       `json:"throughput"`
	Models            []modelJSON          `json:"models"`
	Performance       performanceJSON      `json:"performance"`
}

// WriteJSON writes the summary as a JSON object and a newline, in watts, joules and
// seconds; what is not known is null. Models are in the order of the states.
func (s *Summary) WriteJSON(w io.Writer) error {
	meanTokensPerS, tokens := s.throughput()
	out := summaryJSON{
		Steps: s.Steps, MissingSteps: s.MissingSteps, DTS: number(s.dtS), Power: s.Total.json(), PowerByPhase: map[string]powerJSON{},
		WorstImbalance: number(s.WorstImbalance), WorstImbalanceAtS: number(s.WorstImbalanceAtS),
		Throughput: throughputJSON{number(meanTokensPerS), number(tokens)}, Models: []modelJSON{}, Performance: s.performanceJSON(),
	}
	for i := range s.Phases {
		out.PowerByPhase["abc"[i:i+1]] = s.Phases[i].json()
	}
	for i := range s.Models {
		m := &s.Models[i]
		throughput := throughputJSON{number(m.Throughput.MeanTokensPerS()), number(m.Throughput.Tokens)}
		if m.Throughput.Steps == 0 {
			throughput.Tokens = number(math.NaN())
		}
		out.Models = append(out.Models, modelJSON{m.ModelLabel, m.Power.json(), m.ITL.json(), throughput})
	}
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(out)
}
