package stream

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/api/problem"
)

// protocol is the sub-protocol of the WebSockets.
const protocol = "g2g-agent.v1"

// timing is how long a client is waited for.
type timing struct {
	// write is what a client has to take a message, silence for how long it may send
	// nothing, ping how often it is asked for a sign of life.
	write, silence, ping time.Duration
	// goodbye is what it has to answer the end, and shutdown what all have together.
	goodbye, shutdown time.Duration
}

// Sockets serve the followers of a [Hub]. Its methods are safe for use by many
// goroutines.
type Sockets struct {
	hub      *Hub
	upgrader websocket.Upgrader
	timing   timing
	log      zerolog.Logger
	// Turns, if set before the first client comes, returns what has a client's long
	// work done by turns with that of others; it fails when ctx is done.
	Turns func(*http.Request) func(ctx context.Context, work func()) error

	quit   chan struct{}
	ending context.Context // done when quit is closed
	end    context.CancelFunc

	connections connections
}

// NewSockets returns sockets for the hub. checkOrigin says whether the page that
// asks may follow; nil allows those that come from the agent itself. The sockets
// are closed by [Sockets.Close].
func NewSockets(h *Hub, checkOrigin func(*http.Request) bool, log zerolog.Logger) *Sockets {
	s := &Sockets{
		hub: h,
		timing: timing{
			write: 30 * time.Second, silence: 2 * time.Minute, ping: 20 * time.Second,
			goodbye: time.Second, shutdown: 2 * time.Second,
		},
		log:  log,
		quit: make(chan struct{}),
	}
	s.ending, s.end = context.WithCancel(context.Background())
	// What is sent is encoded before: the buffers are for control frames and notices.
	s.upgrader = websocket.Upgrader{
		HandshakeTimeout: 2 * time.Second,
		ReadBufferSize:   256, WriteBufferSize: 256, WriteBufferPool: &sync.Pool{},
		Subprotocols: []string{protocol},
		CheckOrigin:  checkOrigin,
		Error:        s.refuseHandshake,
	}
	return s
}

// States serves the latest state and each new one. With after=SEQ in the query it
// serves the states kept whose number is above SEQ, then each new one; all that are
// kept if SEQ has not been reached, or is of another run, which run=ID tells.
func (s *Sockets) States() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.checkUpgrade(w, r) {
			return
		}
		after, resumes, err := AfterOf(r.URL.RawQuery)
		if err != nil {
			s.refuse(w, problem.New(http.StatusUnprocessableEntity, "%v", err).At("query.after", err.Error()))
			return
		}
		h, runID := s.hub, r.URL.Query().Get("run")
		follow(s, w, r, h.states, &h.stateClients, func() (int64, following) {
			if !resumes {
				of := h.run.Load()
				return max(h.states.messages.end.Load()-1, of.states), following{hub: h, told: of}
			}
			p := h.resume(after, runID)
			as := following{hub: h, told: p.run, missed: p.missed, resumes: true}
			as.anew = runID != "" && runID != p.run.id
			if s.Turns != nil {
				as.turn = s.Turns(r)
			}
			return p.cursor, as
		})
	})
}

// Events serves the events kept and each new one. The query's after=ID leaves out
// those up to ID; an ID that there has not been is from an earlier run of the
// agent, and leaves out none.
func (s *Sockets) Events() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.checkUpgrade(w, r) {
			return
		}
		after, given, err := AfterOf(r.URL.RawQuery)
		if err != nil {
			s.refuse(w, problem.New(http.StatusUnprocessableEntity, "%v", err).At("query.after", err.Error()))
			return
		}
		f := s.hub.events
		follow(s, w, r, f, &s.hub.eventClients, func() (int64, following) {
			oldest := max(f.oldest.Load(), s.hub.run.Load().events)
			if given && after < f.messages.end.Load() {
				return max(after+1, s.hub.run.Load().events), following{}
			}
			return oldest, following{}
		})
	})
}

// AfterOf returns the after of a query, the ID of the last event seen, if it is
// given. Its error says what is wrong with it.
func AfterOf(rawQuery string) (after int64, given bool, err error) {
	query, err := url.ParseQuery(rawQuery)
	if err != nil {
		return 0, false, fmt.Errorf("the query is malformed: %w", err)
	}
	values, given := query["after"]
	if !given {
		return 0, false, nil
	}
	if len(values) > 1 {
		return 0, false, fmt.Errorf("after stands there %d times, want one ID", len(values))
	}
	id, err := strconv.ParseUint(values[0], 10, 63)
	if err != nil {
		return 0, false, fmt.Errorf("after is %q, want the ID of the last event seen, a whole number from 0", problem.Shorten(values[0]))
	}
	return int64(id), true, nil
}

func (s *Sockets) checkUpgrade(w http.ResponseWriter, r *http.Request) bool {
	if r.Method == http.MethodGet && websocket.IsWebSocketUpgrade(r) {
		return true
	}
	s.refuse(w, problem.New(http.StatusUpgradeRequired, "this address speaks WebSocket only: connect a WebSocket client to it, "+
		"by ws:// instead of http:// or wss:// instead of https://, "+
		"with no sub-protocol or with %s; without WebSocket, ask /v1/state, /v1/history or /v1/events", protocol))
	return false
}

// follow makes the request a client of f, from the message that first returns.
func follow[T any](s *Sockets, w http.ResponseWriter, r *http.Request, f *feed[T], clients *atomic.Int64, first func() (int64, following)) {
	if !s.connections.enter() {
		s.refuse(w, problem.New(http.StatusServiceUnavailable, "the agent is ending"))
		return
	}
	// Before the client knows that it is connected: it gets all that follows.
	cursor, as := first()
	conn, err := s.upgrader.Upgrade(hijacker{w}, r, nil)
	if err != nil { // it is answered
		s.connections.leave(nil)
		return
	}
	c := newClient(conn, s, r.URL.Path)
	c.states = as
	c.states.reached = cursor
	s.connections.add(conn)
	s.hub.clientsTotal.Add(1)
	clients.Add(1)
	// The handler returns, and the server forgets the request and its buffers.
	go func() {
		defer s.connections.leave(conn)
		serve(c, f, cursor)
		clients.Add(-1)
	}()
}

// hijacker finds what can hand over the connection, through whatever writers it is
// wrapped in.
type hijacker struct{ http.ResponseWriter }

func (h hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(h.ResponseWriter).Hijack()
}

// Close says goodbye to the clients and waits until all are gone: at most 2 s for
// them and as long again for a handshake under way. From then on, new ones are
// refused.
func (s *Sockets) Close() {
	if _, first := s.connections.end(); first {
		close(s.quit)
		s.end()
	}
	s.connections.wait(s.timing.shutdown)
}
