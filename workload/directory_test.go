package workload

import (
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	goldenV02    = "../testdata/golden/data_0.2"
	exampleData  = "../configs/example-data"
	traceHeader  = "relative_time_s,power_total_W"
	sumHeader    = "model_label,num_gpus,max_num_seqs,trace_file"
	fitsHeader   = "model_label,max_num_seqs,itl_dist,itl_mix_loc,itl_mix_pi_steady,itl_mix_sigma_steady,itl_mix_scale_steady,itl_mix_pi_stall,itl_mix_sigma_stall,itl_mix_scale_stall"
	fit          = `{"loc":0.01,"pi_steady":0.9,"sigma_steady":0.1,"scale_steady":0.02,"pi_stall":0.1,"sigma_stall":0.4,"scale_stall":0.03}`
	measureHead  = "batch_size,relative_time_s,power_total_W"
	manifestText = `{"openg2g_version": "0.2.0", "spec": {"model_label": "m", "model_id": "org/m", "gpu_model": "H100", "task": "chat", "precision": "fp8", "gpus_per_replica": 2, "tensor_parallel": 1, "expert_parallel": 1, "batch_sizes": [8], "fit_exclude_batch_sizes": []}}`
)

// v01 is a small valid directory of layout 0.1.
func v01() map[string]string {
	return map[string]string{
		"traces_summary.csv": sumHeader + "\nm,2,8,traces/t.csv\n",
		"traces/t.csv":       rows(traceHeader, "%d,200", 5),
		"latency_fits.csv":   fitsHeader + "\nm,8,lognormal_mixture_2,0.01,0.9,0.1,0.02,0.1,0.4,0.03\n",
	}
}

// v02 is a small valid directory of layout 0.2.
func v02() map[string]string {
	return map[string]string{
		"h1/trace.csv":      rows(measureHead, "8,%d,200", 5),
		"h1/itl_fit.json":   `{"schema": "itl_fit.lognormal_mixture_2", "model_label": "m", "per_batch": {"8": ` + fit + `}}`,
		"h1/_manifest.json": manifestText,
	}
}

func query() DataQuery { return DataQuery{ModelLabel: "m", ModelID: "org/m", GPUsPerReplica: 2} }

func TestBothLayoutsLoad(t *testing.T) {
	wantFit := ITLMixture{0.01, 0.9, 0.1, 0.02, 0.1, 0.4, 0.03}
	for name, files := range map[string]map[string]string{
		"0.1": v01(), "0.2": v02(),
		"0.2 below specs": {"specs/h1/trace.csv": v02()["h1/trace.csv"], "specs/h1/itl_fit.json": v02()["h1/itl_fit.json"], "specs/h1/_manifest.json": manifestText},
	} {
		for _, itl := range []bool{true, false} {
			got, err := LoadInferenceData(folder(t, files), []DataQuery{query()}, itl)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			trace := got.Models[0].Traces[8]
			if len(got.Models) != 1 || len(got.Models[0].Traces) != 1 || trace == nil || len(got.Warnings) != 0 {
				t.Fatalf("%s: the data is %+v", name, got)
			}
			if trace.MeasuredGPUs != 2 || !slices.Equal(trace.TS, []float64{0, 1, 2, 3, 4}) || !slices.Equal(trace.PowerW, []float64{200, 200, 200, 200, 200}) {
				t.Errorf("%s: the trace is %+v", name, trace)
			}
			want := map[int]ITLMixture{8: wantFit}
			if !itl {
				want = nil
			}
			if diff := cmp.Diff(want, got.Models[0].ITL); diff != "" {
				t.Errorf("%s, itl %v: fits (-want +got):\n%s", name, itl, diff)
			}
		}
	}
}

