package plots

import (
	"errors"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/workload"
)

const (
	dataV01 = "../configs/example-data"
	dataV02 = "../testdata/golden/data_0.2"
)

func load(t *testing.T, dir string, labels ...string) []Model {
	t.Helper()
	models, warnings, err := Load(dir, labels, true)
	if err != nil || len(warnings) > 0 && dir == dataV01 {
		t.Fatal(err, warnings)
	}
	return models
}

func TestLoad(t *testing.T) {
	for _, dir := range []string{dataV01, dataV02} {
		var labels []string
		for _, m := range load(t, dir) {
			labels = append(labels, m.Label)
			if len(m.Data.Traces) < 2 || len(m.Data.ITL) < 2 {
				t.Errorf("%s: %s has %d traces and %d fits", dir, m.Label, len(m.Data.Traces), len(m.Data.ITL))
			}
		}
		if want := []string{"Llama-3.1-405B", "Llama-3.1-70B", "Llama-3.1-8B"}; !slices.Equal(labels, want) {
			t.Errorf("%s has %q, want %q", dir, labels, want)
		}
	}
	some := load(t, dataV02, "Llama-3.1-8B")
	if len(some) != 1 || some[0].Label != "Llama-3.1-8B" {
		t.Errorf("of one model: %d", len(some))
	}
	_, _, err := Load(dataV02, []string{"x\n"}, true)
	if !errors.Is(err, datacenter.ErrInvalidInput) || !strings.HasSuffix(err.Error(), `has no model "x\n"; it has "Llama-3.1-405B", "Llama-3.1-70B", "Llama-3.1-8B"`) {
		t.Errorf("of a model that is not there: %v", err)
	}
}

// copyOf copies a directory.
func copyOf(t *testing.T, dir string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

func TestLoadOfSeveralMeasurements(t *testing.T) {
	dir := copyOf(t, dataV02)
	hash := "2234120f055ca377"
	if err := os.CopyFS(filepath.Join(dir, "another"), os.DirFS(filepath.Join(dir, hash))); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "b473220852891f26", "_manifest.json")); err != nil {
		t.Fatal(err)
	}
	twice, without := 0, false
	for _, m := range load(t, dir) {
		if strings.HasSuffix(m.Label, " ("+hash+")") || strings.HasSuffix(m.Label, " (another)") {
			twice++
		}
		without = without || m.Label == "b473220852891f26"
	}
	if twice != 2 || !without {
		t.Errorf("%d have their folder's name beside the label; without a manifest the folder is named: %v", twice, without)
	}
}

