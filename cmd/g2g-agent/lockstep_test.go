package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// scriptedCommand is a command before step k, as the config's script has it and as
// the API has it.
type scriptedCommand struct {
	k            int
	script, path string
	body         string
}

// lockstepScript is what is commanded in the lockstep tests: before the first step,
// several before one step, one that undoes another, at the last step.
func lockstepScript(t *testing.T) []scriptedCommand {
	t.Helper()
	scripted := func(k int, script string, c datacenter.Command) scriptedCommand {
		body, err := datacenter.EncodeCommandBody(c)
		if err != nil {
			t.Fatal(err)
		}
		return scriptedCommand{k, script, "/v1/" + c.Name(), string(body)}
	}
	batch := func(k int, sizes map[string]int) scriptedCommand {
		inScript, err := json.Marshal(sizes)
		if err != nil {
			t.Fatal(err)
		}
		return scripted(k, "set_batch_size: "+string(inScript), datacenter.SetBatchSize{BatchSizeByModel: sizes})
	}
	shift := func(k int, label string, delta int) scriptedCommand {
		return scripted(k, fmt.Sprintf("shift_replicas: {model_label: %q, replica_delta: %d}", label, delta),
			datacenter.ShiftReplicas{ModelLabel: label, ReplicaDelta: delta})
	}
	return []scriptedCommand{
		batch(0, map[string]int{"Llama-3.1-70B": 64}),
		batch(1, map[string]int{"Llama-3.1-8B": 256, "Llama-3.1-405B": 16}),
		shift(299, "Llama-3.1-405B", -20),
		shift(299, "Llama-3.1-70B", 15),
		batch(299, map[string]int{"Llama-3.1-70B": 256}),
		batch(300, map[string]int{"Llama-3.1-70B": 8}),
		shift(777, "Llama-3.1-8B", -100),
		shift(1500, "Llama-3.1-8B", 60),
		batch(2100, map[string]int{"Llama-3.1-8B": 8, "Llama-3.1-70B": 512, "Llama-3.1-405B": 256}),
		shift(2999, "Llama-3.1-8B", 100),
	}
}

// lockstepSteps is the number of steps of configs/replay.yaml.
const lockstepSteps = 3000

// startLockstep starts a replay of the shipped config without its script.
func startLockstep(t *testing.T, out string) *apiProgram {
	t.Helper()
	args := []string{"replay", "--config", shippedReplay(t), "--pace", "step"}
	if out != "" {
		args = append(args, "--out", out)
	}
	return startAPI(t, []string{"G2G_AGENT_REPLAY__COMMANDS=[]"}, args...)
}

func shippedReplay(t *testing.T) string {
	return filepath.Join(repositoryRoot(t), "configs", "replay.yaml")
}

// scriptedStates are the states, a line each, of the same replay with the script in
// its config.
func scriptedStates(t *testing.T) []string {
	t.Helper()
	var script []string
	for _, c := range lockstepScript(t) {
		script = append(script, fmt.Sprintf("{t: %d.%d, %s}", c.k/10, c.k%10, c.script))
	}
	out := filepath.Join(t.TempDir(), "scripted.jsonl")
	p := startProgram(t, []string{"G2G_AGENT_REPLAY__COMMANDS=[" + strings.Join(script, ", ") + "]"},
		"replay", "--config", shippedReplay(t), "--out", out)
	if status := p.wait(t, soon); status != exitDone {
		t.Fatalf("the scripted replay exited with status %d:\n%s", status, p.stderr.text())
	}
	lines := fileLines(t, out)
	if len(lines) != lockstepSteps {
		t.Fatalf("the scripted replay has %d states, want %d", len(lines), lockstepSteps)
	}
	return lines
}

// fileLines returns the lines of a file that ends with a whole one.
func fileLines(t *testing.T, file string) []string {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if len(raw) > 0 && raw[len(raw)-1] != '\n' {
		t.Errorf("%s does not end with a whole line", file)
	}
	return strings.Split(strings.TrimSuffix(string(raw), "\n"), "\n")
}

// advance asks for n steps and returns the states as they came.
func (a *apiProgram) advance(t *testing.T, n int, headers ...string) []string {
	t.Helper()
	answer := a.post(t, http.StatusOK, "/v1/steps", fmt.Sprintf(`{"steps": %d}`, n), headers...)
	return rawStates(t, answer)
}

func rawStates(t *testing.T, array []byte) []string {
	t.Helper()
	var raw []json.RawMessage
	if err := json.Unmarshal(array, &raw); err != nil {
		t.Fatalf("want an array of states: %v in %.200s", err, array)
	}
	states := make([]string, len(raw))
	for i := range raw {
		states[i] = string(raw[i])
	}
	return states
}