// It is long because it is one table.
func TestBadDirectories(t *testing.T) {
	const summary, trace, fits, measured = "traces_summary.csv", "traces/t.csv", "latency_fits.csv", "h1/trace.csv"
	summaryWith := func(lines string) map[string]string { return with(v01(), summary, sumHeader+"\n"+lines+"\n") }
	traceWith := func(text string) map[string]string { return with(v01(), trace, text) }
	fitsWith := func(line string) map[string]string { return with(v01(), fits, fitsHeader+"\n"+line+"\n") }
	rowsWith := func(third string) map[string]string {
		return traceWith(traceHeader + "\n0,1\n1,1\n" + third + "\n3,1\n4,1\n")
	}
	jsonWith := func(perBatch string) map[string]string {
		return with(v02(), "h1/itl_fit.json", "{\n\"schema\": \"itl_fit.lognormal_mixture_2\",\n\"per_batch\": "+perBatch+"\n}")
	}
	number := func(text string) string {
		return fmt.Sprintf("DIR/traces/t.csv:4: power_total_W: %q is not a finite number", text)
	}
	tests := []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"neither layout", map[string]string{"readme": ""}, "DIR: is not an OpenG2G data directory: it has neither traces_summary.csv (0.1) nor HASH/trace.csv or specs/HASH/trace.csv (0.2)"},
		{"both layouts", with(v01(), measured, v02()[measured]), "DIR: holds both OpenG2G layouts, DIR/traces_summary.csv and DIR/h1/trace.csv: name the folder of the one you mean"},

		{"empty summary", with(v01(), summary, ""), "DIR/traces_summary.csv: is empty; want a header with the columns model_label, num_gpus, max_num_seqs, trace_file"},
		{"summary with a header only", with(v01(), summary, sumHeader), `DIR/traces_summary.csv: has no traces of model "m"; it has none`},
		{"missing column", with(v01(), summary, "model_label,max_num_seqs,trace_file\nm,8,traces/t.csv\n"), `DIR/traces_summary.csv:1: column "num_gpus" is missing; the columns are model_label, max_num_seqs, trace_file`},
		{"column twice", with(v01(), summary, "num_gpus,"+sumHeader+"\n2,m,2,8,traces/t.csv\n"), `DIR/traces_summary.csv:1: column "num_gpus" stands there twice`},
		{"another model", summaryWith("n,2,8,traces/t.csv\nk,2,8,traces/t.csv"), `DIR/traces_summary.csv: has no traces of model "m"; it has "k", "n"`},
		{"no GPUs", summaryWith("m,0,8,traces/t.csv"), `DIR/traces_summary.csv:2: num_gpus: "0" is not a whole number above 0`},
		{"one and a half GPUs", summaryWith("m,1.5,8,traces/t.csv"), `DIR/traces_summary.csv:2: num_gpus: "1.5" is not a whole number above 0`},
		{"negative GPUs", summaryWith("m,-1,8,traces/t.csv"), `DIR/traces_summary.csv:2: num_gpus: "-1" is not a whole number above 0`},
		{"too many GPUs", summaryWith("m,1e30,8,traces/t.csv"), `DIR/traces_summary.csv:2: num_gpus: "1e30" is not a whole number above 0`},
		{"batch size 0", summaryWith("m,2,0,traces/t.csv"), `DIR/traces_summary.csv:2: max_num_seqs: "0" is not a whole number above 0`},
		{"an error in a model not asked for", summaryWith("m,2,8,traces/t.csv\nn,2,x,traces/t.csv"), `DIR/traces_summary.csv:3: max_num_seqs: "x" is not a finite number`},
		{"a trace twice", summaryWith("m,2,8,traces/t.csv\nm,2,16,traces/t.csv\nm,2,8,traces/t.csv"), `DIR/traces_summary.csv:4: a second trace for model "m" at batch size 8; the first is in line 2`},
		{"no trace file named", summaryWith("m,2,8, "), "DIR/traces_summary.csv:2: trace_file is empty"},
		{"trace file missing", with(v01(), trace, "-"), "DIR/traces_summary.csv:2: trace_file: DIR/traces/t.csv does not exist"},
		{"trace file is a folder", summaryWith("m,2,8,traces"), "DIR/traces: is a directory"},
		{"fewer fields", summaryWith("m,2,8"), "DIR/traces_summary.csv:2: has 3 fields, the header has 4"},

		{"empty trace", traceWith(""), "DIR/traces/t.csv: is empty; want a header with the columns relative_time_s, power_total_W"},
		{"trace with a header only", traceWith(traceHeader + "\n"), "DIR/traces/t.csv: has 0 samples, a trace needs at least 5"},
		{"four samples", traceWith(rows(traceHeader, "%d,1", 4)), "DIR/traces/t.csv: has 4 samples, a trace needs at least 5"},
		{"no number", rowsWith("2,many"), number("many")},
		{"nothing", rowsWith("2,"), number("")},
		{"nan", rowsWith("2,nan"), number("nan")},
		{"inf", rowsWith("2,inf"), number("inf")},
		{"infinite by size", rowsWith("2,1e999"), number("1e999")},
		{"hexadecimal", rowsWith("2,0x10"), number("0x10")},
		{"underscores", rowsWith("2,1_000"), number("1_000")},
		{"only a sign", rowsWith("2,-"), number("-")},
		{"a bad time", rowsWith("NaN,1"), `DIR/traces/t.csv:4: relative_time_s: "NaN" is not a finite number`},
		{"more fields", rowsWith("2,1,1"), "DIR/traces/t.csv:4: has 3 fields, the header has 2"},
		{"unclosed quote", rowsWith(`2,"1`), `DIR/traces/t.csv:4: extraneous or missing " in quoted-field`},
		{"stray quote", rowsWith(`2,1"`), `DIR/traces/t.csv:4: bare " in non-quoted-field`},
		{"lines counted with blank ones", traceWith(traceHeader + "\n\n0,1\n\n1,x\n"), `DIR/traces/t.csv:5: power_total_W: "x" is not a finite number`},

		{"no fits", with(v01(), fits, "-"), "DIR/latency_fits.csv: no such file or directory"},
		{"no rows of fits", with(v01(), fits, fitsHeader), "DIR/latency_fits.csv: has no rows"},
		{"no fits of the model", fitsWith("n,8,lognormal_mixture_2,0,1,1,1,0,1,1"), `DIR/latency_fits.csv: has no ITL fits of model "m"; it has "n"`},
		{"another distribution", fitsWith("m,8,gamma,0,1,1,1,0,1,1"), `DIR/latency_fits.csv:2: itl_dist is "gamma", want "lognormal_mixture_2"`},
		{"negative parameter", fitsWith("m,8,lognormal_mixture_2,0,1,-1,1,0,1,1"), "DIR/latency_fits.csv:2: itl_mix_sigma_steady must be a finite number >= 0, got -1"},
		{"weights 0", fitsWith("m,8,lognormal_mixture_2,0,0,1,1,0,1,1"), "DIR/latency_fits.csv:2: itl_mix_pi_steady and itl_mix_pi_stall are both 0; one must be above 0"},
		{"parameter nan", fitsWith("m,8,lognormal_mixture_2,0,1,nan,1,0,1,1"), `DIR/latency_fits.csv:2: itl_mix_sigma_steady: "nan" is not a finite number`},
		{"parameter missing", fitsWith("m,8,lognormal_mixture_2,0,1,,1,0,1,1"), `DIR/latency_fits.csv:2: itl_mix_sigma_steady: "" is not a finite number`},
		{"fit twice", fitsWith("m,8,lognormal_mixture_2,0,1,1,1,0,1,1\nm,8.0,lognormal_mixture_2,0,1,1,1,0,1,1"), `DIR/latency_fits.csv:3: a second fit for model "m" at batch size 8`},
		{"batch size of a fit", fitsWith("m,-8,lognormal_mixture_2,0,1,1,1,0,1,1"), `DIR/latency_fits.csv:2: max_num_seqs: "-8" is not a whole number above 0`},
		{"fits with a column missing", with(v01(), fits, strings.Replace(fitsHeader, "itl_dist,", "", 1)), `DIR/latency_fits.csv:1: column "itl_dist" is missing; the columns are ` + strings.ReplaceAll(strings.Replace(fitsHeader, "itl_dist,", "", 1), ",", ", ")},
		{"manifest of 0.1", with(v01(), "_manifest.json", "{\n,}"), "DIR/_manifest.json:2: invalid character ',' looking for beginning of object key string"},

		{"measurement with a header only", with(v02(), measured, measureHead), "DIR/h1/trace.csv: has no rows"},
		{"too few samples of one batch size", with(v02(), measured, v02()[measured]+"16,0,1\n"), "DIR/h1/trace.csv (batch size 16): has 1 samples, a trace needs at least 5"},
		{"batch size 0 measured", with(v02(), measured, measureHead+"\n0,0,1\n"), `DIR/h1/trace.csv:2: batch_size: "0" is not a whole number above 0`},
		{"broken manifest", with(v02(), "h1/_manifest.json", "{\n\"spec\": {\n]"), "DIR/h1/_manifest.json:3: invalid character ']' looking for beginning of object key string"},
		{"a manifest's wrong type", with(v02(), "h1/_manifest.json", "{\n\"spec\": {\n\"gpus_per_replica\": \"two\"}}"), "DIR/h1/_manifest.json:3: spec.gpus_per_replica: want a whole number, got string"},
		{"GPUs per replica", with(v02(), "h1/_manifest.json", strings.Replace(manifestText, `"gpus_per_replica": 2`, `"gpus_per_replica": 4`, 1)), `DIR/h1/_manifest.json: model "m" was measured with gpus_per_replica 4, the config says 2`},
		{"no fit", with(v02(), "h1/itl_fit.json", "-"), "DIR/h1/itl_fit.json: no such file or directory"},
		{"empty fit", with(v02(), "h1/itl_fit.json", ""), "DIR/h1/itl_fit.json:1: unexpected end of JSON input"},
		{"wrong schema", with(v02(), "h1/itl_fit.json", `{"schema": "x"}`), `DIR/h1/itl_fit.json: schema is "x", want "itl_fit.lognormal_mixture_2"`},
		{"no batch sizes", jsonWith("{}"), "DIR/h1/itl_fit.json: per_batch is empty"},
		{"batch size no number", jsonWith(`{"x": ` + fit + `}`), `DIR/h1/itl_fit.json: per_batch: "x" is not a batch size`},
		{"batch size negative", jsonWith(`{"-8": ` + fit + `}`), `DIR/h1/itl_fit.json: per_batch: "-8" is not a batch size`},
		{"batch size in another spelling", jsonWith(`{"08": ` + fit + `, "8": ` + fit + `}`), `DIR/h1/itl_fit.json: per_batch: "08" is not a batch size`},
		{"JSON parameter missing", jsonWith(`{"8": ` + strings.Replace(fit, `"loc":0.01,`, "", 1) + `}`), "DIR/h1/itl_fit.json: per_batch.8.loc is missing"},
		{"JSON parameter null", jsonWith(`{"8": ` + strings.Replace(fit, "0.4", "null", 1) + `}`), "DIR/h1/itl_fit.json: per_batch.8.sigma_stall is missing"},
		{"JSON parameter negative", jsonWith(`{"8": ` + strings.Replace(fit, "0.4", "-0.4", 1) + `}`), "DIR/h1/itl_fit.json: per_batch.8.sigma_stall must be a finite number >= 0, got -0.4"},
		{"JSON weights 0", jsonWith(`{"8": ` + strings.Replace(strings.Replace(fit, "0.9", "0", 1), `"pi_stall":0.1`, `"pi_stall":0`, 1) + `}`), "DIR/h1/itl_fit.json: per_batch.8.pi_steady and per_batch.8.pi_stall are both 0; one must be above 0"},
		{"JSON parameter NaN", jsonWith(`{"8": ` + strings.Replace(fit, "0.4", "NaN", 1) + `}`), "DIR/h1/itl_fit.json:3: invalid character 'N' looking for beginning of value"},
		{"JSON parameter a text", jsonWith(`{"8": ` + strings.Replace(fit, "0.4", `"NaN"`, 1) + `}`), "DIR/h1/itl_fit.json:3: per_batch: want a finite number, got string"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := folder(t, test.files)
			data, err := LoadInferenceData(dir, []DataQuery{query()}, true)
			if data != nil {
				t.Errorf("data came with the error: %+v", data)
			}
			wantInvalid(t, err, dir, test.want)
		})
	}
}

