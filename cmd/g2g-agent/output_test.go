//go:build unix

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/record"
)

// warmSoon makes a demo step soon, and log its steps.
func warmSoon() []string {
	return []string{"G2G_AGENT_LIVE__STAGGER_S=1", "G2G_AGENT_LOG__LEVEL=debug"}
}

// awaitStates waits until a file has so many lines.
func awaitStates(t *testing.T, file string, n int) {
	t.Helper()
	eventually(t, "states in the output", func() bool {
		raw, _ := os.ReadFile(file)
		return strings.Count(string(raw), "\n") >= n
	})
}

// TestOutputSurvivesKills: what a run that was killed has written is readable, up to
// a second or two before, and nothing that is there is replaced or hidden.
func TestOutputSurvivesKills(t *testing.T) {
	t.Parallel()
	out := outFile(t)
	dir := filepath.Dir(out)
	if err := os.WriteFile(out, []byte("{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		p := startProgram(t, warmSoon(), "demo", "--out", out)
		p.await(t, &p.stderr, logStepping)
		awaitStates(t, out+".partial", 5)
		p.kill()
	}
	p := startProgram(t, warmSoon(), "demo", "--duration-s", "1", "--out", out)
	if status := p.wait(t, time.Minute); status != exitDone {
		t.Fatalf("exited with status %d:\n%s", status, p.stderr.text())
	}
	want := []string{"states.2.jsonl", "states.interrupted.2.jsonl", "states.interrupted.jsonl", "states.jsonl"}
	if diff := cmp.Diff(want, names(t, dir)); diff != "" {
		t.Errorf("the files (-want +got):\n%s", diff)
	}
	for name, least := range map[string]int{"states.2.jsonl": 10, "states.interrupted.jsonl": 5, "states.interrupted.2.jsonl": 5} {
		if states, err := record.ReadAll(filepath.Join(dir, name)); err != nil || len(states) < least {
			t.Errorf("%s has %d states (%v), want at least %d", name, len(states), err, least)
		}
	}
	if raw, err := os.ReadFile(out); string(raw) != "{}\n" || err != nil {
		t.Errorf("what was there is %q (%v)", raw, err)
	}
	log := p.stderr.text()
	for _, said := range []string{out + " is there already and is kept: this run writes ", "an earlier run was interrupted: its states up to then are in "} {
		if !strings.Contains(log, said) {
			t.Errorf("the log does not say %q:\n%s", said, log)
		}
	}
}

// TestOutputIsFull: the run goes on to its end, says that its output is incomplete,
// and keeps what was written.
func TestOutputIsFull(t *testing.T) {
	t.Parallel()
	out := outFile(t)
	program, err := exec.LookPath("g2g-agent")
	if err != nil {
		t.Fatal(err)
	}
	p := startShell(t, warmSoon(), `ulimit -f 32; exec "$@"`, program, "demo", "--duration-s", "4", "--out", out) // of 512 bytes, or of 1 KiB
	if status := p.wait(t, time.Minute); status != exitFailed {
		t.Errorf("exited with status %d, want %d", status, exitFailed)
	}
	log := p.stderr.text()
	if n := strings.Count(log, "the output failed: the run goes on without, and what was written is kept"); n != 1 {
		t.Errorf("the log says %d times that the output failed:\n%s", n, log)
	}
	if stdout := p.stdout.text(); !strings.HasPrefix(stdout, "40 steps in ") {
		t.Errorf("the run did not go on: %s", stdout)
	}
	kept := strings.TrimSuffix(out, ".jsonl") + ".interrupted.jsonl"
	states, err := record.ReadAll(kept)
	if err != nil || len(states) < 3 || len(states) > 39 {
		t.Errorf("%s has %d states (%v), want those before the file was full", kept, len(states), err)
	}
	leftOut := fmt.Sprintf("%d states were left out", 40-len(states))
	if !strings.Contains(log, "states.jsonl is incomplete: ") || !strings.Contains(log, "the states before it are in "+kept) || !strings.Contains(log, leftOut) {
		t.Errorf("the end does not tell of what was kept:\n%s", log)
	}
	if diff := cmp.Diff([]string{filepath.Base(kept)}, names(t, filepath.Dir(out))); diff != "" {
		t.Errorf("the files (-want +got):\n%s", diff)
	}
}

// startShell starts a shell's script with arguments.
func startShell(t *testing.T, env []string, script string, args ...string) *program {
	t.Helper()
	return startCommand(t, exec.CommandContext(t.Context(), "sh", slices.Concat([]string{"-c", script, "sh"}, args)...), env)
}

// TestOutputIsNotRead: a FIFO whose reader has stopped holds up no step, and the end
// says what is missing.
func TestOutputIsNotRead(t *testing.T) {
	t.Parallel()
	fifo := filepath.Join(t.TempDir(), "states.jsonl")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	p := startProgram(t, append(warmSoon(), "G2G_AGENT_DT_S=0.005"), "demo", "--duration-s", "7", "--out", fifo)
	if status := p.wait(t, time.Minute); status != exitFailed {
		t.Errorf("exited with status %d, want %d", status, exitFailed)
	}
	log := p.stderr.text()
	for _, said := range []string{"the output does not keep up: states are left out until it does", record.ErrNotTaken.Error(), "were left out before"} {
		if !strings.Contains(log, said) {
			t.Errorf("the log does not say %q:\n%s", said, log)
		}
	}
	if stdout := p.stdout.text(); !strings.HasPrefix(stdout, "1400 steps in ") {
		t.Errorf("the run did not make all its steps: %s", stdout)
	}
}

// TestSecondSignal: an orderly end is not cut short by impatience.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	out := outFile(t)
	p := startProgram(t, warmSoon(), "demo", "--out", out)
	awaitStates(t, out+".partial", 5)
	for range 2 {
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	if status := p.wait(t, 15*time.Second); status != exitDone {
		t.Errorf("exited with status %d:\n%s", status, p.stderr.text())
	}
	if states := readRun(t, out); len(states) < 5 {
		t.Errorf("%d states, want those that were seen", len(states))
	}
}
