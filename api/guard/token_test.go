package guard

import (
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

func TestTokensThatCannotBe(t *testing.T) {
	long := strings.Repeat("x", maxTokenLength+1)
	for _, c := range []struct{ name, control, read, want string }{
		{"read token alone", "", readToken, "api.token_file is missing; read_token_file needs it"},
		{"the same twice", controlToken, controlToken, "api.read_token_file holds the same token"},
		{"space", "secret word", "", "api.token_file: character 7"},
		{"line break", "secretword\n", "", "api.token_file: character 11"},
		{"not ASCII", controlToken, "sécret", "api.read_token_file: character 2"},
		{"too long", long, "", "at most 1024"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := New(Config{Listen: "127.0.0.1:0", Token: c.control, ReadToken: c.read})
			if !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("New: %v, want %q", err, c.want)
			}
			for _, secret := range []string{controlToken, readToken, "word", "cret", "xxxx"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("the error tells the token: %v", err)
				}
			}
			g, err := New(Config{Listen: "127.0.0.1:0", Token: "old-control-token-1", ReadToken: "old-read-token-123"})
			if err != nil {
				t.Fatal(err)
			}
			before := g.tokens.Load()
			if err := g.Reload(c.control, c.read); !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Reload: %v, want %q", err, c.want)
			}
			if g.tokens.Load() != before {
				t.Error("a reload that failed changed the tokens")
			}
		})
	}
}

// Tokens are kept and compared as digests only: of one length, whatever is sent.
func TestOnlyDigestsAreKept(t *testing.T) {
	g, err := New(Config{Listen: "127.0.0.1:0", Token: controlToken, ReadToken: readToken})
	if err != nil {
		t.Fatal(err)
	}
	if g.cfg.Token != "" || g.cfg.ReadToken != "" {
		t.Error("the guard keeps a token in the clear")
	}
	tk := g.tokens.Load()
	if tk.control.digest != digestOf(controlToken) || tk.read.digest != digestOf(readToken) {
		t.Error("the digests are not those of the tokens")
	}
	for secret, want := range map[string]string{
		controlToken: roleControl, readToken: roleRead, wrongToken: roleAnyone, "": roleAnyone,
		controlToken[:len(controlToken)-1]: roleAnyone, controlToken + "x": roleAnyone, strings.ToUpper(controlToken): roleAnyone,
	} {
		if got := tk.roleOf(digestOf(secret)); got != want {
			t.Errorf("roleOf(%q) = %q, want %q", secret, got, want)
		}
	}
	if got := (&tokens{}).roleOf(digestOf("")); got != roleAnyone {
		t.Errorf("without tokens, the empty one gives the role %q", got)
	}
}