func TestBadPaths(t *testing.T) {
	dir := folder(t, map[string]string{"file": ""})
	_, err := LoadInferenceData(filepath.Join(dir, "none"), nil, true)
	wantInvalid(t, err, dir, "DIR/none: no such file or directory")
	_, err = LoadInferenceData(filepath.Join(dir, "file"), nil, true)
	wantInvalid(t, err, dir, "DIR/file: is not a directory")
}

func TestTraceWithoutTimeSpan(t *testing.T) {
	dir := folder(t, with(v01(), "traces/t.csv", rows(traceHeader, "7,%d", 6)))
	data, err := LoadInferenceData(dir, []DataQuery{query()}, false)
	if err != nil {
		t.Fatal(err)
	}
	_, err = NewTemplateStore(Grid{DT: seconds(t, "1"), Duration: seconds(t, "9")}, []string{"m"}, data.Models)
	const want = "invalid input: DIR/traces/t.csv: the trace has no time span: all its times are 7"
	if err == nil || strings.ReplaceAll(err.Error(), dir, "DIR") != want {
		t.Errorf("the error is %v, want %s", err, want)
	}
}

// The same samples read the same however the file spells them.
func TestSpellingsOfATrace(t *testing.T) {
	const plain = traceHeader + "\n0,1\n1,-5\n1,3\n2,4\n3,5.5\n"
	want := &InferenceTrace{TS: []float64{0, 1, 1, 2, 3}, PowerW: []float64{1, -5, 3, 4, 5.5}, MeasuredGPUs: 2}
	for name, text := range map[string]string{
		"plain":               plain,
		"byte order mark":     "\xef\xbb\xbf" + plain,
		"CRLF":                strings.ReplaceAll(plain, "\n", "\r\n"),
		"blank lines":         "\n" + strings.ReplaceAll(plain, "\n", "\n\n"),
		"blanks":              "relative_time_s , power_total_W\n 0 , 1\n1,\t-5 \n1,3\n2,4\n3,5.5",
		"exponents and signs": traceHeader + "\n0e9,+1\n1,-5.0\n1.,3\n2,.4e1\n30E-1,5.5\n",
		"quotes":              traceHeader + "\n\"0\",1\n1,-5\n1,3\n2,4\n3,5.5\n",
		"other columns":       "x,power_total_W,y,relative_time_s\n,1,a,0\n,-5,b,1\n,3,c,1\n,4,nan,2\n,5.5,,3\n",
		"unsorted, stable":    traceHeader + "\n2,4\n1,-5\n3,5.5\n1,3\n0,1\n",
	} {
		t.Run(name, func(t *testing.T) {
			dir := folder(t, with(v01(), "traces/t.csv", text))
			data, err := LoadInferenceData(dir, []DataQuery{query()}, false)
			if err != nil {
				t.Fatal(err)
			}
			got := data.Models[0].Traces[8]
			want.Origin = got.Origin
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("the trace (-want +got):\n%s", diff)
			}
			grid := Grid{DT: seconds(t, "1/2"), Duration: seconds(t, "3")}
			template, err := got.template(grid)
			if err != nil {
				t.Fatal(err)
			}
			// -5 W counts as 0, and at 1 s, where two samples meet, the later one holds.
			if want := []float64{0.5, 0.25, 1.5, 1.75, 2, 2.375, 0.5}; !slices.Equal(template, want) {
				t.Errorf("the template is %v, want %v", template, want)
			}
		})
	}
}

