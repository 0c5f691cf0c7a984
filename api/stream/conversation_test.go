package stream

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/rs/zerolog"
)

// conversing serves conversations until the test ends.
func conversing(t *testing.T, answer Answer, adapt func(*Conversations)) (hub *Hub, url string) {
	t.Helper()
	hub = NewHub(1)
	talks := NewConversations(NewSockets(hub, anyOrigin, zerolog.Nop()))
	if adapt != nil {
		adapt(talks)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { talks.Serve(w, r, answer) }))
	t.Cleanup(func() {
		talks.Close()
		server.Close()
	})
	return hub, "ws" + strings.TrimPrefix(server.URL, "http")
}

func dialConversation(t *testing.T, d *websocket.Dialer, url string) *websocket.Conn {
	t.Helper()
	conn, _, _, err := connect(t.Context(), d, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// An answer is whole however long it is, and the next one has nothing of it.
func TestAnswersOfAllLengths(t *testing.T) {
	_, url := conversing(t, func(message []byte, _ bool, b []byte) []byte {
		return bytes.Join([][]byte{b, bytes.Repeat(message, 1<<min(len(message), 22)/len(message))}, nil)
	}, nil)
	conn := dialConversation(t, websocket.DefaultDialer, url)
	for _, n := range []int{1, 8, 14, 15, 16, 20, 22, 3} {
		message := bytes.Repeat([]byte("x"), n)
		if err := conn.WriteMessage(websocket.TextMessage, message); err != nil {
			t.Fatal(err)
		}
		if answer := next(t, conn); len(answer) != 1<<n/n*n || len(bytes.Trim(answer, "x")) != 0 {
			t.Errorf("an answer of %d bytes has %d", 1<<n/n*n, len(answer))
		}
	}
}

// A client that never reads is waited for no longer than it may take, reads nothing more
// meanwhile, and is counted; others go on.
func TestClientThatNeverReads(t *testing.T) {
	answers := make(chan struct{}, 1000)
	hub, url := conversing(t, func(_ []byte, _ bool, b []byte) []byte {
		select {
		case answers <- struct{}{}:
		default:
		}
		return append(b, make([]byte, 1<<20)...)
	}, func(c *Conversations) { c.timing.write = 100 * time.Millisecond; c.leastRate = 1 << 30 })
	deaf := dialConversation(t, smallBuffers(), url)
	var err error
	for err == nil { // until nobody takes any more
		_ = deaf.SetWriteDeadline(time.Now().Add(patience))
		err = deaf.WriteMessage(websocket.TextMessage, make([]byte, 32<<10))
	}
	if isTimeout(err) {
		t.Error("it was never cut off")
	}
	eventually(t, "it is counted", func() bool { return hub.Stats().SlowClientsClosed == 1 })
	if n := len(answers); n > 100 {
		t.Errorf("%d answers were made for it", n)
	}
	other := dialConversation(t, websocket.DefaultDialer, url)
	if err := other.WriteMessage(websocket.TextMessage, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if n := len(next(t, other)); n != 1<<20 {
		t.Errorf("another one gets %d bytes", n)
	}
}

// The end does not wait for one client after the other, of many that read nothing, and
// takes none of them for slow.
func TestTheEndOfManyThatDoNotRead(t *testing.T) {
	const clients = 16
	hub := NewHub(1)
	talks := NewConversations(NewSockets(hub, anyOrigin, zerolog.Nop()))
	var answered sync.WaitGroup
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		talks.Serve(w, r, func(_ []byte, _ bool, b []byte) []byte {
			answered.Done()
			return append(b, make([]byte, 8<<20)...)
		})
	}))
	defer server.Close()
	for range clients {
		answered.Add(1)
		deaf := dialConversation(t, smallBuffers(), "ws"+strings.TrimPrefix(server.URL, "http"))
		if err := deaf.WriteMessage(websocket.TextMessage, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	answered.Wait()
	if n := hub.Stats().Conversations; n != clients {
		t.Errorf("%d conversations are under way, want %d", n, clients)
	}
	begun := time.Now()
	talks.Close()
	if took := time.Since(begun); took > clients*talks.timing.goodbye/2 {
		t.Errorf("the end took %v", took)
	}
	if stats := hub.Stats(); stats.Conversations != 0 || stats.SlowClientsClosed != 0 {
		t.Errorf("then %d conversations are under way, and %d clients were slow", stats.Conversations, stats.SlowClientsClosed)
	}
}

func TestConversationsRefuse(t *testing.T) {
	_, url := conversing(t, func(_ []byte, _ bool, b []byte) []byte { return b }, nil)
	resp, err := http.Get("http" + strings.TrimPrefix(url, "ws")) //nolint:noctx // it is answered at once
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusUpgradeRequired {
		t.Errorf("without a handshake it is answered with %d", resp.StatusCode)
	}
	conn := dialConversation(t, websocket.DefaultDialer, url)
	if _, err := conn.NetConn().Write([]byte{0xf1, 0x80, 0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	wantClose(t, conn, websocket.CloseProtocolError)
	var bad *websocket.CloseError
	if _, _, err := conn.ReadMessage(); !errors.As(err, &bad) {
		t.Errorf("then reading gives %v", err)
	}
}