func TestCredential(t *testing.T) {
	none := "none found"
	for _, c := range []struct {
		name          string
		authorization []string
		protocols     []string
		socket        bool
		want          string
	}{
		{"nothing", nil, nil, false, none},
		{"bearer", []string{"Bearer T"}, nil, false, "T"},
		{"any case", []string{"bEARER T"}, nil, false, "T"},
		{"spaces", []string{"Bearer   T  "}, nil, false, "T"},
		{"case of the token", []string{"Bearer t"}, nil, false, "t"},
		{"no token", []string{"Bearer"}, nil, false, ""},
		{"blank token", []string{"Bearer  "}, nil, false, ""},
		{"other scheme", []string{"Basic T"}, nil, false, none},
		{"no scheme", []string{"T"}, nil, false, none},
		{"longer scheme", []string{"Bearers T"}, nil, false, none},
		{"empty header", []string{""}, nil, false, none},
		{"two tokens", []string{"Bearer T", "Bearer T"}, nil, false, ""},
		{"a proxy's beside ours", []string{"Basic x", "Bearer T"}, nil, false, "T"},
		{"huge", []string{"Bearer " + strings.Repeat("T", maxTokenLength+1)}, nil, false, ""},
		{"sub-protocol", nil, []string{"g2g-agent.v1, g2g-agent.bearer.VA"}, true, "T"},
		{"sub-protocol on a line of its own", nil, []string{"g2g-agent.v1", "g2g-agent.bearer.VA"}, true, "T"},
		{"sub-protocol without a socket", nil, []string{"g2g-agent.bearer.VA"}, false, none},
		{"no sub-protocol of ours", nil, []string{"g2g-agent.v1"}, true, none},
		{"padded", nil, []string{"g2g-agent.bearer.VA=="}, true, ""},
		{"bits to spare", nil, []string{"g2g-agent.bearer.VB"}, true, ""},
		{"no base64", nil, []string{"g2g-agent.bearer.!"}, true, ""},
		{"empty sub-protocol", nil, []string{"g2g-agent.bearer."}, true, ""},
		{"two sub-protocols", nil, []string{"g2g-agent.bearer.VA, g2g-agent.bearer.VA"}, true, ""},
		{"other case of the sub-protocol", nil, []string{"G2G-agent.bearer.VA"}, true, none},
		{"huge sub-protocol", nil, []string{"g2g-agent.bearer." + strings.Repeat("VVVV", maxTokenLength)}, true, ""},
		{"header before sub-protocol", []string{"Bearer T"}, []string{"g2g-agent.bearer.VQ"}, true, "T"},
	} {
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/v1/stream", nil)
		if c.socket {
			socket()(r)
		}
		r.Header["Authorization"], r.Header["Sec-Websocket-Protocol"] = c.authorization, c.protocols
		sent, found := sentToken(r)
		switch {
		case found != (c.want != none):
			t.Errorf("%s: found %v", c.name, found)
		case found && sent != digestOf(c.want):
			t.Errorf("%s: not the digest of %q", c.name, c.want)
		}
	}
}

// A browser's WebSocket carries its token in a sub-protocol; other requests do not.
func TestSubProtocolOverTheSocket(t *testing.T) {
	s := serve(t, Config{Token: controlToken, ReadToken: readToken}, nil)
	for _, c := range []struct {
		name  string
		edits []func(*http.Request)
		want  int
	}{
		{"read token", []func(*http.Request){socket("g2g-agent.v1", protocolOf(readToken))}, 200},
		{"control token", []func(*http.Request){socket("g2g-agent.v1", protocolOf(controlToken))}, 200},
		{"wrong token", []func(*http.Request){socket("g2g-agent.v1", protocolOf(wrongToken))}, 401},
		{"in the clear", []func(*http.Request){socket("g2g-agent.v1", bearerProtocol+readToken)}, 401},
		{"none", []func(*http.Request){socket("g2g-agent.v1")}, 401},
		{"no upgrade", []func(*http.Request){header("Sec-WebSocket-Protocol", protocolOf(readToken))}, 401},
		{"upgrade to something else", []func(*http.Request){socket(protocolOf(readToken)), header("Upgrade", "h2c")}, 401},
		{"authorization", []func(*http.Request){socket("g2g-agent.v1"), bearer(readToken)}, 200},
	} {
		a := s.do(t, "GET", "/v1/stream", c.edits...)
		if a.StatusCode != c.want {
			t.Errorf("%s: %d, want %d: %s", c.name, a.StatusCode, c.want, a.body)
		}
		if a.StatusCode != 200 {
			continue
		}
		// What is left is what the API may answer with.
		if got := a.seen(t).Header.Values("Sec-WebSocket-Protocol"); len(got) != 1 || got[0] != "g2g-agent.v1" {
			t.Errorf("%s: the API sees the sub-protocols %q", c.name, got)
		}
	}
	if a := s.do(t, "POST", "/v1/steps", socket(protocolOf(controlToken))); a.StatusCode != 401 {
		t.Errorf("a command with its token in a sub-protocol: %d, want 401", a.StatusCode)
	}
}

func TestTokensInTheQueryAreNotAccepted(t *testing.T) {
	s := serve(t, Config{Token: controlToken, ReadToken: readToken}, nil)
	for _, query := range []string{"token=", "access_token=", "authorization=Bearer%20", "bearer="} {
		for _, edit := range []func(*http.Request){bearer(""), socket("g2g-agent.v1")} {
			if a := s.do(t, "GET", "/v1/state?"+query+controlToken, edit); a.StatusCode != 401 {
				t.Errorf("%s: %d, want 401", query, a.StatusCode)
			}
		}
	}
}

