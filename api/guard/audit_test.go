package guard

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"math"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
)

func TestAudit(t *testing.T) {
	clk := newClock()
	var s *served
	s = serve(t, Config{Token: controlToken, now: clk.Now}, func(_ http.ResponseWriter, r *http.Request) {
		entry := AuditEntry{
			Command: "batch-sizes", Body: map[string]any{"batch_size_by_model": map[string]int{"m": 64}}, Status: 200,
			Result: []string{"accepted"}, Took: 1500 * time.Microsecond, IdempotencyKey: "key-1",
		}
		s.Audit(r.Context(), entry)
		entry.Replayed, entry.Status, entry.Result = true, 409, nil
		s.Audit(r.Context(), entry)
	})
	s.do(t, "POST", "/v1/batch-sizes", bearer(controlToken), header("User-Agent", "grid/2"))
	want := map[string]any{
		"level": "info", "message": "command", "audit": true, "at": "2026-03-01T12:00:00.123456Z", "role": "control", "address": "127.0.0.1",
		"user_agent": "grid/2", "command": "batch-sizes", "body": map[string]any{"batch_size_by_model": map[string]any{"m": 64.0}},
		"idempotency_key": "key-1", "status": 200.0, "result": []any{"accepted"}, "took_s": 0.0015,
	}
	got := s.log.lines(t, "audit")
	if len(got) != 2 {
		t.Fatalf("audit lines %v, want 2", got)
	}
	if diff := cmp.Diff(want, got[0]); diff != "" {
		t.Errorf("audit line of a command carried out (-want +got):\n%s", diff)
	}
	want["level"], want["status"], want["replayed"] = "warn", 409.0, true
	delete(want, "result")
	if diff := cmp.Diff(want, got[1]); diff != "" {
		t.Errorf("audit line of a command refused (-want +got):\n%s", diff)
	}
}

// What comes from outside can neither fill the log nor forge a line.
func TestAuditIsBounded(t *testing.T) {
	s := serve(t, Config{}, nil)
	agent := "evil\x00\x1b[31m\n{\"audit\":true}\u202e" + strings.Repeat("ü", 5000)
	for _, body := range []any{strings.Repeat("ü", 100_000), map[string]float64{"x": math.NaN()}, func() {}, nil} {
		ctx := context.WithValue(t.Context(), callerKey{}, caller{Role: "anyone", UserAgent: printable(agent)})
		s.Audit(ctx, AuditEntry{Command: agent, Body: body, Result: body, IdempotencyKey: agent, Status: 200})
	}
	lines := s.log.lines(t, "audit")
	if len(lines) != 4 {
		t.Fatalf("%d audit lines, want 4", len(lines))
	}
	for line := range strings.Lines(s.log.String()) {
		if len(line) > 3*maxAuditJSON || !utf8.ValidString(line) || strings.ContainsAny(strings.TrimSuffix(line, "\n"), "\x00\x1b\n\u202e") {
			t.Errorf("audit line of %d bytes: %.300q", len(line), line)
		}
	}
	if got := lines[0]["body_bytes"]; got != 200_002.0 {
		t.Errorf("body_bytes %v, want 200002", got)
	}
	for _, line := range lines[1:3] {
		if text, _ := line["body"].(string); !strings.HasPrefix(text, "not JSON: ") {
			t.Errorf("body %v, want it to say why it is not there", line["body"])
		}
	}
	if _, ok := lines[3]["body"]; ok {
		t.Error("a body where there was none")
	}
}

func TestCommandsRefusedAreAudited(t *testing.T) {
	clk := newClock()
	s := serve(t, Config{Token: controlToken, ReadToken: readToken, now: clk.Now}, nil)
	s.do(t, "POST", "/v1/replica-shifts", bearer(readToken))
	got := s.log.lines(t, "audit")
	want := map[string]any{
		"level": "warn", "message": "command", "audit": true, "at": "2026-03-01T12:00:00.123456Z", "role": "read", "address": "127.0.0.1",
		"user_agent": "Go-http-client/1.1", "command": "replica-shifts", "status": 403.0, "result": "forbidden", "took_s": 0.0,
	}
	if len(got) != 1 || cmp.Diff(want, got[0]) != "" {
		t.Errorf("audit lines %v, want %v", got, want)
	}
	// A flood leaves a bounded number of lines, and the next one says how many are
	// missing.
	for range 100 {
		s.do(t, "POST", "/v1/steps", bearer(readToken))
	}
	if got := s.log.lines(t, "audit"); len(got) != refusedAuditBurst {
		t.Errorf("%d audit lines for 101 refused commands, want %d", len(got), refusedAuditBurst)
	}
	clk.advance(refusedAuditEvery)
	s.do(t, "POST", "/v1/steps")
	got = s.log.lines(t, "audit")
	if last := got[len(got)-1]; last["unlogged"] != float64(101-refusedAuditBurst) || last["result"] != "unauthorized" {
		t.Errorf("the line after the flood: %v", last)
	}
	clk.advance(refusedAuditEvery)
	s.do(t, "POST", "/v1/steps")
	got = s.log.lines(t, "audit")
	if unlogged, ok := got[len(got)-1]["unlogged"]; ok || len(got) != refusedAuditBurst+2 {
		t.Errorf("%d lines, the second one after the flood with %v unlogged, want %d and none", len(got), unlogged, refusedAuditBurst+2)
	}
}

