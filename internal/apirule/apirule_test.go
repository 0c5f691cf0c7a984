package apirule

import (
	"math"
	"testing"
)

func TestParseListen(t *testing.T) {
	for _, c := range []struct {
		listen, host, port string
		beyond             bool
	}{
		{"127.0.0.1:8480", "127.0.0.1", "8480", false},
		{"127.9.9.9:0", "127.9.9.9", "0", false},
		{"[::1]:0", "::1", "0", false},
		{"[::ffff:127.0.0.1]:0", "::ffff:127.0.0.1", "0", false},
		{":8480", "", "8480", true},
		{"0.0.0.0:8480", "0.0.0.0", "8480", true},
		{"[::]:8480", "::", "8480", true},
		{"10.1.2.3:65535", "10.1.2.3", "65535", true},
		{"[fe80::1%eth0]:80", "fe80::1%eth0", "80", true},
		{"LocalHost:1", "localhost", "1", false},
	} {
		a, err := ParseListen(c.listen)
		if err != nil || a.Host != c.host || a.Port != c.port || a.IsOpen() != c.beyond {
			t.Errorf("ParseListen(%q) = %+v, beyond %v, %v", c.listen, a, a.IsOpen(), err)
		}
	}
}

func TestOrigin(t *testing.T) {
	for text, want := range map[string]string{
		"https://Grid.Example": "https://grid.example", "https://grid.example:443": "https://grid.example", "http://grid.example:80": "http://grid.example",
		"http://grid.example:443": "http://grid.example:443", "http://[::1]:3000": "http://[::1]:3000",
	} {
		if got, err := Origin(text); err != nil || got != want {
			t.Errorf("Origin(%q) = %q, %v, want %q", text, got, err, want)
		}
	}
	for _, text := range []string{"", "*", "null", "grid.example", "https://", "https://grid.example/", "https://*.example", "https://a@grid.example", "ftp://grid.example", "https://a,https://b", "https://a:", "https://a:0", "https://a:65536", "https://a:x"} {
		if got, err := Origin(text); err == nil {
			t.Errorf("Origin(%q) = %q", text, got)
		}
	}
}

func TestRules(t *testing.T) {
	tls := func(cert, key string) error {
		_, err := TLSFiles(cert, key)
		return err
	}
	for _, c := range []struct {
		name  string
		err   error
		wrong bool
	}{
		{"no TLS", tls("", ""), false}, {"TLS", tls("c", "k"), false}, {"no key", tls("c", ""), true}, {"no certificate", tls("", "k"), true},
		{"no limit", RequestsPerS(0), false}, {"a limit", RequestsPerS(0.5), false}, {"below 0", RequestsPerS(-1), true}, {"not a number", RequestsPerS(math.NaN()), true},
		{"infinite", RequestsPerS(math.Inf(1)), true},
		{"one connection", Connections(1), false}, {"none", Connections(0), true}, {"too many", Connections(maxConnections + 1), true},
		{"open without a token", OpenWithoutToken(":1"), true},
	} {
		if (c.err != nil) != c.wrong {
			t.Errorf("%s: %v, want an error: %v", c.name, c.err, c.wrong)
		}
	}
	if ControlWithRead("", "r") == nil || ControlWithRead("c", "r") != nil || ControlWithRead("", "") != nil {
		t.Error("a read token needs a control token, and nothing else does")
	}
}

func TestHost(t *testing.T) {
	for text, want := range map[string]string{
		"Agent.Example": "agent.example", "agent.example.": "agent.example", "agent": "agent", "192.0.2.1": "192.0.2.1",
		"[2001:DB8::1]": "2001:db8::1", "agent..": "agent", "::ffff:10.0.0.1": "10.0.0.1", "2001:db8::1": "2001:db8::1",
	} {
		if got, err := Host(text); err != nil || got != want {
			t.Errorf("Host(%q) = %q, %v, want %q", text, got, err, want)
		}
	}
	for _, text := range []string{"", ".", "*", "*.example", "a b", "a:1", "http://a", "a/b", "a@b", "a,b", "[::1]:80"} {
		if got, err := Host(text); err == nil {
			t.Errorf("Host(%q) = %q", text, got)
		}
	}
}

func TestConnectionsPerAddress(t *testing.T) {
	for _, n := range []int{0, 1, 10} {
		if err := ConnectionsPerAddress(n, 10); err != nil {
			t.Errorf("%d of 10: %v", n, err)
		}
	}
	for _, n := range []int{-1, 11} {
		if err := ConnectionsPerAddress(n, 10); err == nil {
			t.Errorf("%d of 10 is accepted", n)
		}
	}
}