func TestVersionWarnings(t *testing.T) {
	for version, warned := range map[string]bool{"": false, "0.1": false, "0.1.0": false, "0.1.9.post1": false, "0.10.0": true, "0.2.0": true} {
		dir := folder(t, with(v01(), "_manifest.json", fmt.Sprintf(`{"openg2g_version": %q}`, version)))
		data, err := LoadInferenceData(dir, []DataQuery{query()}, true)
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		if warned {
			want = []string{dir + ": written by openg2g " + version + ", while its layout is that of 0.1"}
		}
		if !slices.Equal(data.Warnings, want) {
			t.Errorf("version %q: the warnings are %q, want %q", version, data.Warnings, want)
		}
	}
	dir := folder(t, with(v02(), "h1/_manifest.json", strings.Replace(manifestText, "0.2.0", "0.3.1", 1)))
	data, err := LoadInferenceData(dir, []DataQuery{query()}, true)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{dir + "/h1: written by openg2g 0.3.1, while its layout is that of 0.2"}; !slices.Equal(data.Warnings, want) {
		t.Errorf("the warnings are %q, want %q", data.Warnings, want)
	}
	dir = folder(t, with(v02(), "h1/_manifest.json", strings.Replace(manifestText, "{", `{"schema_version": 4, `, 1)))
	if data, err = LoadInferenceData(dir, []DataQuery{query()}, true); err != nil {
		t.Fatal(err)
	}
	if want := []string{dir + "/h1/_manifest.json: schema_version is 4, this program knows 3"}; !slices.Equal(data.Warnings, want) {
		t.Errorf("the warnings are %q, want %q", data.Warnings, want)
	}
}

