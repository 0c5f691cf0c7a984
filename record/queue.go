package record

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

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

// ErrReaderGone is wrapped by the error of an output whose only reader is gone: a run
// has nobody to go on for.
var ErrReaderGone = errors.New("nobody reads it any more")

const (
	// queueSize is how many states may wait in a [Queue].
	queueSize = 1000
	// flushEvery is how long what was written may wait to be passed on.
	flushEvery = time.Second
	// QueueTimeout is how long the end of a run waits for what is still to be
	// written.
	QueueTimeout = 5 * time.Second
)

// ErrNotTaken is the error of a write that was waited for in vain.
var ErrNotTaken = errors.New("what was written last was not taken")

// Queue is an output that writes to another in a goroutine of its own: no step is
// to wait for a slow disk, or for a reader who has stopped reading, and no run to end
// with a full one. What cannot be written is left out, counted and logged; Commit
// tells. Its methods are for one goroutine. Commit or Abort ends it.
type Queue struct {
	out    Output // the goroutine's
	log    zerolog.Logger
	states chan *datacenter.State
	commit bool          // at the end of the states; set before they are closed
	ended  chan struct{} // closed when the goroutine has ended
	err    error         // how it ended, once it has
	done   bool          // Commit or Abort was called

	taken   uint64                // states that the output has taken; the goroutine's
	failure atomic.Pointer[error] // of the first write that failed
	leftOut atomic.Uint64
	behind  uint64 // those left out since it does not keep up; 0: it does
}

// NewQueue returns a queue in front of out, which is then the queue's.
func NewQueue(out Output, log zerolog.Logger) *Queue {
	q := &Queue{out: out, log: log, states: make(chan *datacenter.State, queueSize), ended: make(chan struct{})}
	go q.writeAll()
	return q
}

// writeAll writes until the states end. What was written is passed on every second,
// if the output can; what was written before a failure is kept.
func (q *Queue) writeAll() {
	defer close(q.ended)
	buffered, _ := q.out.(flusher)
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for more := true; more; {
		var err error
		select {
		case s, open := <-q.states:
			switch {
			case !open:
				more = false
			case q.failure.Load() != nil:
				q.leftOut.Add(1)
			default:
				switch err = q.out.Write(s); {
				case err == nil:
					q.taken++
				case !errors.Is(err, ErrReaderGone): // else nobody misses it
					q.leftOut.Add(1)
				}
			}
		case <-tick.C:
			if buffered != nil && q.failure.Load() == nil {
				err = buffered.Flush()
			}
		}
		if err != nil {
			q.failure.Store(&err)
			if !errors.Is(err, ErrReaderGone) {
				q.log.Error().Err(err).Msg("the output failed: the run goes on without, and what was written is kept")
			}
		}
	}
	if !q.commit {
		q.out.Abort()
		return
	}
	q.err = q.out.Commit()
	if failure := q.failure.Load(); failure != nil && q.err == nil {
		q.err = *failure
	}
	if q.err != nil {
		// What it had buffered, too.
		if keeper, ok := q.out.(interface{ Kept() uint64 }); ok {
			q.leftOut.Add(q.taken - min(keeper.Kept(), q.taken))
		}
	}
}

// Write passes s, which nobody may change any more, on to be written; it does not
// wait. When 1000 states wait, or an earlier one could not be written, it leaves s
// out. It fails only with [ErrReaderGone].
func (q *Queue) Write(s *datacenter.State) error {
	if failure := q.failure.Load(); failure != nil {
		if errors.Is(*failure, ErrReaderGone) {
			return *failure
		}
		q.leftOut.Add(1)
		return nil
	}
	select {
	case q.states <- s:
		if q.behind > 0 {
			q.log.Info().Uint64("left_out", q.behind).Msg("the output keeps up again")
			q.behind = 0
		}
	default:
		if q.behind == 0 {
			q.log.Warn().Int("waiting", queueSize).Msg("the output does not keep up: states are left out until it does")
		}
		q.behind++
		q.leftOut.Add(1)
	}
	return nil
}

// LeftOut counts the states that were not written. It may be called from any
// goroutine.
func (q *Queue) LeftOut() uint64 { return q.leftOut.Load() }

// Commit writes what waits and completes the output; its error tells if something
// is missing there. After [QueueTimeout] it gives up with [ErrNotTaken]; the output is
// then as the goroutine, which is left to its fate, has got it. Called again, it does
// nothing.
func (q *Queue) Commit() error {
	if q.done {
		return nil
	}
	q.commit = true
	err := q.end()
	left := q.leftOut.Load()
	switch {
	case errors.Is(err, ErrNotTaken):
		return fmt.Errorf("the output is incomplete: %w, %d states wait to be written, %d were left out before", err, len(q.states), left)
	case left > 0 && err == nil:
		return fmt.Errorf("the output is incomplete: %d states were left out, since it did not keep up", left)
	case left > 0:
		return fmt.Errorf("%w; %d states were left out", err, left)
	default:
		return err
	}
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
