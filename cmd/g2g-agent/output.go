package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/record"
)

// stdoutPath as --out is CSV on standard output.
const stdoutPath = "-"

// output is where a run's states go.
type output interface {
	Write(*datacenter.State) error
	// Commit completes the output; Abort, unless it was committed, discards it.
	Commit() error
	Abort()
}

// openOutput opens what --out names; a paced run's rows are wanted at once.
func openOutput(path string, models []datacenter.ModelSpec, paced bool, term terminal) (output, error) {
	labels := make([]string, len(models))
	for i, m := range models {
		labels[i] = m.ModelLabel
	}
	switch path {
	case "":
		return noOutput{}, nil
	case stdoutPath:
		w, err := record.NewCSVWriter(term.stdout, labels)
		return stdoutOutput{w, paced}, err
	default:
		return record.Create(path, labels)
	}
}

type noOutput struct{}

func (noOutput) Write(*datacenter.State) error { return nil }
func (noOutput) Commit() error                 { return nil }
func (noOutput) Abort()                        {}

// stdoutOutput is CSV on standard output, in a paced run each row at once.
type stdoutOutput struct {
	*record.CSVWriter
	paced bool
}

func (o stdoutOutput) Write(s *datacenter.State) error {
	if err := o.CSVWriter.Write(s); err != nil || !o.paced {
		return err
	}
	return o.Flush()
}

func (o stdoutOutput) Commit() error { return o.Close() }
func (stdoutOutput) Abort()          {}

const (
	// outputQueueSize is how many states may wait to be written.
	outputQueueSize = 1000
	// How long the end of a run waits for what is still to be written: states,
	// and words for people.
	outputTimeout = 5 * time.Second
	noticeTimeout = time.Second
)

// queuedOutput writes in a goroutine of its own: no step is to wait for a slow
// disk, or for a reader who has stopped reading.
type queuedOutput struct {
	out    output // the goroutine's
	states chan *datacenter.State
	commit bool          // at the end of the states; set before they are closed
	ended  chan struct{} // closed when the goroutine has ended
	err    error         // why it ended, once it has
	done   bool          // Commit or Abort was called
}

func startQueuedOutput(out output) *queuedOutput {
	q := &queuedOutput{out: out, states: make(chan *datacenter.State, outputQueueSize), ended: make(chan struct{})}
	go q.writeAll()
	return q
}

func (q *queuedOutput) writeAll() {
	defer close(q.ended)
	defer q.out.Abort()
	for s := range q.states {
		if q.err = q.out.Write(s); q.err != nil {
			return
		}
	}
	if q.commit {
		q.err = q.out.Commit()
	}
}

// Write passes s on to be written. It fails once an earlier state could not be
// written, and when too many wait.
func (q *queuedOutput) Write(s *datacenter.State) error {
	select {
	case <-q.ended:
		return q.err
	default:
	}
	select {
	case q.states <- s:
		return nil
	default:
		return fmt.Errorf("the output cannot keep up: %d states wait to be written", outputQueueSize)
	}
}

// Commit writes what waits and completes the output. After a timeout the output
// is as the goroutine, which is left to its fate, has got it.
func (q *queuedOutput) Commit() error {
	q.commit = true
	err := q.end()
	if errors.Is(err, errNotTaken) {
		return fmt.Errorf("the output is incomplete: %w, %d states wait to be written", err, len(q.states))
	}
	return err
}

func (q *queuedOutput) Abort() {
	if !q.done {
		_ = q.end() // it is discarded
	}
}

func (q *queuedOutput) end() error {
	q.done = true
	close(q.states)
	return within(outputTimeout, func() error {
		<-q.ended
		return q.err
	})
}

var errNotTaken = errors.New("what was written last was not taken")

// within returns what f does, or that it did not end in time. Then it goes on by
// itself: a write that nobody takes cannot be called back, and must not keep the
// program from ending.
func within(limit time.Duration, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	select {
	case err := <-done:
		return err
	case <-timeout.C:
		return fmt.Errorf("%w within %v", errNotTaken, limit)
	}
}