// wantSameStates wants states to be the same to the last byte.
func wantSameStates(t *testing.T, what string, got, want []string) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %d states, want %d", what, len(got), len(want))
	}
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			t.Fatalf("%s: state %d is\n%s\nwant\n%s", what, i, got[i], want[i])
		}
	}
}

// TestLockstepGivesTheScriptedReplay drives a replay in irregular batches, with
// commands in between, and compares it with the same replay whose config has these
// commands as its script.
func TestLockstepGivesTheScriptedReplay(t *testing.T) {
	t.Parallel()
	want := scriptedStates(t)
	out := filepath.Join(t.TempDir(), "lockstep.jsonl")
	a := startLockstep(t, out)

	if problem := a.get(t, http.StatusServiceUnavailable, "/v1/state"); !strings.Contains(string(problem), "before the first step") {
		t.Errorf("before the first step: %s", problem)
	}
	if info := a.info(t); info.Pace != "lockstep" || info.Phase != "waiting" || info.Source != "replay" || info.Steps != 0 {
		t.Errorf("info: %+v", info)
	}
	draw := rand.New(rand.NewPCG(1, 2))
	var got []string
	script := lockstepScript(t)
	for len(got) < lockstepSteps {
		for len(script) > 0 && script[0].k == len(got) {
			a.post(t, http.StatusOK, script[0].path, script[0].body)
			script = script[1:]
		}
		limit := lockstepSteps
		if len(script) > 0 {
			limit = script[0].k
		}
		n := 1 + draw.IntN(1+draw.IntN(300)) // short ones often
		if limit < lockstepSteps {
			n = min(n, limit-len(got))
		}
		asked := len(got)
		states := a.advance(t, n, "Idempotency-Key", fmt.Sprint("step-", asked))
		if wanted := min(n, lockstepSteps-asked); len(states) != wanted {
			t.Fatalf("%d steps asked for at step %d gave %d states", n, asked, len(states))
		}
		got = append(got, states...)
		if draw.IntN(10) == 0 { // a lost answer is asked for again
			again := a.advance(t, n, "Idempotency-Key", fmt.Sprint("step-", asked))
			wantSameStates(t, "a repeated request", again, states)
			latest := strings.TrimSpace(string(a.get(t, http.StatusOK, "/v1/state")))
			wantSameStates(t, "the latest state", []string{latest}, got[len(got)-1:])
		}
	}
	wantSameStates(t, "over HTTP", got, want)
	// The file is whole as soon as the last step has been computed.
	wantSameStates(t, "in the file", fileLines(t, out), want)

	if states := a.advance(t, 10); len(states) != 0 {
		t.Errorf("after the end: %d states", len(states))
	}
	if info := a.info(t); info.Phase != "ended" || info.Steps != lockstepSteps {
		t.Errorf("info at the end: %+v", info)
	}
	a.post(t, http.StatusOK, "/v1/batch-sizes", `{"batch_size_by_model": {"Llama-3.1-8B": 64}}`)
	history := rawStates(t, a.get(t, http.StatusOK, "/v1/history?n=50"))
	wantSameStates(t, "the history", history, want[lockstepSteps-50:])
	a.terminate(t)
	wantSameStates(t, "in the file after the end", fileLines(t, out), want)
	if stdout := a.stdout.text(); !strings.HasPrefix(stdout, "3000 steps in ") || strings.Count(stdout, " steps in ") != 1 {
		t.Errorf("stdout: %s", stdout)
	}
}

