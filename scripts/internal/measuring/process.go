package measuring

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

const (
	// orderlyEnd is longer than any orderly end of an agent takes.
	orderlyEnd = time.Minute
	// maxTailBytes is how much of its log is kept to say why it failed.
	maxTailBytes = 16 << 10
)

// Program is what to run.
type Program struct {
	Binary string
	Args   []string
	// Env is set beside what the environment has, as NAME=VALUE.
	Env []string
	// OnLog and OnOutput, where given, get each line of standard error and of
	// standard output, without its end, one at a time; a line is valid during the
	// call only.
	OnLog, OnOutput func(line []byte)
}

// Process is a program that runs.
type Process struct {
	cmd   *exec.Cmd
	log   tail
	ended chan struct{}
	err   error // once it has ended
}

// Start starts a program. It is interrupted when ctx ends. The context returned ends
// with the program: its cause then says how.
func Start(ctx context.Context, p Program) (context.Context, *Process, error) {
	process := &Process{cmd: exec.CommandContext(ctx, p.Binary, p.Args...), ended: make(chan struct{})}
	cmd := process.cmd
	cmd.Env = append(os.Environ(), p.Env...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = orderlyEnd
	log := &lines{take: func(line []byte) {
		process.log.add(line)
		if p.OnLog != nil {
			p.OnLog(line)
		}
	}}
	cmd.Stderr = log
	output := &lines{take: p.OnOutput}
	if p.OnOutput != nil {
		cmd.Stdout = output
	}
	ctx, end := context.WithCancelCause(ctx)
	if err := cmd.Start(); err != nil {
		end(err)
		return nil, nil, err
	}
	go func() {
		defer close(process.ended)
		err := cmd.Wait()
		log.end()
		output.end()
		if err != nil {
			process.err = fmt.Errorf("%s failed: %w\n%s", p.Binary, err, process.log.text)
		}
		end(cmp.Or(process.err, fmt.Errorf("%s ended by itself", p.Binary)))
	}()
	return ctx, process, nil
}

// Wait returns when the program has ended, with an error if it failed.
func (p *Process) Wait() error {
	<-p.ended
	return p.err
}

// Stop interrupts the program and waits.
func (p *Process) Stop() error {
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return errors.Join(err, p.Wait())
	}
	return p.Wait()
}

// PID is the process's number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// RSSBytes is the resident memory of a process, as Linux tells it.
func RSSBytes(pid int) (float64, error) {
	file := fmt.Sprintf("/proc/%d/statm", pid)
	raw, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(raw))
	if len(fields) < 2 {
		return 0, fmt.Errorf("%s has %q", file, raw)
	}
	pages, err := strconv.ParseFloat(fields[1], 64)
	return pages * float64(os.Getpagesize()), err
}

// CPU is the processor time that the program has taken, once it has ended.
func (p *Process) CPU() time.Duration {
	<-p.ended
	return p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
}

// lines cuts what is written into lines.
type lines struct {
	take func(line []byte)
	rest []byte // of a line without its end so far
}

// Write takes the lines that are whole now.
func (l *lines) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		line, rest, whole := bytes.Cut(l.rest, []byte("\n"))
		if !whole {
			return len(p), nil
		}
		l.take(line)
		l.rest = rest
	}
}

// end takes a last line that has no end.
func (l *lines) end() {
	if len(l.rest) > 0 {
		l.take(l.rest)
	}
}

// tail keeps the end of a log.
type tail struct{ text []byte }

func (t *tail) add(line []byte) {
	t.text = append(append(t.text, line...), '\n')
	if len(t.text) > 2*maxTailBytes { // not for every line
		t.text = append(t.text[:0], t.text[len(t.text)-maxTailBytes:]...)
	}
}
