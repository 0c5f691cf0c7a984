package vllm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/g2g-agent/g2g-agent/internal/credential"
)

// questions are the calls that only read.
func questions() map[string]func(context.Context, *Server) error {
	all := calls()
	delete(all, "set_max_num_seqs")
	delete(all, "runtime_config")
	return all
}

// wellServer answers as a patched server does, below any path that ends so.
func wellServer(w http.ResponseWriter, r *http.Request) {
	for path, answer := range map[string]http.HandlerFunc{
		"/health": answerWith(200, ""), "/v1/models": answerWith(200, `{"data":[{"id":"`+testModel+`"}]}`), "/metrics": answerWith(200, twoEngines),
	} {
		if strings.HasSuffix(strings.TrimSuffix(r.URL.Path, "/"), path) {
			answer(w, r)
			return
		}
	}
	answerWith(404, `{"detail":"Not Found"}`)(w, r)
}

// redirecting answers with a redirect until at, which gets the path and the
// server's URL, has none.
func redirecting(status int, at func(path, server string) string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if to := at(r.URL.Path, "http://"+r.Host); to != "" {
			w.Header().Set("Location", to)
			answerWith(status, "moved")(w, r)
			return
		}
		wellServer(w, r)
	}
}

func TestRedirectsWithinTheServer(t *testing.T) {
	unless := func(done func(string) bool, to func(path, server string) string) func(string, string) string {
		return func(path, server string) string {
			if done(path) {
				return ""
			}
			return to(path, server)
		}
	}
	slash := func(path string) bool { return strings.HasSuffix(path, "/") }
	depth := func(n int) func(string) bool { return func(path string) bool { return strings.Count(path, "/x") >= n } }
	for name, at := range map[string]func(path, server string) string{
		"a slash more":       unless(slash, func(path, _ string) string { return path + "/" }),
		"the whole URL":      unless(slash, func(path, server string) string { return server + path + "/" }),
		"upper case":         unless(slash, func(path, server string) string { return strings.Replace(server, "http://", "HTTP://", 1) + path + "/" }),
		"without the scheme": unless(slash, func(path, server string) string { return strings.TrimPrefix(server, "http:") + path + "/" }),
		"a relative path":    unless(slash, func(path, _ string) string { return "./" + path[strings.LastIndex(path, "/")+1:] + "/" }),
		"to another path":    unless(depth(1), func(path, _ string) string { return "/x" + path }),
		"three of them":      unless(depth(3), func(path, server string) string { return server + "/x" + path }),
		"a fragment":         unless(slash, func(path, _ string) string { return path + "/#top" }),
		"a query":            unless(slash, func(path, _ string) string { return path + "/?a=b" }),
	} {
		for _, status := range []int{301, 302, 303, 307, 308} {
			f := newFake(t, redirecting(status, at))
			s := newTestServer(t, Config{BaseURL: f.URL, Credential: credential.Fixed("key-1")})
			for call, ask := range questions() {
				if err := ask(t.Context(), s); err != nil {
					t.Errorf("%s, %d: %s: %v", name, status, call, err)
				}
			}
			for _, r := range f.requests() {
				if r.Method != http.MethodGet || r.Authorization != "Bearer key-1" {
					t.Errorf("%s, %d: a request is %+v", name, status, r)
				}
			}
		}
	}
}