func TestCacheHashNamesGoldenFolders(t *testing.T) {
	_, found, err := findMeasurements(goldenV02)
	if err != nil || len(found) != 3 {
		t.Fatalf("%d measurements: %v", len(found), err)
	}
	for _, m := range found {
		if got := m.manifest.Spec.Hash(); got != filepath.Base(m.dir) {
			t.Errorf("the hash of %s is %s", m.dir, got)
		}
	}
	// Order of the sizes makes no difference; other text does, ASCII or not.
	s := *found[0].manifest.Spec
	slices.Reverse(s.BatchSizes)
	if got := s.Hash(); got != filepath.Base(found[0].dir) {
		t.Errorf("the hash with the batch sizes reversed is %s", got)
	}
}

func exampleQueries() []DataQuery {
	return []DataQuery{
		{ModelLabel: "Llama-3.1-8B", ModelID: "meta-llama/Llama-3.1-8B-Instruct", GPUsPerReplica: 1},
		{ModelLabel: "Llama-3.1-405B", ModelID: "meta-llama/Llama-3.1-405B-Instruct-FP8", GPUsPerReplica: 8},
		{ModelLabel: "Llama-3.1-70B", ModelID: "meta-llama/Llama-3.1-70B-Instruct", GPUsPerReplica: 4},
	}
}

