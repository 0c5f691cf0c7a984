package api

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/agent"
	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/logtest"
)

// At the end, streams and connections that wait are closed, and a request that
// does not end is told to.
func TestServeEndsWithRequestsUnderWay(t *testing.T) {
	begun := make(chan struct{})
	ended := make(chan error, 1)
	settings := config.Default().API
	settings.Listen = "127.0.0.1:0"
	s, err := New(Config{
		Site: newFakeSite(), Settings: settings, Log: zerolog.Nop(),
		Lockstep: stepsFunc(func(ctx context.Context, _ int) ([]*datacenter.State, error) {
			close(begun)
			<-ctx.Done()
			return nil, ctx.Err()
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(t.Context()); err == nil {
		t.Error("it serves without having listened")
	}
	if err := s.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { ended <- s.Serve(ctx) }()
	client := testServer{Server: s, t: t}
	answered := make(chan int, 1)
	go func() {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL()+"v1/steps", strings.NewReader(`{"steps": 1}`))
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set(idempotencyHeader, "k")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			answered <- 0 // cut off
			return
		}
		resp.Body.Close()
		answered <- resp.StatusCode
	}()
	<-begun
	client.raw(http.MethodGet, "/livez", nil).want(t, http.StatusOK)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if status := <-answered; status == http.StatusOK {
		t.Error("the request was answered as if it had been carried out")
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestAddressAndURL(t *testing.T) {
	for _, c := range []struct {
		listen, cert, want string
	}{
		{"127.0.0.1:8480", "", "http://127.0.0.1:8480/"},
		{"[::1]:8480", "", "http://[::1]:8480/"},
		{"0.0.0.0:8480", "x", "https://localhost:8480/"},
		{"[::]:8480", "", "http://localhost:8480/"},
		{":8480", "", "http://localhost:8480/"},
		{"node1:8480", "x", "https://node1:8480/"},
	} {
		s := &Server{cfg: Config{Settings: config.API{TLSCertFile: c.cert}}}
		s.address.Store(&c.listen)
		if s.Address() != c.listen || s.URL() != c.want {
			t.Errorf("%s: %s", c.listen, s.URL())
		}
	}
	if _, err := New(Config{Site: newFakeSite(), Settings: config.API{Listen: "nonsense"}}); err == nil {
		t.Error("an address that is none is taken")
	}
	s, err := New(Config{Site: newFakeSite(), Settings: config.API{Listen: "0.0.0.0:0"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Listen(t.Context()); err == nil {
		t.Error("it listens beyond loopback without a token")
	}
	if got := s.Address(); got != "0.0.0.0:0" {
		t.Errorf("the address is %s", got)
	}
}

// Half an answer must not look like a whole one.
func TestPanicInAnAnswerCutsItOff(t *testing.T) {
	log := &logtest.Buffer{}
	s := &Server{cfg: Config{Log: zerolog.New(log)}}
	server := httptest.NewServer(s.protect(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`[{"seq":0}`))
		http.NewResponseController(w).Flush()
		panic("a bug")
	})))
	defer server.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("the client takes %q for the whole answer", body)
	}
	if !strings.Contains(log.String(), "a bug") {
		t.Errorf("the log does not say why: %s", log)
	}
}

// deadlineWriter keeps the deadline that was set last. Its client takes a while to read.
type deadlineWriter struct {
	http.ResponseWriter
	deadline time.Time
}

func (d *deadlineWriter) SetWriteDeadline(t time.Time) error {
	d.deadline = t
	return nil
}

func (d *deadlineWriter) Write(b []byte) (int, error) {
	time.Sleep(100 * time.Millisecond) //nolint:forbidigo // synthetic time
	return d.ResponseWriter.Write(b)
}

// A client has a time to read its answer in, longer for a longer one, which does
// not start anew with every bit that it takes. What the answer takes to be made, before
// or in between, is not the client's.
func TestSlowReadersHaveADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &deadlineWriter{ResponseWriter: httptest.NewRecorder()}
		w := &response{ResponseWriter: d, timed: true}
		time.Sleep(time.Minute) //nolint:forbidigo // synthetic time: steps may take long to compute
		for i := range 100 {
			read := time.Duration(i) * 100 * time.Millisecond
			want := time.Now().Add(writeTimeout + time.Duration(i)*time.Second - read)
			_, _ = w.Write(make([]byte, leastReadRate))
			if !d.deadline.Equal(want) {
				t.Fatalf("after %d s of bytes the deadline is %v, want %v", i, d.deadline, want)
			}
			time.Sleep(time.Second) //nolint:forbidigo // synthetic time: it takes long to make
		}
	})
}

// Requests and commands are counted by what the server knows, never by what
// clients make up.
func TestRequestsAreCounted(t *testing.T) {
	s := serve(t, nil)
	s.get("/v1/models").want(t, http.StatusOK)
	s.get("/v1/made-up-path").want(t, http.StatusNotFound)
	s.call("BREW", "/v1/models", "").want(t, http.StatusMethodNotAllowed)
	s.get("/").want(t, http.StatusOK)
	s.ObserveStep(agent.StepTiming{Took: time.Millisecond})
	s.post("/v1/batch-sizes", goodBatch, header{idempotencyHeader, "k"}).want(t, http.StatusOK)
	s.post("/v1/batch-sizes", goodBatch, header{idempotencyHeader, "k"}).want(t, http.StatusOK)
	s.post("/v1/batch-sizes", `{}`).want(t, http.StatusUnprocessableEntity)
	metrics := string(s.get("/metrics").want(t, http.StatusOK).body)
	for _, line := range []string{
		`g2g_http_requests_total{method="GET",route="/v1/models",status="200"} 1`,
		`g2g_http_requests_total{method="GET",route="other",status="404"} 1`,
		`g2g_http_requests_total{method="OTHER",route="/v1/models",status="405"} 1`,
		`g2g_http_requests_total{method="GET",route="/",status="200"} 1`,
		`g2g_http_requests_total{method="POST",route="/v1/batch-sizes",status="200"} 2`,
		`g2g_commands_total{command="batch-sizes",outcome="accepted"} 1`,
		`g2g_commands_total{command="batch-sizes",outcome="replayed"} 1`,
		`g2g_commands_total{command="batch-sizes",outcome="refused"} 1`,
	} {
		if !strings.Contains(metrics, line) {
			t.Errorf("the metrics lack %s", line)
		}
	}
	if strings.Contains(metrics, "made-up") || strings.Contains(metrics, "BREW") {
		t.Error("the metrics repeat what clients make up")
	}
}

// A client that sends requests and reads no answers loses its connection, also
// where the answers have no body.
func TestClientThatReadsNothingIsCutOff(t *testing.T) {
	for _, request := range []string{
		"OPTIONS /v1/state HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
	} {
		t.Run(request[:11], func(t *testing.T) {
			s := serve(t, func(c *Config) { c.bodylessTimeout = 100 * time.Millisecond })
			conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.Address())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetWriteDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			many := []byte(strings.Repeat(request, 1000))
			for err == nil { // until the answers fill all buffers between
				_, err = conn.Write(many)
			}
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the connection is open for as long as the client likes")
			}
		})
	}
}