func TestRedirectsElsewhere(t *testing.T) {
	thief := newFake(t, wellServer)
	secure := &fake{}
	secure.Server = httptest.NewTLSServer(secure.keep(wellServer))
	t.Cleanup(secure.Close)
	for name, to := range map[string]string{
		"another port":    thief.URL + "/metrics",
		"https":           secure.URL + "/metrics",
		"a user":          "http://u:geheim@%s/metrics",
		"another host":    "http://localhost:%s/metrics",
		"another scheme":  "file:///etc/passwd",
		"no host":         "http:///metrics",
		"not a URL":       "http://[::1/metrics",
		"no scheme, port": "//127.0.0.1/metrics",
	} {
		var f *fake
		f = newFake(t, redirecting(307, func(string, string) string {
			address := strings.TrimPrefix(f.URL, "http://")
			if strings.Contains(to, "localhost") {
				address = address[strings.LastIndex(address, ":")+1:]
			}
			if strings.Contains(to, "%s") {
				return fmt.Sprintf(to, address)
			}
			return to
		}))
		s := newTestServer(t, Config{BaseURL: f.URL, Credential: credential.Fixed("key-1")})
		for call, ask := range questions() {
			if call == "ProbeActuator" {
				continue // such an answer is one that the server has no actuator
			}
			err := ask(t.Context(), s)
			var status *StatusError
			switch {
			case name == "not a URL":
				wantMessage(t, name, err, "Location", f.URL)
			case !errors.As(err, &status) || status.Status != 307:
				t.Errorf("%s: %s: %v", name, call, err)
			default:
				wantMessage(t, name, err, f.URL, "redirect to "+strings.SplitN(to, "%", 2)[0])
			}
		}
		if actuator, err := s.ProbeActuator(t.Context()); name != "not a URL" && (actuator != ActuatorConcurrency || err != nil) {
			t.Errorf("%s: actuator %q (%v)", name, actuator, err)
		}
	}
	if n := len(thief.requests()) + len(secure.requests()); n > 0 {
		t.Errorf("%d requests went elsewhere", n)
	}
}

func TestRedirectsWithoutEnd(t *testing.T) {
	f := newFake(t, redirecting(302, func(path, _ string) string { return path }))
	_, err := newTestServer(t, Config{BaseURL: f.URL}).Metrics(t.Context())
	wantMessage(t, "a loop", err, "GET "+f.URL+"/metrics", "302", "redirect to /metrics (after 3 redirects)")
	if n := len(f.requests()); n != 4 {
		t.Errorf("%d requests, want 4", n)
	}
	within := newFake(t, redirecting(302, func(path, _ string) string {
		if path == "/health" {
			return "/x"
		}
		return "http://127.0.0.1:1/y"
	}))
	wantMessage(t, "out of the server", newTestServer(t, Config{BaseURL: within.URL}).Health(t.Context()), within.URL+"/health", "redirect to http://127.0.0.1:1/y (after 1 redirects)")
	long := newFake(t, redirecting(302, func(string, string) string { return "http://x/" + strings.Repeat("é", 20_000) }))
	if err := newTestServer(t, Config{BaseURL: long.URL}).Health(t.Context()); err == nil || len(err.Error()) > 600 {
		t.Errorf("an endless redirect: %d bytes of error", len(err.Error()))
	}
	long = newFake(t, redirecting(302, func(string, string) string { return "http://[" + strings.Repeat("x", 20_000) }))
	if err := newTestServer(t, Config{BaseURL: long.URL}).Health(t.Context()); err == nil || len(err.Error()) > 600 {
		t.Errorf("an endless redirect: %d bytes of error", len(err.Error()))
	}
	nowhere := newFake(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(302); io.WriteString(w, "lost") })
	wantMessage(t, "no place", newTestServer(t, Config{BaseURL: nowhere.URL}).Health(t.Context()), `302 Found: "lost"`)
}

func TestRedirectFromHTTPSToHTTP(t *testing.T) {
	f := &fake{}
	f.Server = httptest.NewTLSServer(f.keep(redirecting(307, func(path, server string) string { return server + path + "/" })))
	t.Cleanup(f.Close)
	s := newTestServer(t, Config{BaseURL: f.URL, TLS: f.Client().Transport.(*http.Transport).TLSClientConfig})
	wantMessage(t, "to http", s.Health(t.Context()), "307", "redirect to http://")
	if n := len(f.requests()); n != 1 {
		t.Errorf("%d requests", n)
	}
}
