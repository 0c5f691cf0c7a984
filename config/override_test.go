package config

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// overridable is a config with two traces of training, one in two folders.
func overridable(t *testing.T, traces ...string) *Config {
	t.Helper()
	c := Default()
	c.Models = []Model{{ModelLabel: "a", FeasibleBatchSizes: []int{8, 16}}, {ModelLabel: "b", FeasibleBatchSizes: []int{8}}}
	for _, trace := range traces {
		c.Training = append(c.Training, Training{NGPUs: 1, Trace: trace, TStart: new(float64), TEnd: new(float64)})
	}
	return &c
}

func TestOverrideTakesPlace(t *testing.T) {
	c := overridable(t, "/data/x/trace.csv", "/data/y/trace.csv", "/data/x/trace.csv")
	before := jsonOf(t, c)
	one, seed, duration := 1, uint64(8), seconds(t, "30")
	run, problems := c.With(&Override{
		Seed: &seed, Duration: &duration, InitialBatchSizes: map[string]int{"a": 16}, Replicas: map[string]*Replicas{"b": {Initial: &one}, "a": nil},
		Training: &[]Training{{NGPUs: 3, Trace: "y/trace.csv", TStart: new(float64), TEnd: new(float64)}},
	})
	if problems != nil {
		t.Fatal(problems)
	}
	if run.Seed != 8 || run.Replay.Duration.String() != "30" || *run.Models[0].InitialBatchSize != 16 || run.Models[0].Replicas != nil ||
		*run.Models[1].Replicas.Initial != 1 || len(run.Training) != 1 || run.Training[0].Trace != "/data/y/trace.csv" || run.Training[0].NGPUs != 3 {
		t.Errorf("the run is %+v", run)
	}
	if diff := cmp.Diff(before, jsonOf(t, c)); diff != "" {
		t.Errorf("the config itself has changed:\n%s", diff)
	}
	if run, problems = c.With(&Override{}); problems != nil || jsonOf(t, run) != before {
		t.Errorf("nothing in place of anything: %v, %+v", problems, run)
	}
	if run, problems = overridable(t, "/data/trace.csv").With(&Override{Training: &[]Training{{NGPUs: 1, TStart: new(float64), TEnd: new(float64)}}}); problems != nil || run.Training[0].Trace != "/data/trace.csv" {
		t.Errorf("the only trace: %v, %+v", problems, run)
	}
}

func jsonOf(t *testing.T, c *Config) string {
	t.Helper()
	text, err := c.Effective()
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestOverrideProblems: all that is wrong is told at once, by its place in the override.
func TestOverrideProblems(t *testing.T) {
	c := overridable(t, "/data/x/trace.csv", "/data/y/trace.csv")
	job := func(trace string, gpus int, startS, endS float64) Training {
		return Training{NGPUs: gpus, Trace: trace, TStart: &startS, TEnd: &endS}
	}
	withTemplates := overridable(t, "/data/x/trace.csv", "/data/y/trace.csv")
	aMinute, month := seconds(t, "60"), seconds(t, "2592000")
	withTemplates.Replay.TemplateDuration = &aMinute
	if _, problems := withTemplates.With(&Override{Duration: &month}); problems != nil {
		t.Errorf("a run of a month with templates of a minute: %v", problems)
	}
	never, long, target, start, end := datacenter.Seconds{}, seconds(t, "1e12"), 1, 5.0, 4.0
	for _, test := range []struct {
		o    Override
		want []string
	}{
		{Override{Duration: &never}, []string{"duration_s: must be > 0, got 0"}},
		{Override{Duration: &long}, []string{"duration_s: is 10000000000000 steps of dt_s, for which power templates as long would be made; " +
			"at most 1000000 are allowed, and 100000000 where the config has replay.template_duration_s"}},
		{
			Override{
				InitialBatchSizes: map[string]int{"b": 16},
				Replicas:          map[string]*Replicas{"a": {Initial: &target, Ramps: []Ramp{{Target: &target, TStart: &start, TEnd: &end}}}},
				Training:          &[]Training{job("trace.csv", 1, 0, 1), job("z.csv", 0, 2, 1), job("", 1, 0, 1), job("race.csv", 1, 0, 1)},
			},
			[]string{
				"replicas.a.ramps[0]: t_end (4) must be >= t_start (5)",
				"initial_batch_sizes.b: 16 is not one of the feasible batch sizes [8]",
				`training[0].trace: must be one of the traces that the config names, ["/data/x/trace.csv" "/data/y/trace.csv"], got "trace.csv"`,
				`training[1].trace: must be one of the traces that the config names, ["/data/x/trace.csv" "/data/y/trace.csv"], got "z.csv"`,
				"training[1].n_gpus: is missing or 0; must be >= 1",
				"training[1].t_end: must be >= t_start (2), got 1",
				`training[2].trace: must be one of the traces that the config names, ["/data/x/trace.csv" "/data/y/trace.csv"], got ""`,
				`training[3].trace: must be one of the traces that the config names, ["/data/x/trace.csv" "/data/y/trace.csv"], got "race.csv"`,
			},
		},
	} {
		run, problems := c.With(&test.o)
		var got []string
		for _, p := range problems {
			got = append(got, p.String())
		}
		if diff := cmp.Diff(test.want, got); diff != "" || run != nil {
			t.Errorf("what is wrong (-want +got):\n%s", diff)
		}
	}
	_, problems := overridable(t).With(&Override{Training: &[]Training{job("trace.csv", 1, 0, 1)}})
	if len(problems) != 1 || problems[0].Path != "training[0].trace" {
		t.Errorf("without any trace in the config: %v", problems)
	}
}
