package workload

import (
	"bytes"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

func TestTrainingTraceParamsRules(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	for name, test := range map[string]struct {
		edit func(*TrainingTraceParams)
		want []string
	}{
		"defaults":         {func(*TrainingTraceParams) {}, nil},
		"P_hi":             {func(p *TrainingTraceParams) { p.PHi = -1 }, []string{"P_hi must be a finite number >= 0, got -1"}},
		"P_lo":             {func(p *TrainingTraceParams) { p.PLo = nan }, []string{"P_lo must be a finite number >= 0, got NaN"}},
		"sigma_hi":         {func(p *TrainingTraceParams) { p.SigmaHi = inf }, []string{"sigma_hi must be a finite number >= 0, got +Inf"}},
		"sigma_lo":         {func(p *TrainingTraceParams) { p.SigmaLo = -0.5 }, []string{"sigma_lo must be a finite number >= 0, got -0.5"}},
		"dip_prob_per_sec": {func(p *TrainingTraceParams) { p.DipProbPerSec = -1 }, []string{"dip_prob_per_sec must be a finite number >= 0, got -1"}},
		"smooth_window_s":  {func(p *TrainingTraceParams) { p.SmoothWindowS = -1 }, []string{"smooth_window_s must be a finite number >= 0, got -1"}},
		"ramp_s":           {func(p *TrainingTraceParams) { p.RampS = -1 }, []string{"ramp_s must be a finite number >= 0, got -1"}},
		"ramp_from":        {func(p *TrainingTraceParams) { p.RampFrom = -1 }, []string{"ramp_from must be a finite number >= 0, got -1"}},
		"duration_s":       {func(p *TrainingTraceParams) { p.DurationS = 0 }, []string{"duration_s must be a finite number > 0, got 0"}},
		"dt_s":             {func(p *TrainingTraceParams) { p.DTS = 0 }, []string{"dt_s must be a finite number > 0, got 0"}},
		"seg_lo_range":     {func(p *TrainingTraceParams) { p.SegLoRange = [2]float64{2, 1} }, []string{"seg_lo_range must be two finite numbers, 0 <= low <= high, got 2, 1"}},
		"seg_hi_range":     {func(p *TrainingTraceParams) { p.SegHiRange = [2]float64{-1, 1} }, []string{"seg_hi_range must be two finite numbers, 0 <= low <= high, got -1, 1"}},
		"dip_depth_range":  {func(p *TrainingTraceParams) { p.DipDepthRange[1] = inf }, []string{"dip_depth_range must be two finite numbers, 0 <= low <= high, got 120, +Inf"}},
		"dip_dur_range":    {func(p *TrainingTraceParams) { p.DipDurRange[0] = nan }, []string{"dip_dur_range must be two finite numbers, 0 <= low <= high, got NaN, 0.14"}},
		"several":          {func(p *TrainingTraceParams) { p.PHi, p.DTS = -1, -1 }, []string{"P_hi must be a finite number >= 0, got -1", "dt_s must be a finite number > 0, got -1"}},
		"one sample":       {func(p *TrainingTraceParams) { p.DurationS = 0.1 }, []string{"duration_s (0.1) must hold at least two samples of dt_s (0.1)"}},
		"too many samples": {func(p *TrainingTraceParams) { p.DurationS = 1e9 }, []string{"duration_s / dt_s is 1e+10 samples, at most 100000000 are allowed"}},
		"short plateaus":   {func(p *TrainingTraceParams) { p.SegHiRange, p.SegLoRange = [2]float64{}, [2]float64{0, 0.1} }, []string{"seg_hi_range and seg_lo_range must together reach at least 2 dt_s (0.2)"}},
		"wide smoothing":   {func(p *TrainingTraceParams) { p.SmoothWindowS = 1001 }, []string{"smooth_window_s (1001) must not be longer than duration_s (1000)"}},
		"costly smoothing": {func(p *TrainingTraceParams) { p.DurationS, p.SmoothWindowS = 1e6, 1e5 }, []string{"smooth_window_s (100000) is too long for 1e+07 samples"}},
		"too many dips":    {func(p *TrainingTraceParams) { p.DipProbPerSec = 1e6 }, []string{"dip_prob_per_sec * duration_s is 1e+09 dips, at most 1000000 are allowed"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := defaultTrainingTraceParams()
			test.edit(&p)
			var got []string
			for _, err := range p.Validate() {
				if !errors.Is(err, datacenter.ErrInvalidInput) {
					t.Errorf("%v is not an invalid input", err)
				}
				got = append(got, err.Error())
			}
			var want []string
			for _, w := range test.want {
				want = append(want, "invalid input: "+w)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTrainingTraceRoundTrip(t *testing.T) {
	file := filepath.Join(t.TempDir(), "t.csv")
	roundTrip := func(t rapid.TB, trace datacenter.TrainingTrace) {
		var b bytes.Buffer
		if err := WriteTrainingTrace(&b, trace); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := LoadTrainingTrace(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(trace, got, sameBits); diff != "" {
			t.Fatalf("the trace read back (-want +got):\n%s", diff)
		}
	}
	p := defaultTrainingTraceParams()
	p.DurationS = 50
	generated := GenerateTrainingTrace(p)
	for i, v := range generated.PowerW {
		generated.PowerW[i] = max(v, 0) // the file's reader clips
	}
	roundTrip(t, generated)
	rapid.Check(t, func(t *rapid.T) {
		tS := rapid.SliceOfNDistinct(rapid.Float64Range(-1e300, 1e300), 2, 20, func(v float64) float64 { return v + 0 }).Draw(t, "t")
		slices.Sort(tS)
		power := rapid.SliceOfN(rapid.Float64Range(5e-324, math.MaxFloat64), len(tS), len(tS)).Draw(t, "power")
		roundTrip(t, datacenter.TrainingTrace{TS: tS, PowerW: power})
	})
}

func TestLoadTrainingTrace(t *testing.T) {
	dir := folder(t, map[string]string{"t.csv": "power_W,t_s\n5,2\n-1,0\n7,1\n"})
	got, err := LoadTrainingTrace(filepath.Join(dir, "t.csv"))
	if err != nil {
		t.Fatal(err)
	}
	want := datacenter.TrainingTrace{TS: []float64{0, 1, 2}, PowerW: []float64{0, 7, 5}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the trace (-want +got):\n%s", diff)
	}
	for text, want := range map[string]string{
		"":                         "DIR/t.csv: is empty; want a header with the columns t_s, power_W",
		"t_s,power\n":              `DIR/t.csv:1: column "power_W" is missing; the columns are t_s, power`,
		"t_s,power_W\n":            "DIR/t.csv: has 0 samples, a training trace needs at least 2",
		"t_s,power_W\n0,1\n":       "DIR/t.csv: has 1 samples, a training trace needs at least 2",
		"t_s,power_W\n0,1\n1,x\n":  `DIR/t.csv:3: power_W: "x" is not a finite number`,
		"t_s,power_W\n3,1\n3,2\n":  "DIR/t.csv: the trace has no time span: all its times are 3",
		"t_s,power_W\n0,0\n1,-2\n": "DIR/t.csv: power is nowhere above 0, so the trace cannot be scaled to a peak",
	} {
		dir := folder(t, map[string]string{"t.csv": text})
		_, err := LoadTrainingTrace(filepath.Join(dir, "t.csv"))
		wantInvalid(t, err, dir, want)
	}
	_, err = LoadTrainingTrace(filepath.Join(dir, "none.csv"))
	wantInvalid(t, err, dir, "DIR/none.csv: no such file or directory")
}

// job is a run of 6 GPUs from 10 s to 16.5 s; the trace has a period of 4 s and a
// peak of 50 W, which is scaled to 200 W.
func job() datacenter.TrainingRun {
	return datacenter.TrainingRun{
		NGPUs: 6, TargetPeakWPerGPU: 200, TStartS: 10, TEndS: 16.5,
		Trace: datacenter.TrainingTrace{TS: []float64{100, 101, 103, 104}, PowerW: []float64{10, 50, 30, 20}},
	}
}

func TestTrainingOverlay(t *testing.T) {
	overlay, err := NewTrainingOverlay(datacenter.TrainingSchedule{job()})
	if err != nil {
		t.Fatal(err)
	}
	for at, wantOneGPU := range map[float64]float64{
		9.999: 0, 10: 40, 10.5: 120, 11: 200, 12: 160, 13: 120, 13.5: 100,
		14:   40, // the end of the period is its beginning
		14.5: 120, 15: 200, 16.5: 140, 16.501: 0, -5: 0, 1e9: 0,
	} {
		phases := datacenter.ThreePhase{A: 1, B: 2, C: 3}
		overlay.AddTo(&phases, at)
		third := wantOneGPU * 6 / 3
		if want := (datacenter.ThreePhase{A: 1 + third, B: 2 + third, C: 3 + third}); phases != want {
			t.Errorf("at %v s the phases are %v, want %v", at, phases, want)
		}
	}
	if job().Trace.PowerW[1] != 50 {
		t.Error("the schedule's trace was changed")
	}
}

func TestTrainingRunsAddUp(t *testing.T) {
	second := job()
	second.NGPUs, second.TStartS = 3, 11
	overlay, err := NewTrainingOverlay(datacenter.TrainingSchedule{job(), second})
	if err != nil {
		t.Fatal(err)
	}
	var phases datacenter.ThreePhase
	overlay.AddTo(&phases, 11)
	if want := 200*6/3.0 + 40*3/3.0; phases != (datacenter.ThreePhase{A: want, B: want, C: want}) {
		t.Errorf("the phases are %v, want %v each", phases, want)
	}
}

func TestInvalidTrainingRuns(t *testing.T) {
	const badTrace = "invalid input: training run 1: the trace needs two samples, a time span and positive power"
	for name, test := range map[string]struct {
		edit func(*datacenter.TrainingRun)
		want string
	}{
		"no GPUs":         {func(r *datacenter.TrainingRun) { r.NGPUs = 0 }, "invalid input: n_gpus must be > 0, got 0"},
		"negative peak":   {func(r *datacenter.TrainingRun) { r.TargetPeakWPerGPU = -1 }, "invalid input: target_peak_w_per_gpu must be a finite number >= 0, got -1"},
		"ends early":      {func(r *datacenter.TrainingRun) { r.TEndS = 9 }, "invalid input: t_end (9) must be >= t_start (10)"},
		"infinite":        {func(r *datacenter.TrainingRun) { r.TEndS = math.Inf(1) }, "invalid input: t_start and t_end must be finite, got 10 and +Inf"},
		"no trace":        {func(r *datacenter.TrainingRun) { r.Trace = datacenter.TrainingTrace{} }, badTrace},
		"one sample":      {func(r *datacenter.TrainingRun) { r.Trace.TS, r.Trace.PowerW = []float64{0}, []float64{1} }, badTrace},
		"no span":         {func(r *datacenter.TrainingRun) { r.Trace.TS = []float64{1, 1, 1, 1} }, badTrace},
		"no power":        {func(r *datacenter.TrainingRun) { r.Trace.PowerW = []float64{0, 0, 0, 0} }, badTrace},
		"unequal lengths": {func(r *datacenter.TrainingRun) { r.Trace.PowerW = []float64{1} }, badTrace},
	} {
		t.Run(name, func(t *testing.T) {
			bad := job()
			test.edit(&bad)
			overlay, err := NewTrainingOverlay(datacenter.TrainingSchedule{job(), bad})
			if overlay != nil || !errors.Is(err, datacenter.ErrInvalidInput) || err.Error() != test.want {
				t.Errorf("the error is %v, want %s", err, test.want)
			}
		})
	}
}
