package main

import (
	"encoding/json"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gorilla/websocket"
)

// runInfo is what a reset answers with and /v1/info tells.
type runInfo struct {
	RunID        string   `json:"run_id"`
	ConfigDigest string   `json:"config_digest"`
	DT           string   `json:"dt"`
	DurationS    *float64 `json:"duration_s"`
	TotalSteps   *int64   `json:"total_steps"`
	AtEnd        *string  `json:"at_end"`
	Seed         uint64   `json:"seed"`
	Steps        int64    `json:"steps"`
}

// TestRunsOfOneProcess: a run that is begun anew gives the states of a process that is
// started so, to the last bit, also over the WebSocket.
func TestRunsOfOneProcess(t *testing.T) {
	t.Parallel()
	a := startLockstep(t, "")
	first := a.advance(t, 10_000)
	a.post(t, http.StatusOK, "/v1/batch-sizes", `{"batch_size_by_model": {"Llama-3.1-8B": 8}}`)
	info := decode[runInfo](t, a.post(t, http.StatusOK, "/v1/reset", `{"seed": 5, "duration_s": 40}`))
	if info.Seed != 5 || info.Steps != 0 || *info.TotalSteps != 400 || *info.AtEnd != "stop" || info.DT != "1/10" || !strings.HasPrefix(info.ConfigDigest, "sha256:") {
		t.Errorf("the run is %+v", info)
	}
	conn := a.dial(t, "/v1/lockstep")
	ask := func(message string) []byte {
		t.Helper()
		if err := conn.WriteMessage(websocket.TextMessage, []byte(message)); err != nil {
			t.Fatal(err)
		}
		_, answer, err := conn.ReadMessage()
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	var other []string
	for range 400 {
		other = append(other, rawStates(t, ask(`{"steps": 1}`))...)
	}
	fresh := startAPI(t, []string{"G2G_AGENT_REPLAY__COMMANDS=[]", "G2G_AGENT_SEED=5", "G2G_AGENT_REPLAY__DURATION_S=40"}, "replay", "--config", shippedReplay(t), "--pace", "step")
	wantSameStates(t, "another seed and duration", other, fresh.advance(t, 10_000))
	wantSameDigest := decode[runInfo](t, ask(`{"reset": {}}`))
	if wantSameDigest.ConfigDigest != info.ConfigDigest || wantSameDigest.RunID == info.RunID {
		t.Errorf("the run %+v follows %+v", wantSameDigest, info)
	}
	wantSameStates(t, "the first run again", rawStates(t, ask(`{"steps": 10000}`)), first)
	conn.Close()
	a.terminate(t)
	// The summary of the first run came when it was complete, that of the last at the end.
	if stdout := a.stdout.text(); strings.Count(stdout, " steps in ") != 2 || strings.Count(stdout, "3000 steps in ") != 2 {
		t.Errorf("stdout: %s", stdout)
	}
}

// TestResetAndOutput: a run whose states are in a file cannot begin anew; before its first
// step it can, and the file then has the run that follows.
func TestResetAndOutput(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "states.jsonl")
	a := startLockstep(t, out)
	a.post(t, http.StatusOK, "/v1/reset", `{"seed": 5, "duration_s": 4}`)
	states := a.advance(t, 30)
	problem := a.post(t, http.StatusConflict, "/v1/reset", `{}`)
	var p struct{ Code, Detail string }
	if err := json.Unmarshal(problem, &p); err != nil || p.Code != "writing-output" || !strings.Contains(p.Detail, "30 states") || !strings.Contains(p.Detail, "--out") {
		t.Errorf("a reset after 30 steps: %s", problem)
	}
	states = append(states, a.advance(t, 30)...)
	if len(states) != 40 {
		t.Errorf("%d states, want 40", len(states))
	}
	wantSameStates(t, "in the file, complete with the last step", fileLines(t, out), states)
	a.post(t, http.StatusConflict, "/v1/reset", `{}`)
	a.terminate(t)
	if stdout := a.stdout.text(); strings.Count(stdout, " steps in ") != 1 {
		t.Errorf("stdout: %s", stdout)
	}
}

// TestManyRunsPrintLittle: what hundreds of runs of one process print would fill the pipe
// of a program that does not read it, and hang it.
func TestManyRunsPrintLittle(t *testing.T) {
	t.Parallel()
	a := startLockstep(t, "")
	for range 300 {
		a.post(t, http.StatusOK, "/v1/reset", `{"duration_s": 0.5}`)
		if n := len(a.advance(t, 100)); n != 5 {
			t.Fatalf("%d states, want 5", n)
		}
	}
	a.terminate(t)
	if stdout := a.stdout.text(); strings.Count(stdout, " steps in ") != 1 {
		t.Errorf("stdout: %s", stdout)
	}
}

// TestRunWithoutEnd tells that it has none.
func TestRunWithoutEnd(t *testing.T) {
	t.Parallel()
	a := startAPI(t, []string{"G2G_AGENT_REPLAY__AT_END=continue", "G2G_AGENT_REPLAY__COMMANDS=[]"}, "replay", "--config", shippedReplay(t), "--pace", "step")
	info := decode[runInfo](t, a.get(t, http.StatusOK, "/v1/info"))
	if info.DurationS != nil || info.TotalSteps != nil || *info.AtEnd != "continue" {
		t.Errorf("a run without end is %+v", info)
	}
	if n := len(a.advance(t, 3001)); n != 3001 {
		t.Errorf("it has %d steps", n)
	}
	a.terminate(t)
}
