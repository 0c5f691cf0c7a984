package api

import (
	"container/list"
	"context"
	"runtime"
	"sync"
	"time"
)

const (
	// One client may wait for so many long answers at once, all together for so many.
	maxLongPerClient, maxLong = 8, 64
	// workShare is how much of one processor's time goes into long answers at most. The
	// pauses for it last from rest to maxRest.
	workShare = 0.125
	rest      = 2 * time.Millisecond
	maxRest   = 50 * time.Millisecond
)

// turns has those who make long answers do so by turns, a piece each, so that
// however many are asked for, the steps have the processors when they are due. Each
// client that waits comes next in turn, however many answers it asks for.
type turns struct {
	// unlimited: there is no step that could be late.
	unlimited bool

	mu       sync.Mutex
	inFlight map[string]int
	total    int
	taken    bool
	waiting  map[string]*list.List // of chan struct{}, by client
	order    list.List             // of the clients that wait, the next one first

	// What follows is whose turn it is.
	began time.Time
	debt  time.Duration
}

func newTurns(unlimited bool) *turns {
	return &turns{unlimited: unlimited, inFlight: map[string]int{}, waiting: map[string]*list.List{}}
}

// enter counts a long answer in; it reports false where there are too many. leave
// counts it out.
func (t *turns) enter(client string) (leave func(), ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.total >= maxLong || t.inFlight[client] >= maxLongPerClient {
		return nil, false
	}
	t.total++
	t.inFlight[client]++
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.total--
		if t.inFlight[client]--; t.inFlight[client] == 0 {
			delete(t.inFlight, client)
		}
	}, true
}

// take waits for a turn, which [turns.give] ends. The error is that of ctx, and
// there is no turn then.
func (t *turns) take(ctx context.Context, client string) error {
	t.mu.Lock()
	if !t.taken {
		t.taken = true
		t.mu.Unlock()
		t.began = time.Now()
		return nil
	}
	mine := t.waiting[client]
	if mine == nil {
		mine = list.New()
		t.waiting[client] = mine
		t.order.PushBack(client)
	}
	called := make(chan struct{})
	place := mine.PushBack(called)
	t.mu.Unlock()
	select {
	case <-called:
		t.began = time.Now()
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	select {
	case <-called: // at this very moment: hand it on
		t.next()
	default:
		mine.Remove(place)
	}
	t.mu.Unlock()
	return ctx.Err()
}

// give ends a turn. What was worked for too long is rested for first.
func (t *turns) give() {
	if !t.unlimited {
		// Timers are no finer than a millisecond or so: short pauses are put together. A
		// turn that was itself kept waiting for a processor is not paid for in full.
		t.debt = min(t.debt+time.Duration(float64(time.Since(t.began))*(1/workShare-1)), maxRest)
		if t.debt >= rest {
			before := time.Now()
			<-time.After(t.debt)
			t.debt = max(t.debt-time.Since(before), -rest)
		} else {
			runtime.Gosched() // a step may be due
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.next()
}

// next calls whoever is next; mu is held.
func (t *turns) next() {
	for front := t.order.Front(); front != nil; front = t.order.Front() {
		client, _ := t.order.Remove(front).(string)
		mine := t.waiting[client]
		first := mine.Front()
		if first == nil { // all of its have given up
			delete(t.waiting, client)
			continue
		}
		called, _ := mine.Remove(first).(chan struct{})
		if mine.Len() > 0 {
			t.order.PushBack(client)
		} else {
			delete(t.waiting, client)
		}
		close(called)
		return
	}
	t.taken = false
}
