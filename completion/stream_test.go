package completion

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/g2g-agent/g2g-agent/internal/credential"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRequestAsSent(t *testing.T) {
	type sent struct{ Method, URL, Host, Body, Authorization, Accept, AcceptEncoding, ContentType string }
	got := make(chan sent, 1)
	url := serveRaw(t, always(func(conn net.Conn, r *http.Request, body string) bool {
		got <- sent{
			r.Method, r.URL.String(), r.Host, body,
			r.Header.Get("Authorization"), r.Header.Get("Accept"), r.Header.Get("Accept-Encoding"), r.Header.Get("Content-Type"),
		}
		return says(goodAnswer(1))(conn, r, body)
	}))
	s := newTestStream(t, Config{BaseURL: url + "/a%20b/", Credential: credential.Fixed("secret")})
	body := `{"messages":[` + strings.Repeat(" ", 1<<20) + `]}`
	if err := s.Complete(t.Context(), []byte(body), func(*Read) {}); err != nil {
		t.Fatal(err)
	}
	want := sent{
		"POST", "/a%20b/v1/chat/completions", strings.TrimPrefix(url, "http://"), body,
		"Bearer secret", "text/event-stream", "", "application/json",
	}
	if diff := cmp.Diff(want, <-got); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
}

func TestStreamReadsAnswersHoweverTheyAreWritten(t *testing.T) {
	answer := goodAnswer(20)
	want := []int{0}
	for i := range 20 {
		want = append(want, i+1)
	}
	want = append(want, 20)
	for _, size := range []int{1, 10, 100, 1000, len(answer)} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			var parts []string
			for rest := answer; len(rest) > 0; {
				n := min(size, len(rest))
				parts = append(parts, rest[:n])
				rest = rest[n:]
			}
			s := newTestStream(t, Config{BaseURL: serveRaw(t, always(says(parts...)))})
			for range 3 {
				got, err := tokensOf(t, s)
				if err != nil || !slices.Equal(got, want) {
					t.Errorf("tokens %v (%v), want %v", got, err, want)
				}
			}
			if s.Connects() != 1 {
				t.Errorf("%d connections for 3 requests, want 1", s.Connects())
			}
		})
	}
}

// slowReader completes once while the reader is held at the first token until
// the server has written the second one. It returns when the second came and
// when it was written.
func slowReader(t *testing.T) (second Read, before, after time.Duration) {
	written, release := make(chan struct{}), make(chan struct{})
	var s *Stream
	url := serveRaw(t, always(func(conn net.Conn, _ *http.Request, _ string) bool {
		_, _ = io.WriteString(conn, eventStreamHead+inChunks(tokenEvent("a", 1)))
		<-release
		before = s.now()
		_, err := io.WriteString(conn, inChunks(tokenEvent("b", 2), doneEvent)+lastChunk)
		after = s.now()
		close(written)
		return err == nil
	}))
	s = newTestStream(t, Config{BaseURL: url})
	if err := s.Complete(t.Context(), nil, func(r *Read) {
		switch r.Chunks[0].Tokens {
		case 1:
			close(release)
			<-written
			wait(t, 20*time.Millisecond)
		case 2:
			second = *r
		}
	}); err != nil {
		t.Fatal(err)
	}
	return second, before, after
}

func TestTimesAreThoseOfTheKernel(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("this system has no receive times")
	}
	// The first sockets with receive times may come before the kernel has
	// switched them on.
	for range 20 {
		second, before, after := slowReader(t)
		if second.Stamp == StampMissing {
			continue
		}
		if second.Stamp != StampKernel || second.At < before || second.At > after {
			t.Errorf("received at %v (kind %d), written between %v and %v", second.At, second.Stamp, before, after)
		}
		if second.Lag < 20*time.Millisecond {
			t.Errorf("lag is %v, want the time the reader was held, 20ms, and more", second.Lag)
		}
		return
	}
	t.Error("the kernel gave no receive time in 20 attempts")
}

