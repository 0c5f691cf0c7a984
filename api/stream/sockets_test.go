package stream

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// TestLatestAtOnce: the latest state comes at once, those before it do not; before
// the first state a client waits for it.
func TestLatestAtOnce(t *testing.T) {
	s := newSite(t, NewHub(10))
	early := s.dial(t, "/v1/stream")
	eventually(t, "the client is counted", func() bool { return s.hub.Stats().StateClients == 1 })
	for seq := range int64(3) {
		s.hub.Publish(stateOf(seq, 2))
	}
	late := s.dial(t, "/v1/stream")
	got := next(t, late)
	if want := stateOf(2, 2).AppendJSON(nil); string(got) != string(want) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	s.hub.Publish(stateOf(3, 2))
	wantSeq(t, late, 3)
	for seq := range int64(4) {
		wantSeq(t, early, seq)
	}
	if stats := s.hub.Stats(); stats.ClientsTotal != 2 || stats.SkippedStates != 0 {
		t.Errorf("stats %+v", stats)
	}
}

// TestHealthyClientsMissNothing, in bursts as when a replay is advanced by many
// steps at once, nor do they at the begin of another run.
func TestHealthyClientsMissNothing(t *testing.T) {
	s := newSite(t, NewHub(10))
	s.hub.Publish(stateOf(0, 2))
	var clients []*websocket.Conn
	for range 5 {
		clients = append(clients, s.dial(t, "/v1/stream"))
	}
	eventually(t, "the clients are counted", func() bool { return s.hub.Stats().StateClients == 5 })
	for _, c := range clients {
		wantSeq(t, c, 0)
	}
	const burst = 1000
	for first := range int64(3) {
		for i := range int64(burst) {
			s.hub.Publish(stateOf(first*1000+i, 2))
		}
		for _, c := range clients {
			for i := range int64(burst) {
				wantSeq(t, c, first*1000+i)
			}
		}
	}
	s.hub.Publish(stateOf(0, 2))
	wantSeq(t, clients[0], 0)
}

// TestHTTPServerDeadlines: those of the server are not those of the stream.
func TestHTTPServerDeadlines(t *testing.T) {
	s := newSite(t, NewHub(10), func(_ *Sockets, server *http.Server) {
		server.ReadTimeout, server.WriteTimeout = 100*time.Millisecond, 100*time.Millisecond
	})
	c := s.dial(t, "/v1/stream")
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for seq := range int64(20) {
		<-tick.C
		s.hub.Publish(stateOf(seq, 1))
		wantSeq(t, c, seq)
	}
}

func TestEventsFollow(t *testing.T) {
	s := newSite(t, newHub(1, backlog{most: 10, least: 10}, 5))
	early := s.dial(t, "/v1/events?follow")
	for i := range 3 {
		s.hub.PublishEvent(eventOf(fmt.Sprint(i)))
	}
	for id := range int64(3) {
		wantID(t, early, id)
	}
	recent := s.dial(t, "/v1/events?follow=")
	wantID(t, recent, 0)
	after := s.dial(t, "/v1/events?follow&after=1")
	wantID(t, after, 2)
	nothing := s.dial(t, "/v1/events?follow&after=2")
	earlier := s.dial(t, "/v1/events?follow&after=9223372036854775807") // from before the agent restarted
	wantID(t, earlier, 0)
	eventually(t, "all are counted", func() bool { return s.hub.Stats().EventClients == 5 })
	s.hub.PublishEvent(eventOf("3"))
	wantID(t, nothing, 3)
	wantID(t, early, 3)

	for i := range 6 { // 4…9; 5…9 are kept
		s.hub.PublishEvent(eventOf(fmt.Sprint(i)))
	}
	late := s.dial(t, "/v1/events?follow")
	wantID(t, late, 5)
	behind := s.dial(t, "/v1/events?follow&after=1")
	if got := string(next(t, behind)); got != `{"skipped":3}` {
		t.Errorf("got %s, want 3 skipped: 2, 3 and 4", got)
	}
	for id := int64(5); id < 10; id++ {
		wantID(t, behind, id)
	}
}

func TestSubprotocol(t *testing.T) {
	s := newSite(t, NewHub(1))
	for _, c := range []struct{ offered, want string }{
		{"", ""},
		{"g2g-agent.v1", "g2g-agent.v1"},
		{"g2g-agent.bearer.c2VjcmV0, g2g-agent.v1", "g2g-agent.v1"},
		{"g2g-agent.bearer.c2VjcmV0", ""},
		{"g2g-agent.v2", ""},
	} {
		header := http.Header{}
		if c.offered != "" {
			header.Set("Sec-WebSocket-Protocol", c.offered)
		}
		dialer := websocket.Dialer{EnableCompression: true}
		conn, _, answer, err := connect(t.Context(), &dialer, s.url+"/v1/stream", header)
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		if got := answer.Get("Sec-WebSocket-Protocol"); got != c.want {
			t.Errorf("of %q, %q is chosen, want %q", c.offered, got, c.want)
		}
		if got := answer.Get("Sec-WebSocket-Extensions"); got != "" {
			t.Errorf("extensions %q", got)
		}
	}
	if strings.Contains(s.log.String(), "c2VjcmV0") {
		t.Error("the token is in the log")
	}
}

// TestClose: every client is told that the agent ends, and no new one is taken.
func TestClose(t *testing.T) {
	s := newSite(t, NewHub(10))
	states, events := s.dial(t, "/v1/stream"), s.dial(t, "/v1/events?follow")
	s.hub.Publish(stateOf(0, 1))
	wantSeq(t, states, 0)
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		s.sockets.Close()
	}()
	wantClose(t, states, websocket.CloseGoingAway)
	wantClose(t, events, websocket.CloseGoingAway)
	<-closed
	s.sockets.Close() // again
	_, status, _, err := connect(t.Context(), websocket.DefaultDialer, s.url+"/v1/stream", nil)
	if err == nil || status != http.StatusServiceUnavailable {
		t.Errorf("after Close: %d, %v; want 503", status, err)
	}
}

// TestClientsThatLeave, politely or not, are forgotten.
func TestClientsThatLeave(t *testing.T) {
	s := newSite(t, NewHub(10))
	polite, rude := s.dial(t, "/v1/stream"), s.dial(t, "/v1/stream")
	eventually(t, "both are counted", func() bool { return s.hub.Stats().StateClients == 2 })
	message := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	if err := polite.WriteControl(websocket.CloseMessage, message, time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	wantClose(t, polite, websocket.CloseNormalClosure)
	rude.NetConn().Close()
	eventually(t, "both are gone", func() bool { return s.hub.Stats().StateClients == 0 })
	if stats := s.hub.Stats(); stats.UnrulyClientsClosed+stats.SlowClientsClosed+stats.SilentClientsClosed != 0 {
		t.Errorf("stats %+v", stats)
	}
}
