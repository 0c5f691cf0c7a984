package main

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/g2g-agent/g2g-agent/record"
	"github.com/g2g-agent/g2g-agent/recording"
)

// goldenRecording is a demo with faults of 20 s, recorded by an earlier version.
const goldenRecording = "../../testdata/recordings/format1"

// replayFrom runs a recording again and returns what is said of it.
func replayFrom(t *testing.T, wantStatus int, args ...string) (stdout, stderr string) {
	t.Helper()
	p := startProgram(t, nil, append([]string{"replay", "--from"}, args...)...)
	if status := p.wait(t, time.Minute); status != wantStatus {
		t.Fatalf("replay --from %v exited with status %d:\n%s%s", args, status, p.stdout.text(), p.stderr.text())
	}
	return p.stdout.text(), p.stderr.text()
}

const allEqual = "all are equal, bit for bit"

// TestRecordedDemo: a demo with faults that is killed is run again up to its last
// second, with the states that it had, in every way that a replay can be run.
func TestRecordedDemo(t *testing.T) {
	t.Parallel()
	dir, out := filepath.Join(t.TempDir(), "recording"), outFile(t)
	p := startProgram(t, []string{"G2G_AGENT_LIVE__STAGGER_S=1"}, "demo", "--faults", "--record", dir, "--out", out)
	p.await(t, &p.stderr, "the run is recorded")
	p.await(t, &p.stderr, "the steps begin")
	awaitStates(t, out+".partial", 60)
	p.kill()

	again := outFile(t)
	stdout, _ := replayFrom(t, exitDone, dir, "--out", again)
	if !strings.Contains(stdout, allEqual) {
		t.Errorf("stdout: %s", stdout)
	}
	got, err := record.ReadAll(again)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(out+".partial", out); err != nil {
		t.Fatal(err)
	}
	want, err := record.ReadAll(out)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) < 50 {
		t.Errorf("%d states were recorded of at least 60: more than the last second is missing", len(got))
	}
	for i := range min(len(got), len(want)) {
		got[i].WallTime = want[i].WallTime
		if a, b := string(got[i].AppendJSON(nil)), string(want[i].AppendJSON(nil)); a != b {
			t.Fatalf("state %d is\n%s\nwant\n%s", i, a, b)
		}
	}
	for name, args := range map[string][]string{
		"seed": {"--seed", "7"}, "without the commands": {"--no-commands"},
	} {
		if stdout, _ := replayFrom(t, exitDone, append([]string{dir}, args...)...); !strings.Contains(stdout, "a what-if, not compared") || !strings.Contains(stdout, name) {
			t.Errorf("%v: %s", args, stdout)
		}
	}
}

// A recording is served like any replay; commands are refused.
func TestRecordingIsServed(t *testing.T) {
	t.Parallel()
	for _, pace := range []string{"1", "step"} {
		t.Run(pace, func(t *testing.T) {
			t.Parallel()
			a := startAPI(t, nil, "replay", "--from", goldenRecording, "--pace", pace)
			info := a.info(t)
			if info.Source != "live" && info.Source != "replay" {
				t.Errorf("info: %+v", info)
			}
			if pace == "step" {
				a.post(t, http.StatusOK, "/v1/steps", `{"steps": 150}`)
				a.post(t, http.StatusConflict, "/v1/steps", `{"steps": 1, "batch_size_by_model": {"Llama-3.1-8B": 8}}`)
				a.post(t, http.StatusOK, "/v1/reset", `{"seed": 9}`)
				a.post(t, http.StatusOK, "/v1/steps", `{"until_s": 3}`)
			} else {
				eventually(t, "a state", func() bool { status, _ := a.probe(t, "/readyz"); return status == http.StatusOK })
				a.post(t, http.StatusConflict, "/v1/batch-sizes", `{"batch_size_by_model": {"Llama-3.1-8B": 8}}`)
			}
			var state struct {
				PowerW struct{ A float64 } `json:"power_w"`
			}
			if err := json.Unmarshal(a.get(t, http.StatusOK, "/v1/state"), &state); err != nil || !(state.PowerW.A > 1e5) {
				t.Errorf("the state has %+v (%v)", state, err)
			}
		})
	}
}

// A recording of every version of the format is run again bit for bit.
func TestEarlierRecordings(t *testing.T) {
	t.Parallel()
	stdout, stderr := replayFrom(t, exitDone, goldenRecording)
	if !strings.Contains(stdout, "200 of 200 states compared with the recorded ones: "+allEqual) {
		t.Errorf("%s%s", stdout, stderr)
	}
}

func TestReplayFromWrongInput(t *testing.T) {
	t.Parallel()
	empty := t.TempDir()
	for _, args := range [][]string{
		{"replay"},
		{"replay", "--config", "x.yaml", "--seed", "1"},
		{"replay", "--from", empty},
		{"replay", "--from", filepath.Join(empty, "none")},
		{"replay", "--from", goldenRecording, "--segment", "7"},
		{"replay", "--from", goldenRecording, "--from-run", "none"},
		{"replay", "--from", goldenRecording, "--url-file", filepath.Join(empty, "url")},
	} {
		p := startProgram(t, nil, args...)
		if status := p.wait(t, time.Minute); status != exitInvalid {
			t.Errorf("%v: exit status %d: %s", args, status, p.stderr.text())
		}
	}
}

// A directory that cannot be recorded in is told before anything is contacted.
func TestRecordWhereNothingCanBeWritten(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p := startProgram(t, nil, "demo", "--record", file)
	if status := p.wait(t, time.Minute); status != exitInvalid || !strings.Contains(p.stderr.text(), file) {
		t.Errorf("exit status %d: %s", status, p.stderr.text())
	}
}

// wantRecorded: a day of commands, refusals, leases and restarts is in the recording,
// and is run again bit for bit.
func wantRecorded(t *testing.T, dir string) {
	t.Helper()
	if stdout, stderr := replayFrom(t, exitDone, dir); !strings.Contains(stdout, allEqual) {
		t.Errorf("%s%s", stdout, stderr)
	}
	r, err := recording.OpenReader(dir)
	if err != nil {
		t.Fatal(err)
	}
	accepted, refused, applied := 0, 0, 0
	for entry, err := range r.Lines(t.Context(), recording.ReadOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		switch line := entry.Line.(type) {
		case *recording.Command:
			if line.Actor.Via != "api" || line.Actor.Address == "" || len(line.Body) == 0 {
				t.Errorf("a command has the actor %+v and the body %s", line.Actor, line.Body)
			}
			if strings.Contains(string(line.Results), `"refused"`) {
				refused++
			} else {
				accepted++
			}
		case *recording.Event:
			if line.Topic == recording.TopicApplied {
				applied++
			}
		}
	}
	if accepted < 3 || refused < 1 || applied < 3 {
		t.Errorf("the recording has %d commands, %d refused ones and %d effects", accepted, refused, applied)
	}
}
