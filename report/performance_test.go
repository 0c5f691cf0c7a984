package report

import (
	"encoding/csv"
	"encoding/json"
	"math"
	"os"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// goldenPerformance is what OpenG2G computed, with its own names.
type goldenPerformance struct {
	DeadlineS map[string]float64 `json:"itl_deadline_s_by_model"`
	Stats     map[string]any     `json:"stats"`
}

// goldenStates reads the states of a recorded run, as far as the statistics need them.
func goldenStates(t *testing.T, name string, deadlineS map[string]float64) ([]datacenter.State, []datacenter.ModelSpec) {
	t.Helper()
	f, err := os.Open("../testdata/golden/offline/" + name + ".csv")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	const fixed, perModel = 4, 7
	var models []datacenter.ModelSpec
	for i := fixed; i < len(rows[0]); i += perModel {
		label := rows[0][i][:len(rows[0][i])-len(":power_w")]
		models = append(models, datacenter.ModelSpec{ModelLabel: label, ITLDeadlineS: deadlineS[label]})
	}
	var states []datacenter.State
	for _, row := range rows[1:] {
		number := func(i int) float64 {
			v, err := strconv.ParseFloat(row[i], 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		s := datacenter.State{TimeS: number(0), PowerW: datacenter.ThreePhase{A: number(1), B: number(2), C: number(3)}}
		for k := range models {
			at := fixed + k*perModel
			s.Models = append(s.Models, datacenter.ModelState{
				ModelLabel: models[k].ModelLabel, PowerW: number(at), ActiveReplicas: int(number(at + 1)), BatchSize: int(number(at + 2)), ObservedITLS: number(at + 3),
			})
		}
		states = append(states, s)
	}
	return states, models
}

// The statistics are OpenG2G's to the last bit. It has none of a model that never
// serves anybody: ours are zeros and nulls.
func TestPerformanceIsOpenG2Gs(t *testing.T) {
	raw, err := os.ReadFile("../testdata/golden/performance/offline.json")
	if err != nil {
		t.Fatal(err)
	}
	var golden map[string]goldenPerformance
	if err := json.Unmarshal(raw, &golden); err != nil {
		t.Fatal(err)
	}
	if len(golden) < 3 {
		t.Fatalf("%d runs, want 3", len(golden))
	}
	for name, want := range golden {
		states, models := goldenStates(t, name, want.DeadlineS)
		s := NewSummary(datacenter.Seconds{}, models)
		for i := range states {
			s.Add(&states[i])
		}
		text, err := json.Marshal(s.performanceJSON())
		if err != nil {
			t.Fatal(err)
		}
		var got map[string]any
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatal(err)
		}
		served, _ := want.Stats["throughput_by_model_tps"].(map[string]any)
		for i := range models {
			label := models[i].ModelLabel
			if _, ok := served[label]; ok {
				continue
			}
			if tps := got["throughput_by_model_tps"].(map[string]any)[label]; tps != 0. {
				t.Errorf("%s: %s serves nobody and makes %v tokens/s", name, label, tps)
			}
			for _, v := range got {
				if byModel, ok := v.(map[string]any); ok {
					delete(byModel, label)
				}
			}
		}
		if diff := cmp.Diff(want.Stats, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s (-OpenG2G +ours):\n%s", name, diff)
		}
	}
}

// A model without servers, or without tokens, adds nothing, and what there is none of
// is not known.
func TestPerformanceOfNothing(t *testing.T) {
	nan := math.NaN()
	models := []datacenter.ModelSpec{{ModelLabel: "m", ITLDeadlineS: 0.01}}
	s := NewSummary(datacenter.Seconds{}, models)
	for i, m := range []datacenter.ModelState{
		{BatchSize: 8, ActiveReplicas: 0, ObservedITLS: 0.02}, {BatchSize: 8, ActiveReplicas: 5, ObservedITLS: nan},
		{BatchSize: 8, ActiveReplicas: 5, ObservedITLS: math.Inf(1)}, {BatchSize: 0, ActiveReplicas: 5, ObservedITLS: 0.02}, {BatchSize: 8, ActiveReplicas: 5},
	} {
		s.Add(&datacenter.State{TimeS: float64(i), Models: []datacenter.ModelState{m}})
	}
	p := s.Performance()
	if p.MeanThroughputTPS != 0 || p.IntegratedThroughputTokens != 0 || !math.IsNaN(p.ITLDeadlineFraction) || !math.IsNaN(p.Models[0].MeanITLS) ||
		p.Models[0].MeanReplicas != 4 || p.Models[0].MeanBatch != 6.4 {
		t.Errorf("the statistics are %+v", p)
	}
	s.Add(&datacenter.State{TimeS: 5, Models: []datacenter.ModelState{{BatchSize: 8, ActiveReplicas: 6, ObservedITLS: 0.02}}})
	if p := s.Performance(); p.MeanThroughputTPS != 400 || p.IntegratedThroughputTokens != 2000 || p.ITLDeadlineFraction != 1 {
		t.Errorf("with one step of 2400 tokens/s among six in 5 s, the statistics are %+v", p)
	}
	one := NewSummary(datacenter.Seconds{}, models)
	one.Add(&datacenter.State{TimeS: 5, Models: []datacenter.ModelState{{BatchSize: 8, ActiveReplicas: 6, ObservedITLS: 0.02}}})
	if p := one.Performance(); p.IntegratedThroughputTokens != 2400 { // OpenG2G takes it for a second
		t.Errorf("a single step of 2400 tokens/s gives %v tokens, want 2400", p.IntegratedThroughputTokens)
	}
}
