package stream

import (
	"context"
	"encoding/json"
	"sort"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// run is one run of the agent: what came before it is not kept.
type run struct {
	id string
	// states and events are the indices of its first ones.
	states, events int64
}

// NewRun begins a run: states and events published so far are forgotten, and those who
// follow the states are told by {"run_id": id} before its first one. The first call
// only gives the run a name. Events are numbered on. No state may be published
// meanwhile.
func (h *Hub) NewRun(id string) {
	h.publishing.Lock()
	defer h.publishing.Unlock()
	h.publishingEvents.Lock()
	defer h.publishingEvents.Unlock()
	next := &run{id: id}
	if h.run.Load().id != "" {
		next.states, next.events = h.history.end.Load(), h.events.messages.end.Load()
	}
	h.run.Store(next)
	h.states.wakeUp()
	h.events.wakeUp()
}

// RunID is the run's name, empty before [Hub.NewRun].
func (h *Hub) RunID() string { return h.run.Load().id }

// ofOneRun returns what of has of the present run: none begins meanwhile.
func ofOneRun[T any](h *Hub, of func(*run) T) T {
	for {
		present := h.run.Load()
		if value := of(present); present == h.run.Load() {
			return value
		}
	}
}

// latest returns the latest state of the run, nil before its first, and the run.
func (h *Hub) latest() (*datacenter.State, *run) {
	for {
		of, end := h.run.Load(), h.history.end.Load()
		switch {
		case end <= of.states:
			return nil, of
		case of == h.run.Load():
			if state := h.history.at(end - 1); state != nil {
				return state, of
			}
		}
	}
}

// NewerState returns the latest state if its number is above after, or if it is of
// another run than runID, unless that is empty; else nil.
func (h *Hub) NewerState(after int64, runID string) *datacenter.State {
	latest, of := h.latest()
	if latest == nil || latest.Seq <= after && (runID == "" || of.id == runID) {
		return nil
	}
	return latest
}

// AwaitState waits until [Hub.NewerState] has a state, a run begun meanwhile being
// another one than runID, and returns it; nil when ctx is done before.
func (h *Hub) AwaitState(ctx context.Context, after int64, runID string) *datacenter.State {
	if runID == "" {
		runID = h.RunID()
	}
	var state *datacenter.State
	h.states.await(ctx, func() bool {
		state = h.NewerState(after, runID)
		return state != nil
	})
	return state
}

// AwaitEvents waits until enough likes the latest n events, and returns those that it
// was asked about last, also when ctx is done before.
func (h *Hub) AwaitEvents(ctx context.Context, n int, enough func([]Event) bool) []Event {
	var events []Event
	h.events.await(ctx, func() bool {
		events = h.Events(n)
		return enough(events)
	})
	return events
}

// place is where a client goes on.
type place struct {
	// cursor is the index of the first state that it gets, missed the number of those
	// before that it should have got.
	cursor, missed int64
	run            *run
}

// resume is where a client goes on that has all states of the run runID, empty for the
// present one, up to the number after: at the oldest that is kept if that is another
// run, or the number has not been reached.
func (h *Hub) resume(after int64, runID string) place {
	for {
		p, ok := h.tryResume(after, runID)
		if ok && p.run == h.run.Load() {
			return p
		}
	}
}

// tryResume fails if states are forgotten while it looks for the place.
func (h *Hub) tryResume(after int64, runID string) (p place, ok bool) {
	of := h.run.Load()
	end := h.history.end.Load()
	oldest := max(h.history.oldest(), of.states)
	p = place{cursor: oldest, run: of}
	if oldest >= end {
		return p, true
	}
	newest := h.history.at(end - 1)
	if newest == nil {
		return p, false
	}
	if runID != "" && runID != of.id || after > newest.Seq {
		after = -1
	}
	// Within a run numbers rise.
	lost := false
	p.cursor += int64(sort.Search(int(end-oldest), func(i int) bool {
		state := h.history.at(oldest + int64(i))
		lost = lost || state == nil
		return state == nil || state.Seq > after
	}))
	switch {
	case lost:
		return p, false
	case p.cursor == end:
		return p, true
	}
	first := h.history.at(p.cursor)
	if first == nil {
		return p, false
	}
	p.missed = max(first.Seq-after-1, 0)
	return p, true
}

// runNotice is the message that a run begins.
func runNotice(id string) []byte {
	quoted, _ := json.Marshal(id) // a string always marshals
	return append(append([]byte(`{"run_id":`), quoted...), '}')
}
