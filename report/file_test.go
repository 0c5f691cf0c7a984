package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// fileState is a state at a time with two models, a below its deadline of 20 ms half
// the time, b without latencies.
func fileState(i int, dtS float64) *datacenter.State {
	return &datacenter.State{
		TimeS: float64(i) * dtS, PowerW: datacenter.ThreePhase{A: 100, B: 110, C: 90},
		Models: []datacenter.ModelState{
			{ModelLabel: "a", PowerW: 50, ActiveReplicas: 2, BatchSize: 10, ObservedITLS: 0.015 + 0.01*float64(i%2), Throughput: datacenter.ThroughputOf(1000)},
			{ModelLabel: "b", PowerW: 10, BatchSize: 8, ObservedITLS: math.NaN(), Throughput: datacenter.ThroughputOf(0)},
		},
	}
}

func aRun() *Run { return &Run{DTS: 0.1, ITLDeadlineS: map[string]float64{"a": 0.02, "b": 0.1}} }

func sumUp(t *testing.T, run *Run, numbers ...int) *Summary {
	t.Helper()
	f := NewFileSummary(run)
	for _, i := range numbers {
		if err := f.Add(fileState(i, 0.1)); err != nil {
			t.Fatal(err)
		}
	}
	s, err := f.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func asJSON(t *testing.T, s *Summary) string {
	t.Helper()
	var b bytes.Buffer
	if err := s.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	if !json.Valid(b.Bytes()) || !strings.HasSuffix(b.String(), "}\n") {
		t.Fatalf("no JSON: %s", b.String())
	}
	return b.String()
}

// A file tells the same of a run as the run itself, to the last bit.
func TestFileSummaryIsTheRuns(t *testing.T) {
	dt, err := datacenter.ParseSeconds("0.1")
	if err != nil {
		t.Fatal(err)
	}
	live := NewSummary(dt, []datacenter.ModelSpec{{ModelLabel: "a", ITLDeadlineS: 0.02}, {ModelLabel: "b", ITLDeadlineS: 0.1}})
	known, found := NewFileSummary(aRun()), NewFileSummary(nil)
	for i := range 4321 {
		s := fileState(i, 1)
		s.TimeS = dt.Times(int64(i))
		s.PowerW.A += float64(i) / 7
		live.Add(s)
		if err := errors.Join(known.Add(s), found.Add(s)); err != nil {
			t.Fatal(err)
		}
	}
	a, err := known.Finish()
	if err != nil {
		t.Fatal(err)
	}
	b, err := found.Finish()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(asJSON(t, live), asJSON(t, a)); diff != "" {
		t.Errorf("of the file with its config (-run +file):\n%s", diff)
	}
	if b.dtS != 0.1 || b.Total != live.Total || b.Models[0].Throughput != live.Models[0].Throughput || b.MissingSteps != 0 {
		t.Errorf("without its config: step %v, %+v, want %+v", b.dtS, b.Total, live.Total)
	}
}

func TestFileSummaryJSON(t *testing.T) {
	var got map[string]any
	if err := json.Unmarshal([]byte(asJSON(t, sumUp(t, aRun(), 0, 1, 2, 3))), &got); err != nil {
		t.Fatal(err)
	}
	model := got["models"].([]any)[0].(map[string]any)
	itl, throughput := model["itl"].(map[string]any), model["throughput"].(map[string]any)
	performance := got["performance"].(map[string]any)
	for what, c := range map[string][2]any{
		"steps": {got["steps"], 4.}, "missing steps": {got["missing_steps"], 0.}, "energy": {got["power"].(map[string]any)["energy_j"], 120.},
		"phase b": {got["power_by_phase"].(map[string]any)["b"].(map[string]any)["peak_w"], 110.}, "imbalance": {got["worst_phase_imbalance"], 0.1},
		"steps over": {itl["over_steps"], 2.}, "part over": {itl["over_fraction"], 0.5}, "deadline": {itl["deadline_s"], 0.02}, "tokens": {throughput["tokens"], 400.},
		"throughput": {got["throughput"].(map[string]any)["mean_tokens_per_s"], 1000.}, "part of all over": {performance["itl_deadline_fraction"], 0.5},
		"no latency": {got["models"].([]any)[1].(map[string]any)["itl"].(map[string]any)["mean_s"], nil},
	} {
		if c[0] != c[1] {
			t.Errorf("%s: %v, want %v", what, c[0], c[1])
		}
	}
	if excess := itl["integrated_excess_s2"].(float64); math.Abs(excess-0.001) > 1e-12 { // twice 5 ms for 0.1 s
		t.Errorf("the excess is %v s2, want 0.001", excess)
	}
}

func TestFileSummaryWithoutConfig(t *testing.T) {
	s := sumUp(t, nil, 0, 1, 2, 5, 6)
	if s.MissingSteps != 2 || math.Abs(s.dtS-0.1) > 1e-15 {
		t.Errorf("%d steps of %v s are missing, want 2 of 0.1", s.MissingSteps, s.dtS)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(asJSON(t, s)), &got); err != nil {
		t.Fatal(err)
	}
	itl := got["models"].([]any)[0].(map[string]any)["itl"].(map[string]any)
	for _, member := range []string{"deadline_s", "over_steps", "over_fraction", "integrated_excess_s2"} {
		if v, ok := itl[member]; !ok || v != nil {
			t.Errorf("without deadlines %s is %v, want null", member, v)
		}
	}
	if v, ok := got["performance"].(map[string]any)["itl_deadline_fraction"]; !ok || v != nil {
		t.Errorf("without deadlines the part over them is %v, want null", v)
	}
	one := asJSON(t, sumUp(t, nil, 3))
	if !strings.Contains(one, `"energy_j": null`) || !strings.Contains(one, `"dt_s": null`) || strings.Contains(one, `"missing_steps": 1`) {
		t.Errorf("of a single state: %s", one)
	}
	var text strings.Builder
	if err := s.WriteFileText(&text); err != nil || !strings.HasPrefix(text.String(), "5 steps of 0.1 s; 2 steps between them are missing\n") {
		t.Errorf("%v, the text is %s", err, text.String())
	}
}

func TestFileSummaryRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		run    *Run
		change func(states []*datacenter.State)
		want   string
	}{
		"time stands still":   {nil, func(s []*datacenter.State) { s[2].TimeS = s[1].TimeS }, "state 3: time_s is 0.1 after 0.1, want the states of one run in their order"},
		"another run follows": {nil, func(s []*datacenter.State) { s[2].TimeS = 0 }, "state 3: time_s is 0 after 0.1"},
		"no time":             {nil, func(s []*datacenter.State) { s[0].TimeS = math.NaN() }, "state 1: time_s is NaN"},
		"no power":            {nil, func(s []*datacenter.State) { s[1].PowerW.B = math.NaN() }, "state 2: the power of the three phases is NaN W"},
		"endless power":       {nil, func(s []*datacenter.State) { s[1].Models[1].PowerW = math.Inf(1) }, `state 2: model "b" has power_w +Inf`},
		"endless latency":     {nil, func(s []*datacenter.State) { s[1].Models[0].ObservedITLS = math.Inf(1) }, `state 2: model "a" has power_w 50 and observed_itl_s +Inf`},
		"a model less":        {nil, func(s []*datacenter.State) { s[2].Models = s[2].Models[:1] }, "state 3: it has 1 models, the states before it have 2"},
		"other models":        {nil, func(s []*datacenter.State) { s[2].Models[1].ModelLabel = "c\x1b" }, `state 3: model 2 is "c\x1b", in the states before it "b"`},
		"not in the config":   {&Run{DTS: 0.1, ITLDeadlineS: map[string]float64{"a": 1, "c": 1}}, func([]*datacenter.State) {}, `the states have a model "b" that the config has not; it has ["a" "c"]`},
		"more in the config":  {&Run{DTS: 0.1, ITLDeadlineS: map[string]float64{"a": 1, "b": 1, "c": 1}}, func([]*datacenter.State) {}, "the states have 2 models, the config has 3"},
		"another step":        {&Run{DTS: 1, ITLDeadlineS: aRun().ITLDeadlineS}, func([]*datacenter.State) {}, "the states are 0.1 s apart, the config's dt_s is 1"},
	} {
		states := []*datacenter.State{fileState(0, 0.1), fileState(1, 0.1), fileState(2, 0.1)}
		c.change(states)
		f := NewFileSummary(c.run)
		var err error
		for _, s := range states {
			if err = f.Add(s); err != nil {
				break
			}
		}
		if err == nil {
			_, err = f.Finish()
		}
		if !errors.Is(err, datacenter.ErrInvalidInput) {
			t.Errorf("%s: error %v, want one of invalid input", name, err)
			continue
		}
		// As the program prints it.
		if got := strings.ReplaceAll(err.Error(), datacenter.ErrInvalidInput.Error()+": ", ""); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: error %s, want %q", name, got, c.want)
		}
	}
	if _, err := NewFileSummary(nil).Finish(); !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), "there are no states") {
		t.Errorf("of no states: %v", err)
	}
}

