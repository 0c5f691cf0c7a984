package mlenergy

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/treetest"
	"github.com/g2g-agent/g2g-agent/workload"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	compiled = "../testdata/golden/mlenergy/compiled"
	expected = "../testdata/golden/mlenergy/expected"
)

func readJSON[T any](t testing.TB, path ...string) T {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func specsOf(t testing.TB, name string) []workload.DataSpec {
	return readJSON[[]workload.DataSpec](t, expected, name, "specs.json")
}

func goldenOptions() workload.WriteOptions {
	return workload.WriteOptions{WrittenAt: time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)}
}

// ensure makes the specs' data of the golden benchmark and returns the remarks.
func ensure(t testing.TB, to Destination, specs []workload.DataSpec) (*Report, []string) {
	t.Helper()
	var warnings []string
	g := Generator{Source: Directory(compiled)}
	report, err := g.Ensure(t.Context(), to, specs, func(w string) { warnings = append(warnings, w) })
	if err != nil {
		t.Fatal(err)
	}
	return report, warnings
}

// What is generated of the golden benchmark is what OpenG2G generates: traces and
// manifests to the byte, fits to 1e-12.
func TestGenerateMatchesGolden(t *testing.T) {
	files := 0
	for _, name := range []string{"one_task", "other_task"} {
		specs := specsOf(t, name)
		dir := t.TempDir()
		ensure(t, Destination{Dir: dir, Layout: workload.Layout02, Write: goldenOptions()}, specs)
		got, want := treetest.Files(t, dir), treetest.Files(t, filepath.Join(expected, name))
		delete(want, "specs.json")
		observed := 0
		for file := range got {
			if filepath.Base(file) == "observed.json" { // which OpenG2G passes over
				observed++
			} else if _, ok := want[file]; !ok {
				t.Errorf("%s was made, which OpenG2G does not make", file)
			}
		}
		if observed != len(specs) {
			t.Errorf("%s: what was observed is there %d times, want %d", name, observed, len(specs))
		}
		for file, text := range want {
			files++
			switch {
			case strings.HasSuffix(file, "trace.csv"), strings.HasSuffix(file, "_manifest.json"):
				if diff := cmp.Diff(text, got[file]); diff != "" {
					t.Errorf("%s (-want +got):\n%s", file, diff)
				}
			case strings.HasSuffix(file, "itl_fit.json"):
				sameJSON(t, file, got[file], text, 1e-12)
			case strings.HasPrefix(file, specs[0].Hash()):
				sameJSON(t, file, got[file], text, 1e-12)
			default: // two points, which do not determine a curve
				meetsPoints(t, dir, &specs[1])
			}
		}
	}
	if files != 12 {
		t.Errorf("%d files were compared, want 12", files)
	}
}

// Specs of several tasks in one call do not get each other's runs, as they do in
// OpenG2G.
func TestTasksAreKeptApart(t *testing.T) {
	dir := t.TempDir()
	specs := append(specsOf(t, "one_task"), specsOf(t, "other_task")...)
	ensure(t, Destination{Dir: dir, Layout: workload.Layout02, Write: goldenOptions()}, specs)
	got := treetest.Files(t, dir)
	for _, name := range []string{"one_task", "other_task"} {
		for file, text := range treetest.Files(t, filepath.Join(expected, name)) {
			if strings.HasSuffix(file, "trace.csv") && got[file] != text {
				t.Errorf("%s is another one in a call with several tasks", file)
			}
		}
	}
}

// sameJSON compares two documents, with a relative tolerance for numbers.
func sameJSON(t *testing.T, name, got, want string, tolerance float64) {
	t.Helper()
	var g, w any
	if err := json.Unmarshal([]byte(got), &g); err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		t.Fatal(err)
	}
	near := cmp.Comparer(func(a, b float64) bool { return a == b || math.Abs(a-b) <= tolerance*math.Abs(b) })
	if diff := cmp.Diff(w, g, near); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

