package workload

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/treetest"
)

const goldenBenchmark = "../testdata/golden/mlenergy"

// goldenTime is what the golden manifests have.
func goldenTime() time.Time { return time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC) }

// goldenMeasured reads what OpenG2G wrote for the case.
func goldenMeasured(t *testing.T, name string) []Measured {
	t.Helper()
	dir := filepath.Join(goldenBenchmark, "expected", name)
	raw, err := os.ReadFile(filepath.Join(dir, "specs.json"))
	if err != nil {
		t.Fatal(err)
	}
	var specs []DataSpec
	if err := json.Unmarshal(raw, &specs); err != nil {
		t.Fatal(err)
	}
	var all []Measured
	for _, s := range specs {
		data, err := LoadInferenceData(dir, []DataQuery{{ModelLabel: s.ModelLabel, GPUsPerReplica: s.GPUsPerReplica}}, true)
		if err != nil {
			t.Fatal(err)
		}
		m := data.Models[0]
		if m.Logistic == nil {
			t.Fatalf("%s: the logistic fits were not read", s.ModelLabel)
		}
		all = append(all, Measured{Spec: s, Traces: m.Traces, ITL: m.ITL, Logistic: m.Logistic})
	}
	return all
}

// What is read of OpenG2G's own files is written again byte for byte.
func TestWriteDataIsOpenG2Gs(t *testing.T) {
	for _, name := range []string{"one_task", "other_task"} {
		dir := filepath.Join(t.TempDir(), "new", "data")
		if err := WriteData(dir, goldenMeasured(t, name), Layout02, WriteOptions{WrittenAt: goldenTime()}); err != nil {
			t.Fatal(err)
		}
		want := treetest.Files(t, filepath.Join(goldenBenchmark, "expected", name))
		delete(want, "specs.json")
		if len(want) == 0 {
			t.Fatal("no golden files")
		}
		if diff := cmp.Diff(want, treetest.Files(t, dir)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// What a run that was killed has left half-written goes with the next one.
func TestWriteDataTakesLeftovers(t *testing.T) {
	dir := t.TempDir()
	models := goldenMeasured(t, "other_task")
	folder := filepath.Join(dir, models[0].Spec.Hash())
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, ".trace.csv.ABCDEFGHIJKLMNOPQRSTUVWXYZ.part"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := WriteData(dir, models, Layout02, WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	if files := treetest.Files(t, folder); len(files) != 4 {
		t.Errorf("the folder has %d files, want 4", len(files))
	}
}

func TestWriteDataNamesItsWriter(t *testing.T) {
	dir := t.TempDir()
	models := goldenMeasured(t, "other_task")
	if err := WriteData(dir, models, Layout02, WriteOptions{WrittenAt: goldenTime(), AgentVersion: "1.2.3"}); err != nil {
		t.Fatal(err)
	}
	text := treetest.Files(t, dir)[models[0].Spec.Hash()+"/_manifest.json"]
	if !strings.Contains(text, `"g2g_agent_version": "1.2.3",`) {
		t.Errorf("the manifest is\n%s", text)
	}
}

func TestWriteDataV01ReadsBack(t *testing.T) {
	models := goldenMeasured(t, "one_task")
	dir := t.TempDir()
	models[0].Spec.ModelLabel = "a/b"
	if err := WriteData(dir, models, Layout01, WriteOptions{WrittenAt: goldenTime()}); err != nil {
		t.Fatal(err)
	}
	for _, m := range models {
		data, err := LoadInferenceData(dir, []DataQuery{{ModelLabel: m.Spec.ModelLabel}}, true)
		if err != nil {
			t.Fatal(err)
		}
		if len(data.Warnings) > 0 {
			t.Errorf("warnings: %q", data.Warnings)
		}
		got := data.Models[0]
		origin := cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".Origin" }, cmp.Ignore())
		if diff := cmp.Diff(m, Measured{Spec: m.Spec, Traces: got.Traces, ITL: got.ITL, Logistic: got.Logistic}, sameBits, origin); diff != "" {
			t.Errorf("%s (-want +got):\n%s", m.Spec.ModelLabel, diff)
		}
	}
	// The other way round only what is not measured any more is left, unlisted.
	if err := WriteData(dir, models[1:], Layout01, WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadInferenceData(dir, []DataQuery{{ModelLabel: "a/b"}}, true); err == nil {
		t.Error("a model of before is still there")
	}
	for name := range treetest.Files(t, dir) {
		if strings.Count(name, "/") > 1 {
			t.Errorf("the label became the path %s", name)
		}
	}
}

func TestFileNamesOfLabels(t *testing.T) {
	long := strings.Repeat("ü", 200)
	names := map[string]bool{}
	for _, label := range []string{"Llama-3.1-8B", "a/b", "a\\b", "a:b", "..", ".", "../x", long, long + "x", "a\nb"} {
		name := fileName(label)
		if names[name] || len(name) > 120 || strings.ContainsAny(name, "/\\:\n") || strings.HasPrefix(name, ".") || name == "" {
			t.Errorf("the label %q has the file name %q", label, name)
		}
		names[name] = true
	}
	if !names["Llama-3.1-8B"] {
		t.Error("a plain label does not stay as it is")
	}
}

func TestWriteDataRounded(t *testing.T) {
	dir := t.TempDir()
	m := goldenMeasured(t, "other_task")[0]
	m.Traces = map[int]*InferenceTrace{16: {TS: []float64{0, 0.1, 0.2, 3 * 0.1, 12345 * 0.1}, PowerW: []float64{1, 340.12345678, 0.0004, 1e-9, 123456.7895}, MeasuredGPUs: 1}}
	if err := WriteData(dir, []Measured{m}, Layout02, WriteOptions{Rounded: true}); err != nil {
		t.Fatal(err)
	}
	want := "batch_size,relative_time_s,power_total_W\n16,0.0,1.0\n16,0.1,340.123\n16,0.2,0.0\n16,0.3,0.0\n16,1234.5,123456.789\n"
	if got := treetest.Files(t, dir)[m.Spec.Hash()+"/trace.csv"]; got != want {
		t.Errorf("the trace is\n%s\nwant\n%s", got, want)
	}
}

func complete(dir string, spec *DataSpec) bool {
	has, _ := HasMeasurement(dir, spec)
	return has && HasLogistic(dir, spec)
}

// A run that is interrupted, or that fails, leaves nothing that looks complete.
func TestWriteDataIsCompleteOnlyAtTheEnd(t *testing.T) {
	models := goldenMeasured(t, "one_task")
	t.Run("nothing is made of what cannot be written", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "data")
		broken := slices.Clone(models)
		broken[1].Logistic = &LogisticFits{PowerW: LogisticFit{L: math.NaN()}}
		if err := WriteData(dir, broken, Layout02, WriteOptions{}); err == nil || !strings.Contains(err.Error(), "power: L: NaN is no finite number") {
			t.Errorf("the error is %v", err)
		}
		for name := range treetest.Files(t, dir) {
			if strings.HasPrefix(name, broken[1].Spec.Hash()) {
				t.Errorf("%s was left", name)
			}
		}
		if !complete(dir, &models[0].Spec) || complete(dir, &models[1].Spec) {
			t.Error("the first model must be complete, the second not")
		}
	})
	t.Run("a file in the way", func(t *testing.T) {
		dir := t.TempDir()
		if err := WriteData(dir, models, Layout02, WriteOptions{}); err != nil {
			t.Fatal(err)
		}
		before := treetest.Files(t, dir)
		fit := filepath.Join(dir, models[0].Spec.Hash(), itlFitFile)
		if err := os.Remove(fit); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(fit, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := WriteData(dir, models, Layout02, WriteOptions{AgentVersion: "new"}); err == nil || !strings.Contains(err.Error(), fit) {
			t.Errorf("the error is %v", err)
		}
		delete(before, models[0].Spec.Hash()+"/"+itlFitFile)
		if diff := cmp.Diff(before, treetest.Files(t, dir)); diff != "" {
			t.Errorf("what was there has changed (-before +after):\n%s", diff)
		}
	})
}

func TestAFailureWhileFilesAreReplaced(t *testing.T) {
	models := goldenMeasured(t, "one_task")
	dir := t.TempDir()
	if err := WriteData(dir, models[:1], Layout02, WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(dir, models[0].Spec.Hash())
	files := models[0].v02Files(WriteOptions{})
	last := &files[len(files)-1]
	write := last.write
	last.write = func(w io.Writer) error { // all is written out by now
		if err := os.Remove(filepath.Join(folder, itlFitFile)); err != nil {
			return err
		}
		if err := os.Mkdir(filepath.Join(folder, itlFitFile), 0o755); err != nil {
			return err
		}
		return write(w)
	}
	err := writeFiles(folder, files, manifestFile, logisticFitFile)
	if err == nil || !strings.Contains(err.Error(), itlFitFile) {
		t.Errorf("the error is %v", err)
	}
	if complete(dir, &models[0].Spec) || exists(filepath.Join(folder, manifestFile)) || exists(filepath.Join(folder, logisticFitFile)) {
		t.Error("half of the files are new, and it looks complete")
	}
	for name := range treetest.Files(t, folder) {
		if name != traceFile {
			t.Errorf("%s was left", name)
		}
	}
}

func TestWriteDataRefuses(t *testing.T) {
	good := func() Measured { return goldenMeasured(t, "other_task")[0] }
	for want, change := range map[string]func(*Measured){
		`model "": a measurement needs a label`: func(m *Measured) { m.Spec.ModelLabel = "" },
		`at least one GPU`:                      func(m *Measured) { m.Spec.GPUsPerReplica = 0 },
		`has 0 traces`:                          func(m *Measured) { m.Traces = nil },
		`0 ITL fits`:                            func(m *Measured) { m.ITL = nil },
		`trace too short: it has 4 times`: func(m *Measured) {
			m.Traces = map[int]*InferenceTrace{16: {TS: make([]float64, 4), PowerW: make([]float64, 4)}}
		},
		`sample 2 is +Inf W at 0 s`: func(m *Measured) {
			m.Traces = map[int]*InferenceTrace{16: {TS: make([]float64, 5), PowerW: []float64{0, 0, math.Inf(1), 0, 0}}}
		},
		`ITL fit at batch size 16: loc must be a finite number`: func(m *Measured) { m.ITL = map[int]ITLMixture{16: {Loc: -1}} },
	} {
		for _, layout := range []Layout{Layout01, Layout02} {
			dir := t.TempDir()
			m := good()
			change(&m)
			if err := WriteData(dir, []Measured{m}, layout, WriteOptions{}); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("the error is %v, want %s", err, want)
			}
			if files := treetest.Files(t, dir); len(files) > 0 {
				t.Errorf("files were made: %v", files)
			}
		}
	}
	if err := WriteData(t.TempDir(), []Measured{good()}, "0.3", WriteOptions{}); !errors.Is(err, datacenter.ErrInvalidInput) {
		t.Errorf("an unknown layout: %v", err)
	}
	if err := WriteData(t.TempDir(), nil, Layout02, WriteOptions{}); err == nil {
		t.Error("no models are written")
	}
	if err := WriteData(t.TempDir(), []Measured{good(), good()}, Layout01, WriteOptions{}); !errors.Is(err, datacenter.ErrInvalidInput) {
		t.Errorf("one label twice in one table: %v", err)
	}
}

// The directory in layout 0.1 holds the given models alone: the old traces go, and
// nothing that is not one of them.
func TestWriteDataRemovesOldTraces(t *testing.T) {
	models := goldenMeasured(t, "one_task")
	dir, outside := t.TempDir(), t.TempDir()
	if err := WriteData(dir, models, Layout01, WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{filepath.Join(dir, "traces", "mine.csv"), filepath.Join(dir, "notes.txt"), filepath.Join(outside, "x.csv")} {
		if err := os.WriteFile(file, []byte("kept"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	summary := filepath.Join(dir, tracesSummaryFile)
	raw, err := os.ReadFile(summary)
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"notes.txt", "latency_fits.csv", "traces_summary.csv", "link/x.csv", filepath.Join(outside, "x.csv"), "../" + filepath.Base(outside) + "/x.csv", ".", "gone.csv"} {
		raw = fmt.Appendf(raw, "z,1,%d,%s\n", i+1, name)
	}
	if err := os.WriteFile(summary, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := WriteData(dir, models[:1], Layout01, WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	fresh := t.TempDir()
	if err := WriteData(fresh, models[:1], Layout01, WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	want := treetest.Files(t, fresh)
	want["traces/mine.csv"], want["notes.txt"] = "kept", "kept"
	if err := os.Remove(filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, treetest.Files(t, dir)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if !exists(filepath.Join(outside, "x.csv")) {
		t.Error("a file outside the directory is gone")
	}
}

// A full disk is told, with the file's name, and leaves what was there.
func TestWriteDataOnAFullDisk(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("no /dev/full here")
	}
	m := goldenMeasured(t, "other_task")[0]
	dir := t.TempDir()
	folder := filepath.Join(dir, m.Spec.Hash())
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/full", filepath.Join(folder, itlFitFile)); err != nil {
		t.Fatal(err)
	}
	err := WriteData(dir, []Measured{m}, Layout02, WriteOptions{})
	if err == nil || !strings.Contains(err.Error(), itlFitFile) || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("the error is %v", err)
	}
	if exists(filepath.Join(folder, traceFile)) || exists(filepath.Join(folder, manifestFile)) {
		t.Error("files were left")
	}
}

func TestLogisticFilesAreChecked(t *testing.T) {
	m := goldenMeasured(t, "other_task")[0]
	dir := t.TempDir()
	if err := WriteData(dir, []Measured{m}, Layout02, WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, m.Spec.Hash(), logisticFitFile)
	query := []DataQuery{{ModelLabel: m.Spec.ModelLabel, GPUsPerReplica: 1}}
	for text, want := range map[string]string{
		`{`:                         "unexpected end of JSON input",
		`{"schema": "logistic_v2"}`: `schema is "logistic_v2", want "logistic_v1"`,
		`{"schema": "logistic_v1", "latency": {"L": 1, "x0": 1, "b0": 1, "k": 1}, "power": {"L": 1, "x0": 2, "b0": 3, "k": null}}`: "power.k is missing",
		`{"schema": "logistic_v1", "power": {"L": "x"}}`: "power: want a finite number, got string",
	} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := LoadInferenceData(dir, query, true)
		var fileErr *FileError
		if !errors.As(err, &fileErr) || fileErr.File != file || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: the error is %v, want %s", text, err, want)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	data, err := LoadInferenceData(dir, query, true)
	if err != nil || data.Models[0].Logistic != nil {
		t.Errorf("without the file: %v, %v", data, err)
	}

	dir = t.TempDir()
	if err := WriteData(dir, []Measured{m}, Layout01, WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	head := "model_label,metric,L,x0,k,b0\n"
	row := func(metric string) string { return fmt.Sprintf("m,%s,1,2,3,4\n", metric) }
	for text, want := range map[string]string{
		head + row("power") + row("latency"):              `has no fit of throughput for model "m"`,
		head + row("power") + row("power"):                "logistic_fits.csv:3: a second fit of",
		head + row("energy"):                              "logistic_fits.csv:2: metric is",
		head + "m,power,1,2,nan,4\n":                      "logistic_fits.csv:2: k: ",
		"model_label,metric,L,x0,k\n" + "m,power,1,2,3\n": `column "b0" is missing`,
	} {
		if err := os.WriteFile(filepath.Join(dir, logisticFitsFile), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadInferenceData(dir, query, true); !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: the error is %v, want %s", text, err, want)
		}
	}
}
