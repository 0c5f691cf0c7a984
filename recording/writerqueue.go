package recording

import (
	"context"
	"fmt"
	"sync"
)

// causeSlow is the cause of gaps that a full queue makes.
const causeSlow = "the disk is too slow"

// item is one thing for the writer's goroutine: a second, a line to write at once, or
// the end.
type item struct {
	second *second
	gap    Gap // before the second; of no seconds: none
	line   Line
	bytes  int // of memory that the line is counted with
	// after is what is in force after it, nil: what was before.
	after *InForce
	// synced, if there is one, takes what became of the line, on the disk or not.
	synced chan<- error
	last   bool
}

// queue hands items over from steps and commands to the writer's goroutine, in their
// order. Its lock is held for moments only, never while something waits.
type queue struct {
	wake chan struct{} // of one place: there are items

	mu      sync.Mutex
	items   []item
	head    int       // of items, the next to go
	seconds int       // among items
	free    []*second // to be filled
	held    int       // bytes of memory that lines among items take
	after   *InForce  // the latest
	ended   bool
	gap     Gap // of seconds dropped since the last one that was taken
	gone    bool
	// dropped, lostCommands and lostEvents count over the run.
	dropped, lostCommands, lostEvents uint64
}

func (q *queue) init(gpus int) {
	for range maxQueued + 2 { // one is filled, one is written
		q.free = append(q.free, newSecond(gpus))
	}
	q.items = make([]item, 0, 64)
}

func (q *queue) add(it item) {
	if q.head > 0 && len(q.items) == cap(q.items) {
		left := copy(q.items, q.items[q.head:])
		clear(q.items[left:])
		q.items, q.head = q.items[:left], 0
	}
	q.items = append(q.items, it)
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// exchange takes a filled second, nil at the first time, and returns an empty one. If
// too many wait, the filled one is dropped and comes back empty.
func (q *queue) exchange(filled *second) *second {
	q.mu.Lock()
	defer q.mu.Unlock()
	if filled != nil && !q.take(filled, maxQueued) {
		filled.clear()
		return filled
	}
	empty := q.free[len(q.free)-1]
	q.free = q.free[:len(q.free)-1]
	return empty
}

// take puts a filled second into the queue, or drops it if most wait already.
func (q *queue) take(filled *second, most int) bool {
	if q.seconds >= most {
		q.dropped++
		if !q.gone {
			q.gap, q.gone = Gap{FirstSecond: filled.number, Cause: causeSlow}, true
		}
		q.gap.LastSecond = filled.number
		return false
	}
	it := item{second: filled, after: q.after}
	if q.gone {
		it.gap, q.gone = q.gap, false
	}
	q.seconds++
	q.add(it)
	return true
}

// next takes the first item, false if there is none.
func (q *queue) next() (it item, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.head == len(q.items) {
		return item{}, false
	}
	it = q.items[q.head]
	q.items[q.head] = item{}
	q.head++
	if q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
	}
	if it.second != nil {
		q.seconds--
	}
	q.held -= it.bytes
	return it, true
}

// done gives a second back, to be filled again.
func (q *queue) done(s *second) {
	s.clear()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.free = append(q.free, s)
}

// line puts a command or event into the queue. One that memory cannot hold is counted
// as lost.
func (q *queue) line(l Line, bytes int, after *InForce, synced chan<- error) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if after != nil {
		q.after = after
	}
	if q.ended {
		return false
	}
	if q.held+bytes > maxHeldBytes {
		if l.Kind() == KindCommand {
			q.lostCommands++
		} else {
			q.lostEvents++
		}
		return false
	}
	q.held += bytes
	q.add(item{line: l, bytes: bytes, after: after, synced: synced})
	return true
}

// end puts what is not complete yet into the queue, however many wait, and the end of
// the run.
func (q *queue) end(unfinished *second, lastSeq int64, reason string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended {
		return
	}
	if unfinished != nil && len(unfinished.states) > 0 {
		q.take(unfinished, maxQueued+1)
	}
	q.ended = true
	it := item{line: &End{Seq: lastSeq, Reason: reason}, last: true}
	if q.gone {
		it.gap, q.gone = q.gap, false
	}
	q.add(it)
}

// counts are the seconds that wait, and what was dropped and lost before it got here.
func (q *queue) counts() (queued int, dropped, lostCommands, lostEvents uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.seconds, q.dropped, q.lostCommands, q.lostEvents
}

// lineBytes is about what a line takes beside its JSON of others.
const lineBytes = 400

// Command records a command at once, in a frame of its own; after is what is in force
// with it, nil for what was before. It does not wait. Call it before the step begins
// that sees the command, so that the order of lines is that of what happened; what
// c and after refer to must not change any more.
func (w *Writer) Command(c Command, after *InForce) { w.command(c, after, nil) }

func (w *Writer) command(c Command, after *InForce, synced chan<- error) bool {
	return w.queue.line(&c, lineBytes+len(c.Body)+len(c.Results), after, synced)
}

// SyncCommand is [Writer.Command] that returns once the command is on the disk. An
// error that wraps [ErrNotRecorded] says why that is not so: the recording has stopped,
// or ctx was over first.
func (w *Writer) SyncCommand(ctx context.Context, c Command, after *InForce) error {
	synced := make(chan error, 1)
	if !w.command(c, after, synced) {
		return fmt.Errorf("%w: too many wait for the disk, or the run is over", ErrNotRecorded)
	}
	select {
	case err := <-synced:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrNotRecorded, ctx.Err())
	}
}

// Event records an event as Command does a command.
func (w *Writer) Event(e Event, after *InForce) {
	w.queue.line(&e, lineBytes+len(e.Data), after, nil)
}
