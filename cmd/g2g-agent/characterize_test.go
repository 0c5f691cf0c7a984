package main

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/characterize"
	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/internal/treetest"
	"github.com/g2g-agent/g2g-agent/plots"
	"github.com/g2g-agent/g2g-agent/sim"
	"github.com/g2g-agent/g2g-agent/workload"
)

// characterizeLimit bounds a characterization of two points, on a machine that may be
// busy elsewhere.
const characterizeLimit = 3 * time.Minute

// commandedBatchSize is what the simulated server was told last.
func (h *simHost) commandedBatchSize(t *testing.T) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+h.vllm+"/sim/truth", nil)
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var truth sim.Truth
	if err := json.NewDecoder(resp.Body).Decode(&truth); err != nil {
		t.Fatal(err)
	}
	return truth.MaxNumSeqs
}

// TestCharacterizeOutlivesKill9: a characterization that is killed goes on from where it
// was, an interrupted one leaves the server as it was found, and one that is complete
// writes the same files again without any server.
func TestCharacterizeOutlivesKill9(t *testing.T) {
	t.Parallel()
	h := startSim(t)
	dir := filepath.Join(t.TempDir(), "data")
	args := []string{"characterize", "--config", h.writeConfig(t, ""), "--out", dir, "--measure-s", "4", "--steady-s", "4", "--gpu-model", "H100"}
	first := startProgram(t, nil, args...)
	first.await(t, &first.stderr, "vLLM server set up")
	awaitMeasured(t, first)
	first.kill()
	const point = "characterization/points/small/batch_8_repeat_0.json.gz"
	before := treetest.Files(t, dir)
	if before[point] == "" {
		t.Fatalf("a point that is measured is not on the disk; there are %d files", len(before))
	}
	for name := range before {
		if strings.HasSuffix(name, "trace.csv") || strings.HasSuffix(name, "_manifest.json") {
			t.Errorf("%s looks complete", name)
		}
	}

	h.interruptCharacterization(t, args)
	third := startProgram(t, nil, args...)
	if status := third.wait(t, characterizeLimit); status != exitDone {
		t.Fatalf("status %d; its log:\n%s", status, third.stderr.text())
	}
	if n := h.commandedBatchSize(t); n != 8 {
		t.Errorf("it left the batch size %d behind, want 8", n)
	}
	complete := treetest.Files(t, dir)
	if complete[point] != before[point] {
		t.Error("a point that was measured has changed")
	}
	var report characterize.Report
	if err := json.Unmarshal([]byte(complete["characterization/report.json"]), &report); err != nil {
		t.Fatal(err)
	}
	if len(report.Points) != 2 || !report.Complete || report.Points[0].PowerW < 400 || !strings.Contains(third.stdout.text(), "written: "+dir) {
		t.Errorf("the report is %+v; standard output:\n%s", report, third.stdout.text())
	}
	manifests, err := filepath.Glob(filepath.Join(dir, "*", "_manifest.json"))
	if err != nil || len(manifests) != 1 {
		t.Fatalf("%v, %v", manifests, err)
	}
	if raw, _ := os.ReadFile(manifests[0]); !strings.Contains(string(raw), `"gpu_model": "H100"`) {
		t.Errorf("the manifest is\n%s", raw)
	}

	h.kill()
	fourth := startProgram(t, nil, args...)
	if status := fourth.wait(t, soon); status != exitDone {
		t.Fatalf("status %d; its log:\n%s", status, fourth.stderr.text())
	}
	if diff := cmp.Diff(complete, treetest.Files(t, dir)); diff != "" {
		t.Errorf("files that were complete change (-before +after):\n%s", diff)
	}
	checkPlots(t, dir, args, complete)
}

