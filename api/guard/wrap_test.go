package guard

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestHeadersOnEveryAnswer(t *testing.T) {
	s := serve(t, Config{Token: controlToken}, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/app.js" {
			w.Header().Set("Cache-Control", "no-cache")
			w.Header().Set("Content-Security-Policy", "default-src 'self'")
		}
	})
	for _, c := range []struct {
		method, path, cache string
		edits               []func(*http.Request)
		status              int
	}{
		{"GET", "/v1/state", "no-store", nil, 200},
		{"GET", "/livez", "no-store", nil, 200},
		{"GET", "/app.js", "no-cache", nil, 200},
		{"POST", "/v1/steps", "no-store", nil, 401},
		{"POST", "/v1/steps", "no-store", []func(*http.Request){header("Origin", "https://evil.example")}, 403},
		{"POST", "/v1/steps", "no-store", []func(*http.Request){bearer(controlToken), content(strings.Repeat("x", maxBody+1))}, 413},
	} {
		a := s.do(t, c.method, c.path, c.edits...)
		if a.StatusCode != c.status {
			t.Errorf("%s %s: %d, want %d", c.method, c.path, a.StatusCode, c.status)
		}
		for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": c.cache} {
			if got := a.Header.Values(name); len(got) != 1 || got[0] != want {
				t.Errorf("%s %s: %s is %q, want %q", c.method, c.path, name, got, want)
			}
		}
	}
}

func TestBodySize(t *testing.T) {
	s := serve(t, Config{}, nil)
	chunked := func(body string) func(*http.Request) {
		return func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), -1 }
	}
	for _, c := range []struct {
		name string
		size int
		want int
	}{{"nothing", 0, 200}, {"little", 10, 200}, {"as much as may be", maxBody, 200}, {"one byte more", maxBody + 1, 413}, {"far more", 50 * maxBody, 413}} {
		for form, edit := range map[string]func(string) func(*http.Request){"with its length": content, "chunked": chunked} {
			for _, method := range []string{"POST", "PUT", "GET"} {
				a := s.do(t, method, "/v1/steps", edit(strings.Repeat("x", c.size)))
				if a.StatusCode != c.want {
					t.Errorf("%s, %s %s: %d, want %d", c.name, method, form, a.StatusCode, c.want)
					continue
				}
				if c.want != 200 {
					if p := a.problem(t); !strings.Contains(p.Detail, "65536") {
						t.Errorf("the problem does not say what is allowed: %+v", p)
					}
					continue
				}
				if got := a.seen(t); got.Body != c.size || got.Length != int64(c.size) {
					t.Errorf("%s, %s %s: the API sees %d bytes and a length of %d", c.name, method, form, got.Body, got.Length)
				}
			}
		}
	}
	if got := s.Stats().TooLarge; got != 12 {
		t.Errorf("%d requests counted as too large, want 12", got)
	}
}

// A body that is cut short never reaches the API.
func TestBodyCutShort(t *testing.T) {
	s := serve(t, Config{}, func(http.ResponseWriter, *http.Request) { t.Error("half a request reached the API") })
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(conn, "POST /v1/steps HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{\"steps\":")
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest || resp.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("%d with %v", resp.StatusCode, resp.Header)
	}
}

// A body that does not come holds a connection for a while, not for ever, whether
// the request is let in or not.
func TestBodyThatDoesNotCome(t *testing.T) {
	s := serve(t, Config{Token: controlToken, bodyTimeout: 50 * time.Millisecond}, func(http.ResponseWriter, *http.Request) {
		t.Error("half a request reached the API")
	})
	for token, want := range map[string]int{controlToken: http.StatusRequestTimeout, wrongToken: http.StatusUnauthorized} {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprintf(conn, "POST /v1/steps HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Length: 100\r\n\r\n{", token)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want || resp.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%d with %v, want %d", resp.StatusCode, resp.Header, want)
		}
	}
}

