package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestLockstepFails: a replay that cannot go on says so to the controller, and
// ends as one that nobody drives does: with the status for bad input, and without
// output.
func TestLockstepFails(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "states.csv")
	a := startAPI(t, []string{"G2G_AGENT_DATACENTER__BASE_KW_PER_PHASE=1e305"}, "replay", "--config", shippedReplay(t), "--pace", "step", "--out", out)
	answer := string(a.post(t, http.StatusInternalServerError, "/v1/steps", `{"steps": 3}`))
	if !strings.Contains(answer, "the power at t=0 s is not a finite number") {
		t.Errorf("the controller is told %s", answer)
	}
	if status := a.wait(t, soon); status != exitInvalid {
		t.Errorf("exit status %d, want %d; log:\n%s", status, exitInvalid, a.stderr.text())
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("there is an output of a replay that failed")
	}
}
