package main

import (
	"encoding/json"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/characterize"
	"github.com/g2g-agent/g2g-agent/sim"
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

// filesBelow are all files below a folder, by their relative names.
func filesBelow(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		all[filepath.ToSlash(name)] = string(raw)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestCharacterizeOutlivesKill9: a characterization that is killed goes on from where it
// was, an interrupted one leaves the server as it was found, and one that is complete
// writes the same files again without any server.
func TestCharacterizeOutlivesKill9(t *testing.T) {
	t.Parallel()
	h := startSim(t)
	dir := filepath.Join(t.TempDir(), "data")
	args := []string{"characterize", "--config", h.writeConfig(t, ""), "--out", dir, "--measure-s", "3", "--steady-s", "4", "--gpu-model", "H100"}
	first := startProgram(t, nil, args...)
	first.await(t, &first.stderr, "vLLM server set up")
	awaitMeasured(t, first)
	first.kill()
	const point = "characterization/points/small/batch_8_repeat_0.json.gz"
	before := filesBelow(t, dir)
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
	complete := filesBelow(t, dir)
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
	if diff := cmp.Diff(complete, filesBelow(t, dir)); diff != "" {
		t.Errorf("files that were complete change (-before +after):\n%s", diff)
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
		"no model of that name":  {[]string{"--models", "big"}, `--models names "big"`},
		"no feasible batch size": {[]string{"--batch-sizes", "32"}, "feasible_batch_sizes [8 16]"},
		"no time":                {[]string{"--measure-s", "0"}, "--measure-s must be"},
		"too little steadiness":  {[]string{"--steady-s", "1"}, "want 4s or more"},
		"no repeat":              {[]string{"--repeats", "0"}, "repeats is 0"},
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

// TestStatusLine: the log comes above the line, which is gone in the end.
func TestStatusLine(t *testing.T) {
	var screen strings.Builder
	l := &statusLine{w: &screen}
	l.draw("1/2 points")
	if _, err := l.Write([]byte("a line of the log\n")); err != nil {
		t.Fatal(err)
	}
	l.draw("1/2 points")
	l.draw("")
	const wipe = "\r\x1b[K"
	if want := wipe + "1/2 points" + wipe + "a line of the log\n" + "1/2 points" + wipe; screen.String() != want {
		t.Errorf("the screen got %q, want %q", screen.String(), want)
	}
	text := progressText(characterize.Progress{Done: 1, Wanted: 6, Left: 95 * time.Second, Models: []characterize.ModelProgress{
		{ModelLabel: "a", BatchSize: 8, Phase: characterize.PhaseSettling}, {ModelLabel: "b", BatchSize: 16, Phase: characterize.PhaseMeasuring, MeasuredS: 20, MeasureS: 60},
	}})
	if want := "1/6 points  a at 8: settling  b at 16: 20/60 s  about 1m35s left"; text != want {
		t.Errorf("%q, want %q", text, want)
	}
}
