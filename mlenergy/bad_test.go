package mlenergy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/parquet-go/parquet-go"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/workload"
)

// row is a row of the table as pandas writes it; pointers are columns with nulls.
type row struct {
	Task        *string  `parquet:"task,optional,dict"`
	ModelID     *string  `parquet:"model_id,optional"`
	GPUModel    *string  `parquet:"gpu_model,optional,dict"`
	NumGPUs     *float64 `parquet:"num_gpus,optional"`
	MaxNumSeqs  *int64   `parquet:"max_num_seqs,optional"`
	ResultsPath *string  `parquet:"results_path,optional"`
	PowerW      *float64 `parquet:"avg_power_watts,optional"`
	ITLMS       *float32 `parquet:"mean_itl_ms,optional"`
	TokensPerS  *int32   `parquet:"output_throughput_tokens_per_sec,optional"`
	Precision   *string  `parquet:"weight_precision,optional"`
	Unknown     []string `parquet:"unknown,list"`
}

func aRow(batchSize int64, path string) row {
	return row{
		Task: new("chat"), ModelID: new("org/m"), GPUModel: new("H100"), NumGPUs: new(1.0), MaxNumSeqs: &batchSize,
		ResultsPath: &path, PowerW: new(300.0 + float64(batchSize)), ITLMS: new(float32(12.5)), TokensPerS: new(int32(100 * batchSize)),
	}
}

func aSpec(batchSizes ...int) workload.DataSpec {
	return workload.DataSpec{
		ModelLabel: "m", ModelID: "org/m", GPUModel: "H100", Task: "chat", Precision: "bfloat16", GPUsPerReplica: 1, TensorParallel: 1,
		ExpertParallel: 1, ITLDeadlineS: 0.1, BatchSizes: batchSizes, FeasibleBatchSizes: batchSizes,
	}
}

// results is a results.json of 30 samples of power, 0.1 s apart.
func aResult(watts float64) string {
	var series []string
	for i := range 30 {
		series = append(series, fmt.Sprintf("[%v, %v]", 1000+float64(i)*0.1, watts))
	}
	return `{"completed": 1, "x": NaN, "results": [{"success": true, "itl": [0, 0.01, 0.02, 0, 0.03, 0.04, 0.05, 0.06]}],
		"timeline": {"steady_state_start_time": 1000, "steady_state_end_time": 1002.9, "power": {"device_instant": {"0": [` + strings.Join(series, ",") + `]}}}}`
}

// benchmark is a compiled directory.
func benchmark[R any](t testing.TB, rows []R, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	var table bytes.Buffer
	w := parquet.NewGenericWriter[R](&table)
	if _, err := w.Write(rows); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(runsFile, table.String())
	for name, text := range files {
		write(name, text)
	}
	return dir
}

// generate makes the specs' data of the directory.
func generate(t testing.TB, from string, specs ...workload.DataSpec) (out string, warnings []string, err error) {
	t.Helper()
	out = filepath.Join(t.TempDir(), "out")
	g := Generator{Source: Directory(from)}
	_, err = g.Ensure(t.Context(), Destination{Dir: out, Layout: workload.Layout02}, specs, func(w string) { warnings = append(warnings, w) })
	return out, warnings, err
}

// Tables with nulls, plain and dictionary texts, numbers of all widths.
func TestTableOfAnyKind(t *testing.T) {
	rows := []row{aRow(16, "b.json"), aRow(8, "a.json"), aRow(8, "c.json"), {}}
	noTask := aRow(8, "none.json")
	noTask.Task = nil
	half := aRow(8, "none.json")
	half.NumGPUs = new(1.5)
	rows = append(rows, noTask, half)
	rows[1].Precision, rows[2].Precision = new("fp8"), new("bfloat16")
	from := benchmark(t, rows, map[string]string{"a.json": aResult(300), "b.json": aResult(400), "c.json": aResult(320)})
	out, warnings, err := generate(t, from, aSpec(8, 16, 32))
	if err != nil {
		t.Fatal(err)
	}
	data, err := workload.LoadInferenceData(out, []workload.DataQuery{{ModelLabel: "m", GPUsPerReplica: 1}}, true)
	if err != nil {
		t.Fatal(err)
	}
	traces := data.Models[0].Traces
	if len(traces) != 2 || traces[8].PowerW[3] != 310 || traces[16].PowerW[3] != 400 {
		t.Errorf("the traces are %v", traces)
	}
	all := strings.Join(warnings, "\n")
	for _, want := range []string{"no runs at batch sizes [32]", `runs with different weight_precision are merged: "fp8", "bfloat16", ""`} {
		if !strings.Contains(all, want) {
			t.Errorf("the warnings are %q, want %q", warnings, want)
		}
	}
}

