package api

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/datacenter"
)

// listening is a server on a socket of its own.
func listening(t *testing.T, change func(*Config)) *Server {
	t.Helper()
	cfg := Config{Site: newFakeSite(), Settings: config.Default().API, Log: zerolog.Nop()}
	cfg.Settings.Listen = "127.0.0.1:0"
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return s
}

// answerTo sends bytes over a connection of their own and returns the answer.
func answerTo(t *testing.T, s *Server, request string) (status int, body string) {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	io.WriteString(conn, request)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(raw)
}

// Headers have 16 KiB, not one byte more.
func TestHeaderLimit(t *testing.T) {
	s := listening(t, nil)
	request := func(bytes int) string {
		const begin, end = "GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Long: ", "\r\n\r\n"
		return begin + strings.Repeat("x", bytes-len(begin)-len(end)) + end
	}
	for bytes, want := range map[int]int{
		8 << 10: 200, maxHeaderBytes - 1: 200, maxHeaderBytes: 200, maxHeaderBytes + 1: 431, 17 << 10: 431, 40 << 10: 431,
	} {
		if status, _ := answerTo(t, s, request(bytes)); status != want {
			t.Errorf("headers of %d bytes: %d, want %d", bytes, status, want)
		}
	}
	// A body does not count.
	body := fmt.Sprintf(`{"batch_size_by_model": {"no such model": 8}, "x": "%s"}`, strings.Repeat("x", 60_000))
	status, _ := answerTo(t, s, fmt.Sprintf("POST /v1/batch-sizes HTTP/1.1\r\nHost: localhost\r\nX-Long: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		strings.Repeat("x", 16_000), len(body), body))
	if status != http.StatusUnprocessableEntity {
		t.Errorf("headers of 16 kB and a body of 60 kB: %d, want 422", status)
	}
}

// What is repeated of a request is cut.
func TestLongLabelsAreCut(t *testing.T) {
	label := strings.Repeat("m", 60_000)
	s := serve(t, nil)
	s.site.refuse = func(context.Context, datacenter.Command) error {
		return &datacenter.CommandError{Field: "batch_size_by_model." + label, Reason: datacenter.ErrUnknownModel, Detail: "unknown model; the models are …"}
	}
	reply := s.post("/v1/batch-sizes", fmt.Sprintf(`{"batch_size_by_model": {%q: 8}}`, label)).want(t, http.StatusNotFound)
	if len(reply.body) > 1000 || !strings.Contains(string(reply.body), "the models are") {
		t.Errorf("%d bytes are answered: %.200s", len(reply.body), reply.body)
	}
}
