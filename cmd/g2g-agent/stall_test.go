//go:build unix

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/record"
)

// fullPipe returns the writing end of a pipe that takes no more and is not read.
func fullPipe(t *testing.T) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = r.Close(), w.Close() })
	if err := w.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := w.Write(make([]byte, 4<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("the pipe took %d bytes (%v)", n, err)
	}
	return w
}

// startDemo starts a demo that is warm soon, and reads its standard output and
// error where none are given.
func startDemo(t *testing.T, stdout, stderr *os.File, args ...string) *program {
	t.Helper()
	p := &program{cmd: exec.CommandContext(t.Context(), "g2g-agent", append([]string{"demo"}, args...)...), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", "G2G_AGENT_API__LISTEN=127.0.0.1:0", "G2G_AGENT_LIVE__STAGGER_S=1", "G2G_AGENT_LOG__LEVEL=debug")
	var readers []func()
	connect := func(given *os.File, to *io.Writer, pipe func() (io.ReadCloser, error), into *lines) {
		if given != nil {
			*to = given
			return
		}
		into.changed = make(chan struct{})
		r, err := pipe()
		if err != nil {
			t.Fatal(err)
		}
		readers = append(readers, func() { into.read(r) })
	}
	connect(stdout, &p.cmd.Stdout, p.cmd.StdoutPipe, &p.stdout)
	connect(stderr, &p.cmd.Stderr, p.cmd.StderrPipe, &p.stderr)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		for _, read := range readers { // there is one
			read()
		}
		_ = p.cmd.Wait() // the status is looked at by those who care
	}()
	t.Cleanup(p.kill)
	return p
}

// logStepping is logged at the first step.
const logStepping = `"alive"`

// checkSteps wants the log to tell of steps, none of which had to wait, and returns
// their number.
func checkSteps(t *testing.T, log string) int64 {
	t.Helper()
	for line := range strings.Lines(log) {
		if !strings.Contains(line, `"paced run done"`) {
			continue
		}
		var timing struct {
			Steps        int64   `json:"steps"`
			MaxLatenessS float64 `json:"max_lateness_s"`
		}
		if err := json.Unmarshal([]byte(line), &timing); err != nil {
			t.Fatal(err)
		}
		if timing.MaxLatenessS > 0.5 {
			t.Errorf("a step was late by %v s", timing.MaxLatenessS)
		}
		return timing.Steps
	}
	t.Errorf("the log does not tell of the steps:\n%s", log)
	return 0
}

// checkIncomplete wants a run to have ended by itself, with a summary, and with the
// failure as the last word.
func checkIncomplete(t *testing.T, p *program, failure string) {
	t.Helper()
	if status := p.wait(t, time.Minute); status != exitFailed {
		t.Errorf("exited with status %d, want %d", status, exitFailed)
	}
	log := p.stderr.text()
	if last := log[strings.LastIndex(log, "\n")+1:]; !strings.HasPrefix(last, "g2g-agent: ") || !strings.Contains(last, failure) {
		t.Errorf("the last line on stderr is %q, want one that tells of %q", last, failure)
	}
	if !strings.Contains(log, " steps in ") {
		t.Errorf("there is no summary:\n%s", log)
	}
}

// TestStdoutIsNotRead: the steps go on all the same, and the run ends in its own
// time and when it is told to.
func TestStdoutIsNotRead(t *testing.T) {
	t.Parallel()
	p := startDemo(t, fullPipe(t), nil, "--duration-s", "2", "--out", "-")
	told := startDemo(t, fullPipe(t), nil, "--out", "-")

	told.await(t, &told.stderr, logStepping)
	if err := told.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	checkIncomplete(t, told, record.ErrNotTaken.Error())
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("it took %v to end, want %v and little more", took, record.QueueTimeout)
	}
	checkSteps(t, told.stderr.text())

	checkIncomplete(t, p, record.ErrNotTaken.Error())
	if steps := checkSteps(t, p.stderr.text()); steps != 20 {
		t.Errorf("%d steps, want 20", steps)
	}
}