// TestBadTables is the list of what may be wrong with a table. It is long because each
// entry makes a table of its own.
func TestBadTables(t *testing.T) {
	type lacking struct {
		Task    string `parquet:"task"`
		ModelID string `parquet:"model_id"`
	}
	type wrong struct {
		Task        string  `parquet:"task"`
		ModelID     string  `parquet:"model_id"`
		GPUModel    string  `parquet:"gpu_model"`
		NumGPUs     int32   `parquet:"num_gpus"`
		MaxNumSeqs  string  `parquet:"max_num_seqs"`
		ResultsPath string  `parquet:"results_path"`
		PowerW      float64 `parquet:"avg_power_watts"`
		ITLMS       float64 `parquet:"mean_itl_ms"`
		TokensPerS  float64 `parquet:"output_throughput_tokens_per_sec"`
	}
	type lists struct {
		Task []string `parquet:"task"`
	}
	good := benchmark(t, []row{aRow(8, "a.json")}, map[string]string{"a.json": aResult(300)})
	raw, err := os.ReadFile(filepath.Join(good, filepath.FromSlash(runsFile)))
	if err != nil {
		t.Fatal(err)
	}
	damaged := func(raw []byte) string {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "runs"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.FromSlash(runsFile)), raw, 0o644); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	noPath := aRow(8, "")
	noPath.ResultsPath = nil
	noPower := aRow(16, "a.json")
	noPower.PowerW = nil
	files := map[string]string{"a.json": aResult(300)}
	for want, from := range map[string]string{
		"llm.parquet: no such file":                                   t.TempDir(),
		"the file does not end as a Parquet file":                     damaged(raw[:len(raw)-9]),
		"too short to be a Parquet file":                              damaged(nil),
		`column "gpu_model" is missing; there are "task", "model_id"`: benchmark(t, []lacking{{"chat", "org/m"}}, nil),
		`column "max_num_seqs": row 1: the value is a BYTE_ARRAY`:     benchmark(t, []wrong{{MaxNumSeqs: "8"}}, nil),
		`column "task" holds lists`:                                   benchmark(t, []lists{{[]string{"chat"}}}, nil),
		`row 1, column "results_path": is empty`:                      benchmark(t, []row{noPath}, nil),
		`row 2, column "avg_power_watts": is null, want a number`:     benchmark(t, []row{aRow(8, "a.json"), noPower}, files),
		`llm.parquet: has no rows`:                                    benchmark(t, []row{}, files),
		`leads out of the directory`:                                  benchmark(t, []row{aRow(8, "../a.json")}, files),
		`the path "/etc/passwd" leads out`:                            benchmark(t, []row{aRow(8, "/etc/passwd")}, files),
		`none.json: no such file or directory (the results of row 1`:  benchmark(t, []row{aRow(8, "none.json")}, files),
		`runs: is no file`:                                            benchmark(t, []row{aRow(8, "runs")}, files),
		`task "chat", num_gpus (gpus_per_replica) 1, max_num_seqs (batch_sizes) [8 16]; of this model_id it has the gpu_model "H100", task "chat", num_gpus [1], max_num_seqs [4]`: benchmark(t, []row{aRow(4, "a.json")}, files),
		`it has no run of this model_id`: benchmark(t, []row{{Task: new("chat")}}, files),
	} {
		out, _, err := generate(t, from, aSpec(8, 16))
		if !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), from) {
			t.Errorf("the error is %v, want %s", err, want)
		}
		if files, err := filepath.Glob(out + "/*/*"); len(files) > 0 || err != nil {
			t.Errorf("%s: %q was written", want, files)
		}
	}
}

