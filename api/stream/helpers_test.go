package stream

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/logtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

// anyOrigin lets every page follow.
func anyOrigin(*http.Request) bool { return true }

// stateOf returns a state of about 300 bytes a model.
func stateOf(seq int64, models int) *datacenter.State {
	s := &datacenter.State{Seq: seq, TimeS: float64(seq) / 10, Source: datacenter.SourceReplay, Models: make([]datacenter.ModelState, models)}
	for i := range s.Models {
		s.Models[i] = datacenter.ModelState{
			ModelLabel: fmt.Sprintf("Model-with-a-long-name-%03d", i), PowerW: 1e6 / 3, ActiveReplicas: 720, BatchSize: 128,
			ObservedITLS: math.NaN(), PhaseShare: datacenter.ThreePhase{A: 1.0 / 3, B: 1.0 / 3, C: 1.0 / 3},
		}
	}
	return s
}

// site is a hub and its sockets behind a real server.
type site struct {
	hub     *Hub
	sockets *Sockets
	url     string // ws://HOST:PORT
	log     *logtest.Buffer
}

func newSite(t testing.TB, hub *Hub, adapt ...func(*Sockets, *http.Server)) *site {
	t.Helper()
	log := &logtest.Buffer{}
	sockets := NewSockets(hub, anyOrigin, zerolog.New(log))
	mux := http.NewServeMux()
	mux.Handle("GET /v1/stream", sockets.States())
	mux.Handle("GET /v1/events", sockets.Events())
	server := httptest.NewUnstartedServer(mux)
	for _, a := range adapt {
		a(sockets, server.Config)
	}
	server.Start()
	t.Cleanup(func() {
		sockets.Close()
		server.Close()
		if stats := hub.Stats(); stats.StateClients != 0 || stats.EventClients != 0 {
			t.Errorf("after Close there are %d and %d clients", stats.StateClients, stats.EventClients)
		}
	})
	return &site{hub, sockets, "ws" + strings.TrimPrefix(server.URL, "http"), log}
}

// dial connects a client that is closed with the test.
func (s *site) dial(t testing.TB, path string) *websocket.Conn {
	t.Helper()
	return s.dialWith(t, websocket.DefaultDialer, path)
}

func (s *site) dialWith(t testing.TB, d *websocket.Dialer, path string) *websocket.Conn {
	t.Helper()
	conn, status, _, err := connect(t.Context(), d, s.url+path, nil)
	if err != nil {
		t.Fatalf("connecting to %s: %v (status %d)", path, err, status)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// connect returns the status and the header of the answer too.
func connect(ctx context.Context, d *websocket.Dialer, url string, header http.Header) (*websocket.Conn, int, http.Header, error) {
	conn, response, err := d.DialContext(ctx, url, header)
	if response == nil {
		return conn, 0, nil, err
	}
	response.Body.Close()
	return conn, response.StatusCode, response.Header, err
}

// smallBuffers dials clients for whom the kernel keeps little.
func smallBuffers() *websocket.Dialer {
	return &websocket.Dialer{
		ReadBufferSize: 512, WriteBufferSize: 512,
		NetDialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			var d net.Dialer
			conn, err := d.DialContext(ctx, network, address)
			if err == nil {
				err = conn.(*net.TCPConn).SetReadBuffer(4096)
			}
			return conn, err
		},
	}
}

// next reads one message, with the deadline of all that must happen.
func next(t testing.TB, conn *websocket.Conn) []byte {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(patience))
	kind, data, err := conn.ReadMessage()
	if err != nil {
		t.Fatalf("reading: %v", err)
	}
	if kind != websocket.TextMessage {
		t.Fatalf("a message of kind %d came, want text", kind)
	}
	return data
}

// wantSeq reads the state with the number seq.
func wantSeq(t testing.TB, conn *websocket.Conn, seq int64) {
	t.Helper()
	var got struct {
		Seq *int64 `json:"seq"`
	}
	data := next(t, conn)
	if err := json.Unmarshal(data, &got); err != nil || got.Seq == nil || *got.Seq != seq {
		t.Fatalf("got %s, want the state %d", data, seq)
	}
}

// wantID reads the event with the number id.
func wantID(t testing.TB, conn *websocket.Conn, id int64) {
	t.Helper()
	var got struct {
		ID *int64 `json:"id"`
	}
	data := next(t, conn)
	if err := json.Unmarshal(data, &got); err != nil || got.ID == nil || *got.ID != id {
		t.Fatalf("got %s, want the event %d", data, id)
	}
}

// wantClose reads up to the close frame and checks its code.
func wantClose(t testing.TB, conn *websocket.Conn, code int) {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(patience))
	for {
		if _, _, err := conn.ReadMessage(); err != nil {
			if !websocket.IsCloseError(err, code) {
				t.Fatalf("the connection ended with %v, want code %d", err, code)
			}
			return
		}
	}
}

// eventually waits until what must happen has happened.
func eventually(t testing.TB, what string, happened func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !happened() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("it did not happen in %v: %s", patience, what)
		}
	}
}

// follower adds up what a client of the states is sent.
type follower struct {
	last              int64 // seq
	received, skipped int64
}

// read reads one message and takes it.
func (f *follower) read(conn *websocket.Conn, pending *int64) error {
	conn.SetReadDeadline(time.Now().Add(patience))
	_, data, err := conn.ReadMessage()
	if err != nil {
		return err
	}
	return f.take(data, pending)
}

// take checks that a message goes on where the one before has ended.
func (f *follower) take(data []byte, pending *int64) error {
	if rest, ok := bytes.CutPrefix(data, []byte(`{"skipped":`)); ok {
		if *pending != 0 {
			return fmt.Errorf("two notices in a row")
		}
		_, err := fmt.Sscanf(string(rest), "%d}", pending)
		f.skipped += *pending
		return err
	}
	var seq int64
	if _, err := fmt.Sscanf(string(data[:min(len(data), 40)]), `{"seq":%d,`, &seq); err != nil {
		return fmt.Errorf("%.40s: %w", data, err)
	}
	if f.received > 0 && seq != f.last+1+*pending {
		return fmt.Errorf("the state %d came after %d and a notice of %d", seq, f.last, *pending)
	}
	f.last, *pending = seq, 0
	f.received++
	return nil
}

// inTurns gives a turn for each value of turns.
func inTurns(turns <-chan struct{}) func(*http.Request) func(context.Context, func()) error {
	return func(*http.Request) func(context.Context, func()) error {
		return func(ctx context.Context, work func()) error {
			select {
			case <-turns:
				work()
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}
