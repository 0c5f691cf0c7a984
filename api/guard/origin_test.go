package guard

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

func TestAllowedOriginsThatCannotBe(t *testing.T) {
	for _, origin := range []string{"", "*", "null", "grid.example", "https://", "https://*.example", "https://grid.example/page", "https://grid.example?x", "https://a@grid.example", "://x", "https://a,https://b"} {
		_, err := New(Config{Listen: "127.0.0.1:0", AllowedOrigins: []string{"https://fine.example", origin}})
		if !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), "api.allowed_origins[1] must be") {
			t.Errorf("origin %q: %v", origin, err)
		}
	}
}

func TestOriginsAreWrittenAsBrowsersDo(t *testing.T) {
	for text, want := range map[string]string{
		"https://Grid.Example/": "https://grid.example", "https://grid.example:443": "https://grid.example",
		"http://grid.example:80": "http://grid.example", "http://grid.example:443": "http://grid.example:443", "http://[::1]:3000": "http://[::1]:3000",
	} {
		if got, err := parseOrigin(text); err != nil || got != want {
			t.Errorf("parseOrigin(%q) = %q, %v, want %q", text, got, err, want)
		}
	}
}

// What a browser may do for which page: commands and WebSockets alike.
func TestOriginOverTheSocket(t *testing.T) {
	for _, cfg := range []Config{{}, {Token: controlToken}} {
		cfg.AllowedOrigins = []string{"https://grid.example"}
		s := serve(t, cfg, nil)
		own := "http://" + s.address
		for _, c := range []struct {
			name, origin, site string
			ok                 bool
		}{
			{"no browser", "", "", true},
			{"own page", own, "same-origin", true},
			{"own page, older browser", own, "", true},
			{"address bar", "", "none", true},
			{"allowed page", "https://grid.example", "cross-site", true},
			{"allowed page, older browser", "https://grid.example", "", true},
			{"foreign page", "https://evil.example", "cross-site", false},
			{"foreign page, older browser", "https://evil.example", "", false},
			{"foreign page without origin", "", "cross-site", false},
			{"page of another port here", "http://127.0.0.1:1", "same-site", false},
			{"page of another port here, older browser", "http://127.0.0.1:1", "", false},
			{"sandboxed page", "null", "cross-site", false},
			{"allowed name, other scheme", "http://grid.example", "", false},
			{"allowed name, other port", "https://grid.example:8443", "", false},
			{"below the allowed name", "https://grid.example.evil.example", "", false},
		} {
			edits := []func(*http.Request){bearer(cfg.Token)}
			if c.origin != "" {
				edits = append(edits, header("Origin", c.origin))
			}
			if c.site != "" {
				edits = append(edits, header("Sec-Fetch-Site", c.site))
			}
			want := map[bool]int{true: 200, false: 403}[c.ok]
			for _, method := range []string{"POST", "DELETE"} {
				if a := s.do(t, method, "/v1/steps", edits...); a.StatusCode != want {
					t.Errorf("%s: %s: %d, want %d", c.name, method, a.StatusCode, want)
				} else if !c.ok {
					a.problem(t)
				}
			}
			if a := s.do(t, "GET", "/v1/state", edits...); a.StatusCode != 200 {
				t.Errorf("%s: GET: %d; the browser keeps the answer from the page anyway", c.name, a.StatusCode)
			} else if got := a.Header.Get("Access-Control-Allow-Origin"); (got == c.origin) != (c.origin == "https://grid.example" || c.origin == "") {
				t.Errorf("%s: Access-Control-Allow-Origin %q", c.name, got)
			}
			if a := s.do(t, "GET", "/v1/stream", append(edits, socket())...); a.StatusCode != want {
				t.Errorf("%s: WebSocket: %d, want %d", c.name, a.StatusCode, want)
			}
			r := httptest.NewRequestWithContext(t.Context(), "GET", "/v1/stream", nil)
			r.Host = s.address
			for _, edit := range edits {
				edit(r)
			}
			if got := s.CheckOrigin(r); got != c.ok {
				t.Errorf("%s: CheckOrigin = %v", c.name, got)
			}
		}
	}
}

func TestPreflight(t *testing.T) {
	s := serve(t, Config{Token: controlToken, ReadToken: readToken, AllowedOrigins: []string{"https://grid.example"}}, func(http.ResponseWriter, *http.Request) {
		t.Error("a preflight request reached the API")
	})
	ask := func(origin string) *answer {
		return s.do(t, "OPTIONS", "/v1/batch-sizes", header("Origin", origin), header("Access-Control-Request-Method", "POST"),
			header("Access-Control-Request-Headers", "authorization,content-type,idempotency-key"))
	}
	a := ask("https://grid.example")
	if a.StatusCode != http.StatusNoContent || a.body != "" {
		t.Errorf("allowed origin: %d %q", a.StatusCode, a.body)
	}
	for name, want := range map[string]string{
		"Access-Control-Allow-Origin": "https://grid.example", "Access-Control-Allow-Methods": "GET, POST",
		"Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key", "Vary": "Origin", "Access-Control-Allow-Credentials": "",
	} {
		if got := a.Header.Get(name); got != want {
			t.Errorf("allowed origin: %s is %q, want %q", name, got, want)
		}
	}
	for _, origin := range []string{"https://evil.example", "null", "*", s.url} {
		a := ask(origin)
		if a.StatusCode != http.StatusForbidden {
			t.Errorf("origin %q: %d, want 403", origin, a.StatusCode)
		}
		a.problem(t)
		for name := range a.Header {
			if strings.HasPrefix(name, "Access-Control-") {
				t.Errorf("origin %q is answered %s: %q", origin, name, a.Header.Get(name))
			}
		}
	}
	if got := s.Stats().Origin; got != 4 {
		t.Errorf("%d requests counted as of other origins, want 4", got)
	}
}

// Pages of allowed origins can read what went wrong.
func TestProblemsAreShared(t *testing.T) {
	s := serve(t, Config{Token: controlToken, AllowedOrigins: []string{"https://grid.example"}}, nil)
	a := s.do(t, "POST", "/v1/steps", header("Origin", "https://grid.example"))
	if a.StatusCode != 401 || a.Header.Get("Access-Control-Allow-Origin") != "https://grid.example" ||
		!strings.Contains(a.Header.Get("Access-Control-Expose-Headers"), "Retry-After") {
		t.Errorf("%d with %v", a.StatusCode, a.Header)
	}
}