// TestLockstepEndsInTheMiddle: SIGTERM is the orderly end, also while steps are
// being computed.
func TestLockstepEndsInTheMiddle(t *testing.T) {
	t.Parallel()
	want := scriptedStates(t)
	for _, test := range []struct {
		name  string
		under bool // a request is under way
	}{{"between requests", false}, {"in a request", true}} {
		out := filepath.Join(t.TempDir(), "states.jsonl")
		a := startLockstep(t, out)
		a.post(t, http.StatusOK, "/v1/batch-sizes", lockstepScript(t)[0].body)
		states := a.advance(t, 1)
		if names := names(t, filepath.Dir(out)); slices.Contains(names, filepath.Base(out)) {
			t.Errorf("%s: the file is there before it is complete: %q", test.name, names)
		}
		if test.under {
			a.post(t, http.StatusOK, "/v1/batch-sizes", lockstepScript(t)[1].body)
			var client sync.WaitGroup
			client.Go(func() {
				_, _ = a.send(t, http.MethodPost, "/v1/steps", `{"steps": 298}`) // whatever is answered
			})
			if err := a.cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Error(err)
			}
			client.Wait()
		} else if err := a.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if status := a.wait(t, soon); status != exitDone {
			t.Errorf("%s: exited with status %d:\n%s", test.name, status, a.stderr.text())
		}
		kept := fileLines(t, out)
		if len(kept) < len(states) || !test.under && len(kept) != len(states) {
			t.Errorf("%s: %d states in the file, %d were answered", test.name, len(kept), len(states))
		}
		wantSameStates(t, test.name, kept, want[:min(len(kept), 299)])
		if stdout := a.stdout.text(); !strings.HasPrefix(stdout, fmt.Sprintf("%d steps in ", len(kept))) {
			t.Errorf("%s: stdout: %s", test.name, stdout)
		}
	}

	// Nothing computed, nothing to keep.
	a := startLockstep(t, "")
	a.terminate(t)
}

// TestLockstepSharedByTwo: each step is computed once, whoever asks.
func TestLockstepSharedByTwo(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "states.jsonl")
	a := startLockstep(t, out)
	const clients, requests, n = 4, 25, 7
	var all [clients][]string
	var group sync.WaitGroup
	for i := range clients {
		group.Go(func() {
			for range requests {
				answer, err := a.send(t, http.MethodPost, "/v1/steps", fmt.Sprintf(`{"steps": %d}`, n))
				var raw []json.RawMessage
				if err == nil {
					err = json.Unmarshal(answer.body, &raw)
				}
				if err != nil || len(raw) != n {
					t.Errorf("%d states, %v: %v", len(raw), err, answer)
					return
				}
				for _, state := range raw {
					all[i] = append(all[i], string(state))
				}
			}
		})
	}
	group.Wait()
	a.terminate(t)
	var got []string
	for i := range all {
		for j := 1; j < len(all[i]); j++ {
			if seqOf(t, all[i][j]) <= seqOf(t, all[i][j-1]) {
				t.Errorf("client %d got step %d after step %d", i, seqOf(t, all[i][j]), seqOf(t, all[i][j-1]))
			}
		}
		got = append(got, all[i]...)
	}
	slices.SortFunc(got, func(a, b string) int { return seqOf(t, a) - seqOf(t, b) })
	wantSameStates(t, "all clients together", got, fileLines(t, out))
	if len(got) != clients*requests*n {
		t.Errorf("%d states, want %d", len(got), clients*requests*n)
	}
}

func seqOf(t *testing.T, state string) int {
	t.Helper()
	var s struct{ Seq int }
	if err := json.Unmarshal([]byte(state), &s); err != nil {
		t.Error(err)
	}
	return s.Seq
}

// TestStepsNeedLockstep: a replay in real time is not to be advanced.
func TestStepsNeedLockstep(t *testing.T) {
	t.Parallel()
	a := startAPI(t, nil, "replay", "--config", shippedReplay(t), "--pace", "1")
	problem := a.post(t, http.StatusConflict, "/v1/steps", `{"steps": 1}`)
	if !strings.Contains(string(problem), "--pace step") {
		t.Errorf("the problem does not say what would be right: %s", problem)
	}
	if info := a.info(t); info.Pace != "real_time" {
		t.Errorf("info: %+v", info)
	}
}

// TestLockstepRefusesSteps: what is no number of steps computes none.
func TestLockstepRefusesSteps(t *testing.T) {
	t.Parallel()
	a := startLockstep(t, "")
	for _, body := range []string{`{"steps": 0}`, `{"steps": -1}`, `{"steps": 10001}`, `{"steps": 1.5}`, `{"steps": "1"}`, `{"steps": null}`, `{}`, `{"step": 1}`} {
		answer := a.post(t, http.StatusUnprocessableEntity, "/v1/steps", body)
		if !strings.Contains(string(answer), "body.step") {
			t.Errorf("%s: the problem does not name the field: %s", body, answer)
		}
	}
	for _, body := range []string{``, `[]`, `{"steps": 1} {}`, `{"steps": 1, "steps": 2}`, `{"steps": 1`} {
		a.post(t, http.StatusBadRequest, "/v1/steps", body)
	}
	if info := a.info(t); info.Steps != 0 {
		t.Errorf("%d steps were computed", info.Steps)
	}
	if states := a.advance(t, 10_000); len(states) != lockstepSteps {
		t.Errorf("10000 steps at once gave %d states, want %d", len(states), lockstepSteps)
	}
}
