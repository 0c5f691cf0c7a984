package api

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/g2g-agent/g2g-agent/api/guard"
	"github.com/g2g-agent/g2g-agent/api/problem"
	"github.com/g2g-agent/g2g-agent/api/stream"
	"github.com/g2g-agent/g2g-agent/config"
)

const (
	// maxWaitS is for how many seconds a request may wait for something new.
	maxWaitS = 60
	// maxWaiting may wait at once, maxWaitingPerClient of one client, but no more than a
	// quarter of the connections there may be: the others are for who wants an answer now.
	maxWaiting, maxWaitingPerClient = 256, 64
)

// poll is what a request has seen already, and for how long it waits for more.
type poll struct {
	after int64 // -1: it does not say
	runID string
	wait  time.Duration
	waits bool // it says for how long, above 0
}

// pollOf reads after, run and wait_s, of which the latter two go with after alone if
// needsAfter.
func pollOf(q query, needsAfter bool) (p poll, refused *problem.Problem) {
	if p.after, refused = q.after(); refused != nil {
		return p, refused
	}
	waitS, waits, refused := q.one("wait_s")
	if refused != nil {
		return p, refused
	}
	if waits {
		seconds, err := strconv.ParseFloat(waitS, 64)
		if err != nil || strings.ContainsAny(waitS, "xX_") || !(seconds >= 0 && seconds <= maxWaitS) {
			return p, badQuery("wait_s", "must be a number of seconds from 0 to %d, got %q", maxWaitS, problem.Shorten(waitS))
		}
		p.wait = time.Duration(seconds * float64(time.Second))
		p.waits = p.wait > 0 // clients made of the description spell out the 0 that is the default
	}
	runID, named, refused := q.one("run")
	switch {
	case refused != nil:
		return p, refused
	case named && runID == "":
		return p, badQuery("run", "must be the run_id of /v1/info, got an empty one")
	case needsAfter && p.after < 0 && named:
		return p, badQuery("run", "goes with after, the number of the last state seen of that run")
	case needsAfter && p.after < 0 && p.waits:
		return p, badQuery("wait_s", "goes with after, the number of the last state seen")
	}
	p.runID = runID
	return p, nil
}

// places bounds how many requests wait at once.
type places struct {
	most, perClient int

	mu     sync.Mutex
	taken  int
	taking map[string]int // by client
}

func newPlaces(settings config.API) *places {
	p := &places{most: maxWaiting, perClient: maxWaitingPerClient, taking: map[string]int{}}
	if n := settings.MaxConnections; n > 0 {
		p.most = min(p.most, max(n/4, 1))
	}
	p.perClient = min(p.perClient, max(p.most/2, 1))
	if n := settings.MaxConnectionsPerAddress; n > 0 {
		p.perClient = min(p.perClient, max(n/4, 1))
	}
	return p
}

// take takes a place, until leave; it reports false where there is none.
func (p *places) take(client string) (leave func(), ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken >= p.most || p.taking[client] >= p.perClient {
		return nil, false
	}
	p.taken++
	p.taking[client]++
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.taken--
		if p.taking[client]--; p.taking[client] == 0 {
			delete(p.taking, client)
		}
	}, true
}

// await has f wait, until the request has waited for long enough, its client is gone or
// the agent ends. It answers by itself, and reports false, where it may not wait or the
// agent ends.
func (s *Server) await(w http.ResponseWriter, r *http.Request, wait time.Duration, f func(ctx context.Context)) bool {
	leave, ok := s.waiting.take(guard.ClientOf(r.Context()))
	if !ok {
		problem.New(http.StatusTooManyRequests, "too many requests wait for something new: %d of each client may, %d of all; use the WebSocket",
			s.waiting.perClient, s.waiting.most).With("Retry-After", "1").Write(w)
		return false
	}
	defer leave()
	ctx, cancel := context.WithTimeout(r.Context(), wait)
	defer cancel()
	defer context.AfterFunc(s.closing, cancel)() //nolint:contextcheck // either of two ends it
	began := time.Now()
	beginWait(w, wait)
	f(ctx)
	endWait(w, time.Since(began))
	if s.closing.Err() != nil {
		problem.New(http.StatusServiceUnavailable, "the agent is ending").Write(w)
		return false
	}
	return true
}

// beginWait gives the connection the time that the request waits: net/http takes a
// client that sends nothing meanwhile for one that is gone.
func beginWait(w http.ResponseWriter, wait time.Duration) {
	c := http.NewResponseController(w)
	// What is no socket has no deadlines.
	_ = c.SetReadDeadline(time.Now().Add(wait + readTimeout))
	_ = c.SetWriteDeadline(time.Now().Add(wait + writeTimeout))
}

// endWait notes for how long a request waited: that is not how long its answer took.
func endWait(w http.ResponseWriter, waited time.Duration) {
	for w != nil {
		if answer, ok := w.(*response); ok {
			answer.waited = waited
		}
		wrapper, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return
		}
		w = wrapper.Unwrap()
	}
}

// nextState answers with the latest state as soon as it is newer than the one seen.
func (s *Server) nextState(w http.ResponseWriter, r *http.Request, p poll) {
	state := s.hub.NewerState(p.after, p.runID)
	if state == nil && p.wait > 0 && !s.await(w, r, p.wait, func(ctx context.Context) {
		state = s.hub.AwaitState(ctx, p.after, p.runID)
	}) {
		return
	}
	if state == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	writeJSON(w, http.StatusOK, state)
}

// awaitEvents waits until there are events that the request has not seen. It reports
// false if it has answered by itself.
func (s *Server) awaitEvents(w http.ResponseWriter, r *http.Request, n int, p poll) bool {
	enough := func(events []stream.Event) bool { return len(eventsAfter(events, p.after)) > 0 }
	if enough(s.hub.Events(n)) {
		return true
	}
	return s.await(w, r, p.wait, func(ctx context.Context) { s.hub.AwaitEvents(ctx, n, enough) })
}

// clientTurns has what is long in a request's stream done by turns.
func (s *Server) clientTurns(r *http.Request) func(ctx context.Context, work func()) error {
	client := guard.ClientOf(r.Context())
	return func(ctx context.Context, work func()) error {
		if err := s.turns.take(ctx, client); err != nil {
			return err
		}
		defer s.turns.give()
		work()
		return nil
	}
}