// What a file calls its models never reaches a terminal as it is.
func TestFileSummaryTextIsPrintable(t *testing.T) {
	s := fileState(0, 0.1)
	s.Models[0].ModelLabel = "\x1b[2J\tx\nend" + strings.Repeat("y", 1000)
	f := NewFileSummary(nil)
	if err := f.Add(s); err != nil {
		t.Fatal(err)
	}
	sum, err := f.Finish()
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	if err := sum.WriteFileText(&text); err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(text.String(), "\x1b\t") || strings.Count(text.String(), "\n") != strings.Count(aText(t), "\n") || text.Len() > 5000 {
		t.Errorf("the text is %q", text.String())
	}
}

// aText is the text of a file with ordinary labels.
func aText(t *testing.T) string {
	t.Helper()
	var text strings.Builder
	if err := sumUp(t, nil, 0).WriteFileText(&text); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// TestFileSummaryTextWithoutWhatIsNotKnown: a column of which nothing is known is left out,
// and so is a table.
func TestFileSummaryTextWithoutWhatIsNotKnown(t *testing.T) {
	for _, c := range []struct {
		latency, throughput bool
		want, not           []string
	}{
		{true, true, []string{"mean ms", "tokens/s  ", "tokens by ITL"}, []string{"deadline ms", "steps over", "excess"}},
		{true, false, []string{"mean ms", "tokens/s by ITL", "tokens by ITL"}, []string{"deadline ms", "tokens/s  "}},
		{false, true, []string{"tokens/s  "}, []string{"inter-token", "by ITL"}},
		{false, false, []string{"peak kW"}, []string{"inter-token", "throughput"}},
	} {
		f := NewFileSummary(nil)
		for i := range 3 {
			state := fileState(i, 1)
			for m := range state.Models {
				if !c.latency {
					state.Models[m].ObservedITLS = math.NaN()
				}
				if !c.throughput {
					state.Models[m].Throughput = datacenter.Throughput{}
				}
			}
			if err := f.Add(state); err != nil {
				t.Fatal(err)
			}
		}
		s, err := f.Finish()
		if err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		if err := s.WriteFileText(&text); err != nil {
			t.Fatal(err)
		}
		for _, want := range c.want {
			if !strings.Contains(text.String(), want) {
				t.Errorf("there is no %q in\n%s", want, text.String())
			}
		}
		for _, not := range c.not {
			if strings.Contains(text.String(), not) {
				t.Errorf("there is %q in\n%s", not, text.String())
			}
		}
	}
}
