package stream

import (
	"bytes"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"pgregory.net/rapid"
)

// unruly are ways to break the rules, and the code of the close that follows.
func unruly() map[string]unrulyCase {
	text := func(c *websocket.Conn, n int) error {
		return c.WriteMessage(websocket.TextMessage, bytes.Repeat([]byte("x"), n))
	}
	return map[string]unrulyCase{
		"too long": {func(c *websocket.Conn) error { return text(c, maxMessageBytes+1) }, websocket.CloseMessageTooBig},
		"huge": {func(c *websocket.Conn) error { // a frame of 2^62 bytes is announced
			_, err := c.NetConn().Write([]byte{0x82, 0xff, 0x40, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4})
			return err
		}, websocket.CloseMessageTooBig},
		"too many messages": {func(c *websocket.Conn) error {
			var err error
			for i := 0; i < 2*frameBurst && err == nil; i++ {
				err = text(c, 1)
			}
			return err
		}, websocket.ClosePolicyViolation},
		"too many pings": {func(c *websocket.Conn) error {
			var err error
			for i := 0; i < 2*frameBurst && err == nil; i++ {
				err = c.WriteControl(websocket.PingMessage, []byte("?"), time.Now().Add(patience))
			}
			return err
		}, websocket.ClosePolicyViolation},
		"not masked": {func(c *websocket.Conn) error { _, err := c.NetConn().Write([]byte{0x81, 1, 'x'}); return err }, websocket.CloseProtocolError},
		"reserved bits": {func(c *websocket.Conn) error {
			_, err := c.NetConn().Write([]byte{0xf1, 0x80, 0, 0, 0, 0})
			return err
		}, websocket.CloseProtocolError},
		"long ping": {func(c *websocket.Conn) error {
			_, err := c.NetConn().Write([]byte{0x89, 0xfe, 1, 0, 0, 0, 0, 0})
			return err
		}, websocket.CloseProtocolError},
		"HTTP": {func(c *websocket.Conn) error {
			_, err := c.NetConn().Write([]byte("GET /v1/state HTTP/1.1\r\nHost: localhost\r\n\r\n"))
			return err
		}, websocket.CloseProtocolError},
	}
}

type unrulyCase struct {
	send func(*websocket.Conn) error
	code int
}

// TestUnrulyClients are closed, each with the code that says why, and concern
// nobody else.
func TestUnrulyClients(t *testing.T) {
	s := newSite(t, NewHub(10), func(s *Sockets, _ *http.Server) { s.timing.goodbye = 100 * time.Millisecond })
	s.hub.Publish(stateOf(0, 1))
	bystander := s.dial(t, "/v1/stream")
	wantSeq(t, bystander, 0)
	for name, c := range unruly() {
		t.Run(name, func(t *testing.T) {
			before := s.hub.Stats().UnrulyClientsClosed
			conn := s.dial(t, "/v1/stream")
			wantSeq(t, conn, 0)
			if err := c.send(conn); err != nil {
				t.Fatal(err)
			}
			wantClose(t, conn, c.code)
			eventually(t, "it is gone and counted", func() bool {
				stats := s.hub.Stats()
				return stats.StateClients == 1 && stats.UnrulyClientsClosed == before+1
			})
		})
	}
	s.hub.Publish(stateOf(1, 1))
	wantSeq(t, bystander, 1)
}

// TestMessagesAreIgnored: a client may say something now and then.
func TestMessagesAreIgnored(t *testing.T) {
	s := newSite(t, NewHub(10))
	s.hub.Publish(stateOf(0, 1))
	c := s.dial(t, "/v1/stream")
	wantSeq(t, c, 0)
	pong := make(chan string, 1)
	c.SetPongHandler(func(payload string) error { pong <- payload; return nil })
	for _, kind := range []int{websocket.TextMessage, websocket.BinaryMessage, websocket.PingMessage, websocket.PongMessage} {
		if err := c.WriteMessage(kind, []byte(`{"hello":1}`)); err != nil {
			t.Fatal(err)
		}
	}
	for seq := int64(1); len(pong) == 0; seq++ {
		s.hub.Publish(stateOf(seq, 1))
		wantSeq(t, c, seq)
	}
	if got := <-pong; got != `{"hello":1}` {
		t.Errorf("the ping was answered with %q", got)
	}
}

// TestGarbage: whatever comes over a connection ends that connection at most.
func TestGarbage(t *testing.T) {
	s := newSite(t, NewHub(10), func(s *Sockets, _ *http.Server) { s.timing.goodbye = 10 * time.Millisecond })
	s.hub.Publish(stateOf(0, 1))
	piece := rapid.OneOf(rapid.SliceOfN(rapid.Byte(), 1, 300), rapid.SampledFrom([][]byte{
		{0x81, 0x81, 0, 0, 0, 0, 'x'},                // text
		{0x01, 0x80, 0, 0, 0, 0},                     // the first fragment of a message
		{0x80, 0x80, 0, 0, 0, 0},                     // its last
		{0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8},         // close with 1000
		{0x88, 0x81, 0, 0, 0, 0, 0x03},               // close with half a code
		{0x89, 0x80, 0, 0, 0, 0},                     // ping
		{0x8a, 0x85, 0, 0, 0, 0, 'h', 'e', 'l', 'l'}, // pong, cut off
		{0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, // huge
			0xff, 0xff, 0, 0, 0, 0},
	}))
	rapid.Check(t, func(rt *rapid.T) {
		garbage := bytes.Join(rapid.SliceOfN(piece, 1, 10).Draw(rt, "garbage"), nil)
		conn, status, _, err := connect(t.Context(), websocket.DefaultDialer, s.url+"/v1/stream", nil)
		if err != nil {
			rt.Fatalf("%v (status %d)", err, status)
		}
		conn.NetConn().Write(garbage) // the agent may have closed it meanwhile
		conn.NetConn().Close()
		eventually(t, "the client is gone", func() bool { return s.hub.Stats().StateClients == 0 })
	})
	wantSeq(t, s.dial(t, "/v1/stream"), 0)
}

// TestEncodingFails: a message without JSON ends the connection instead of the
// agent.
func TestEncodingFails(t *testing.T) {
	h := NewHub(10)
	h.events.encode = func(Event) ([]byte, error) { return nil, errors.New("no JSON") }
	s := newSite(t, h)
	c := s.dial(t, "/v1/events?follow")
	h.PublishEvent(eventOf("m"))
	wantClose(t, c, websocket.CloseInternalServerErr)
}