func TestFailuresOfTheServer(t *testing.T) {
	begun := eventStreamHead + inChunks(roleEvent, tokenEvent("a", 1))
	hangs := func(parts ...string) exchange {
		return func(conn net.Conn, r *http.Request, body string) bool {
			says(parts...)(conn, r, body)
			_, _ = conn.Read(make([]byte, 1)) // until the client closes
			return false
		}
	}
	drips := func(conn net.Conn, r *http.Request, body string) bool {
		says(eventStreamHead)(conn, r, body)
		for {
			if _, err := io.WriteString(conn, inChunks(": still here\n\n")); err != nil {
				return false
			}
			wait(t, 10*time.Millisecond)
		}
	}
	resets := func(conn net.Conn, r *http.Request, body string) bool {
		says(begun)(conn, r, body)
		tcp, _ := conn.(*net.TCPConn)
		_ = tcp.SetLinger(0)
		return false
	}
	for _, test := range []struct {
		name        string
		answer      exchange
		idle, total time.Duration
		kind        ErrorKind
		text        string
	}{
		{"closes in an event", says(begun, "80\r\ndata: {").thenCloses(), 0, 0, KindCut, "the server closed the connection in the middle of the response"},
		{"closes after an event", says(begun).thenCloses(), 0, 0, KindCut, "the server closed the connection in the middle of the response"},
		{"closes before it answers", says().thenCloses(), 0, 0, KindCut, "the server closed the connection before it answered"},
		{"resets", resets, 0, 0, KindCut, "connection"},
		{"no [DONE]", says(begun, lastChunk), 0, 0, KindNoDone, "without data: [DONE]"},
		{"error event", says(eventStreamHead, inChunks(`data: {"error":{"message":"no memory"}}`+"\n\n"), inChunks(doneEvent), lastChunk), 0, 0, KindErrorEvent, "no memory"},
		{"never answers", hangs(), 50 * time.Millisecond, 0, KindIdleTimeout, "the server sent nothing for 50ms"},
		{"falls silent", hangs(begun), 50 * time.Millisecond, 0, KindIdleTimeout, "the server sent nothing for 50ms"},
		{"drips for ever", drips, time.Minute, 100 * time.Millisecond, KindTotalTimeout, "not done after 100ms"},
		{"an event without an end", says(eventStreamHead, inChunks("data: "+strings.Repeat("x", 2<<20))), 0, 0, KindMalformed, "an event is longer than 1048576 bytes"},
		{"refuses", says("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\n\r\nouch"), 0, 0, KindStatus5xx, "status 500 Internal Server Error: ouch"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newTestStream(t, Config{BaseURL: serveRaw(t, always(test.answer)), IdleTimeout: test.idle, RequestTimeout: test.total})
			start := time.Now()
			_, err := tokensOf(t, s)
			if failure := wantKind(t, err, test.kind); !strings.Contains(failure.Error(), test.text) {
				t.Errorf("error is %q, want %q in it", failure, test.text)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("noticed after %v", took)
			}
		})
	}
}

func TestStreamGoesOnAfterAFailure(t *testing.T) {
	requests := 0 // of one connection after the other
	refusal := "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"
	s := newTestStream(t, Config{BaseURL: serveRaw(t, always(func(conn net.Conn, r *http.Request, body string) bool {
		requests++
		switch requests {
		case 1:
			return says(refusal)(conn, r, body)
		case 3:
			return says(eventStreamHead, "nonsense")(conn, r, body)
		}
		return says(goodAnswer(1))(conn, r, body)
	}))})
	_, err := tokensOf(t, s)
	wantKind(t, err, KindStatus5xx)
	if _, err := tokensOf(t, s); err != nil {
		t.Error(err)
	}
	if s.Connects() != 1 {
		t.Errorf("%d connections after a refusal, want the first one kept", s.Connects())
	}
	_, err = tokensOf(t, s)
	wantKind(t, err, KindMalformed)
	if _, err := tokensOf(t, s); err != nil {
		t.Error(err)
	}
	if s.Connects() != 2 {
		t.Errorf("%d connections after nonsense, want a new one", s.Connects())
	}
}

