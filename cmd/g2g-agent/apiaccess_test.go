package main

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gorilla/websocket"
)

// writeToken writes a token as people do, with a line end.
func writeToken(t *testing.T, token string) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// guardedRequest is a request and who may make it.
type guardedRequest struct {
	method, path, body string
	needs              string // the least token: read or control; open for none
}

// wantStatus makes the request with the token of that name, which a has.
func (r guardedRequest) wantStatus(t *testing.T, a *apiProgram, name string, readToken bool) {
	t.Helper()
	want := http.StatusOK
	switch {
	case r.needs == "control" && name == "read":
		want = http.StatusForbidden
	case r.needs == "control" && name != "control",
		r.needs == "read" && readToken && (name == "none" || name == "wrong"):
		want = http.StatusUnauthorized
	}
	got, err := a.send(t, r.method, r.path, r.body)
	if err != nil {
		t.Fatal(err)
	}
	// A run of wrong tokens is slowed down.
	if got.status != want && !(name == "wrong" && want == http.StatusUnauthorized && got.status == http.StatusTooManyRequests) {
		t.Errorf("read token %v, %s %s with token %s: %v, want status %d", readToken, r.method, r.path, name, got, want)
	}
	if challenge := got.header.Get("WWW-Authenticate"); (got.status == http.StatusUnauthorized) && !strings.HasPrefix(challenge, "Bearer") {
		t.Errorf("%s %s with token %s: WWW-Authenticate is %q", r.method, r.path, name, challenge)
	}
}

// TestTokens holds every kind of request to who may make it.
func TestTokens(t *testing.T) {
	t.Parallel()
	const control, read = "control-token-of-the-test", "read-token-of-the-test"
	tokens := map[string]string{"none": "", "wrong": "a-token-of-another-site", "read": read, "control": control}
	command := `{"batch_size_by_model": {"Llama-3.1-8B": 64}}`
	requests := []guardedRequest{
		{"GET", "/livez", "", "open"},
		{"GET", "/readyz", "", "open"},
		{"GET", "/", "", "open"},
		{"GET", "/openapi.yaml", "", "open"},
		{"GET", "/metrics", "", "read"},
		{"GET", "/v1/state", "", "read"},
		{"GET", "/v1/history", "", "read"},
		{"GET", "/v1/events", "", "read"},
		{"GET", "/v1/models", "", "read"},
		{"GET", "/v1/info", "", "read"},
		{"POST", "/v1/batch-sizes", command, "control"},
		{"POST", "/v1/replica-shifts", `{"model_label": "Llama-3.1-8B", "replica_delta": -1}`, "control"},
		{"POST", "/v1/steps", `{"steps": 1}`, "control"},
	}
	for _, readToken := range []bool{false, true} {
		env := []string{"G2G_AGENT_API__TOKEN_FILE=" + writeToken(t, control), "G2G_AGENT_API__MAX_REQUESTS_PER_S=0"}
		if readToken {
			env = append(env, "G2G_AGENT_API__READ_TOKEN_FILE="+writeToken(t, read))
		}
		a := startAPI(t, env, "replay", "--config", shippedReplay(t), "--pace", "step")
		a.token = control
		a.advance(t, 1)
		for name, token := range tokens {
			if name == "read" && !readToken {
				continue
			}
			a.token = token
			for _, r := range requests {
				r.wantStatus(t, a, name, readToken)
			}
		}
		a.token = control
		if info := a.info(t); !info.ControlNeedsToken || info.Steps != 2 {
			t.Errorf("info: %+v", info)
		}
		a.terminate(t)
		log := a.stderr.text()
		for _, secret := range []string{control, read, tokens["wrong"]} {
			if strings.Contains(log, secret) {
				t.Errorf("the log tells a token:\n%s", log)
			}
		}
		var audited []string
		for line := range strings.Lines(log) {
			if strings.Contains(line, `"audit"`) || strings.Contains(line, `"command":"batch-sizes"`) {
				audited = append(audited, line)
			}
		}
		if len(audited) == 0 {
			t.Errorf("commands are not audited:\n%s", log)
		}
	}
}

// TestWebSocketTokens: a browser cannot send a header, so that its token comes as a
// sub-protocol.
func TestWebSocketTokens(t *testing.T) {
	t.Parallel()
	const control, read = "control-token-of-the-test", "read-token-of-the-test"
	a := startAPI(t, []string{"G2G_AGENT_API__TOKEN_FILE=" + writeToken(t, control), "G2G_AGENT_API__READ_TOKEN_FILE=" + writeToken(t, read)},
		"replay", "--config", shippedReplay(t), "--pace", "step")
	a.token = control
	a.advance(t, 3)
	a.token = ""
	for _, path := range []string{"/v1/stream", "/v1/events?follow"} {
		_, resp, err := websocket.DefaultDialer.DialContext(t.Context(), "ws"+strings.TrimPrefix(a.url, "http")+path, nil)
		if err == nil || resp == nil || resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s without a token: %v, %v", path, resp, err)
		}
		if resp != nil {
			_ = resp.Body.Close() // only its status is of interest
		}
	}
	const base64URL = "cmVhZC10b2tlbi1vZi10aGUtdGVzdA" // of read
	ws := a.dial(t, "/v1/stream", "Sec-WebSocket-Protocol", "g2g-agent.v1, g2g-agent.bearer."+base64URL)
	if got := ws.Subprotocol(); got != "g2g-agent.v1" {
		t.Errorf("the sub-protocol is %q", got)
	}
	if s := next[seenState](t, ws); s.Seq != 2 {
		t.Errorf("the first message is of step %d, want the latest, 2", s.Seq)
	}
	a.token = read
	if s := next[seenState](t, a.dial(t, "/v1/stream")); s.Seq != 2 {
		t.Errorf("with the header: step %d, want 2", s.Seq)
	}
}