// Damaged in any byte, the table is an error or another table, and never a panic.
func TestDamagedTables(t *testing.T) {
	var table bytes.Buffer
	w := parquet.NewGenericWriter[row](&table, parquet.Compression(&parquet.Snappy))
	for i := range int64(20) {
		if _, err := w.Write([]row{aRow(i, fmt.Sprintf("%d.json", i))}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	good := table.Bytes()
	failed := 0
	for i := range good {
		raw := slices.Clone(good)
		raw[i] ^= []byte{0x01, 0x80, 0xff}[i%3]
		if _, err := readRuns(t.Context(), bytes.NewReader(raw), int64(len(raw))); err != nil {
			failed++
		}
	}
	if failed < 100 {
		t.Errorf("%d damages were found", failed)
	}
}

func TestBadResults(t *testing.T) {
	timeline := func(power string) string {
		return `{"results": [{"success": true, "itl": [0.1]}], "timeline": {"steady_state_start_time": 1, "steady_state_end_time": 2, "power": ` + power + `}}`
	}
	for text, want := range map[string]string{
		``:              "byte 1: the file ends in the middle",
		`[]`:            "byte 1: want an object, got an array",
		`{"a": 1`:       "byte 8: the file ends in the middle: it is cut short",
		`{"a": 1} x`:    `byte 10: there is 'x' behind the end`,
		`{"a": 1,}`:     "byte 9: want the name of a member",
		`{"a" 1}`:       "byte 6: want : behind the name",
		`{"a": [1 2]}`:  `byte 10: want , or ], got '2'`,
		`{"a": tru}`:    `byte 7: want a value, got "tru"`,
		`{"a": 01}`:     `byte 7: want a value, got "01"`,
		`{"a": "x`:      "the file ends in the middle",
		`{"a": "x\`:     "the file ends in the middle",
		"\xff\xfe{\x00": "UTF-16",
		`{"a": ` + strings.Repeat("[", 1000) + `}`:   "nest more than 200 deep",
		`{"a": ` + strings.Repeat("1", 200000) + `}`: "a number of more than 4096 bytes",
		`{"` + strings.Repeat("a", 200000) + `": 1}`: "a name of more than 4096 bytes",
		`{}`:               "results: no successful request has an inter-token latency",
		`{"results": 5}`:   "results: byte 13: want an array, got a number",
		`{"results": [7]}`: "results: byte 14: want an object, got a number",
		`{"results": [{"success": true, "itl": [0, 0]}, {"success": false, "itl": [1]}, {"itl": [1]}]}`:                             "results: no successful request",
		`{"results": [{"success": true, "itl": [0.1, null]}]}`:                                                                      "results: itl: byte 45: want a number, got null",
		`{"results": [{"success": true, "itl": ["1"]}]}`:                                                                            "results: itl: byte 40: want a number, got a text",
		`{"results": [{"success": true, "itl": [0.1]}]}`:                                                                            "timeline.steady_state_start_time and steady_state_end_time: the run has no steady state",
		`{"results": [{"success": true, "itl": [0.1]}], "timeline": null}`:                                                          "want an object, got null",
		`{"results": [{"success": true, "itl": [0.1]}], "timeline": {"steady_state_start_time": null, "steady_state_end_time": 2}}`: "no steady state",
		`{"results": [{"success": true, "itl": [0.1]}], "timeline": {"steady_state_start_time": "x"}}`:                              "timeline.steady_state_start_time: byte 88: want a number, got a text",
		timeline(`{}`):                                                 "timeline.power.device_instant is missing",
		timeline(`null`):                                               "timeline.power: byte",
		timeline(`{"device_instant": {}}`):                             "timeline.power.device_instant has no GPU",
		timeline(`{"device_instant": {"a": []}}`):                      `"a" is not the number of a GPU`,
		timeline(`{"device_instant": {"02": []}}`):                     `"02" is not the number of a GPU`,
		timeline(`{"device_instant": {"0": [[1]]}}`):                   "GPU 0: byte",
		timeline(`{"device_instant": {"0": [[1,2,3]]}}`):               "want [time, watts], got more numbers",
		timeline(`{"device_instant": {"3": [[0.9,7]], "4": [[1,2]]}}`): "GPU 3 has no timeline samples in the steady state, from 1 to 2",
	} {
		_, err := ReadResults(iotest.HalfReader(strings.NewReader(text)))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: the error is %v, want %s", text, err, want)
		}
		_, byByte := ReadResults(iotest.OneByteReader(strings.NewReader(text)))
		if fmt.Sprint(byByte) != fmt.Sprint(err) {
			t.Errorf("%.80s: read by the byte the error is %v, else %v", text, byByte, err)
		}
	}
	broken := errors.New("the disk is gone")
	if _, err := ReadResults(io.MultiReader(strings.NewReader(`{"a": [1,`), iotest.ErrReader(broken))); !errors.Is(err, broken) {
		t.Errorf("the error is %v", err)
	}
}

// Every beginning of a file is an error, wherever it is cut.
func TestCutResults(t *testing.T) {
	text := aResult(300)
	for i := range len(text) {
		if _, err := ReadResults(strings.NewReader(text[:i])); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
}

func TestBadRuns(t *testing.T) {
	short := strings.ReplaceAll(aResult(300), `"steady_state_end_time": 1002.9`, `"steady_state_end_time": 1000.25`)
	one := strings.ReplaceAll(aResult(300), `"steady_state_end_time": 1002.9`, `"steady_state_end_time": 1000.05`)
	for want, text := range map[string]string{
		`m/a.json: byte 3: want the name of a member`:                                             `{ 5`,
		`model "m", batch size 8 (row 1): trace too short: the steady states give 3`:              short,
		`model "m": no run has two power samples in its steady state`:                             one,
		`m/a.json: timeline.power.device_instant: the GPUs' power is +Inf W `:                     strings.Replace(aResult(300), "[1000.5, 300]", "[1000.5, Infinity]", 1),
		`m/a.json: timeline.power.device_instant: GPU 0 has a sample 9.9999999999999e+16 s after`: strings.NewReplacer(`"steady_state_end_time": 1002.9`, `"steady_state_end_time": Infinity`, "[1000.5", "[1e17").Replace(aResult(300)),
	} {
		from := benchmark(t, []row{aRow(8, "m/a.json")}, map[string]string{"m/a.json": text})
		out, _, err := generate(t, from, aSpec(8))
		if !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %v, want %s", err, want)
		}
		if _, err := os.Stat(out); err == nil {
			t.Error("something was written")
		}
	}
	// A batch size without a trace is left out, its latencies are not.
	from := benchmark(t, []row{aRow(8, "a.json"), aRow(16, "b.json")}, map[string]string{"a.json": aResult(300), "b.json": one})
	out, warnings, err := generate(t, from, aSpec(8, 16))
	if err != nil || !strings.Contains(strings.Join(warnings, "\n"), "no run at batch size 16 (row 2) has two power samples") {
		t.Fatalf("%v, with %q", err, warnings)
	}
	data, err := workload.LoadInferenceData(out, []workload.DataQuery{{ModelLabel: "m", GPUsPerReplica: 1}}, true)
	if err != nil || len(data.Models[0].Traces) != 1 || len(data.Models[0].ITL) != 2 {
		t.Errorf("%v: %v", err, data)
	}
}

func TestReadRunsEndsWithItsContext(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if _, err := ReadRuns(ctx, Directory(compiled)); !errors.Is(err, context.Canceled) || errors.Is(err, datacenter.ErrInvalidInput) {
		t.Errorf("the error is %v", err)
	}
}

func TestGenerateEndsWithItsContext(t *testing.T) {
	from := benchmark(t, []row{aRow(8, "a.json")}, map[string]string{"a.json": aResult(300)})
	ctx, stop := context.WithCancel(t.Context())
	stop()
	g := Generator{Source: Directory(from)}
	out := filepath.Join(t.TempDir(), "out")
	if _, err := g.Ensure(ctx, Destination{Dir: out, Layout: workload.Layout02}, []workload.DataSpec{aSpec(8)}, func(string) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v", err)
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("something was written")
	}
}