// A server may close a connection that is idle, even while the next request is
// under way; that is not its failure.
func TestClosedIdleConnectionsAreReplaced(t *testing.T) {
	closed := make(chan struct{}, 2)
	for name, first := range map[string]func() exchange{
		"closed before the next request": func() exchange {
			return func(conn net.Conn, r *http.Request, body string) bool {
				says(goodAnswer(1))(conn, r, body)
				_ = conn.Close()
				closed <- struct{}{}
				return false
			}
		},
		"closed on the next request": func() exchange {
			answered := false
			return func(conn net.Conn, r *http.Request, body string) bool {
				if answered {
					return false
				}
				answered = true
				closed <- struct{}{}
				return says(goodAnswer(1))(conn, r, body)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newTestStream(t, Config{BaseURL: serveRaw(t, func(connection int) exchange {
				if connection == 0 {
					return first()
				}
				return says(goodAnswer(2))
			})})
			if got, err := tokensOf(t, s); err != nil || len(got) != 3 {
				t.Fatalf("first answer %v (%v)", got, err)
			}
			<-closed
			if got, err := tokensOf(t, s); err != nil || len(got) != 4 {
				t.Errorf("second answer %v (%v)", got, err)
			}
			if s.Connects() != 2 {
				t.Errorf("%d connections, want 2", s.Connects())
			}
		})
	}
}

// A server that closes every connection without an answer is at fault, and not
// asked again and again.
func TestLostRequestsAreRetriedOnce(t *testing.T) {
	s := newTestStream(t, Config{BaseURL: serveRaw(t, func(connection int) exchange {
		first := connection == 0
		return func(conn net.Conn, r *http.Request, body string) bool {
			answer := first
			first = false
			return answer && says(goodAnswer(1))(conn, r, body)
		}
	})})
	if _, err := tokensOf(t, s); err != nil {
		t.Fatal(err)
	}
	_, err := tokensOf(t, s)
	wantKind(t, err, KindCut)
	if s.Connects() != 2 {
		t.Errorf("%d connections, want 2", s.Connects())
	}
}

// The end of a connection often comes together with its last bytes, and must not
// wait for the idle timeout.
func TestEndTogetherWithData(t *testing.T) {
	s := newTestStream(t, Config{BaseURL: serveRaw(t, always(says(eventStreamHead+inChunks(tokenEvent("a", 1))).thenCloses()))})
	start := time.Now()
	for range 200 {
		_, err := tokensOf(t, s)
		wantKind(t, err, KindCut)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("200 cut requests took %v", took)
	}
}

func TestCompleteAnswerWithoutItsEnd(t *testing.T) {
	s := newTestStream(t, Config{BaseURL: serveRaw(t, always(says(eventStreamHead, inChunks(doneEvent)).thenCloses()))})
	if _, err := tokensOf(t, s); err != nil {
		t.Error(err)
	}
}

func TestCancelling(t *testing.T) {
	for _, answer := range []string{"", eventStreamHead + inChunks(tokenEvent("a", 1))} {
		arrived := make(chan struct{}, 1)
		s := newTestStream(t, Config{BaseURL: serveRaw(t, always(func(conn net.Conn, r *http.Request, body string) bool {
			arrived <- struct{}{}
			return says(answer)(conn, r, body)
		}))})
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-arrived
			cancel()
		}()
		start := time.Now()
		err := s.Complete(ctx, nil, func(*Read) {})
		if !errors.Is(err, context.Canceled) || time.Since(start) > 5*time.Second {
			t.Errorf("%v after %v, want context.Canceled at once", err, time.Since(start))
		}
		if err := s.Complete(ctx, nil, func(*Read) {}); !errors.Is(err, context.Canceled) {
			t.Errorf("%v, want context.Canceled", err)
		}
	}
}

func TestNobodyListens(t *testing.T) {
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + listener.Addr().String()
	_ = listener.Close()
	s := newTestStream(t, Config{BaseURL: url})
	_, err = tokensOf(t, s)
	wantKind(t, err, KindConnect)
}

