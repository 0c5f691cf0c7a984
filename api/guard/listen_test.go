package guard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// names are what a name server says.
func names(answers map[string][]string) func(context.Context, string) ([]netip.Addr, error) {
	return func(_ context.Context, host string) ([]netip.Addr, error) {
		texts, ok := answers[host]
		if !ok {
			return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
		}
		var ips []netip.Addr
		for _, text := range texts {
			ips = append(ips, netip.MustParseAddr(text))
		}
		return ips, nil
	}
}

func TestListensBeyondLoopbackOnlyWithAToken(t *testing.T) {
	lookup := names(map[string][]string{
		"one.test": {"127.0.0.1"}, "both.test": {"::1", "127.0.0.1"}, "mixed.test": {"127.0.0.1", "192.0.2.1"}, "turned.test": {"192.0.2.1", "127.0.0.1"},
		"outside.test": {"192.0.2.1"}, "empty.test": {},
	})
	for _, c := range []struct {
		listen string
		// without is what the refusal without a token says, empty if there is none.
		without string
	}{
		{"127.0.0.1:0", ""}, {"127.8.0.1:0", ""}, {"one.test:0", ""}, {"both.test:0", ""}, {"ONE.test:0", ""},
		{":0", "api.token_file"}, {"0.0.0.0:0", "api.token_file"}, {"[::]:0", "api.token_file"}, {"mixed.test:0", "api.token_file"}, {"turned.test:0", "api.token_file"},
		{"192.0.2.1:0", "api.token_file"}, {"outside.test:0", "api.token_file"},
		{"nowhere.test:0", "no such host"}, {"empty.test:0", "the name has no address"},
	} {
		g, err := New(Config{Listen: c.listen, lookup: lookup})
		if err != nil {
			t.Fatal(err)
		}
		l, err := g.Listen(t.Context())
		switch {
		case c.without == "" && err != nil:
			t.Errorf("%s without a token: %v", c.listen, err)
		case c.without == "":
			if ip := netip.MustParseAddrPort(l.Addr().String()).Addr(); !ip.IsLoopback() {
				t.Errorf("%s is bound to %v", c.listen, ip)
			}
			l.Close()
		case err == nil:
			t.Errorf("%s without a token is bound to %v", c.listen, l.Addr())
			l.Close()
		case !strings.Contains(err.Error(), c.without) || !strings.Contains(err.Error(), "api.listen") || !strings.Contains(err.Error(), c.listen):
			t.Errorf("%s without a token: %v, want %q and api.listen", c.listen, err, c.without)
		case errors.Is(err, datacenter.ErrInvalidInput) != (c.without == "api.token_file"):
			t.Errorf("%s without a token: %v wraps ErrInvalidInput: %v", c.listen, err, errors.Is(err, datacenter.ErrInvalidInput))
		}
	}
	for _, listen := range []string{":0", "0.0.0.0:0", "mixed.test:0"} {
		g, err := New(Config{Listen: listen, Token: controlToken, lookup: lookup})
		if err != nil {
			t.Fatal(err)
		}
		l, err := g.Listen(t.Context())
		if err != nil {
			t.Errorf("%s with a token: %v", listen, err)
			continue
		}
		l.Close()
		// From then on the token may change, and not go.
		if err := g.Reload("", ""); !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), "api.token_file") {
			t.Errorf("%s: the token can be taken away: %v", listen, err)
		}
		if err := g.Reload("another-control-token", ""); err != nil {
			t.Errorf("%s: %v", listen, err)
		}
		if got := g.tokens.Load().roleOf(digestOf("another-control-token")); got != roleControl {
			t.Errorf("%s: the new token gives the role %q", listen, got)
		}
	}
}

