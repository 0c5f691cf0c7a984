package main

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// shortTemplates is a config whose templates are shorter than its run; here they
// are the run's length, and it goes on after it.
func shortTemplates(t *testing.T) (config string, env []string) {
	return filepath.Join(repositoryRoot(t), "testdata", "configs", "short_templates_shifts_past_capacity.yaml"),
		[]string{"G2G_AGENT_REPLAY__AT_END=continue", "G2G_AGENT_REPLAY__DURATION_S=0.3", "G2G_AGENT_REPLAY__TEMPLATE_DURATION_S=0.3"}
}

// TestReplayWithoutEndInRealTime: it goes on after its duration, and a signal is its
// orderly end.
func TestReplayWithoutEndInRealTime(t *testing.T) {
	t.Parallel()
	config, env := shortTemplates(t)
	out := filepath.Join(t.TempDir(), "states.jsonl")
	a := startAPI(t, env, "replay", "--config", config, "--pace", "1", "--out", out)
	ws := a.dial(t, "/v1/stream")
	for next[seenState](t, ws).Seq < 6 {
	}
	if info := a.info(t); info.Phase != "stepping" {
		t.Errorf("the phase is %s", info.Phase)
	}
	a.terminate(t)
	if states := fileLines(t, out); len(states) < 7 || seqOf(t, states[len(states)-1]) != len(states)-1 {
		t.Errorf("%d states were written", len(states))
	}
}

func TestReplayWithoutEndInLockstep(t *testing.T) {
	t.Parallel()
	config, env := shortTemplates(t)
	out := filepath.Join(t.TempDir(), "states.jsonl")
	a := startAPI(t, env, "replay", "--config", config, "--pace", "step", "--out", out)
	states := append(a.advance(t, 3), a.advance(t, 250)...)
	if len(states) != 253 || a.info(t).Phase != "waiting" {
		t.Errorf("%d states, phase %s", len(states), a.info(t).Phase)
	}
	a.terminate(t)
	if diff := cmp.Diff(states, fileLines(t, out)); diff != "" {
		t.Errorf("states written (-answered +written):\n%s", diff)
	}
}
