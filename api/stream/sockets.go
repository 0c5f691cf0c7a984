package stream

import (
	"bufio"
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

	quit   chan struct{}
	mu     sync.Mutex
	closed bool
	open   map[*client]struct{}
	all    sync.WaitGroup
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
		open: make(map[*client]struct{}),
	}
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

// States serves the latest state and each new one.
func (s *Sockets) States() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.checkUpgrade(w, r) {
			return
		}
		f := s.hub.states
		follow(s, w, r, f, func() int64 { return max(f.messages.end.Load()-1, 0) }, &s.hub.stateClients)
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
		follow(s, w, r, f, func() int64 {
			if given && after < f.messages.end.Load() {
				return after + 1
			}
			return f.oldest.Load()
		}, &s.hub.eventClients)
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
func follow[T any](s *Sockets, w http.ResponseWriter, r *http.Request, f *feed[T], first func() int64, clients *atomic.Int64) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		s.refuse(w, problem.New(http.StatusServiceUnavailable, "the agent is ending"))
		return
	}
	s.all.Add(1)
	s.mu.Unlock()
	// Before the client knows that it is connected: it gets all that follows.
	cursor := first()
	conn, err := s.upgrader.Upgrade(hijacker{w}, r, nil)
	if err != nil { // it is answered
		s.all.Done()
		return
	}
	c := newClient(conn, s, r.URL.Path)
	s.mu.Lock()
	s.open[c] = struct{}{}
	s.mu.Unlock()
	s.hub.clientsTotal.Add(1)
	clients.Add(1)
	// The handler returns, and the server forgets the request and its buffers.
	go func() {
		defer s.all.Done()
		serve(c, f, cursor)
		clients.Add(-1)
		s.mu.Lock()
		delete(s.open, c)
		s.mu.Unlock()
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
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.quit)
	}
	s.mu.Unlock()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		s.all.Wait()
	}()
	patience := time.NewTimer(s.timing.shutdown)
	defer patience.Stop()
	select {
	case <-gone:
		return
	case <-patience.C:
	}
	s.mu.Lock()
	for c := range s.open {
		c.drop()
	}
	s.mu.Unlock()
	<-gone
}