func TestLocalhostIsLoopback(t *testing.T) {
	g, err := New(Config{Listen: "localhost:0"})
	if err != nil {
		t.Fatal(err)
	}
	l, err := g.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

func TestIPv6Loopback(t *testing.T) {
	var config net.ListenConfig
	if l, err := config.Listen(t.Context(), "tcp", "[::1]:0"); err != nil {
		t.Skipf("this host has no IPv6 loopback: %v", err)
	} else {
		l.Close()
	}
	s := serve(t, Config{Listen: "[::1]:0"}, nil)
	if a := s.do(t, "GET", "/v1/state"); a.StatusCode != 200 || a.seen(t).Caller.Address != "::1" {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}

func TestAddressInUse(t *testing.T) {
	first := serve(t, Config{}, nil)
	g, err := New(Config{Listen: first.address})
	if err != nil {
		t.Fatal(err)
	}
	_, err = g.Listen(t.Context())
	if !errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, datacenter.ErrInvalidInput) {
		t.Errorf("Listen: %v", err)
	}
	for _, want := range []string{"api.listen", "G2G_AGENT_API__LISTEN", first.address, "in use"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Listen: %v; does not name %q", err, want)
		}
	}
}

func TestAddressesThatCannotBeBound(t *testing.T) {
	g, err := New(Config{Listen: "192.0.2.1:0", Token: controlToken}) // of no host anywhere
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Listen(t.Context()); !errors.Is(err, syscall.EADDRNOTAVAIL) || !strings.Contains(err.Error(), "this host has no such address: correct api.listen") {
		t.Errorf("Listen: %v", err)
	}
	if err := g.explain(fmt.Errorf("listen: %w", syscall.EACCES)); !strings.Contains(err.Error(), "choose a higher one in api.listen") {
		t.Errorf("a privileged port: %v", err)
	}
}

func TestConfigsThatCannotBe(t *testing.T) {
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{Config{MaxRequestsPerS: -1}, "api.max_requests_per_s"},
		{Config{MaxConnections: -1}, "api.max_connections"},
		{Config{TLSCertFile: "cert.pem"}, "api.tls_key_file is missing"},
		{Config{TLSKeyFile: "key.pem"}, "api.tls_cert_file is missing"},
		{Config{TLSCertFile: "/nowhere/cert.pem", TLSKeyFile: "/nowhere/key.pem"}, "/nowhere/cert.pem"},
	} {
		c.cfg.Listen = "127.0.0.1:0"
		if _, err := New(c.cfg); !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("New(%+v): %v, want %q", c.cfg, err, c.want)
		}
	}
	// All at once.
	_, err := New(Config{Listen: "x", Token: "a b", AllowedOrigins: []string{"*"}, MaxConnections: -1})
	for _, want := range []string{"api.listen", "api.token_file", "api.allowed_origins[0]", "api.max_connections"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New: %v; does not name %q", err, want)
		}
	}
}

// A connection that a WebSocket has taken over counts until it is closed, once.
func TestTakenOverConnectionsCount(t *testing.T) {
	taken := make(chan net.Conn, 1)
	s := serve(t, Config{}, func(w http.ResponseWriter, _ *http.Request) {
		hijacker, ok := w.(http.Hijacker)
		if !ok {
			t.Error("the API gets a ResponseWriter without Hijack")
			return
		}
		conn, _, err := hijacker.Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
		taken <- conn
	})
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /v1/stream HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	server := <-taken
	if got := s.Stats().OpenConnections; got != 1 {
		t.Errorf("%d connections open, want 1", got)
	}
	if counted, ok := server.(interface{ NetConn() net.Conn }); !ok {
		t.Error("the TCP connection beneath cannot be had")
	} else if _, ok := counted.NetConn().(*net.TCPConn); !ok {
		t.Errorf("NetConn gives a %T", counted.NetConn())
	}
	server.Close()
	server.Close()
	if got := s.Stats().OpenConnections; got != 0 {
		t.Errorf("%d connections open after it was closed, want 0", got)
	}
}

// failing is a listener that has run out of files.
type failing struct{ net.Listener }

func (failing) Accept() (net.Conn, error) { return nil, syscall.EMFILE }

func TestAcceptErrorsAreLeftToTheServer(t *testing.T) {
	g, err := New(Config{Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = newLimited(failing{}, g).Accept()
	var temporary interface{ Temporary() bool }
	if !errors.As(err, &temporary) || !temporary.Temporary() {
		t.Errorf("Accept: %v, which net/http would not wait out", err)
	}
	if got := g.Stats(); got != (Stats{AcceptErrors: 1}) {
		t.Errorf("stats %+v, want one accept error", got)
	}
}
