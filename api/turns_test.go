package api

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// Who asks for many long answers waits for longer, and nobody else does.
func TestTurnsAreFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(false)
		if err := turns.take(t.Context(), "first"); err != nil {
			t.Fatal(err)
		}
		order := make(chan string, 100)
		for i := range 12 { // eight of the greedy one first
			client := "greedy"
			if i >= 8 {
				client = fmt.Sprint("modest-", i%2)
			}
			go func() {
				if err := turns.take(t.Context(), client); err != nil {
					t.Error(err)
				}
				order <- client
				turns.give()
			}()
			synctest.Wait()
		}
		turns.give()
		synctest.Wait()
		for i, want := range []string{"greedy", "modest-0", "modest-1", "greedy", "modest-0", "modest-1", "greedy", "greedy"} {
			if got := <-order; got != want {
				t.Errorf("turn %d is that of %s, want %s", i, got, want)
			}
		}
	})
}

// The work takes an eighth of the time at most.
func TestTurnsRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for unlimited, want := range map[bool]time.Duration{false: 800 * time.Millisecond, true: 100 * time.Millisecond} {
			turns := newTurns(unlimited)
			began := time.Now()
			for range 100 {
				if err := turns.take(t.Context(), ""); err != nil {
					t.Fatal(err)
				}
				<-time.After(time.Millisecond)
				turns.give()
			}
			if took := time.Since(began); took < want-rest || took > want+rest {
				t.Errorf("unlimited %v: 100 ms of work took %v, want %v", unlimited, took, want)
			}
		}
	})
}

// Those who give up take no turn, and keep none.
func TestTurnsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(true)
		if err := turns.take(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		for range 3 {
			go func() { ended <- turns.take(ctx, "b") }()
		}
		synctest.Wait()
		cancel()
		for range 3 {
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("take: %v", err)
			}
		}
		turns.give()
		if turns.taken || len(turns.waiting) != 0 || turns.order.Len() != 0 {
			t.Errorf("left over: %+v", turns)
		}
		if err := turns.take(t.Context(), "c"); err != nil {
			t.Fatal(err)
		}
	})
}

func TestTurnsAreLimited(t *testing.T) {
	turns := newTurns(false)
	var leave []func()
	for client := range maxLong / maxLongPerClient {
		for range maxLongPerClient {
			l, ok := turns.enter(fmt.Sprint(client))
			if !ok {
				t.Fatal("refused")
			}
			leave = append(leave, l)
		}
	}
	if _, ok := turns.enter("another"); ok {
		t.Error("one more than all may have is let in")
	}
	leave[0]()
	if _, ok := turns.enter("1"); ok {
		t.Error("one more than a client may have is let in")
	}
	if _, ok := turns.enter("another"); !ok {
		t.Error("refused although there is room")
	}
}

// What the end of the run cuts short does not look like a whole answer.
func TestLongAnswersAtTheEnd(t *testing.T) {
	const states = 12_000
	s := listening(t, func(c *Config) {
		c.Settings.HistoryStates = states
		c.Lockstep = stepsFunc(func(context.Context, int) ([]*datacenter.State, error) { return nil, nil }) // turns without rests
	})
	for i := range states {
		s.Publish(liveState(int64(i)))
	}
	ask := func(path string) *bufio.Reader {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.Address())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		conn.SetDeadline(time.Now().Add(30 * time.Second))
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path)
		return bufio.NewReader(conn)
	}
	begun := ask(fmt.Sprintf("/v1/history?n=%d", states))
	if _, err := begun.Peek(1); err != nil {
		t.Fatal(err)
	}
	if err := s.turns.take(t.Context(), "the test"); err != nil {
		t.Fatal(err)
	}
	waiting := []*bufio.Reader{ask("/v1/history"), ask("/v1/events")}
	s.end()
	for _, in := range waiting {
		resp, err := http.ReadResponse(in, nil) //nolint:bodyclose // the connection is closed in the end, and with it the body
		if err != nil || resp.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("an answer that was not begun: %v, %v; want 503", resp, err)
		}
	}
	resp, err := http.ReadResponse(begun, nil) //nolint:bodyclose // likewise
	if err != nil {
		t.Fatal(err)
	}
	if raw, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("an answer that was begun ends with %v after %d bytes, want it cut off", err, len(raw))
	}
	s.turns.give()
}

// Readers of the history that do not read keep nobody else from it, and more of them
// than there may be are told to come back.
func TestHistoryThatIsNotRead(t *testing.T) {
	const states = 12_000 // more than the kernel keeps for a client
	s := listening(t, func(c *Config) {
		c.Settings.HistoryStates = states
		c.Lockstep = stepsFunc(func(context.Context, int) ([]*datacenter.State, error) { return nil, nil }) // turns without rests
	})
	for i := range states {
		s.Publish(liveState(int64(i)))
	}
	request := fmt.Sprintf("GET /v1/history?n=%d HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", states)
	for range 2 {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.Address())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, request)
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	status, body := answerTo(t, s, request)
	if n := strings.Count(body, `"seq":`); status != http.StatusOK || n != states {
		t.Errorf("beside readers that do not read: %d with %d states, want %d", status, n, states)
	}
	for {
		leave, ok := s.turns.enter("anyone 127.0.0.1")
		if !ok {
			break
		}
		defer leave()
	}
	for _, path := range []string{"/v1/history", "/v1/events"} {
		status, body := answerTo(t, s, "GET "+path+" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
		if status != http.StatusTooManyRequests || !strings.Contains(body, "long answers") {
			t.Errorf("%s, one more than a client may have: %d %.200s", path, status, body)
		}
	}
	if status, _ := answerTo(t, s, "GET /v1/state HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"); status != http.StatusOK {
		t.Errorf("the state: %d", status)
	}
}
