package record

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/g2g-agent/g2g-agent/datacenter"
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
	return out, NewQueue(out)
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
		if err := q.Write(&datacenter.State{}); err == nil || !strings.Contains(err.Error(), "the output cannot keep up: 1000 states") {
			t.Errorf("one state too many: %v", err)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("a write waited for %v", took)
		}
		err := q.Commit()
		if !errors.Is(err, ErrNotTaken) || time.Since(began) != QueueTimeout {
			t.Errorf("Commit after %v: %v, want %v after %v", time.Since(began), err, ErrNotTaken, QueueTimeout)
		}
		const want = "the output is incomplete: what was written last was not taken within 5s, 1000 states wait to be written"
		if err != nil && err.Error() != want {
			t.Errorf("Commit says %q, want %q", err, want)
		}
		q.Abort()
		close(out.released)
	})
}

func TestQueuePassesOnAFailedWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out, q := startQueue(errFull)
		close(out.released)
		enqueue(t, q, 1)
		synctest.Wait()
		if err := q.Write(&datacenter.State{}); !errors.Is(err, errFull) {
			t.Errorf("the next write: %v, want %v", err, errFull)
		}
		if err := q.Commit(); !errors.Is(err, errFull) || out.committed || !out.aborted || out.written != 1 {
			t.Errorf("Commit: %v, the output is %+v, want %v after 1 state, aborted", err, out, errFull)
		}
	})
}