func TestStreamOverTLS(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for _, event := range []string{roleEvent, tokenEvent("a", 1), tokenEvent("b", 2), finalEvent(2), doneEvent} {
			_, _ = io.WriteString(w, event)
			_ = http.NewResponseController(w).Flush()
		}
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // a client that does not trust it is part of the test
	server.StartTLS()
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	s := newTestStream(t, Config{BaseURL: server.URL, TLS: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}})
	for range 2 {
		var tokens []int
		if err := s.Complete(t.Context(), []byte("{}"), func(r *Read) {
			if r.Stamp != StampMissing || r.At < r.SentAt || r.Lag != 0 {
				t.Errorf("read %+v", r)
			}
			for _, c := range r.Chunks {
				tokens = append(tokens, c.Tokens)
			}
		}); err != nil {
			t.Fatal(err)
		}
		if want := []int{0, 1, 2, 2}; !slices.Equal(tokens, want) {
			t.Errorf("tokens %v, want %v", tokens, want)
		}
	}
	if s.Connects() != 1 {
		t.Errorf("%d connections, want 1", s.Connects())
	}
	untrusting := newTestStream(t, Config{BaseURL: server.URL})
	_, err := tokensOf(t, untrusting)
	wantKind(t, err, KindConnect)
}

func TestConfigsRefused(t *testing.T) {
	for _, test := range []struct {
		cfg  Config
		want string
	}{
		{Config{BaseURL: "node1:8000"}, `the base URL of a vLLM server is "node1:8000", without a scheme; is it http://node1:8000?`},
		{Config{BaseURL: "http://"}, `the base URL of a vLLM server is "http://", without a host; want http://HOST:PORT or https://HOST:PORT`},
		{Config{BaseURL: "ftp://a"}, `the base URL of a vLLM server is "ftp://a", with scheme "ftp"; want http://HOST:PORT or https://HOST:PORT`},
		{Config{BaseURL: "http://a", Credential: credential.Fixed("a\n")}, "vLLM's API key: the key has a space, a line break"},
	} {
		if _, err := NewClient(test.cfg); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("error is %v, want %q", err, test.want)
		}
	}
}

// TestFloodHoldsNobodyUp: a server that sends faster than is read, and nothing
// of use, ends with its request's time, and other streams are read meanwhile.
func TestFloodHoldsNobodyUp(t *testing.T) {
	for name, line := range map[string]string{"comments": ": x\n", "empty events": "data: {}\n\n"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			flooding := make(chan struct{})
			var once sync.Once
			url := serveRaw(t, func(connection int) exchange {
				if connection > 0 {
					return says(goodAnswer(3))
				}
				return func(conn net.Conn, _ *http.Request, _ string) bool {
					head := "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
					flood := head + strings.Repeat(line, 1<<16)
					for {
						if _, err := io.WriteString(conn, flood); err != nil {
							return false
						}
						once.Do(func() { close(flooding) })
						flood = flood[len(head):]
						head = ""
					}
				}
			})
			client, err := NewClient(Config{BaseURL: url, RequestTimeout: time.Second})
			if err != nil {
				t.Fatal(err)
			}
			flooded, other := client.NewStream(), client.NewStream()
			defer flooded.Close()
			defer other.Close()
			ended := make(chan error, 1)
			began := time.Now()
			go func() { ended <- flooded.Complete(t.Context(), []byte("{}"), func(*Read) {}) }()
			<-flooding
			if tokens, err := tokensOf(t, other); err != nil || len(tokens) == 0 {
				t.Errorf("beside the flood a stream got %v, %v", tokens, err)
			}
			select {
			case err := <-ended:
				var failure *Error
				if !errors.As(err, &failure) || failure.Kind != KindTotalTimeout {
					t.Errorf("the flood ended with %v, want its timeout", err)
				}
			case <-time.After(15 * time.Second):
				t.Errorf("the flood did not end within %v", time.Since(began))
			}
		})
	}
}

// TestRefusalThatStalls: what was refused is known before the body has come.
func TestRefusalThatStalls(t *testing.T) {
	release := make(chan struct{})
	url := serveRaw(t, always(func(conn net.Conn, _ *http.Request, _ string) bool {
		_, _ = io.WriteString(conn, "HTTP/1.1 503 Busy\r\nContent-Type: text/plain\r\nContent-Length: 50\r\n\r\nloading")
		<-release
		return false
	}))
	t.Cleanup(func() { close(release) })
	_, err := tokensOf(t, newTestStream(t, Config{BaseURL: url, IdleTimeout: 200 * time.Millisecond}))
	var failure *Error
	if !errors.As(err, &failure) || failure.Kind != KindStatus5xx || failure.Status != 503 {
		t.Errorf("the error is %v, want the status", err)
	}
}