func TestLoadWithoutLatencies(t *testing.T) {
	dir := copyOf(t, dataV01)
	if err := os.Remove(filepath.Join(dir, "latency_fits.csv")); err != nil {
		t.Fatal(err)
	}
	models, warnings, err := Load(dir, nil, false)
	if err != nil || len(models) != 3 || len(warnings) != 1 || !strings.Contains(warnings[0], "latency_fits.csv: no such file") {
		t.Errorf("%d models, warnings %q, %v", len(models), warnings, err)
	}
	if _, _, err := Load(dir, nil, true); !errors.Is(err, datacenter.ErrInvalidInput) {
		t.Errorf("where they are needed: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "traces_summary.csv"), []byte("model_label,num_gpus,max_num_seqs,trace_file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Load(dir, nil, false); err == nil || !strings.Contains(err.Error(), "traces_summary.csv: has no rows") {
		t.Errorf("without a model: %v", err)
	}
}

func TestPowerHasEveryTrace(t *testing.T) {
	models := load(t, dataV01)
	f, err := Power(models)
	if err != nil {
		t.Fatal(err)
	}
	colors := map[string]Color{}
	for i, p := range f.Panels {
		m := models[i]
		if !strings.HasPrefix(p.Title, m.Label+", ") || p.LegendTitle != "batch size" || p.X.Label != "Time (s)" {
			t.Errorf("panel %d is %q with %q over %q", i, p.Title, p.LegendTitle, p.X.Label)
		}
		sizes := slices.Sorted(maps.Keys(m.Data.Traces))
		for k, s := range p.Series {
			trace := m.Data.Traces[sizes[k]]
			divisor := map[string]float64{"Power (W)": 1, "Power (kW)": 1000}[p.Y.Label]
			if len(s.XY) != len(trace.TS) || s.XY[7] != (XY{trace.TS[7], trace.PowerW[7] / divisor}) {
				t.Errorf("%s at %s: %d of %d points, %v", p.Title, s.Name, len(s.XY), len(trace.TS), s.XY[7])
			}
			if c, known := colors[s.Name]; known && c != s.Color {
				t.Errorf("batch size %s has two colours", s.Name)
			}
			colors[s.Name] = s.Color
		}
	}
	if len(f.Panels) != 3 || len(colors) != 7 {
		t.Errorf("%d panels, %d batch sizes", len(f.Panels), len(colors))
	}
}

// TestDensityIsOne: over the logarithm the curve's area is 1, spikes and all.
func TestDensityIsOne(t *testing.T) {
	fits := []workload.ITLMixture{
		{PiSteady: 1, SigmaSteady: 0.3, ScaleSteady: 0.02},
		{Loc: 0.01, PiSteady: 3, SigmaSteady: 0.01, ScaleSteady: 0.02, PiStall: 1, SigmaStall: 0.8, ScaleStall: 0.5},
		{PiSteady: 0.5, SigmaSteady: 0, ScaleSteady: 0.02, PiStall: 0.5, SigmaStall: 0.1, ScaleStall: 1},
	}
	for _, fit := range load(t, dataV01)[0].Data.ITL {
		fits = append(fits, fit)
	}
	for _, fit := range fits {
		area := 0.0
		curve := density(&fit)
		for i := 1; i < len(curve); i++ {
			area += (curve[i].Y + curve[i-1].Y) / 2 * math.Log10(curve[i].X/curve[i-1].X)
		}
		if math.Abs(area-1) > 0.01 {
			t.Errorf("%+v has the area %v", fit, area)
		}
	}
	// What cannot be drawn is no reason to fail.
	for _, fit := range []workload.ITLMixture{
		{Loc: 0.01, PiSteady: 1}, {PiStall: 1, SigmaStall: 500, ScaleStall: 1}, {PiSteady: 1, ScaleSteady: 1e300}, {Loc: 1e300, PiSteady: 1, ScaleSteady: 1},
	} {
		for _, at := range density(&fit) {
			if !isFinite(at.X) || !isFinite(at.Y) {
				t.Errorf("%+v has %v", fit, at)
			}
		}
		f, err := ITL([]Model{{Label: "odd", Data: workload.ModelData{ITL: map[int]workload.ITLMixture{1: fit}}}})
		if err != nil {
			t.Error(err)
			continue
		}
		if _, err := f.render(svgFormat, Style{}); err != nil {
			t.Errorf("%+v: %v", fit, err)
		}
	}
}

// TestHistogram: the bars of a histogram have the area 1, and are numbers.
func TestHistogram(t *testing.T) {
	var samples []float64
	for i := range 10_000 {
		samples = append(samples, 0.02*math.Exp(math.Sin(float64(i))))
	}
	bars := barsOf(workload.NewITLHistogram(samples))
	area := 0.0
	for i := 1; i < len(bars); i++ {
		area += bars[i-1].Y * math.Log10(bars[i].X/bars[i-1].X)
	}
	if math.Abs(area-1) > 1e-9 || len(bars) < 20 {
		t.Errorf("%d bars have the area %v", len(bars), area)
	}
	for _, few := range [][]float64{{0.5}, {0.5, 0.5, 0.5}, {1e-300, 1e300}} {
		for _, at := range barsOf(workload.NewITLHistogram(few)) {
			if !isFinite(at.X) || !isFinite(at.Y) {
				t.Errorf("%v gives %v", few, at)
			}
		}
	}
}

func TestITLWithSamples(t *testing.T) {
	models := load(t, dataV01, "Llama-3.1-8B")
	models[0].Observed.ITL = map[int]*workload.ITLHistogram{8: workload.NewITLHistogram([]float64{0.007, 0.0071, 0.0072, 0.02, math.NaN(), -1, 0}), 16: nil}
	f, err := ITL(models)
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Panels) != 2 {
		t.Fatalf("there are %d panels, want that with samples and that of all others", len(f.Panels))
	}
	p := f.Panels[0]
	if p.Title != "Llama-3.1-8B, batch size 8" || len(p.Series) != 2 || p.Series[0].Kind != Bars || p.Series[0].Name != "n = 4, mean 10.3 ms" || p.Series[1].Name != "fit, mean 7.58 ms" {
		t.Errorf("the panel with samples: %q, %+v", p.Title, p.Series)
	}
	if n := len(f.Panels[1].Series); n != len(models[0].Data.ITL)-1 {
		t.Errorf("%d other batch sizes, want %d", n, len(models[0].Data.ITL)-1)
	}
	if p.X.Label != "Inter-token latency (ms)" || p.Y.Label != "Density (per decade)" || p.X.Scale != Log10 {
		t.Errorf("axes: %+v, %+v", p.X, p.Y)
	}
	for _, s := range f.Panels[1].Series {
		for _, at := range s.XY {
			if at.X < 1 || at.X > 1e4 {
				t.Errorf("a latency of %v ms", at.X)
			}
		}
	}
}

func TestLogisticMeetsItsPoints(t *testing.T) {
	sizes := []int{8, 16, 32, 64, 128, 256}
	truth := workload.LogisticFit{L: 3000, X0: 5, K: 1.2, B0: 1500}
	m := Model{Label: "m", Data: workload.ModelData{Logistic: &workload.LogisticFits{
		PowerW: truth, LatencyS: workload.LogisticFit{L: 0.1, X0: 7, K: 1, B0: 0.01}, ThroughputTokensPerS: workload.LogisticFit{K: 1, B0: 5},
	}}}
	for _, size := range sizes {
		m.Observed.Points = append(m.Observed.Points, workload.Point{BatchSize: size, PowerW: truth.At(size), LatencyS: math.NaN(), ThroughputTokensPerS: 5})
	}
	f, err := Logistic([]Model{{Label: "without"}, m})
	if err != nil {
		t.Fatal(err)
	}
	var titles, units []string
	for _, p := range f.Panels {
		titles, units = append(titles, p.Title), append(units, p.Y.Label)
		if p.X.Label != "Batch size" || p.X.Scale != Log2 || !slices.Equal(p.X.At, []float64{8, 16, 32, 64, 128, 256}) {
			t.Errorf("%s over %+v", p.Title, p.X)
		}
	}
	if !slices.Equal(titles, []string{"m: power", "m: latency", "m: throughput"}) ||
		!slices.Equal(units, []string{"Power (kW)", "ITL (ms)", "Throughput (tokens/s)"}) || f.Columns != 3 {
		t.Errorf("panels %q in %q", titles, units)
	}
	power := f.Panels[0].Series
	if len(power) != 2 || power[1].Kind != Points || power[1].Name != "measured" || len(power[1].XY) != len(sizes) {
		t.Fatalf("power: %+v", power)
	}
	for _, at := range power[1].XY { // the curve passes there, within what is between its points
		near := slices.MinFunc(power[0].XY, func(a, b XY) int {
			if math.Abs(a.X-at.X) < math.Abs(b.X-at.X) {
				return -1
			}
			return 1
		})
		if math.Abs(near.Y-at.Y) > 0.02 {
			t.Errorf("the curve is at %v, the point at %v", near, at)
		}
	}
	if s := f.Panels[1].Series; len(s) != 1 {
		t.Errorf("latency without points has %d series", len(s))
	}
	// Without points, those of the directory.
	m.Observed.Points = nil
	m.Data.Traces = map[int]*workload.InferenceTrace{8: {TS: []float64{0, 1}, PowerW: []float64{1000, 3000}, MeasuredGPUs: 1}}
	m.Data.ITL = map[int]workload.ITLMixture{16: {Loc: 0.01, PiSteady: 1, SigmaSteady: 0.1, ScaleSteady: 0.02}}
	if f, err = Logistic([]Model{m}); err != nil {
		t.Fatal(err)
	}
	if s := f.Panels[0].Series[1]; s.Name != "mean of the trace" || !slices.Equal(s.XY, []XY{{8, 2}}) {
		t.Errorf("power: %+v", s)
	}
	if s := f.Panels[1].Series[1]; s.Name != "mean of the ITL fit" || math.Abs(s.XY[0].Y-(10+20*math.Exp(0.005))) > 1e-9 {
		t.Errorf("latency: %+v", s)
	}
	if len(f.Panels[2].Series) != 1 {
		t.Errorf("throughput: %+v", f.Panels[2].Series)
	}
}

func TestNothingToDraw(t *testing.T) {
	none := []Model{{Label: "a"}}
	for want, draw := range map[string]func([]Model) (*Figure, error){"power traces": Power, "fits of inter-token latency": ITL, "logistic fits": Logistic} {
		if _, err := draw(none); !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), "there are no "+want+" to draw") {
			t.Errorf("%s: %v", want, err)
		}
	}
	many := make([]Model, maxGridPanels+1)
	for i := range many {
		many[i] = Model{Data: workload.ModelData{
			Traces: map[int]*workload.InferenceTrace{8: {TS: []float64{0, 1}, PowerW: []float64{1, 2}}}, Logistic: &workload.LogisticFits{},
		}}
	}
	for _, draw := range []func([]Model) (*Figure, error){Power, Logistic} {
		if _, err := draw(many); !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), "too many for one picture") {
			t.Errorf("of many models: %v", err)
		}
	}
}