func TestReloadTakesTokensIntoForce(t *testing.T) {
	s := serve(t, Config{Token: controlToken, ReadToken: readToken}, nil)
	expect := func(token string, wantRead, wantCommand int) {
		t.Helper()
		s.forget()
		if a := s.do(t, "GET", "/v1/state", bearer(token)); a.StatusCode != wantRead {
			t.Errorf("reading with %q: %d, want %d", token, a.StatusCode, wantRead)
		}
		if a := s.do(t, "POST", "/v1/steps", bearer(token)); a.StatusCode != wantCommand {
			t.Errorf("a command with %q: %d, want %d", token, a.StatusCode, wantCommand)
		}
	}
	expect(controlToken, 200, 200)
	expect(readToken, 200, 403)
	if err := s.Reload("new-control-token-1", "new-read-token-123"); err != nil {
		t.Fatal(err)
	}
	expect(controlToken, 401, 401)
	expect(readToken, 401, 401)
	expect("new-control-token-1", 200, 200)
	expect("new-read-token-123", 200, 403)
	if err := s.Reload("new-control-token-1", ""); err != nil {
		t.Fatal(err)
	}
	expect("", 200, 401)
	if err := s.Reload("", ""); err != nil {
		t.Fatalf("on loopback the token may go: %v", err)
	}
	expect("", 200, 200)
	if a := s.do(t, "GET", "/v1/state", host("evil.example")); a.StatusCode != 403 {
		t.Errorf("without a token any more, another host: %d, want 403", a.StatusCode)
	}
}

func FuzzCredential(f *testing.F) {
	f.Add("Bearer "+controlToken, protocolOf(controlToken), "localhost:8480")
	f.Add("bearer  "+controlToken+" ", "g2g-agent.v1, "+protocolOf(controlToken), "[::1]:1")
	f.Add("Bearer", bearerProtocol, "[::1")
	f.Add("Basic "+controlToken, bearerProtocol+"====", "127.0.0.1:99999")
	f.Add("Bearer "+controlToken+","+controlToken, protocolOf(controlToken)+"\n", "evil.example.")
	g, err := New(Config{Listen: "127.0.0.1:0", Token: controlToken})
	if err != nil {
		f.Fatal(err)
	}
	encoded := base64.RawURLEncoding.EncodeToString([]byte(controlToken))
	f.Fuzz(func(t *testing.T, authorization, protocols, host string) {
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/v1/stream", nil)
		socket()(r)
		role := func() string {
			sent, found := sentToken(r)
			if role := g.tokens.Load().roleOf(sent); found {
				return role
			}
			return roleAnyone
		}
		r.Header["Authorization"] = []string{authorization}
		if scheme, secret, _ := strings.Cut(authorization, " "); (role() == roleControl) !=
			(strings.EqualFold(scheme, "bearer") && strings.Trim(secret, " ") == controlToken) {
			t.Errorf("Authorization %q gives the role %q", authorization, role())
		}
		delete(r.Header, "Authorization")
		r.Header["Sec-Websocket-Protocol"] = []string{protocols}
		exact := 0
		for offer := range strings.SplitSeq(protocols, ",") {
			if strings.Trim(offer, " \t") == "g2g-agent.bearer."+encoded {
				exact++
			}
		}
		if role() == roleControl && exact != 1 {
			t.Errorf("sub-protocols %q give the role %q", protocols, role())
		}
		for _, left := range withoutCredentials(r.Header).Values("Sec-WebSocket-Protocol") {
			if hasOffer(left) {
				t.Errorf("of the sub-protocols %q, %q is handed on", protocols, left)
			}
		}
		if g.address.namesThisHost(host) && !strings.Contains(strings.ToLower(host), "localhost") && !strings.Contains(host, "127.") && !strings.Contains(host, ":") {
			t.Errorf("Host %q is served", host)
		}
	})
}

// hasOffer reports whether one of the sub-protocols carries a token.
func hasOffer(protocols string) bool {
	for _, name := range listed([]string{protocols}) {
		if strings.HasPrefix(name, bearerProtocol) {
			return true
		}
	}
	return false
}