// goldenRun is what runs.json says of a run.
type goldenRun struct {
	ResultsPath string       `json:"results_path"`
	Task        string       `json:"task"`
	ModelID     string       `json:"model_id"`
	NumGPUs     float64      `json:"num_gpus"`
	MaxNumSeqs  float64      `json:"max_num_seqs"`
	PowerW      float64      `json:"avg_power_watts"`
	MeanITLMS   float64      `json:"mean_itl_ms"`
	TokensPerS  float64      `json:"output_throughput_tokens_per_sec"`
	Rows        int          `json:"timeline_rows"`
	Head        [][2]float64 `json:"timeline_head"`
	SumT        float64      `json:"timeline_sum_t"`
	SumW        float64      `json:"timeline_sum_w"`
	ITLCount    int          `json:"itl_count"`
	ITLHead     []float64    `json:"itl_head"`
	ITLSum      float64      `json:"itl_sum_s"`
}

func meetsPoints(t *testing.T, dir string, spec *workload.DataSpec) {
	t.Helper()
	data, err := workload.LoadInferenceData(dir, []workload.DataQuery{{ModelLabel: spec.ModelLabel, GPUsPerReplica: spec.GPUsPerReplica}}, true)
	if err != nil {
		t.Fatal(err)
	}
	fits := data.Models[0].Logistic
	met := 0
	for _, r := range readJSON[[]goldenRun](t, expected, "runs.json") {
		if r.ModelID != spec.ModelID {
			continue
		}
		for what, pair := range map[string][2]float64{
			"power":      {fits.PowerW.At(int(r.MaxNumSeqs)), r.PowerW},
			"latency":    {fits.LatencyS.At(int(r.MaxNumSeqs)), r.MeanITLMS / 1000},
			"throughput": {fits.ThroughputTokensPerS.At(int(r.MaxNumSeqs)), r.TokensPerS},
		} {
			met++
			if !(math.Abs(pair[0]-pair[1]) <= 1e-9*pair[1]) {
				t.Errorf("%s at batch size %v is %v, want %v", what, r.MaxNumSeqs, pair[0], pair[1])
			}
		}
	}
	if met != 6 {
		t.Errorf("%d points were compared, want 6", met)
	}
}

// Each run contributes what mlenergy-data has of it, and they are in its order.
func TestRunsMatchGolden(t *testing.T) {
	runs, err := ReadRuns(t.Context(), Directory(compiled))
	if err != nil {
		t.Fatal(err)
	}
	golden := readJSON[[]goldenRun](t, expected, "runs.json")
	if len(runs) != len(golden) || len(runs) != 13 {
		t.Fatalf("%d runs, want %d", len(runs), len(golden))
	}
	for i, want := range golden {
		r := runs[i]
		if r.ResultsPath != want.ResultsPath || r.Task != want.Task || r.ModelID != want.ModelID || r.NumGPUs != want.NumGPUs ||
			r.MaxNumSeqs != want.MaxNumSeqs || r.AvgPowerW != want.PowerW || r.MeanITLMS != want.MeanITLMS || r.OutputThroughputTokensPerS != want.TokensPerS {
			t.Errorf("run %d is %+v, want %+v", i, r, want)
		}
		f, _, err := openFile(compiled, r.ResultsPath)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ReadResults(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Power.TS) != want.Rows || len(got.ITLS) != want.ITLCount || !slices.Equal(got.ITLS[:len(want.ITLHead)], want.ITLHead) {
			t.Errorf("%s: %d samples of power, %d latencies that begin with %v, want %d, %d, %v",
				r.ResultsPath, len(got.Power.TS), len(got.ITLS), got.ITLS[:5], want.Rows, want.ITLCount, want.ITLHead[:3])
		}
		var head [][2]float64
		for k := range want.Head {
			head = append(head, [2]float64{got.Power.TS[k], got.Power.PowerW[k]})
		}
		if !slices.Equal(head, want.Head) {
			t.Errorf("%s: the timeline begins with %v, want %v", r.ResultsPath, head, want.Head)
		}
		for what, pair := range map[string][2]float64{"times": {sum(got.Power.TS), want.SumT}, "powers": {sum(got.Power.PowerW), want.SumW}, "latencies": {sum(got.ITLS), want.ITLSum}} {
			if math.Abs(pair[0]-pair[1]) > 1e-12*pair[1] {
				t.Errorf("%s: the sum of the %s is %v, want %v", r.ResultsPath, what, pair[0], pair[1])
			}
		}
	}
}