// The example data and the golden data of the other layout hold the same
// measurements.
func TestLayoutsAgree(t *testing.T) {
	v01, err := LoadInferenceData(exampleData, exampleQueries(), true)
	if err != nil {
		t.Fatal(err)
	}
	v02, err := LoadInferenceData(goldenV02, exampleQueries(), true)
	if err != nil {
		t.Fatal(err)
	}
	for i, q := range exampleQueries() {
		a, b := v01.Models[i], v02.Models[i]
		if len(a.Traces) < 6 || !slices.Equal(sortedKeys(a.Traces), sortedKeys(b.Traces)) {
			t.Fatalf("%s: batch sizes %v and %v", q.ModelLabel, sortedKeys(a.Traces), sortedKeys(b.Traces))
		}
		for batchSize := range a.Traces {
			x, y := a.Traces[batchSize], b.Traces[batchSize]
			if x.MeasuredGPUs != q.GPUsPerReplica || y.MeasuredGPUs != q.GPUsPerReplica || !slices.Equal(x.TS, y.TS) || !slices.Equal(x.PowerW, y.PowerW) {
				t.Errorf("%s at batch size %d: the traces differ", q.ModelLabel, batchSize)
			}
		}
		if diff := cmp.Diff(a.ITL, b.ITL); diff != "" || len(a.ITL) == 0 {
			t.Errorf("%s: fits (-0.1 +0.2):\n%s", q.ModelLabel, diff)
		}
	}
}

func TestStoreNamesWhatIsMissing(t *testing.T) {
	data, err := LoadInferenceData(exampleData, exampleQueries(), true)
	if err != nil {
		t.Fatal(err)
	}
	store, err := NewTemplateStore(Grid{DT: seconds(t, "1/10"), Duration: seconds(t, "1")}, []string{"a", "b", "c"}, data.Models)
	if err != nil {
		t.Fatal(err)
	}
	_, err = store.Template(1, 512)
	wantMissing(t, err, `no trace for model "b" at batch size 512 in ../configs/example-data/traces_summary.csv; there are [8 16 32 64 128 256]`)
	_, err = store.ITL(1, 512)
	wantMissing(t, err, `no ITL fit for model "b" at batch size 512 in ../configs/example-data/latency_fits.csv; there are [8 16 32 64 128 256]`)
	first, err := store.Template(0, 8)
	if err != nil {
		t.Fatal(err)
	}
	again, err := store.Template(0, 8)
	if err != nil || len(first) != 11 || store.Len() != 11 || &first[0] != &again[0] {
		t.Errorf("the template is built anew or has %d samples: %v", len(first), err)
	}
}

func BenchmarkLoadExampleData(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := LoadInferenceData(exampleData, exampleQueries(), true); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzReadTable(f *testing.F) {
	seen := slices.Sorted(maps.Values(v01()))
	for _, text := range append(seen, "", "\xef\xbb\xbfa,b\r\n1,2\r\n", "a,b\n\"1\n", "a,b\n1,2,3\n", "b , a\n 8.0 ,\t1e3\n", "a,a,b\n", "a,b\n0x1,nan\n") {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		line := 1
		err := readTableFrom(strings.NewReader(text), "F", []string{"a", "b"}, func(row *table) error {
			if row.line <= line {
				t.Errorf("line %d follows line %d", row.line, line)
			}
			line = row.line
			if row.text(0) != strings.TrimSpace(row.text(0)) {
				t.Errorf("%q has blanks around it", row.text(0))
			}
			v, err := row.finite(0)
			if err == nil && (math.IsNaN(v) || math.IsInf(v, 0)) {
				t.Errorf("%q reads as %v", row.text(0), v)
			}
			if n, err := row.positiveInt(1); err == nil && n < 1 {
				t.Errorf("%q reads as %d", row.text(1), n)
			}
			return err
		})
		if err != nil {
			wantFileError(t, err, "F")
		}
	})
}
