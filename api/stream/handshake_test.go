package stream

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/api/problem"
)

// noHandshake is a request for a WebSocket that is refused.
type noHandshake struct {
	name, path string
	change     map[string]string // "-": not sent
	status     int
	location   string // of the error; empty: the detail says it
	detail     string
}

func noHandshakes() []noHandshake {
	return []noHandshake{
		{"no WebSocket", "/v1/stream", map[string]string{"Upgrade": "-", "Connection": "-"}, 426, "", "ws://"},
		{"no WebSocket", "/v1/events?follow", map[string]string{"Upgrade": "-"}, 426, "", "ws://"},
		{"HTTP/2", "/v1/stream", map[string]string{"Upgrade": "h2c"}, 426, "", "ws://"},
		{"old version", "/v1/stream", map[string]string{"Sec-WebSocket-Version": "8"}, 426, "header.Sec-WebSocket-Version", `"8"`},
		{"no version", "/v1/stream", map[string]string{"Sec-WebSocket-Version": "-"}, 426, "header.Sec-WebSocket-Version", "want 13"},
		{"no key", "/v1/stream", map[string]string{"Sec-WebSocket-Key": "-"}, 400, "header.Sec-WebSocket-Key", "Key"},
		{"short key", "/v1/stream", map[string]string{"Sec-WebSocket-Key": "AAAA"}, 400, "header.Sec-WebSocket-Key", "Key"},
		{"wrong origin", "/v1/stream", map[string]string{"Origin": "https://evil.example"}, 403, "header.Origin", "https://evil.example"},
		{"wrong origin", "/v1/events?follow", map[string]string{"Origin": "https://evil.example"}, 403, "header.Origin", "api.allowed_origins"},
		{"empty after", "/v1/events?follow&after=", nil, 422, "query.after", "whole number"},
		{"bad after", "/v1/events?follow&after=latest", nil, 422, "query.after", `"latest"`},
		{"after -1", "/v1/events?follow&after=-1", nil, 422, "query.after", "from 0"},
		{"huge after", "/v1/events?follow&after=9223372036854775808", nil, 422, "query.after", "9223372036854775808"},
		{"two afters", "/v1/events?follow&after=1&after=2", nil, 422, "query.after", "2 times"},
		{"malformed query", "/v1/events?follow&after=%zz", nil, 422, "query.after", "malformed"},
		{"long after", "/v1/events?follow&after=" + strings.Repeat("9", 5000), nil, 422, "query.after", "999…"},
	}
}

// TestRefusedRequests: what is no handshake is told what would be one.
func TestRefusedRequests(t *testing.T) {
	handshake := map[string]string{
		"Connection": "Upgrade", "Upgrade": "websocket",
		"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
	}
	s := newSite(t, NewHub(1), func(s *Sockets, _ *http.Server) {
		s.upgrader.CheckOrigin = func(r *http.Request) bool { return r.Header.Get("Origin") != "https://evil.example" }
	})
	cases := noHandshakes()
	for _, c := range cases {
		t.Run(fmt.Sprintf("%s %.40s", c.name, c.path), func(t *testing.T) {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http"+strings.TrimPrefix(s.url, "ws")+c.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			for name, value := range handshake {
				request.Header.Set(name, value)
			}
			for name, value := range c.change {
				request.Header.Set(name, value)
				if value == "-" {
					request.Header.Del(name)
				}
			}
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			c.wantRefused(t, response)
		})
	}
	http.DefaultClient.CloseIdleConnections()
	if got := s.hub.Stats(); got.RefusedRequests != uint64(len(cases)) || got.ClientsTotal != 0 {
		t.Errorf("stats %+v, want %d refused", got, len(cases))
	}
}

// wantRefused: the problem says what is wrong, where, and what to upgrade to.
func (c noHandshake) wantRefused(t *testing.T, response *http.Response) {
	t.Helper()
	var p problem.Problem
	if err := json.NewDecoder(response.Body).Decode(&p); err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != c.status || p.Status != c.status || p.Title != http.StatusText(c.status) {
		t.Errorf("status %d, want %d: %+v", response.StatusCode, c.status, p)
	}
	if got := response.Header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("Content-Type %q", got)
	}
	if c.status == http.StatusUpgradeRequired && (response.Header.Get("Upgrade") != "websocket" || response.Header.Get("Sec-WebSocket-Version") != "13") {
		t.Errorf("headers %v do not say what to upgrade to", response.Header)
	}
	if !strings.Contains(p.Detail, c.detail) || len(p.Detail) > 500 {
		t.Errorf("detail %q, want %q in it", p.Detail, c.detail)
	}
	switch {
	case c.location == "" && len(p.Errors) != 0, c.location != "" && (len(p.Errors) != 1 || p.Errors[0].Location != c.location):
		t.Errorf("errors %+v, want one at %q", p.Errors, c.location)
	}
}

// TestSameOriginByDefault: without a check of one's own, other pages are refused.
func TestSameOriginByDefault(t *testing.T) {
	own := NewSockets(NewHub(1), nil, zerolog.Nop())
	s := newSite(t, NewHub(1), func(s *Sockets, _ *http.Server) { s.upgrader.CheckOrigin = own.upgrader.CheckOrigin })
	for origin, want := range map[string]int{"": 101, "http" + strings.TrimPrefix(s.url, "ws"): 101, "https://evil.example": 403, "null": 403} {
		header := http.Header{}
		if origin != "" {
			header.Set("Origin", origin)
		}
		if got := handshakeStatus(t, s.url, header); got != want {
			t.Errorf("origin %q: %d, want %d", origin, got, want)
		}
	}
}

// handshakeStatus sends a handshake and returns the answer's status.
func handshakeStatus(t *testing.T, url string, header http.Header) int {
	t.Helper()
	conn := rawConn(t, url)
	fmt.Fprintf(conn, "GET /v1/stream HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n", strings.TrimPrefix(url, "ws://"))
	fmt.Fprint(conn, "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n")
	header.Write(conn)
	fmt.Fprint(conn, "\r\n")
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	return response.StatusCode
}

func rawConn(t *testing.T, url string) net.Conn {
	t.Helper()
	var d net.Dialer
	conn, err := d.DialContext(t.Context(), "tcp", strings.TrimPrefix(url, "ws://"))
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { conn.Close() })
	return conn
}