// TestAPIRefusesToStart: what must not, or cannot, be listened on ends the program
// with a word on what to change.
func TestAPIRefusesToStart(t *testing.T) {
	t.Parallel()
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	listen := func(address string) string { return "G2G_AGENT_API__LISTEN=" + address }
	for name, c := range map[string]struct {
		env    []string
		status int
		wants  []string
	}{
		"open to all":           {[]string{listen("0.0.0.0:0")}, exitInvalid, []string{"api.listen", "token_file"}},
		"open to all, IPv6":     {[]string{listen("[::]:0")}, exitInvalid, []string{"api.listen", "token_file"}},
		"all addresses":         {[]string{listen(":0")}, exitInvalid, []string{"api.listen", "token_file"}},
		"no such token file":    {[]string{"G2G_AGENT_API__TOKEN_FILE=/none"}, exitInvalid, []string{"api.token_file", "/none"}},
		"empty token file":      {[]string{"G2G_AGENT_API__TOKEN_FILE=" + empty}, exitInvalid, []string{"api.token_file", empty}},
		"port in use":           {[]string{listen(taken.Addr().String())}, exitFailed, []string{taken.Addr().String(), "in use", "api.listen", "G2G_AGENT_API__LISTEN"}},
		"no such certificate":   {[]string{"G2G_AGENT_API__TLS_CERT_FILE=/none", "G2G_AGENT_API__TLS_KEY_FILE=/none"}, exitInvalid, []string{"api.tls_cert_file"}},
		"certificate, no key":   {[]string{"G2G_AGENT_API__TLS_CERT_FILE=/none"}, exitInvalid, []string{"tls_key_file"}},
		"read token all alone":  {[]string{"G2G_AGENT_API__READ_TOKEN_FILE=" + writeToken(t, "a-token-for-reading")}, exitInvalid, []string{"api.token_file"}},
		"two tokens, one value": {[]string{"G2G_AGENT_API__TOKEN_FILE=" + writeToken(t, "one-and-the-same-token"), "G2G_AGENT_API__READ_TOKEN_FILE=" + writeToken(t, "one-and-the-same-token")}, exitInvalid, []string{"api.read_token_file"}},
	} {
		p := startProgram(t, c.env, "replay", "--config", shippedReplay(t), "--pace", "step")
		if status := p.wait(t, soon); status != c.status {
			t.Errorf("%s: exited with status %d, want %d:\n%s", name, status, c.status, p.stderr.text())
		}
		last := p.stderr.text()[strings.LastIndex(p.stderr.text(), "\n")+1:]
		for _, want := range append(c.wants, "g2g-agent: ") {
			if !strings.Contains(p.stderr.text(), want) {
				t.Errorf("%s: stderr lacks %q:\n%s", name, want, p.stderr.text())
			}
		}
		if strings.Contains(last, "one-and-the-same-token") {
			t.Errorf("%s: stderr tells the token: %s", name, last)
		}
	}

	// A live run gives up before it touches a server.
	host := startSim(t)
	before := len(host.truth(t).Commands)
	p := startProgram(t, []string{listen(taken.Addr().String())}, "run", "--config", host.writeConfig(t, quickStart))
	if status := p.wait(t, soon); status != exitFailed || len(host.truth(t).Commands) != before {
		t.Errorf("exited with status %d; commands %+v; log:\n%s", status, host.truth(t).Commands, p.stderr.text())
	}
}

// TestLoopbackWithoutToken: without a token, no web page gets at the site through
// its visitor's browser.
func TestLoopbackWithoutToken(t *testing.T) {
	t.Parallel()
	a := startAPI(t, nil, "replay", "--config", shippedReplay(t), "--pace", "step")
	a.advance(t, 1)
	const command = `{"batch_size_by_model": {"Llama-3.1-8B": 64}}`
	a.post(t, http.StatusForbidden, "/v1/batch-sizes", command, "Origin", "https://evil.example")
	a.post(t, http.StatusForbidden, "/v1/batch-sizes", command, "Sec-Fetch-Site", "cross-site")
	a.post(t, http.StatusOK, "/v1/batch-sizes", command, "Origin", a.url)
	a.post(t, http.StatusUnsupportedMediaType, "/v1/batch-sizes", command, "Content-Type", "text/plain")
	_, resp, err := websocket.DefaultDialer.DialContext(t.Context(), "ws"+strings.TrimPrefix(a.url, "http")+"/v1/stream", http.Header{"Origin": {"https://evil.example"}})
	if err == nil || resp == nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("a WebSocket of another origin: %v, %v", resp, err)
	}
	if resp != nil {
		_ = resp.Body.Close() // only its status is of interest
	}
	// The name that another name server gave to this address.
	_, port := cutBetween(a.url+"/", "127.0.0.1:", "/")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, a.url+"/v1/state", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "rebound.example:" + port
	resp, err = a.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close() // only its status is of interest
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("Host %s: status %d, want 403", req.Host, resp.StatusCode)
	}
}
