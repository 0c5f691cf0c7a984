package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOrphanOfASubreaper: a service manager of a user, or a container's first process,
// takes the orphan in; its parent is then not process 1.
func TestOrphanOfASubreaper(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0); err != nil {
			t.Error(err)
		}
	}()
	args, urlFile, out := served(t)
	p := startChain(t, `g2g-agent "$@" & echo "agent $!"; wait`, args...)
	agent := strings.Fields(p.await(t, &p.stdout, "agent "))[1]
	awaitURL(t, urlFile)
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.await(t, &p.stderr, "the parent is process")
	p.wait(t, soon)
	endedInOrder(t, p, urlFile, out)
	var status unix.WaitStatus
	if pid, err := unix.Wait4(atoi(t, agent), &status, 0, nil); err != nil || !status.Exited() {
		t.Errorf("process %d of this one: %v, status %v: want the agent, ended", pid, err, status)
	}
	if got := p.stderr.text(); !strings.Contains(got, "the parent is process "+itoa(os.Getpid())) {
		t.Errorf("want this process as the new parent; the log:\n%s", got)
	}
}

// TestConfigThatNeverEnds: a signal, or the death of the parent, ends the waiting for it.
func TestConfigThatNeverEnds(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"-", "fifo"} {
		dir := t.TempDir()
		fifo := filepath.Join(dir, "fifo")
		if err := syscall.Mkfifo(fifo, 0o600); err != nil {
			t.Fatal(err)
		}
		held, err := os.OpenFile(fifo, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, end := range []string{"a signal", "the parent"} {
			if _, err := held.WriteString("seed: 1\n"); err != nil {
				t.Fatal(err)
			}
			verb := map[string]string{"a signal": "check", "the parent": "replay --exit-with-parent"}[end]
			p := startChain(t, `cd "$2" && { g2g-agent `+verb+` --config "$1" <fifo & echo "agent $!"; wait; }`, name, dir)
			agent := atoi(t, strings.Fields(p.await(t, &p.stdout, "agent "))[1])
			eventually(t, "it reads", func() bool { // and has looked for its parent
				left, err := unix.IoctlGetInt(int(held.Fd()), unix.TIOCINQ)
				return err == nil && left == 0
			})
			if end == "the parent" {
				err = p.cmd.Process.Kill()
			} else {
				err = syscall.Kill(agent, syscall.SIGTERM)
			}
			if err != nil {
				t.Fatal(err)
			}
			p.wait(t, soon)
			if end == "a signal" && !strings.Contains(p.stderr.text(), "interrupted while the config was read from ") {
				t.Errorf("%s, %s: the log is %q", name, end, p.stderr.text())
			}
		}
		if err := held.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestConfigFromATerminal: it is said what is waited for, and the config that is typed is
// taken.
func TestConfigFromATerminal(t *testing.T) {
	t.Parallel()
	master, slave := openTerminal(t)
	cmd := exec.CommandContext(t.Context(), "g2g-agent", "check", "--config", "-")
	cmd.Stdin = slave
	p := startCommand(t, cmd, nil)
	p.await(t, &p.stderr, "the config is read from standard input, until its end (Ctrl-D)")
	const endOfText = "\x04"
	if _, err := master.WriteString("seed: -1\n" + endOfText); err != nil {
		t.Fatal(err)
	}
	if status := p.wait(t, soon); status != exitInvalid {
		t.Errorf("the exit status is %d, want %d", status, exitInvalid)
	}
	p.await(t, &p.stderr, "seed: must be >= 0")
}
