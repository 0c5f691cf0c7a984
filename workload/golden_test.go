package workload

import (
	"encoding/json"
	"math"
	"os"
	"slices"
	"testing"

	"go.uber.org/goleak"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/nprand"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// golden reads a vector of testdata/golden/components.
func golden[T any](t *testing.T, name string) T {
	t.Helper()
	raw, err := os.ReadFile("../testdata/golden/components/" + name + ".json")
	if err != nil {
		t.Fatal(err)
	}
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func seconds(t *testing.T, text string) datacenter.Seconds {
	t.Helper()
	s, err := datacenter.ParseSeconds(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// within fails unless got is want to the relative error tolerated.
func within(t *testing.T, what string, got, want, tolerated float64) {
	t.Helper()
	if got != want && !(math.Abs(got-want) <= tolerated*math.Abs(want)) {
		t.Errorf("%s is %v, want %v within %v", what, got, want, tolerated)
	}
}

func TestTemplateMatchesGolden(t *testing.T) {
	cases := golden[[]struct {
		MeasuredGPUs int         `json:"measured_gpus"`
		DT           string      `json:"dt_s"`
		Duration     json.Number `json:"duration_s"`
		SteadySkipS  float64     `json:"steady_skip_s"`
		TS           []float64   `json:"t_s"`
		PowerW       []float64   `json:"power_w"`
		Template     []float64   `json:"template"`
	}](t, "power_template")
	for i, c := range cases {
		trace := InferenceTrace{TS: c.TS, PowerW: c.PowerW, MeasuredGPUs: c.MeasuredGPUs}
		got, err := trace.template(Grid{seconds(t, c.DT), seconds(t, c.Duration.String()), c.SteadySkipS})
		if err != nil {
			t.Fatal(err)
		}
		if len(c.Template) == 0 || !slices.Equal(got, c.Template) {
			t.Errorf("case %d: template is\n%v, want\n%v", i, got, c.Template)
		}
	}
}

func TestITLMixtureMatchesGolden(t *testing.T) {
	cases := golden[[]struct {
		Samples    []float64  `json:"samples_s"`
		MaxSamples int        `json:"max_samples"`
		Seed       uint64     `json:"seed"`
		Fit        ITLMixture `json:"fit"`
		MeanVar    [2]float64 `json:"mean_var"`
		SampleSeed uint64     `json:"sample_seed"`
		SampleOne  []float64  `json:"sample_one"`
		SampleAvg  []struct {
			Replicas int     `json:"n_replicas"`
			Value    float64 `json:"value"`
		} `json:"sample_avg"`
	}](t, "itl_mixture")
	for _, c := range cases {
		fit := FitITL(c.Samples, c.MaxSamples, c.Seed)
		for _, p := range itlParams() {
			within(t, p.name, *p.at(&fit), *p.at(&c.Fit), 1e-9)
		}
		mean, variance := c.Fit.meanVar()
		within(t, "mean", mean, c.MeanVar[0], 1e-12)
		// The variance is a difference of squares: its error is relative to them.
		if math.Abs(variance-c.MeanVar[1]) > 1e-12*(c.MeanVar[1]+mean*mean) {
			t.Errorf("variance is %v, want %v", variance, c.MeanVar[1])
		}
		rng, sampler := nprand.New(c.SampleSeed), NewITLSampler(c.Fit)
		if len(c.SampleOne) == 0 || len(c.SampleAvg) == 0 {
			t.Fatal("no golden samples")
		}
		for _, want := range c.SampleOne {
			within(t, "one sample", sampler.one(rng), want, 1e-12)
		}
		for _, want := range c.SampleAvg {
			within(t, "average", sampler.Avg(rng, want.Replicas), want.Value, 1e-12)
		}
	}
	if !math.IsNaN(NewITLSampler(cases[0].Fit).Avg(nprand.New(1), 0)) {
		t.Error("the average over no replicas is a number")
	}
}

func TestTrainingTraceMatchesGolden(t *testing.T) {
	cases := golden[[]struct {
		Params map[string]json.RawMessage `json:"params"`
		TS     []float64                  `json:"t_s"`
		PowerW []float64                  `json:"power_w"`
	}](t, "training_trace")
	for i, c := range cases {
		p := defaultTrainingTraceParams()
		into := map[string]any{
			"duration_s": &p.DurationS, "dt_s": &p.DTS, "seed": &p.Seed, "ramp_s": &p.RampS,
			"smooth_window_s": &p.SmoothWindowS, "dip_prob_per_sec": &p.DipProbPerSec, "dip_dur_range": &p.DipDurRange,
		}
		for name, raw := range c.Params {
			if err := json.Unmarshal(raw, into[name]); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if errs := p.Validate(); len(errs) > 0 {
			t.Fatal(errs)
		}
		got := GenerateTrainingTrace(p)
		if len(got.TS) != len(c.TS) || len(got.PowerW) != len(c.PowerW) || len(c.TS) == 0 {
			t.Fatalf("case %d: %d times and %d powers, want %d", i, len(got.TS), len(got.PowerW), len(c.TS))
		}
		for k := range c.TS {
			within(t, "time", got.TS[k], c.TS[k], 1e-12)
			within(t, "power", got.PowerW[k], c.PowerW[k], 1e-12)
		}
	}
}

func TestMedianTraceMatchesGolden(t *testing.T) {
	c := golden[struct {
		Rows []struct {
			NumGPUs  int     `json:"num_gpus"`
			RunIndex int     `json:"run_index"`
			TimeS    float64 `json:"relative_time_s"`
			Value    float64 `json:"value"`
		}
		DTS          float64   `json:"dt_s"`
		TS           []float64 `json:"t_s"`
		PowerW       []float64 `json:"power_w"`
		MeasuredGPUs int       `json:"measured_gpus"`
	}](t, "timeline_median")
	var runs []Timeline
	for _, r := range c.Rows {
		for len(runs) <= r.RunIndex {
			runs = append(runs, Timeline{})
		}
		run := &runs[r.RunIndex]
		run.TS, run.PowerW = append(run.TS, r.TimeS), append(run.PowerW, r.Value)
	}
	got, err := MedianTrace(runs, c.DTS, c.Rows[0].NumGPUs)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got.TS, c.TS) || !slices.Equal(got.PowerW, c.PowerW) || got.MeasuredGPUs != c.MeasuredGPUs {
		t.Errorf("the median trace is %v, want %v at %v", got, c.PowerW, c.TS)
	}
}
