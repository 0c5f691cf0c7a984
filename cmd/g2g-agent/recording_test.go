package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/record"
	"github.com/g2g-agent/g2g-agent/recording"
)

// recordedRun is the id of the run in the recording of format 1.
const recordedRun = "run"

// recordedDir copies the recording of format 1: seconds 0 to 2, 64 and 65 of a run, in
// two segments.
func recordedDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"00000000.jsonl.zst", "00000001.jsonl.zst"} {
		raw, err := os.ReadFile(filepath.Join(repositoryRoot(t), "recording", "testdata", "format1", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// linesOfRecording are the lines of some kinds.
func linesOfRecording(t *testing.T, dir string, kinds ...recording.Kind) (lines []recording.Line) {
	t.Helper()
	r, err := recording.OpenReader(dir)
	if err != nil {
		t.Fatal(err)
	}
	for entry, err := range r.Lines(t.Context(), recording.ReadOptions{Kinds: kinds}) {
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, entry.Line)
	}
	return lines
}

func TestRecordingInfo(t *testing.T) {
	dir := recordedDir(t)
	stdout, stderr, err := runArgs(t.Context(), "recording", "info", dir)
	for _, want := range []string{dir + ": runs: 1, segments: 2, ", "run " + recordedRun + ", started", "seconds 0 to 65, 5 of them here; ended: done", "2 GPUs, a step every 1/10 s, models: model0, model1", "state_hash           5 lines"} {
		if err != nil || stderr != "" || !strings.Contains(stdout, want) {
			t.Errorf("%v, stderr %s, stdout lacks %q:\n%s", err, stderr, want, stdout)
		}
	}
	stdout, _, err = runArgs(t.Context(), "recording", "info", dir, "--json")
	var info recording.Info
	if err := errors.Join(err, json.Unmarshal([]byte(stdout), &info)); err != nil {
		t.Fatal(err)
	}
	if len(info.Runs) != 1 || info.Runs[0].Lines[recording.KindITL] != 100 || info.Segments != 2 {
		t.Errorf("info: %s", stdout)
	}
}

func TestRecordingVerify(t *testing.T) {
	dir := recordedDir(t)
	stdout, _, err := runArgs(t.Context(), "recording", "verify", dir)
	if err == nil || exitStatus(err) != exitFailed || !strings.Contains(err.Error(), "is not whole") || !strings.Contains(stdout, "seconds 3 to 63 of the run are missing") {
		t.Errorf("of a recording with a gap: %v\n%s", err, stdout)
	}
	part := filepath.Join(t.TempDir(), "part")
	if _, stderr, err := runArgs(t.Context(), "recording", "cut", dir, "--out", part, "--from", "1", "--to", "3"); err != nil || stderr != "" {
		t.Fatalf("%v, stderr %s", err, stderr)
	}
	stdout, _, err = runArgs(t.Context(), "recording", "verify", part)
	if err != nil || !strings.Contains(stdout, "00000000.jsonl.zst: seconds 1 to 2 (2), ") || !strings.HasSuffix(stdout, part+" is whole\n") {
		t.Errorf("of a part without the gap: %v\n%s", err, stdout)
	}
	// One flipped bit.
	file := filepath.Join(part, "00000000.jsonl.zst")
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)/2] ^= 4
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	stdout, _, err = runArgs(t.Context(), "recording", "verify", part, "--json")
	var report recording.Report
	if json.Unmarshal([]byte(stdout), &report) != nil || exitStatus(err) != exitFailed || report.Whole || report.Segments[0].DamagedFrames != 1 || len(report.Segments[0].Findings) == 0 {
		t.Errorf("with a flipped bit: %v\n%s", err, stdout)
	}
	// What is left is exported, and what is not is told.
	out := filepath.Join(t.TempDir(), "x.csv")
	_, stderr, err := runArgs(t.Context(), "export", part, "--kind", "power", "--out", out)
	if err != nil || !strings.HasPrefix(stderr, "g2g-agent: left out: 00000000.jsonl.zst: frame ") || strings.Count(stderr, "\n") != 1 {
		t.Errorf("export of what is left: %v, stderr %s", err, stderr)
	}
}

// A part begins and ends where seconds of the run or times say.
func TestRecordingCutByTime(t *testing.T) {
	dir := recordedDir(t)
	header := linesOfRecording(t, dir, recording.KindHeader)[0].(*recording.Header)
	at := func(second int) string {
		return time.UnixMilli(header.StartMs).Add(time.Duration(second) * time.Second).Format(time.RFC3339Nano)
	}
	for name, c := range map[string]struct {
		flags []string
		want  string
	}{
		"all":            {nil, "0 1 2 64 65"},
		"seconds":        {[]string{"--from", "1", "--to", "64.5"}, "1 2 64"},
		"times":          {[]string{"--from", at(2), "--to", at(65)}, "2 64"},
		"to the end":     {[]string{"--from=64", "--run", recordedRun}, "64 65"},
		"from the start": {[]string{"--to=1e0"}, "0"},
	} {
		out := filepath.Join(t.TempDir(), "part")
		if _, stderr, err := runArgs(t.Context(), append([]string{"recording", "cut", dir, "--out", out}, c.flags...)...); err != nil || stderr != "" {
			t.Errorf("%s: %v, stderr %s", name, err, stderr)
			continue
		}
		var seconds []string
		for _, line := range linesOfRecording(t, out, recording.KindStateHash) {
			seconds = append(seconds, strconv.FormatInt(line.(*recording.StateHash).Second, 10))
		}
		if got := strings.Join(seconds, " "); got != c.want {
			t.Errorf("%s: the seconds are %s, want %s", name, got, c.want)
		}
	}
}

