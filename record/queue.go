package record

import (
	"errors"
	"fmt"
	"time"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// Output is where the states of a run go; a [*File] is one.
type Output interface {
	// Write appends one state. It does not keep the state.
	Write(*datacenter.State) error
	// Commit completes the output; Abort, unless it was committed, discards it.
	Commit() error
	Abort()
}

const (
	// queueSize is how many states may wait in a [Queue].
	queueSize = 1000
	// QueueTimeout is how long the end of a run waits for what is still to be
	// written.
	QueueTimeout = 5 * time.Second
)

// ErrNotTaken is the error of a write that was waited for in vain.
var ErrNotTaken = errors.New("what was written last was not taken")

// Queue is an output that writes to another in a goroutine of its own: no step is
// to wait for a slow disk, or for a reader who has stopped reading. Its methods
// are for one goroutine. Commit or Abort ends it.
type Queue struct {
	out    Output // the goroutine's
	states chan *datacenter.State
	commit bool          // at the end of the states; set before they are closed
	ended  chan struct{} // closed when the goroutine has ended
	err    error         // why it ended, once it has
	done   bool          // Commit or Abort was called
}

// NewQueue returns a queue in front of out, which is then the queue's.
func NewQueue(out Output) *Queue {
	q := &Queue{out: out, states: make(chan *datacenter.State, queueSize), ended: make(chan struct{})}
	go q.writeAll()
	return q
}

func (q *Queue) writeAll() {
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

// Write passes s, which nobody may change any more, on to be written; it does not
// wait. It fails once an earlier state could not be written, and when 1000
// states wait.
func (q *Queue) Write(s *datacenter.State) error {
	select {
	case <-q.ended:
		return q.err
	default:
	}
	select {
	case q.states <- s:
		return nil
	default:
		return fmt.Errorf("the output cannot keep up: %d states wait to be written", queueSize)
	}
}

// Commit writes what waits and completes the output. After [QueueTimeout] it gives
// up with [ErrNotTaken]; the output is then as the goroutine, which is left to its
// fate, has got it.
func (q *Queue) Commit() error {
	q.commit = true
	err := q.end()
	if errors.Is(err, ErrNotTaken) {
		return fmt.Errorf("the output is incomplete: %w, %d states wait to be written", err, len(q.states))
	}
	return err
}

// Abort discards the output, unless it was committed. It may be called more than
// once.
func (q *Queue) Abort() {
	if !q.done {
		_ = q.end() // it is discarded
	}
}

// end waits for the goroutine, within bounds: a write that nobody takes cannot be
// called back, and must not keep the program from ending.
func (q *Queue) end() error {
	q.done = true
	close(q.states)
	timeout := time.NewTimer(QueueTimeout)
	defer timeout.Stop()
	select {
	case <-q.ended:
		return q.err
	case <-timeout.C:
		return fmt.Errorf("%w within %v", ErrNotTaken, QueueTimeout)
	}
}
