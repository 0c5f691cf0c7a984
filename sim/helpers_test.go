package sim

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// eventually waits for a condition that becomes true by itself.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("did not happen within 10 s: %s", what)
		case <-ticker.C:
		}
	}
}

// client returns an HTTP client for one stand-in.
func client(t *testing.T, network, addr string) *http.Client {
	t.Helper()
	tr := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		},
		MaxIdleConnsPerHost: 100,
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

func do(t *testing.T, c *http.Client, method, path, body string, headers ...string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://sim"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(raw)
}

func parse[T any](t *testing.T, s string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		t.Fatalf("%v in %s", err, s)
	}
	return v
}

// rawConn speaks HTTP by hand.
type rawConn struct {
	net.Conn
	r *bufio.Reader
}

func dial(t *testing.T, network, addr string) *rawConn {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(t.Context(), network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(15 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return &rawConn{Conn: c, r: bufio.NewReader(c)}
}

// reset closes the connection so that the peer notices.
func (c *rawConn) reset(t *testing.T) {
	t.Helper()
	if err := c.Conn.(*net.TCPConn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func (c *rawConn) send(t *testing.T, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatal(err)
	}
}

// response reads the head of an answer; the body is read as it comes.
func (c *rawConn) response(t *testing.T) *response {
	t.Helper()
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close() // else closing the body waits for its end
		resp.Body.Close()
	})
	return &response{resp.StatusCode, resp.Header, resp.TransferEncoding, resp.Body}
}

type response struct {
	status           int
	header           http.Header
	transferEncoding []string
	body             io.Reader
}

// events reads server-sent events, one payload of data at a time.
type events struct{ r *bufio.Reader }

func newEvents(resp *response) *events { return &events{bufio.NewReader(resp.body)} }

// next returns the text up to and without the empty line.
func (e *events) next() (string, error) {
	var event strings.Builder
	for {
		line, err := e.r.ReadString('\n')
		if err != nil {
			return event.String() + line, err
		}
		if line == "\n" {
			return strings.TrimSuffix(event.String(), "\n"), nil
		}
		event.WriteString(line)
	}
}

func (e *events) data(t *testing.T) string {
	t.Helper()
	event, err := e.next()
	if err != nil {
		t.Fatal(err)
	}
	payload, ok := strings.CutPrefix(event, "data: ")
	if !ok {
		t.Fatalf("no data line: %q", event)
	}
	return payload
}
