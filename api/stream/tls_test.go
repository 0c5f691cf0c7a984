//go:build unix

package stream

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/rs/zerolog"
)

// watchedConn is a wrapper as of a listener that counts its connections.
type watchedConn struct {
	net.Conn
	open   *atomic.Int64
	closed atomic.Bool
}

func (c *watchedConn) NetConn() net.Conn { return c.Conn }

func (c *watchedConn) Close() error {
	if !c.closed.Swap(true) {
		c.open.Add(-1)
	}
	return c.Conn.Close()
}

type watchedListener struct {
	net.Listener
	open atomic.Int64
	last atomic.Pointer[watchedConn]
}

func (l *watchedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.open.Add(1)
	c := &watchedConn{Conn: conn, open: &l.open}
	l.last.Store(c)
	return c, nil
}

// TestOverTLS: clients are served through whatever connections are wrapped in, a
// stalled one delays no end, and the wrappers are closed.
func TestOverTLS(t *testing.T) {
	h := NewHub(10)
	sockets := NewSockets(h, anyOrigin, zerolog.Nop())
	sockets.timing.shutdown = 300 * time.Millisecond
	server := httptest.NewUnstartedServer(sockets.States())
	watched := &watchedListener{Listener: server.Listener}
	server.Listener = watched
	server.StartTLS()
	defer server.Close()
	defer sockets.Close()
	roots := server.Client().Transport.(*http.Transport).TLSClientConfig
	dial := func(small bool) *websocket.Conn {
		d := smallBuffers()
		if !small {
			d.NetDialContext = nil
		}
		d.TLSClientConfig = &tls.Config{RootCAs: roots.RootCAs, ServerName: "example.com"}
		conn, status, _, err := connect(t.Context(), d, "wss"+strings.TrimPrefix(server.URL, "https"), nil)
		if err != nil {
			t.Fatalf("%v (status %d)", err, status)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	dial(true)
	stalled := watched.last.Load()
	healthy := dial(false)
	for seq := range int64(30) {
		h.Publish(stateOf(seq, 300)) // 3 MB: more than the kernel takes
		wantSeq(t, healthy, seq)
	}
	if got, err := sendBufferOf(stalled); err != nil || got > 2*sendBufferBytes {
		t.Errorf("the kernel may keep %d bytes for a client (%v), want up to %d", got, err, 2*sendBufferBytes)
	}
	began := time.Now()
	sockets.Close()
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("Close took %v", took)
	}
	wantClose(t, healthy, websocket.CloseGoingAway)
	if got := watched.open.Load(); got != 0 {
		t.Errorf("%d connections are left open", got)
	}
}

// sendBufferOf returns how many bytes of a connection wait in the kernel at most.
func sendBufferOf(c *watchedConn) (size int, err error) {
	raw, err := c.Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	controlErr := raw.Control(func(fd uintptr) { size, err = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF) })
	if controlErr != nil {
		return 0, controlErr
	}
	return size, err
}