func TestRefusedReadsAreNotedNowAndThen(t *testing.T) {
	clk := newClock()
	s := serve(t, Config{Token: controlToken, ReadToken: readToken, now: clk.Now}, nil)
	for range 10 {
		s.do(t, "GET", "/v1/state")
	}
	clk.advance(refusalLogEvery)
	s.do(t, "GET", "/v1/state")
	got := s.log.lines(t, "reason")
	if len(got) != 2 || got[0]["reason"] != "unauthorized" || got[0]["level"] != "warn" || got[1]["unlogged"] != 9.0 {
		t.Errorf("log lines %v, want two, the second with 9 unlogged", got)
	}
}

// The audit is there at every log level, unless there is no log at all.
func TestAuditAtEveryLevel(t *testing.T) {
	for _, level := range []zerolog.Level{zerolog.TraceLevel, zerolog.InfoLevel, zerolog.ErrorLevel, zerolog.Disabled} {
		out := &logged{}
		g, err := New(Config{Listen: "127.0.0.1:0", Log: zerolog.New(out).Level(level)})
		if err != nil {
			t.Fatal(err)
		}
		g.Audit(t.Context(), AuditEntry{Command: "steps", Status: 200})
		if got := len(out.lines(t, "audit")); (got == 1) != (level != zerolog.Disabled) {
			t.Errorf("%d audit lines at log level %v", got, level)
		}
	}
}

// Nothing that a client sends as a secret is in the log, in an answer, or handed
// on to the API, at the most talkative log level.
func TestSecretsStaySecret(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := writePair(t, dir, "agent", time.Now().AddDate(0, 6, 0))
	for _, cfg := range []Config{
		{}, {Token: controlToken}, {Token: controlToken, ReadToken: readToken},
		{Token: controlToken, ReadToken: readToken, MaxRequestsPerS: 2, TLSCertFile: certFile, TLSKeyFile: keyFile},
	} {
		cfg.AllowedOrigins = []string{"https://grid.example"}
		var s *served
		s = serve(t, cfg, func(w http.ResponseWriter, r *http.Request) {
			s.Audit(r.Context(), AuditEntry{Command: "steps", Body: map[string]int{"steps": 1}, Status: 200})
			echo(w, r)
		})
		var answers strings.Builder
		for _, token := range []string{controlToken, readToken, wrongToken} {
			for _, sent := range [][]func(*http.Request){
				{bearer(token)},
				{header("Authorization", "Basic "+token)},
				{header("Authorization", token)},
				{socket("g2g-agent.v1", protocolOf(token))},
				{socket("g2g-agent.v1", bearerProtocol+token)},
				{socket(protocolOf(token)), bearer(token)},
				{bearer(token), header("Origin", "https://evil.example")},
				{bearer(token), host("evil.example")},
				{bearer(token), content(strings.Repeat("x", maxBody+1))},
			} {
				for _, target := range []string{"GET /", "GET /v1/state", "GET /v1/stream", "POST /v1/steps", "DELETE /x", "GET /v1/state?token=" + token, "POST /v1/" + token} {
					method, path, _ := strings.Cut(target, " ")
					a := s.do(t, method, path, sent...)
					answers.WriteString(a.body)
					if err := a.Header.Write(&answers); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		if err := s.Reload("another-"+controlToken, readToken); err != nil {
			t.Error(err)
		}
		if err := s.Reload(controlToken+" ", readToken); err == nil {
			t.Error("a token with a space was taken")
		} else {
			answers.WriteString(err.Error())
		}
		answers.WriteString(strings.Join(s.Warnings(), "\n"))
		wantNoTokens(t, "log", s.log.String())
		wantNoTokens(t, "answers", answers.String())
	}
}

// wantNoTokens: none of the tokens is in the text, in any form.
func wantNoTokens(t *testing.T, what, text string) {
	t.Helper()
	if text == "" {
		t.Errorf("no %s to look into", what)
	}
	for _, token := range []string{controlToken, readToken, wrongToken} {
		d := digestOf(token)
		for _, form := range []string{
			token, url.QueryEscape(token), base64.RawURLEncoding.EncodeToString([]byte(token)), base64.StdEncoding.EncodeToString([]byte(token)),
			hex.EncodeToString(d[:]), string(d[:]),
		} {
			if i := strings.Index(text, form); i >= 0 {
				t.Errorf("a token is in the %s: …%s…", what, text[max(0, i-100):min(len(text), i+100)])
			}
		}
	}
}
