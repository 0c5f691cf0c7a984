package record

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/logtest"
)

// fakeOutput is an output that can be held up, and counts what it is given.
type fakeOutput struct {
	released           chan struct{}
	err                error
	written            int
	committed, aborted bool
}

func (o *fakeOutput) Write(*datacenter.State) error {
	<-o.released
	o.written++
	return o.err
}
func (o *fakeOutput) Commit() error { o.committed = true; return nil }
func (o *fakeOutput) Abort()        { o.aborted = true }

var errFull = errors.New("no space left")

func startQueue(fails error) (*fakeOutput, *Queue) {
	out := &fakeOutput{released: make(chan struct{}), err: fails}
	return out, NewQueue(out, zerolog.Nop())
}

func enqueue(t *testing.T, q *Queue, states int) {
	t.Helper()
	for i := range states {
		if err := q.Write(&datacenter.State{}); err != nil {
			t.Fatalf("state %d: %v", i, err)
		}
	}
}

func TestQueueWritesAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out, q := startQueue(nil)
		enqueue(t, q, queueSize)
		close(out.released)
		if err := q.Commit(); err != nil || out.written != queueSize || !out.committed {
			t.Errorf("Commit: %v, the output is %+v, want %d states and a commit", err, out, queueSize)
		}
		q.Abort()
	})
}

func TestQueueIsAborted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out, q := startQueue(nil)
		enqueue(t, q, 3)
		close(out.released)
		q.Abort()
		q.Abort()
		if out.committed || !out.aborted {
			t.Errorf("the output is %+v, want it aborted", out)
		}
	})
}

func TestQueueDoesNotWaitForASlowOutput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out, q := startQueue(nil)
		began := time.Now()
		enqueue(t, q, queueSize)
		synctest.Wait() // it has taken one
		enqueue(t, q, 1)
		if err := q.Write(&datacenter.State{}); err != nil || q.LeftOut() != 1 {
			t.Errorf("one state too many: %v, %d left out, want it left out", err, q.LeftOut())
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("a write waited for %v", took)
		}
		err := q.Commit()
		if !errors.Is(err, ErrNotTaken) || time.Since(began) != QueueTimeout {
			t.Errorf("Commit after %v: %v, want %v after %v", time.Since(began), err, ErrNotTaken, QueueTimeout)
		}
		const want = "the output is incomplete: what was written last was not taken within 5s, 1000 states wait to be written, 1 were left out before"
		if err != nil && err.Error() != want {
			t.Errorf("Commit says %q, want %q", err, want)
		}
		q.Abort()
		close(out.released)
	})
}

// TestQueueOutlivesAFailedWrite: nobody is stopped by it, it is logged once, what was
// written is kept, and Commit tells.
func TestQueueOutlivesAFailedWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logtest.Buffer
		out := &fakeOutput{released: make(chan struct{}), err: errFull}
		q := NewQueue(out, zerolog.New(&log))
		close(out.released)
		enqueue(t, q, 3)
		synctest.Wait()
		enqueue(t, q, 2)
		err := q.Commit()
		if !errors.Is(err, errFull) || !strings.Contains(err.Error(), "5 states were left out") || !out.committed || out.aborted || out.written != 1 {
			t.Errorf("Commit: %v, the output is %+v, want %v after 1 state, and what was written kept", err, out, errFull)
		}
		if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), errFull.Error()) {
			t.Errorf("the log has %d lines, want one of the failure:\n%s", n, log.String())
		}
	})
}

// TestQueueKeepsUpAgain: what a slow output misses is said, and that it is over.
func TestQueueKeepsUpAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logtest.Buffer
		out := &fakeOutput{released: make(chan struct{})}
		q := NewQueue(out, zerolog.New(&log))
		enqueue(t, q, 1)
		synctest.Wait()
		enqueue(t, q, queueSize+7)
		close(out.released)
		synctest.Wait()
		enqueue(t, q, 5)
		if err := q.Commit(); err == nil || err.Error() != "the output is incomplete: 7 states were left out, since it did not keep up" || out.written != queueSize+6 {
			t.Errorf("Commit: %v after %d states", err, out.written)
		}
		if log := log.String(); strings.Count(log, "does not keep up") != 1 || strings.Count(log, `"left_out":7,"message":"the output keeps up again"`) != 1 {
			t.Errorf("the log is\n%s", log)
		}
	})
}

// TestQueueEndsWithItsReader: nobody is left to run for.
func TestQueueEndsWithItsReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out, q := startQueue(fmt.Errorf("%w: broken pipe", ErrReaderGone))
		close(out.released)
		enqueue(t, q, 1)
		synctest.Wait()
		if err := q.Write(&datacenter.State{}); !errors.Is(err, ErrReaderGone) {
			t.Errorf("the next write: %v, want %v", err, ErrReaderGone)
		}
		if err := q.Commit(); !errors.Is(err, ErrReaderGone) {
			t.Errorf("Commit: %v, want %v", err, ErrReaderGone)
		}
	})
}

// flushedOutput notes when it is flushed.
type flushedOutput struct {
	fakeOutput
	flushedS []float64
	began    time.Time
}

func (o *flushedOutput) Flush() error {
	o.flushedS = append(o.flushedS, time.Since(o.began).Seconds())
	return nil
}

func TestQueueFlushesEverySecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &flushedOutput{fakeOutput: fakeOutput{released: make(chan struct{})}, began: time.Now()}
		close(out.released)
		q := NewQueue(out, zerolog.Nop())
		enqueue(t, q, 3)
		<-time.After(2500 * time.Millisecond)
		q.Abort()
		if want := []float64{1, 2}; !slices.Equal(out.flushedS, want) {
			t.Errorf("it was flushed after %v s, want %v", out.flushedS, want)
		}
	})
}
