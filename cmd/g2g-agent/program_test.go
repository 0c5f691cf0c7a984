package main

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// soon bounds what a program does at once, on a machine that may be busy elsewhere.
const soon = 20 * time.Second

// lines are what a program has written so far.
type lines struct {
	mu      sync.Mutex
	all     []string
	changed chan struct{} // closed and replaced at each line
}

// read takes in a program's output to its end.
func (l *lines) read(r io.Reader) {
	in := bufio.NewScanner(r)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		l.mu.Lock()
		l.all = append(l.all, in.Text())
		close(l.changed)
		l.changed = make(chan struct{})
		l.mu.Unlock()
	}
	_, _ = io.Copy(io.Discard, r) // an overlong line
}

func (l *lines) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.all, "\n")
}

// program is a running g2g-agent.
type program struct {
	cmd            *exec.Cmd
	stdout, stderr lines
	done           chan struct{}
	seen           int // lines of stderr that await has passed over
}

func startProgram(t *testing.T, env []string, args ...string) *program {
	t.Helper()
	return startCommand(t, exec.CommandContext(t.Context(), "g2g-agent", args...), env)
}

func startCommand(t *testing.T, cmd *exec.Cmd, env []string) *program {
	t.Helper()
	p := &program{cmd: cmd, done: make(chan struct{})}
	p.stdout.changed, p.stderr.changed = make(chan struct{}), make(chan struct{})
	// Under the race detector a program waits a second before it exits.
	p.cmd.Env = slices.Concat(os.Environ(), []string{"GORACE=atexit_sleep_ms=0", "G2G_AGENT_API__LISTEN=127.0.0.1:0"}, env)
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		var readers sync.WaitGroup
		readers.Go(func() { p.stdout.read(stdout) })
		readers.Go(func() { p.stderr.read(stderr) })
		readers.Wait()
		_ = p.cmd.Wait() // the status is looked at by those who care
	}()
	t.Cleanup(p.kill)
	return p
}

// kill is kill -9.
func (p *program) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.done
}

// wait returns the exit status.
func (p *program) wait(t *testing.T, within time.Duration) int {
	t.Helper()
	timeout := time.NewTimer(within)
	defer timeout.Stop()
	select {
	case <-p.done:
	case <-timeout.C:
		t.Errorf("%q runs on after %v; its log:\n%s", p.cmd.Args, within, p.stderr.text())
		p.kill()
	}
	return p.cmd.ProcessState.ExitCode()
}

// terminate sends SIGTERM and wants the program to end well, and soon.
func (p *program) terminate(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if status := p.wait(t, 10*time.Second); status != exitDone {
		t.Errorf("%q exited with status %d; its log:\n%s", p.cmd.Args, status, p.stderr.text())
	}
}

// await waits for a line with the text, on stderr after those it waited for
// before, or from the start on stdout.
func (p *program) await(t *testing.T, from *lines, text string) string {
	t.Helper()
	timeout := time.NewTimer(soon)
	defer timeout.Stop()
	next := 0
	if from == &p.stderr {
		next = p.seen
	}
	for {
		from.mu.Lock()
		all, changed := from.all, from.changed
		from.mu.Unlock()
		for ; next < len(all); next++ {
			if strings.Contains(all[next], text) {
				if from == &p.stderr {
					p.seen = next + 1
				}
				return all[next]
			}
		}
		select {
		case <-changed:
		case <-p.done:
			if from.mu.Lock(); len(from.all) == next {
				from.mu.Unlock()
				t.Fatalf("%q ended without %q; its log:\n%s", p.cmd.Args, text, p.stderr.text())
			}
			from.mu.Unlock()
		case <-timeout.C:
			t.Fatalf("%q does not say %q; its log:\n%s", p.cmd.Args, text, p.stderr.text())
		}
	}
}