// The answer to who may not ask does not wait for the body.
func TestRefusedBeforeTheBodyHasCome(t *testing.T) {
	s := serve(t, Config{Token: controlToken}, func(http.ResponseWriter, *http.Request) { t.Error("it reached the API") })
	for name, request := range map[string]string{
		"no token":      "POST /v1/steps HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{",
		"chunked":       "POST /v1/steps HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
		"expecting":     "POST /v1/steps HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n",
		"wrong token":   "POST /v1/steps HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x\r\nContent-Length: 100\r\n\r\n",
		"another page":  "POST /v1/steps HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\nContent-Length: 100\r\n\r\n",
		"announced big": "POST /v1/steps HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + controlToken + "\r\nContent-Length: 100000\r\n\r\n",
	} {
		d := s.dial(t)
		began := time.Now()
		fmt.Fprint(d, request)
		resp, err := http.ReadResponse(d.in, nil) //nolint:bodyclose // the connection is closed in the end, and with it the body
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if resp.StatusCode < 400 || !resp.Close {
			t.Errorf("%s: %d, closed %v", name, resp.StatusCode, resp.Close)
		}
		if took := time.Since(began); took > lingerTime/2 {
			t.Errorf("%s: %d after %v", name, resp.StatusCode, took)
		}
	}
}

// Of a request with both a length and chunks, nobody knows where it ends: what
// follows it is not answered (RFC 9112, section 6.1).
func TestLengthAndChunks(t *testing.T) {
	s := serve(t, Config{}, nil)
	for name, headers := range map[string]string{
		"length first": "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "length last": "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
		"odd case": "CONTENT-LENGTH: 5\r\ntransfer-encoding: Chunked\r\n",
	} {
		for _, method := range []string{"POST", "GET"} {
			d := s.dial(t)
			fmt.Fprintf(d, "%s /v1/steps HTTP/1.1\r\nHost: localhost\r\n%s\r\n2\r\n{}\r\n0\r\n\r\nGET /v1/state HTTP/1.1\r\nHost: localhost\r\n\r\n", method, headers)
			resp, err := http.ReadResponse(d.in, nil) //nolint:bodyclose // the connection is closed in the end, and with it the body
			if err != nil {
				t.Errorf("%s, %s: %v", name, method, err)
				continue
			}
			io.Copy(io.Discard, resp.Body)
			if !resp.Close {
				t.Errorf("%s, %s: %d, and the connection stays open", name, method, resp.StatusCode)
			}
			if next, err := http.ReadResponse(d.in, nil); err == nil { //nolint:bodyclose // the connection is closed in the end, and with it the body
				t.Errorf("%s, %s: what follows is answered: %d", name, method, next.StatusCode)
			}
		}
	}
}

// What was read in time leaves the handler all the time it needs.
func TestBodyTimeoutEndsWithTheBody(t *testing.T) {
	const timeout = 250 * time.Millisecond
	s := serve(t, Config{bodyTimeout: timeout}, func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
			t.Error("the request was cut off")
		case <-time.After(2 * timeout):
			echo(w, r)
		}
	})
	for range 2 { // the connection is used again
		if a := s.do(t, "POST", "/v1/steps", content("{}")); a.StatusCode != 200 {
			t.Errorf("%d, want 200", a.StatusCode)
		}
	}
}

// Without a server around it, the guard works the same.
func TestWrapWithoutASocket(t *testing.T) {
	g, err := New(Config{Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		body io.Reader
		want int
	}{{nil, 200}, {strings.NewReader("{}"), 200}, {strings.NewReader(strings.Repeat("x", maxBody+1)), 413}} {
		r := httptest.NewRequestWithContext(t.Context(), "POST", "http://localhost/v1/steps", c.body)
		w := httptest.NewRecorder()
		g.Wrap(http.HandlerFunc(echo)).ServeHTTP(w, r)
		if w.Code != c.want {
			t.Errorf("%d, want %d", w.Code, c.want)
		}
	}
}

// The request as it came is not changed for those around the guard.
func TestTheRequestIsLeftAsItCame(t *testing.T) {
	g, err := New(Config{Listen: "127.0.0.1:0", Token: controlToken})
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequestWithContext(t.Context(), "POST", "http://localhost/v1/steps", nil)
	bearer(controlToken)(r)
	var within http.Header
	g.Wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { within = r.Header })).ServeHTTP(httptest.NewRecorder(), r)
	if within.Get("Authorization") != "" {
		t.Error("the API sees the token")
	}
	if r.Header.Get("Authorization") != "Bearer "+controlToken {
		t.Error("the request's own headers were changed")
	}
}
