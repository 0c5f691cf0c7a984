package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// replayOutputs runs the replay of a config into a file of each format.
func replayOutputs(t *testing.T, config string) (files []string, summary string) {
	t.Helper()
	dir := t.TempDir()
	for _, ending := range []string{".csv", ".jsonl", ".parquet"} {
		file := filepath.Join(dir, "states"+ending)
		stdout, _, err := runArgs(t.Context(), "replay", "--config", config, "--out", file)
		if err != nil {
			t.Fatal(err)
		}
		files, summary = append(files, file), stdout
	}
	return files, summary
}

func withoutFirstLine(text string) string {
	_, rest, _ := strings.Cut(text, "\n")
	return rest
}

// What is told of a file is what was told at the end of its run, whatever its format.
func TestReportIsTheSummaryOfTheRun(t *testing.T) {
	config := oneModelConfig(t)
	files, summary := replayOutputs(t, config)
	var first string
	for _, file := range files {
		stdout, stderr, err := runArgs(t.Context(), "report", file, "--config", config)
		if err != nil || stderr != "" || !strings.HasPrefix(stdout, "200 steps of 0.1 s\n") {
			t.Fatalf("%s: %v, stderr %s, stdout %s", file, err, stderr, stdout)
		}
		if diff := cmp.Diff(withoutFirstLine(summary), withoutFirstLine(stdout)); diff != "" {
			t.Errorf("%s (-summary of the run +report):\n%s", file, diff)
		}
		stdout, _, err = runArgs(t.Context(), "report", file, "--config", config, "--json")
		if err != nil || !json.Valid([]byte(stdout)) {
			t.Fatalf("%s: %v, stdout %s", file, err, stdout)
		}
		if first == "" {
			first = stdout
		}
		if stdout != first {
			t.Errorf("%s gives %s, another format %s", file, stdout, first)
		}
	}
	var got struct {
		Steps       int
		Performance map[string]any
	}
	if err := json.Unmarshal([]byte(first), &got); err != nil {
		t.Fatal(err)
	}
	// The run is the golden one, of which OpenG2G says so (testdata/golden/performance).
	if got.Steps != 200 || got.Performance["mean_throughput_tps"] != 273491.58181962284 || got.Performance["itl_deadline_fraction"] != 0. {
		t.Errorf("the report is %s", first)
	}
}

// The throughput of fits is in the JSON lines, which tell it of each step.
func TestReportHasTheThroughputOfTheStates(t *testing.T) {
	raw, err := os.ReadFile(oneModelConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	root := repositoryRoot(t)
	text := strings.NewReplacer("../../configs/example-data", filepath.Join(root, "testdata/golden/mlenergy/expected/one_task"),
		"[8, 16, 32, 64, 128, 256, 512]", "[8, 16, 32, 64, 128, 256]").Replace(string(raw))
	config := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	files, summary := replayOutputs(t, config)
	for _, file := range files {
		stdout, _, err := runArgs(t.Context(), "report", file, "--json")
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Throughput struct {
				MeanTokensPerS *float64 `json:"mean_tokens_per_s"`
				Tokens         *float64
			}
		}
		if err := json.Unmarshal([]byte(stdout), &got); err != nil {
			t.Fatal(err)
		}
		if known := filepath.Ext(file) == ".jsonl"; (got.Throughput.Tokens != nil) != known || (got.Throughput.MeanTokensPerS != nil) != known {
			t.Errorf("%s: the throughput is known: %v, want %v", file, !known, known)
		}
		if v := got.Throughput.MeanTokensPerS; v != nil && (*v < 180_000 || *v > 190_000) { // 40 replicas
			t.Errorf("%s: %v tokens/s", file, *v)
		}
	}
	if row := summary[strings.LastIndex(summary, "Llama-3.1-8B"):]; strings.Contains(row, " -") {
		t.Errorf("the summary of the run lacks the throughput: %s", summary)
	}
}

func TestReportRefuses(t *testing.T) {
	config := oneModelConfig(t)
	files, _ := replayOutputs(t, config)
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	raw, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(raw), "\n")
	lines3 := strings.Join(lines[:3], "")
	parquet, err := os.ReadFile(files[2])
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "expected \"<file>\""},
		{[]string{filepath.Join(dir, "none.csv")}, "none.csv: no such file"},
		{[]string{write("states.txt", lines3)}, "must end in .csv, .jsonl or .parquet"},
		{[]string{write("empty.csv", "")}, "empty.csv:1: the file is empty"},
		{[]string{write("header.csv", lines[0])}, "header.csv: there are no states"},
		{[]string{write("cut.csv", lines3[:len(lines3)-4])}, "cut.csv"},
		{[]string{write("twice.csv", lines3+lines[1])}, "twice.csv: state 3: time_s is 0 after 0.1"},
		{[]string{write("nan.csv", lines3+"0.2,nan"+lines[3][strings.Index(lines[3][4:], ",")+4:])}, "nan.csv: state 3: the power of the three phases is NaN W"},
		{[]string{write("text.jsonl", "{\"seq\": 1\n")}, "text.jsonl:1: "},
		{[]string{write("half.parquet", string(parquet[:len(parquet)/2]))}, "half.parquet: "},
		{[]string{files[0], "--config", filepath.Join(repositoryRoot(t), "configs/replay.yaml")}, "the states have 1 models, the config has 3"},
		{[]string{files[0], "--config", filepath.Join(dir, "none.yaml")}, "none.yaml"},
	} {
		stdout, _, err := runArgs(t.Context(), append([]string{"report"}, c.args...)...)
		if err == nil || exitStatus(err) != exitInvalid || !errors.Is(err, datacenter.ErrInvalidInput) {
			t.Errorf("report %q: error %v, want one of exit status 2", c.args, err)
			continue
		}
		if got := strings.ReplaceAll(err.Error(), datacenter.ErrInvalidInput.Error()+": ", ""); !strings.Contains(got, c.want) || stdout != "" {
			t.Errorf("report %q: error %s, want %q; stdout %q", c.args, got, c.want, stdout)
		}
	}
}
