package guard

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

func TestAccessOf(t *testing.T) {
	for _, c := range []struct {
		methods string
		path    string
		want    access
	}{
		{"GET HEAD OPTIONS", "/", accessOpen},
		{"GET HEAD OPTIONS", "", accessOpen},
		{"GET HEAD", "/app.js", accessOpen},
		{"GET HEAD", "/livez", accessOpen},
		{"GET", "/healthz", accessOpen},
		{"GET", "/readyz", accessOpen},
		{"GET", "/openapi.yaml", accessOpen},
		{"GET", "/v10/state", accessOpen},
		{"GET", "/metricsx", accessOpen},
		{"GET HEAD OPTIONS", "/metrics", accessRead},
		{"GET", "/metrics/", accessRead},
		{"GET HEAD OPTIONS", "/v1", accessRead},
		{"GET HEAD OPTIONS", "/v1/state", accessRead},
		{"GET", "/v1/", accessRead},
		{"GET", "/v1/no-such-thing", accessRead},
		// Detours.
		{"GET", "//v1/state", accessRead},
		{"GET", "/./v1/state", accessRead},
		{"GET", "/page/../v1/state", accessRead},
		{"GET", "/v1//state", accessRead},
		{"GET", "v1/state", accessRead},
		{"GET", "/../metrics", accessRead},
		{"GET", "/v1/../app.js", accessOpen},
		// Whatever may change something, wherever.
		{"POST PUT PATCH DELETE CONNECT TRACE BREW get post", "/v1/batch-sizes", accessControl},
		{"POST PUT DELETE", "/", accessControl},
		{"POST DELETE", "/livez", accessControl},
		{"POST", "/metrics", accessControl},
	} {
		for method := range strings.FieldsSeq(c.methods) {
			if got := accessOf(method, c.path); got != c.want {
				t.Errorf("accessOf(%q, %q) = %d, want %d", method, c.path, got, c.want)
			}
		}
	}
}

// Every path with every token, in every configuration of tokens.
func TestTokensOverTheSocket(t *testing.T) {
	const (
		open    = "/ /app.js /livez /healthz /readyz /openapi.yaml /no-such-page"
		read    = "/v1/state /v1/history?n=3 /v1/stream /v1/events?follow /v1/models /v1/info /metrics /v1/none //v1/state /x/../v1/state"
		command = "/v1/batch-sizes /v1/replica-shifts /v1/steps /v1/none /livez /"
	)
	// What is answered to no token, a wrong one, the read token, the control token.
	type answers [4]int
	always := answers{200, 200, 200, 200}
	for _, c := range []struct {
		name                string
		control, read       string
		forOpen, forReading answers
		forCommands         answers
	}{
		{"no tokens", "", "", always, always, always},
		{"control token only", controlToken, "", always, always, answers{401, 401, 401, 200}},
		{"both tokens", controlToken, readToken, always, answers{401, 401, 200, 200}, answers{401, 401, 403, 200}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serve(t, Config{Token: c.control, ReadToken: c.read}, nil)
			check := func(methods, paths string, want answers) {
				for method := range strings.FieldsSeq(methods) {
					for path := range strings.FieldsSeq(paths) {
						for i, token := range []string{"", wrongToken, readToken, controlToken} {
							s.forget() // so that wrong tokens do not add up
							a := s.do(t, method, path, bearer(token))
							role := roleAnyone
							if c.control != "" && token == c.control {
								role = roleControl
							} else if c.read != "" && token == c.read {
								role = roleRead
							}
							a.wantFor(t, method+" "+path, token, want[i], role)
						}
					}
				}
			}
			check("GET HEAD OPTIONS", open, c.forOpen)
			check("GET HEAD OPTIONS", read, c.forReading)
			check("POST PUT PATCH DELETE", command, c.forCommands)
			check("DELETE", "/v1/state /metrics", c.forCommands)
		})
	}
}

// forget makes the guard forget all clients.
func (s *served) forget() {
	s.clients.mu.Lock()
	defer s.clients.mu.Unlock()
	s.clients.byAddress.Purge()
}

func TestRefusalsAreCounted(t *testing.T) {
	s := serve(t, Config{Token: controlToken, ReadToken: readToken}, nil)
	s.do(t, "GET", "/v1/state")
	s.do(t, "POST", "/v1/steps", bearer(wrongToken))
	s.do(t, "POST", "/v1/steps", bearer(readToken))
	s.do(t, "POST", "/v1/steps", bearer(controlToken), content(strings.Repeat("x", maxBody+1)))
	s.do(t, "POST", "/v1/steps", bearer(controlToken), header("Origin", "https://evil.example"))
	got := s.Stats()
	want := Stats{Unauthorized: 2, Forbidden: 1, TooLarge: 1, Origin: 1, OpenConnections: got.OpenConnections}
	if got != want {
		t.Errorf("stats %+v, want %+v", got, want)
	}
}

func TestCallerFromNowhereIsAnyone(t *testing.T) {
	if got := callerFrom(t.Context()); got != (caller{Role: "anyone"}) {
		t.Errorf("callerFrom = %+v", got)
	}
}

func TestCommandName(t *testing.T) {
	for path, want := range map[string]string{
		"/v1/batch-sizes": "batch-sizes", "/v1/steps": "steps", "/steps": "unknown", "/v1/" + controlToken: "unknown",
		"/v1/a/b": "unknown", "/v1/" + strings.Repeat("a", 33): "unknown",
	} {
		if got := commandName(path); got != want {
			t.Errorf("commandName(%q) = %q, want %q", path, got, want)
		}
	}
}

func TestHealthChecksAreOnlyThat(t *testing.T) {
	for _, c := range []struct {
		method, path string
		want         bool
	}{
		{"GET", "/livez", true}, {"HEAD", "/readyz", true}, {"GET", "/healthz", true},
		{"POST", "/livez", false}, {"GET", "/livez/", false}, {"GET", "/", false}, {"GET", "/v1/state", false},
	} {
		r, err := http.NewRequestWithContext(t.Context(), c.method, "http://localhost"+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := isHealthCheck(r); got != c.want {
			t.Errorf("isHealthCheck(%s) = %v", fmt.Sprint(c.method, " ", c.path), got)
		}
	}
}

// wantFor: a token is answered with the status, the challenge that belongs to it, and,
// where it is let in, in its role.
func (a *answer) wantFor(t *testing.T, request, token string, status int, role string) {
	t.Helper()
	if a.StatusCode != status {
		t.Errorf("%s with token %q: %d, want %d", request, token, a.StatusCode, status)
		return
	}
	challenge := a.Header.Get("WWW-Authenticate")
	wantChallenge := map[int]string{200: "", 401: `Bearer realm="g2g-agent"`, 403: `Bearer realm="g2g-agent", error="insufficient_scope"`}[status]
	if status == 401 && token != "" {
		wantChallenge += `, error="invalid_token"`
	}
	if challenge != wantChallenge {
		t.Errorf("%s with token %q: WWW-Authenticate %q, want %q", request, token, challenge, wantChallenge)
	}
	switch {
	case strings.HasPrefix(request, "HEAD "): // an answer without a body
	case status != 200:
		a.problem(t)
	default:
		if got := a.seen(t).Caller; got.Role != role || got.Address != "127.0.0.1" || got.UserAgent != "Go-http-client/1.1" {
			t.Errorf("%s with token %q: the API sees %+v, want role %q", request, token, got, role)
		}
	}
}