func TestRecordingRefuses(t *testing.T) {
	dir := recordedDir(t)
	out := filepath.Join(t.TempDir(), "out")
	for want, args := range map[string][]string{
		"no such file or directory":                          {"recording", "verify", out},
		"has no segments such as":                            {"recording", "info", t.TempDir()},
		"is there already":                                   {"recording", "cut", dir, "--out", dir},
		"the recording has nothing of that time":             {"recording", "cut", dir, "--out", out, "--from", "70"},
		`--from: want seconds since the start of the run or`: {"recording", "cut", dir, "--out", out, "--from", "noon"},
		"is not after --from":                                {"export", dir, "--out", out + ".csv", "--from", "7", "--to", "7"},
		`--run: ` + dir + ` has no run "other"; it has run`:  {"export", dir, "--out", out + ".csv", "--run", "other"},
		"must end in .csv, .jsonl or .parquet":               {"export", dir, "--out", out + ".xls", "--kind", "power"},
		"--kind must be one of":                              {"export", dir, "--out", out + ".csv", "--kind", "tokens"},
	} {
		_, _, err := runArgs(t.Context(), args...)
		if exitStatus(err) != exitInvalid || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", args, err, want)
		}
	}
	if entries, err := os.ReadDir(filepath.Dir(out)); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// With several runs, seconds and states are those of the one that is named.
func TestRecordingOfSeveralRuns(t *testing.T) {
	dir := recordedDir(t)
	for i, name := range []string{"00000000.jsonl.zst", "00000001.jsonl.zst"} {
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, recording.SegmentName(int64(i+2))), withAnotherRun(t, raw), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"recording", "cut", dir, "--from", "1", "--out", filepath.Join(t.TempDir(), "part")}, {"export", dir, "--out", filepath.Join(t.TempDir(), "x.csv")}} {
		if _, _, err := runArgs(t.Context(), args...); !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), "name a run with --run; the recording has run, another") {
			t.Errorf("%q: %v", args, err)
		}
	}
	out := filepath.Join(t.TempDir(), "x.csv")
	if _, _, err := runArgs(t.Context(), "export", dir, "--kind", "power", "--run", "another", "--from", "1", "--out", out); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(out)
	if err != nil || !bytes.Contains(raw, []byte("\nanother,64.")) || bytes.Contains(raw, []byte("\nrun,")) {
		t.Errorf("%v, the file has\n%.300s", err, raw)
	}
}

// withAnotherRun is a segment with another run's id in its header.
func withAnotherRun(t *testing.T, raw []byte) []byte {
	t.Helper()
	d, err := zstd.NewReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	content, err := io.ReadAll(d)
	if err != nil {
		t.Fatal(err)
	}
	e, err := zstd.NewWriter(nil, zstd.WithSingleSegment(true))
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	header, rest, _ := bytes.Cut(content, []byte("\n"))
	header = bytes.Replace(header, []byte(`"run_id":"run"`), []byte(`"run_id":"another"`), 1)
	return append(e.EncodeAll(append(header, '\n'), nil), e.EncodeAll(rest, nil)...)
}