// checkPlots: the pictures of a complete characterization are beside its data, which
// reads as without them, and which stays whatever becomes of them.
func checkPlots(t *testing.T, dir string, args []string, complete map[string]string) {
	t.Helper()
	for _, name := range []string{"power", "itl", "logistic"} {
		if !strings.HasPrefix(complete["plots/"+name+".png"], "\x89PNG") {
			t.Errorf("there is no picture %s.png", name)
		}
	}
	queries, err := workload.ListModels(dir)
	if err != nil || len(queries) != 1 {
		t.Fatalf("%+v, %v", queries, err)
	}
	if data, err := workload.LoadInferenceData(dir, queries, true); err != nil || len(data.Warnings) > 0 {
		t.Errorf("%+v, %v", data, err)
	}
	folder := filepath.Join(dir, "plots")
	want := maps.Clone(complete)
	maps.DeleteFunc(want, func(name, _ string) bool { return strings.HasPrefix(name, "plots/") })
	call := func(status int, plots string) *program {
		t.Helper()
		p := startProgram(t, nil, append(slices.Clone(args), "--plots", plots)...)
		if got := p.wait(t, soon); got != status || !strings.Contains(p.stdout.text(), "written: "+dir) {
			t.Errorf("--plots %s: status %d, want %d; its log:\n%s", plots, got, status, p.stderr.text())
		}
		return p
	}
	if err := os.RemoveAll(folder); err != nil {
		t.Fatal(err)
	}
	call(exitDone, "none")
	if diff := cmp.Diff(want, treetest.Files(t, dir)); diff != "" {
		t.Errorf("--plots none (-want +got):\n%s", diff)
	}
	call(exitDone, "svg")
	if all := treetest.Files(t, folder); len(all) != 3 || !strings.Contains(all["itl.svg"], ">n = ") || !strings.Contains(all["logistic.svg"], ">measured<") {
		t.Errorf("--plots svg: %d files; those of the latencies and of the curves must have what was measured", len(all))
	}
	if err := os.RemoveAll(folder); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(folder, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p := call(exitFailed, "png")
	if text := p.stderr.text(); !strings.Contains(text, folder) || !strings.Contains(text, "not all plots are") {
		t.Errorf("the folder is a file; the log:\n%s", text)
	}
	want["plots"] = ""
	if diff := cmp.Diff(want, treetest.Files(t, dir)); diff != "" {
		t.Errorf("the data changes where there are no plots (-want +got):\n%s", diff)
	}
}

// TestPlotsThatFail keep neither the others nor the data from being there.
func TestPlotsThatFail(t *testing.T) {
	const source = "../../configs/example-data"
	queries, err := workload.ListModels(source)
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := workload.LoadInferenceData(source, queries, true)
	if err != nil {
		t.Fatal(err)
	}
	d := &characterize.Data{Dir: t.TempDir()}
	for i, q := range queries {
		m := workload.Measured{Spec: workload.DataSpec{ModelLabel: q.ModelLabel}, Traces: loaded.Models[i].Traces, ITL: loaded.Models[i].ITL}
		m.Logistic = new(workload.LogisticFits)
		d.Models = append(d.Models, m)
	}
	if err := os.MkdirAll(filepath.Join(d.Dir, "plots", "power.png", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	pictures := dataPlots{"png", zerolog.New(&log)}
	if err := pictures.write(t.Context(), d.Dir, modelsOf(d.Models)); exitStatus(err) != exitFailed {
		t.Errorf("status %d, want %d: %v", exitStatus(err), exitFailed, err)
	}
	if !strings.Contains(log.String(), "power.png") || strings.Contains(log.String(), "itl.png") {
		t.Errorf("the log is\n%s", log.String())
	}
	if _, err := os.Stat(filepath.Join(d.Dir, "plots", "itl.png")); err != nil {
		t.Error(err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	d.Dir = t.TempDir()
	if err := pictures.write(ended, d.Dir, modelsOf(d.Models)); err == nil || len(treetest.Files(t, d.Dir)) > 0 {
		t.Errorf("%v when it is to end: %d files", err, len(treetest.Files(t, d.Dir)))
	}
}

// TestLatencyGroups: pictures of latencies have a bounded number of panels.
func TestLatencyGroups(t *testing.T) {
	var models []plots.Model
	for _, n := range []int{20, 28, 1, 200, 46, 1} {
		m := plots.Model{}
		m.Data.ITL = map[int]workload.ITLMixture{}
		for size := range n {
			m.Data.ITL[size+1] = workload.ITLMixture{}
		}
		models = append(models, m)
	}
	if diff := cmp.Diff([][]int{{0, 1}, {2, 3, 4}, {5}}, latencyGroups(models)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// interruptCharacterization begins one of which one point is measured, and ends it in
// order.
func (h *simHost) interruptCharacterization(t *testing.T, args []string) {
	t.Helper()
	p := startProgram(t, nil, args...)
	p.await(t, &p.stderr, "vLLM server set up")
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status := p.wait(t, 10*time.Second); status != exitFailed || !strings.Contains(p.stderr.text(), "1 of 2 are") {
		t.Errorf("an interrupted characterization ended with status %d; its log:\n%s", status, p.stderr.text())
	}
	if n := h.commandedBatchSize(t); n != 8 {
		t.Errorf("it left the batch size %d behind, want 8", n)
	}
}

// awaitMeasured waits until a point is measured.
func awaitMeasured(t *testing.T, p *program) {
	t.Helper()
	deadline := time.Now().Add(characterizeLimit)
	for !strings.Contains(p.stderr.text(), "point measured") {
		p.stderr.mu.Lock()
		changed := p.stderr.changed
		p.stderr.mu.Unlock()
		select {
		case <-changed:
		case <-p.done:
			t.Fatalf("it ended; its log:\n%s", p.stderr.text())
		case <-time.After(time.Until(deadline)):
			t.Fatalf("no point in time; its log:\n%s", p.stderr.text())
		}
	}
}

func TestCharacterizeRefuses(t *testing.T) {
	t.Parallel()
	h := &simHost{zeusd: "127.0.0.1:1", vllm: "127.0.0.1:2"}
	file := h.writeConfig(t, "")
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no model of that name":  {[]string{"--model", "big"}, `--model names "big"`},
		"a label with a comma":   {[]string{"--model", "small,big"}, `--model names "small,big"`},
		"no feasible batch size": {[]string{"--batch-size", "32"}, "feasible_batch_sizes [8 16]"},
		"no time":                {[]string{"--measure-s", "0"}, "--measure-s must be"},
		"too little steadiness":  {[]string{"--steady-s", "1"}, "want 4s or more"},
		"too little measured":    {[]string{"--measure-s", "3.5"}, "want 4s or more, for a drift to be told"},
		"no end of repeats":      {[]string{"--repeats", "100000000"}, "want 1 to 1000"},
		"no repeat":              {[]string{"--repeats", "0"}, "repeats is 0"},
		"a picture of its own":   {[]string{"--plots", "pdf"}, "pdf"},
		"a layout of its own":    {[]string{"--layout", "0.3"}, "0.3"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "data")
			p := startProgram(t, nil, append([]string{"characterize", "--config", file, "--out", dir}, c.args...)...)
			if status := p.wait(t, soon); status != exitInvalid || !strings.Contains(p.stderr.text(), c.want) {
				t.Errorf("status %d, want %d and %q in\n%s", status, exitInvalid, c.want, p.stderr.text())
			}
			if _, err := os.Stat(dir); err == nil {
				t.Error("it made the directory all the same")
			}
		})
	}
}

// TestCharacterizedSpecs are such as OpenG2G takes: whatever is measured, nothing else is
// called feasible or left out of the fits.
func TestCharacterizedSpecs(t *testing.T) {
	m := config.Model{ModelLabel: "m", ModelID: "org/m", GPUsPerReplica: 2, FeasibleBatchSizes: []int{32, 8, 16, 8}, FitExcludeBatchSizes: []int{8, 32}, ITLDeadlineS: 0.1}
	want := workload.DataSpec{
		ModelLabel: "m", ModelID: "org/m", GPUModel: "unknown", Task: "lm-arena-chat", Precision: "bfloat16", GPUsPerReplica: 2, TensorParallel: 1, ExpertParallel: 1,
		BatchSizes: []int{8, 16, 32}, FitExcludeBatchSizes: []int{8, 32}, FeasibleBatchSizes: []int{8, 16, 32}, ITLDeadlineS: 0.1,
	}
	if diff := cmp.Diff(want, characterizeCmd{}.spec(&m)); diff != "" {
		t.Errorf("all (-want +got):\n%s", diff)
	}
	want.BatchSizes, want.FitExcludeBatchSizes, want.FeasibleBatchSizes, want.GPUModel = []int{8, 16}, []int{8}, []int{8, 16}, "H100"
	if diff := cmp.Diff(want, characterizeCmd{BatchSize: []int{16, 8}, GPUModel: "H100"}.spec(&m)); diff != "" {
		t.Errorf("two of them (-want +got):\n%s", diff)
	}
}

// TestModelsAreChosen by their whole labels, whatever is in them.
func TestModelsAreChosen(t *testing.T) {
	models := []config.Model{{ModelLabel: "a,b", FeasibleBatchSizes: []int{8}}, {ModelLabel: "a", FeasibleBatchSizes: []int{16}}}
	var parsed struct {
		Characterize characterizeCmd `cmd:""`
	}
	parser, err := kong.New(&parsed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parser.Parse([]string{"characterize", "--config", "c", "--out", "o", "--model", "a,b", "--batch-size", "8"}); err != nil {
		t.Fatal(err)
	}
	chosen, err := parsed.Characterize.choose(models)
	if err != nil || len(chosen) != 1 || chosen[0].ModelLabel != "a,b" {
		t.Errorf("%+v, %v", chosen, err)
	}
}

// TestProgressText: how far it is, in one line.
func TestProgressText(t *testing.T) {
	text := progressText(characterize.Progress{Done: 1, Wanted: 6, Left: 95 * time.Second, Models: []characterize.ModelProgress{
		{ModelLabel: "a", BatchSize: 8, Phase: characterize.PhaseSettling}, {ModelLabel: "b", BatchSize: 16, Phase: characterize.PhaseMeasuring, MeasuredS: 20, MeasureS: 60},
	}})
	if want := "1/6 points  a at 8: settling  b at 16: 20/60 s  about 1m35s left"; text != want {
		t.Errorf("%q, want %q", text, want)
	}
}