// TestITLRows: each model begins a row where that goes.
func TestITLRows(t *testing.T) {
	for _, c := range []struct {
		ofModel []int
		want    int
	}{{[]int{4, 4}, 4}, {[]int{6, 3}, 3}, {[]int{8}, 4}, {[]int{2, 4}, 2}, {[]int{12, 4}, 4}, {[]int{5, 7}, 3}, {[]int{1}, 1}, {[]int{1, 1}, 2}} {
		models := make([]Model, len(c.ofModel))
		for i, n := range c.ofModel {
			models[i].Data.ITL, models[i].Observed.ITL = map[int]workload.ITLMixture{}, map[int]*workload.ITLHistogram{}
			for size := 1; size <= n; size++ {
				models[i].Data.ITL[size] = workload.ITLMixture{PiSteady: 1, SigmaSteady: 0.1, ScaleSteady: 0.01}
				models[i].Observed.ITL[size] = workload.NewITLHistogram([]float64{0.01, 0.011})
			}
		}
		f, err := ITL(models)
		if err != nil || f.Columns != c.want {
			t.Errorf("%v panels: %+v columns, %v, want %d", c.ofModel, f.Columns, err, c.want)
		}
	}
}

// TestLogisticWithPoints: those that the fits were made without are told apart.
func TestLogisticWithPoints(t *testing.T) {
	m := Model{Label: "m"}
	m.Observed.Points = []workload.Point{
		{BatchSize: 8, PowerW: 400, LatencyS: 0.01, ThroughputTokensPerS: 700},
		{BatchSize: 16, PowerW: 500, LatencyS: math.NaN(), ThroughputTokensPerS: 900, NotInFit: true},
	}
	m.Data.Logistic = new(workload.LogisticFits)
	f, err := Logistic([]Model{m})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []map[string][]XY{
		{"measured": {{8, 400}}, "not in the fit": {{16, 500}}},
		{"measured": {{8, 10}}},
		{"measured": {{8, 700}}, "not in the fit": {{16, 900}}},
	} {
		got := map[string][]XY{}
		for _, s := range f.Panels[i].Series {
			if s.Kind == Points {
				got[s.Name] = s.XY
			}
		}
		if !maps.EqualFunc(got, want, slices.Equal) {
			t.Errorf("%s: %v, want %v", f.Panels[i].Title, got, want)
		}
	}
}