// The tables have what the lines have, in each format.
func TestExportTables(t *testing.T) {
	dir := recordedDir(t)
	header := linesOfRecording(t, dir, recording.KindHeader)[0].(*recording.Header)
	var power []string
	for _, line := range linesOfRecording(t, dir, recording.KindPower) {
		l := line.(*recording.Power)
		for i, tMs := range l.TMs {
			label := header.Models[0]
			for _, gpu := range header.GPUs {
				if gpu.GPU == l.GPU {
					label = gpu.ModelLabel
				}
			}
			timeS := float64((tMs-header.StartMs)*1_000_000+l.OffsetNs) / 1e9
			power = append(power, fmt.Sprintf("%s,%s,%d,%s,%s,%s,%d,%c", recordedRun, datacenter.AppendFloat(nil, timeS), tMs, l.GPU, label,
				datacenter.AppendFloat(nil, float64(l.PowerMW[i])/1000), l.Steps[i], l.MarkOf(i)))
		}
	}
	want := "run_id,time_s,t_ms,gpu,model_label,power_w,step,mark\n" + strings.Join(power, "\n") + "\n"
	if diff := cmp.Diff(want, export(t, dir, "power", ".csv")); diff != "" {
		t.Errorf("power (-want +got):\n%s", diff)
	}
	for kind, rows := range map[string]int{"power": len(power), "itl": 100, "events": 4} {
		if got := strings.Count(export(t, dir, kind, ".jsonl"), "\n"); got != rows {
			t.Errorf("%s: %d rows, want %d", kind, got, rows)
		}
		if raw := export(t, dir, kind, ".parquet"); !strings.HasPrefix(raw, "PAR1") {
			t.Errorf("%s: no Parquet file", kind)
		}
	}
	itl := linesOfRecording(t, dir, recording.KindITL)[3].(*recording.ITL)
	var row struct {
		Seq         int64
		Count       int64
		SumNs       int64   `json:"sum_ns"`
		MeanS       float64 `json:"mean_s"`
		P50S        float64 `json:"p50_s"`
		P99S        float64 `json:"p99_s"`
		ModelLabel  string  `json:"model_label"`
		OutputToken int64   `json:"output_tokens"`
	}
	if err := json.Unmarshal([]byte(strings.Split(export(t, dir, "itl", ".jsonl"), "\n")[3]), &row); err != nil {
		t.Fatal(err)
	}
	if row.Seq != itl.Seq || row.Count != itl.Count || row.SumNs != itl.SumNs || row.ModelLabel != itl.ModelLabel || row.OutputToken != itl.OutputTokens ||
		row.MeanS != float64(itl.SumNs)/1e9/float64(itl.Count) || row.P50S <= 0 || row.P99S < row.P50S {
		t.Errorf("the row of %+v is %+v", itl, row)
	}
	events := export(t, dir, "events", ".jsonl")
	for _, line := range linesOfRecording(t, dir, recording.KindCommand) {
		body, err := json.Marshal(string(line.(*recording.Command).Body))
		if err != nil || !strings.Contains(events, `"data":`+string(body)) {
			t.Errorf("events lack the command %s:\n%s", body, events)
		}
	}
}

// export returns what the verb writes.
func export(t *testing.T, dir, kind, ending string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "x"+ending)
	if _, stderr, err := runArgs(t.Context(), "export", dir, "--kind", kind, "--out", out); err != nil || stderr != "" {
		t.Fatalf("%s%s: %v, stderr %s", kind, ending, err, stderr)
	}
	raw, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// A live run's recording: its states, which it has in full only now and then, are those
// that the run wrote itself.
func TestExportOfStatesIsWhatTheRunWrote(t *testing.T) {
	t.Parallel()
	dir, written := filepath.Join(t.TempDir(), "recording"), filepath.Join(t.TempDir(), "states.csv")
	p := startProgram(t, []string{"G2G_AGENT_LIVE__STAGGER_S=1"}, "demo", "--duration-s", "3", "--record", dir, "--out", written)
	if status := p.wait(t, time.Minute); status != exitDone {
		t.Fatalf("exited with status %d:\n%s", status, p.stderr.text())
	}
	if stdout, _, err := runArgs(t.Context(), "recording", "verify", dir); err != nil {
		t.Errorf("verify: %v\n%s", err, stdout)
	}
	want, err := os.ReadFile(written)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), export(t, dir, "states", ".csv")); diff != "" {
		t.Errorf("states (-written by the run +exported):\n%s", diff)
	}
	exported := filepath.Join(t.TempDir(), "x.parquet")
	if _, _, err := runArgs(t.Context(), "export", dir, "--out", exported, "--from", "1", "--to", "2"); err != nil {
		t.Fatal(err)
	}
	states, err := record.ReadAll(exported)
	if err != nil || len(states) != 10 || states[0].Seq != 10 || states[9].Seq != 19 {
		t.Errorf("of second 1: %v, %d states", err, len(states))
	}
}

// A part of a live run's recording, from before or after a command, gives the recorded
// states as soon as it is compared; so does the export of all.
func TestPartOfARecordingReplaysBitForBit(t *testing.T) {
	whole := filepath.Join(repositoryRoot(t), "testdata", "recordings", "format1")
	for _, from := range []string{"3", "9"} {
		part := filepath.Join(t.TempDir(), "part")
		if _, stderr, err := runArgs(t.Context(), "recording", "cut", whole, "--from", from, "--out", part); err != nil || stderr != "" {
			t.Fatalf("%v, stderr %s", err, stderr)
		}
		stdout, stderr, err := runArgs(t.Context(), "replay", "--from", part)
		if err != nil || !strings.Contains(stdout, "compared with the recorded ones: all are equal, bit for bit") || strings.Contains(stdout, "\n0 of") {
			t.Errorf("from %s: %v, stdout %s, stderr %s", from, err, stdout, stderr)
		}
	}
	exported := strings.Split(export(t, whole, "states", ".jsonl"), "\n")
	for _, line := range linesOfRecording(t, whole, recording.KindState) {
		state := line.(*recording.State).State
		got := new(datacenter.State)
		if err := json.Unmarshal([]byte(exported[state.Seq]), got); err != nil {
			t.Fatal(err)
		}
		if recording.HashOf(got) != recording.HashOf(state) {
			t.Errorf("state %d is exported as\n%s", state.Seq, exported[state.Seq])
		}
	}
}