// TestStdoutIsClosed: the run is ended as others are, and not killed by a signal.
func TestStdoutIsClosed(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p := startDemo(t, w, nil, "--out", "-")
	w.Close()
	line, err := bufio.NewReader(r).ReadString('\n')
	if r.Close(); err != nil || !strings.HasPrefix(line, "time_s,") {
		t.Errorf("stdout begins with %q (%v)", line, err)
	}
	checkIncomplete(t, p, syscall.EPIPE.Error())
	checkSteps(t, p.stderr.text())
}

func TestStderrIsNotRead(t *testing.T) {
	t.Parallel()
	out := outFile(t)
	p := startDemo(t, nil, fullPipe(t), "--duration-s", "2", "--out", out)
	if status := p.wait(t, time.Minute); status != exitDone {
		t.Errorf("exited with status %d", status)
	}
	if states := readRun(t, out); len(states) != 20 {
		t.Errorf("%d states, want 20", len(states))
	}
	if stdout := p.stdout.text(); !strings.HasPrefix(stdout, "20 steps in ") {
		t.Errorf("stdout: %s", stdout)
	}
}

func TestInterruptedBeforeTheFirstStep(t *testing.T) {
	t.Parallel()
	out := outFile(t)
	p := startProgram(t, nil, "demo", "--out", out) // it takes 5 s to warm up
	p.await(t, &p.stderr, logSetUp)
	p.terminate(t)
	if stdout, stderr := p.stdout.text(), p.stderr.text(); stdout != "" || !strings.HasSuffix(stderr, "\ninterrupted before the first step") {
		t.Errorf("stdout: %q, stderr:\n%s", stdout, stderr)
	}
	if left := names(t, filepath.Dir(out)); left != nil {
		t.Errorf("the run left %q", left)
	}
}

// TestLiveLogIsNotTaken: who logs does not wait, and the lines that were lost are
// counted.
func TestLiveLogIsNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newStuckWriter()
		log := newLiveLogger(config.Log{Level: "info", Format: "json"}, w)
		began := time.Now()
		const logged = 2*logQueueSize + 10
		for range logged {
			log.Info().Msg("a line")
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("the log was waited for for %v", took)
		}
		close(w.released)
		log.end()
		log.end()
		taken := strings.Count(w.text(), `"a line"`)
		lost := 0
		for line := range strings.Lines(w.text()) {
			var drop struct {
				Lines int `json:"lines"`
			}
			if err := json.Unmarshal([]byte(line), &drop); err != nil {
				t.Fatal(err)
			}
			lost += drop.Lines
		}
		if lost == 0 || taken+lost != logged {
			t.Errorf("%d lines were taken and %d lost, want %d together", taken, lost, logged)
		}
	})
}

func TestLiveLogEndsStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newStuckWriter()
		log := newLiveLogger(config.Log{Level: "info", Format: "console"}, w)
		log.Info().Msg("a line")
		began := time.Now()
		log.end()
		if took := time.Since(began); took != noticeTimeout {
			t.Errorf("the end waited for %v, want %v", took, noticeTimeout)
		}
		close(w.released)
	})
}

func TestEventLevels(t *testing.T) {
	var b bytes.Buffer
	run := liveRun{log: newLiveLog(config.Log{Level: "debug"}, &b, nil)}
	for data, level := range map[datacenter.EventData]string{
		datacenter.ReplicasShifted{}: "info", datacenter.BatchSizeLeaseExpired{}: "warn", datacenter.ReplicaLeaseExpired{}: "warn",
		datacenter.DataStale{}: "debug", datacenter.DataFresh{}: "debug",
	} {
		b.Reset()
		run.logEvent(datacenter.NewEvent(1, data))
		want := `"level":"` + level + `"`
		if line := b.String(); !strings.Contains(line, want) || !strings.Contains(line, data.Topic()) {
			t.Errorf("logged was %s, want %s", line, want)
		}
	}
}
