package stream

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

// backlog is what may wait for a follower.
type backlog struct {
	// most is how many messages may wait, least how many however old they are.
	most, least int
	// age is how long any beyond least may wait, 0: however long.
	age time.Duration
	// toNewest: a follower that has missed messages goes on with the newest one,
	// otherwise with the oldest left.
	toNewest bool
}

// feed is a sequence of messages that any number of followers take, each at its
// own speed.
type feed[T any] struct {
	backlog  backlog
	encode   func(T) ([]byte, error)
	messages ring[message[T]]
	// oldest is the index of the oldest message that a follower still gets.
	oldest atomic.Int64
	// news is what those wait for who have taken all, nil while nobody does.
	news    atomic.Pointer[news]
	now     *news // has come
	skipped atomic.Uint64
}

// news tells those who wait that there is a message. Waking hundreds takes longer
// than a step should wait: add wakes one of them, and that one the others.
type news struct {
	// first gets one value. Whoever receives it closes all.
	first chan struct{}
	all   chan struct{}
}

// message is a value and, once somebody sends it, what goes over the wire.
type message[T any] struct {
	index int64
	value T
	// run is the one it belongs to, nil for messages of no run.
	run   *run
	at    time.Time
	once  sync.Once
	frame *websocket.PreparedMessage
	err   error
}

func newFeed[T any](b backlog, encode func(T) ([]byte, error)) *feed[T] {
	f := &feed[T]{backlog: b, encode: encode, messages: newRing[message[T]](b.most), now: &news{all: make(chan struct{})}}
	close(f.now.all)
	return f
}

// add appends a value of a run and wakes those who wait. One goroutine at a time adds.
func (f *feed[T]) add(value T, of *run) {
	end := f.messages.end.Load()
	m := &message[T]{index: end, value: value, run: of, at: time.Now()}
	f.messages.add(m)
	f.trim(end+1, m.at)
	f.wakeUp()
}

// wakeUp wakes those who wait.
func (f *feed[T]) wakeUp() {
	if n := f.news.Swap(nil); n != nil {
		n.first <- struct{}{} // its only value, for which it has room
	}
}

// trim gives up messages that have waited for too long.
func (f *feed[T]) trim(end int64, now time.Time) {
	b := &f.backlog
	first := f.oldest.Load()
	oldest := first
	for end-oldest > int64(b.least) {
		late := b.age > 0 && now.Sub(f.messages.slot(oldest).Load().at) > b.age
		if end-oldest <= int64(b.most) && !late {
			break
		}
		oldest++
	}
	f.oldest.Store(oldest)
	if b.age == 0 {
		return // what is too old to be sent can still be looked up
	}
	for i := first; i < oldest; i++ {
		f.messages.slot(i).Store(nil) // and with it what was encoded
	}
}

// next returns the message at index cursor. Where that is not kept, it returns a
// later one and how many messages lie between; before there is one it returns nil.
// more comes when it is worth asking again.
func (f *feed[T]) next(cursor int64) (m *message[T], skipped int64, more *news) {
	for {
		end := f.messages.end.Load()
		if cursor >= end {
			more := f.wait()
			if cursor >= f.messages.end.Load() {
				return nil, 0, more
			}
			continue
		}
		index := cursor
		if oldest := f.oldest.Load(); index < oldest {
			index = oldest
			if f.backlog.toNewest {
				index = end - 1
			}
		}
		// Unless it was given up this very moment.
		if m := f.messages.slot(index).Load(); m != nil && m.index == index {
			return m, index - cursor, f.now
		}
	}
}

// wait returns the news of the next message. What was added before the call may not
// be told.
func (f *feed[T]) wait() *news {
	for {
		if n := f.news.Load(); n != nil {
			return n
		}
		n := &news{first: make(chan struct{}, 1), all: make(chan struct{})}
		if f.news.CompareAndSwap(nil, n) {
			return n
		}
	}
}

// await waits until there may be something new since enough last looked, which it asks
// before and after each time, or ctx is done. It reports whether there is enough.
func (f *feed[T]) await(ctx context.Context, enough func() bool) bool {
	for !enough() {
		more := f.wait()
		if enough() {
			return true
		}
		select {
		case <-more.first:
			close(more.all)
		case <-more.all:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// frameOf returns the message as it goes over the wire, encoded by the first who
// asks.
func (f *feed[T]) frameOf(m *message[T]) (*websocket.PreparedMessage, error) {
	m.once.Do(func() {
		data, err := f.encode(m.value)
		if err == nil {
			m.frame, err = websocket.NewPreparedMessage(websocket.TextMessage, data)
		}
		m.err = err
	})
	return m.frame, m.err
}