func sum(x []float64) (s float64) {
	for _, v := range x {
		s += v
	}
	return s
}

// Templates of what is written are those that OpenG2G builds of its own files.
func TestTemplatesMatchGolden(t *testing.T) {
	golden := readJSON[map[string]map[string][]float64](t, expected, "templates_7s_skip1.json")
	dt, err := datacenter.ParseSeconds("0.1")
	if err != nil {
		t.Fatal(err)
	}
	duration, err := datacenter.ParseSeconds("7")
	if err != nil {
		t.Fatal(err)
	}
	compared := 0
	for _, name := range []string{"one_task", "other_task"} {
		for _, layout := range []workload.Layout{workload.Layout01, workload.Layout02} {
			dir := t.TempDir()
			specs := specsOf(t, name)
			ensure(t, Destination{Dir: dir, Layout: layout}, specs)
			for _, s := range specs {
				data, err := workload.LoadInferenceData(dir, []workload.DataQuery{{ModelLabel: s.ModelLabel, GPUsPerReplica: s.GPUsPerReplica}}, true)
				if err != nil {
					t.Fatal(err)
				}
				store, err := workload.NewTemplateStore(workload.Grid{DT: dt, Duration: duration, SteadySkipS: 1}, []string{s.ModelLabel}, data.Models)
				if err != nil {
					t.Fatal(err)
				}
				for _, b := range s.BatchSizes {
					want, ok := golden[name][fmt.Sprintf("%s/%d", s.ModelLabel, b)]
					if !ok {
						continue
					}
					compared++
					got, err := store.Template(0, b)
					if err != nil || !slices.Equal(got, want) {
						t.Errorf("layout %s, %s at %d: the template differs (%v)", layout, s.ModelLabel, b, err)
					}
				}
			}
		}
	}
	if compared != 18 {
		t.Errorf("%d templates were compared, want 18", compared)
	}
}

// TestGPUsWithoutPower: a GPU whose times are never those of the first one counts as 0 W, as
// with OpenG2G, which a warning says.
func TestGPUsWithoutPower(t *testing.T) {
	for series, want := range map[string]string{
		`"0": [[1000, 50], [1001, 50], [1002.9, 50]], "1": [[1000.001, 70], [1001.001, 70]]`: "a.json: GPUs [1] have no power",
		`"0": [[1000, NaN], [1001, NaN], [1002.9, NaN]]`:                                     "a.json: GPUs [0] have no power",
		`"0": [[1000, 50], [1001, 50], [1002.9, 50]], "1": [[1001, 70]]`:                     "",
	} {
		text := `{"results": [{"success": true, "itl": [0.01, 0.02, 0.03]}],
			"timeline": {"steady_state_start_time": 1000, "steady_state_end_time": 1002.9, "power": {"device_instant": {` + series + `}}}}`
		dir := benchmark(t, []row{aRow(8, "a.json")}, map[string]string{"a.json": text})
		_, warnings, err := generate(t, dir, aSpec(8))
		if err != nil {
			t.Fatal(err)
		}
		told := strings.Join(warnings, "\n")
		if strings.Contains(told, "have no power") != (want != "") || !strings.Contains(told, want) {
			t.Errorf("%s: the warnings are %q, want %q", series, told, want)
		}
	}
}
