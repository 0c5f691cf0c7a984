package stream

import (
	"encoding/json"
	"sync"
	"sync/atomic"
	"time"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

const (
	// maxEvents is the number of events kept.
	maxEvents = 1000
	// maxWaiting is the number of states that may wait for a client: a burst, as
	// when a replay is advanced by many steps at once. Beyond leastWaiting of
	// them, none waits for longer than maxWait.
	maxWaiting   = 1024
	leastWaiting = 50
	maxWait      = 5 * time.Second
)

// Hub keeps the latest states and events of a run for those who watch it. Its
// methods are safe for use by many goroutines.
type Hub struct {
	publishing sync.Mutex // of states
	lastSeq    int64
	// history and states are added to together: an index is the same state in both.
	history ring[datacenter.State]
	states  *feed[*datacenter.State]
	run     atomic.Pointer[run]

	publishingEvents sync.Mutex
	events           *feed[Event]

	droppedSteps, badEvents        atomic.Uint64
	stateClients, eventClients     atomic.Int64
	conversations                  atomic.Int64
	clientsTotal                   atomic.Uint64
	slowClients, silentClients     atomic.Uint64
	unrulyClients, refusedRequests atomic.Uint64
}

// Event is an event of the run as those who watch it see it.
type Event struct {
	// ID numbers the events from 0.
	ID int64 `json:"id"`
	// WallTime is the time of day it was published.
	WallTime time.Time `json:"wall_time"`
	datacenter.Event
}

// Stats counts since the start.
type Stats struct {
	// States and Events were published.
	States, Events uint64
	// DroppedSteps are the steps missing between the numbers of successive states.
	DroppedSteps uint64
	// BadEvents have no JSON, and were not published.
	BadEvents uint64
	// SkippedStates and SkippedEvents are those that slow clients did not get, a
	// state or event once for each client.
	SkippedStates, SkippedEvents uint64
	// StateClients and EventClients are connected now, and Conversations under way.
	StateClients, EventClients, Conversations int
	// ClientsTotal is the number of clients that have connected.
	ClientsTotal uint64
	// SlowClientsClosed took nothing for 30 s, SilentClientsClosed sent nothing for
	// 2 minutes, not even the answer to a ping, UnrulyClientsClosed sent too much or
	// what is no WebSocket frame.
	SlowClientsClosed, SilentClientsClosed, UnrulyClientsClosed uint64
	// RefusedRequests were no WebSocket handshake, or one from a wrong origin.
	RefusedRequests uint64
}

// NewHub returns a hub that keeps the latest historyStates states, 1 at least, and
// 1000 events.
func NewHub(historyStates int) *Hub {
	return newHub(historyStates, backlog{most: maxWaiting, least: leastWaiting, age: maxWait, toNewest: true}, maxEvents)
}

func newHub(historyStates int, waiting backlog, events int) *Hub {
	h := &Hub{
		history: newRing[datacenter.State](max(historyStates, 1)),
		states:  newFeed(waiting, func(s *datacenter.State) ([]byte, error) { return s.AppendJSON(nil), nil }),
		events:  newFeed(backlog{most: events, least: events}, func(e Event) ([]byte, error) { return json.Marshal(e) }),
	}
	h.run.Store(&run{})
	return h
}

// Publish shows a state to those who watch. It waits for none of them. The state
// must not change any more.
func (h *Hub) Publish(s *datacenter.State) {
	if s == nil {
		return
	}
	h.publishing.Lock()
	defer h.publishing.Unlock()
	of := h.run.Load()
	if begun := h.history.end.Load() > of.states; begun && s.Seq > h.lastSeq+1 {
		h.droppedSteps.Add(uint64(s.Seq - h.lastSeq - 1))
	}
	h.lastSeq = s.Seq
	h.history.add(s)
	h.states.add(s, of)
}

// PublishEvent shows an event to those who watch. It waits for none of them. An
// event that has no JSON is only counted.
func (h *Hub) PublishEvent(e datacenter.Event) {
	if _, err := json.Marshal(e); err != nil {
		h.badEvents.Add(1)
		return
	}
	h.publishingEvents.Lock()
	defer h.publishingEvents.Unlock()
	h.events.add(Event{ID: h.events.messages.end.Load(), WallTime: time.Now(), Event: e}, nil)
}

// Latest returns the latest state of the run, nil before the first.
func (h *Hub) Latest() *datacenter.State {
	state, _ := h.latest()
	return state
}

// History returns the latest n states of the run, or as many as there are, oldest
// first.
func (h *Hub) History(n int) []*datacenter.State {
	return ofOneRun(h, func(of *run) []*datacenter.State { return h.history.latest(n, of.states) })
}

// Events returns the latest n events of the run, or as many as there are, oldest
// first.
func (h *Hub) Events(n int) []Event {
	messages := ofOneRun(h, func(of *run) []*message[Event] { return h.events.messages.latest(n, of.events) })
	events := make([]Event, len(messages))
	for i, m := range messages {
		events[i] = m.value
	}
	return events
}

// Stats returns what has been counted.
func (h *Hub) Stats() Stats {
	return Stats{
		States:              uint64(h.history.end.Load()),
		Events:              uint64(h.events.messages.end.Load()),
		DroppedSteps:        h.droppedSteps.Load(),
		BadEvents:           h.badEvents.Load(),
		SkippedStates:       h.states.skipped.Load(),
		SkippedEvents:       h.events.skipped.Load(),
		StateClients:        int(h.stateClients.Load()),
		EventClients:        int(h.eventClients.Load()),
		Conversations:       int(h.conversations.Load()),
		ClientsTotal:        h.clientsTotal.Load(),
		SlowClientsClosed:   h.slowClients.Load(),
		SilentClientsClosed: h.silentClients.Load(),
		UnrulyClientsClosed: h.unrulyClients.Load(),
		RefusedRequests:     h.refusedRequests.Load(),
	}
}
