package completion

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// exchange is what a raw server does with one request on its connection; it
// returns whether the connection goes on.
type exchange func(conn net.Conn, request *http.Request, body string) (goOn bool)

// serveRaw runs a server that says exactly what a test tells it to, and returns
// its URL. Each connection has the exchanges of serve(its number, from 0).
func serveRaw(t *testing.T, serve func(connection int) exchange) string {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var (
		running sync.WaitGroup
		mu      sync.Mutex
		conns   []net.Conn
	)
	running.Go(func() {
		for number := 0; ; number++ {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			answer := serve(number)
			running.Go(func() {
				defer conn.Close()
				in := bufio.NewReader(conn)
				for {
					request, err := http.ReadRequest(in)
					if err != nil {
						return
					}
					body, err := io.ReadAll(request.Body)
					if err != nil || !answer(conn, request, string(body)) {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		mu.Lock()
		for _, conn := range conns {
			_ = conn.Close()
		}
		mu.Unlock()
		running.Wait()
	})
	return "http://" + listener.Addr().String()
}

// says writes parts one by one and keeps the connection.
func says(parts ...string) exchange {
	return func(conn net.Conn, _ *http.Request, _ string) bool {
		for _, part := range parts {
			if _, err := io.WriteString(conn, part); err != nil {
				return false
			}
		}
		return true
	}
}

// thenCloses does what e does and closes the connection.
func (e exchange) thenCloses() exchange {
	return func(conn net.Conn, request *http.Request, body string) bool {
		e(conn, request, body)
		return false
	}
}

func always(e exchange) func(int) exchange { return func(int) exchange { return e } }

// goodAnswer is a whole answer of n tokens.
func goodAnswer(n int) string {
	parts := []string{roleEvent}
	for i := range n {
		parts = append(parts, tokenEvent("x", i+1))
	}
	return eventStreamHead + inChunks(append(parts, finalEvent(n), doneEvent)...) + lastChunk
}

func newTestStream(t *testing.T, cfg Config) *Stream {
	t.Helper()
	client, err := NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s := client.NewStream()
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// tokensOf completes once and returns the tokens of all chunks.
func tokensOf(t *testing.T, s *Stream) (tokens []int, err error) {
	t.Helper()
	err = s.Complete(t.Context(), []byte(`{}`), func(r *Read) {
		for _, c := range r.Chunks {
			tokens = append(tokens, c.Tokens)
		}
	})
	return tokens, err
}

func wantKind(t *testing.T, err error, kind ErrorKind) *Error {
	t.Helper()
	var failure *Error
	if !errors.As(err, &failure) || failure.Kind != kind {
		t.Fatalf("error is %v, want one of kind %v", err, kind)
	}
	return failure
}

// wait lets time pass, where just that is tested.
func wait(t *testing.T, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}
