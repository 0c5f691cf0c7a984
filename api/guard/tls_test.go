package guard

import (
	"crypto/tls"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

func TestTLS(t *testing.T) {
	certFile, keyFile := writePair(t, t.TempDir(), "first", time.Now().AddDate(0, 6, 0))
	s := serve(t, Config{Token: controlToken, TLSCertFile: certFile, TLSKeyFile: keyFile}, nil)
	if a := s.do(t, "POST", "/v1/steps", bearer(controlToken)); a.StatusCode != 200 || a.TLS == nil || a.Proto != "HTTP/1.1" {
		t.Errorf("over TLS: %d %s, TLS %v", a.StatusCode, a.Proto, a.TLS != nil)
	}
	for _, c := range []struct {
		version uint16
		ok      bool
	}{{tls.VersionTLS10, false}, {tls.VersionTLS11, false}, {tls.VersionTLS12, true}, {tls.VersionTLS13, true}} {
		if _, err := s.handshake(t, &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: c.version}); (err == nil) != c.ok {
			t.Errorf("handshake with %s: %v", tls.VersionName(c.version), err)
		}
	}
}

// handshake does one, and returns whose certificate the server has.
func (s *served) handshake(t *testing.T, config *tls.Config) (name string, err error) {
	t.Helper()
	config.InsecureSkipVerify = true
	conn, err := (&tls.Dialer{Config: config}).DialContext(t.Context(), "tcp", s.address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	state := conn.(*tls.Conn).ConnectionState()
	return state.PeerCertificates[0].Subject.CommonName, nil
}

// TestTLSReload: a new pair is taken with the tokens beside it, or nothing is.
func TestTLSReload(t *testing.T) {
	dir := t.TempDir()
	soon := time.Now().AddDate(0, 6, 0)
	certFile, keyFile := writePair(t, dir, "first", soon)
	s := serve(t, Config{Token: controlToken, TLSCertFile: certFile, TLSKeyFile: keyFile}, nil)
	expect := func(want string) {
		t.Helper()
		if name, err := s.handshake(t, &tls.Config{}); err != nil || name != want {
			t.Errorf("the certificate is %q (%v), want %q", name, err, want)
		}
	}
	expect("first")
	writePair(t, dir, "second", soon)
	expect("first")
	if err := s.Reload(controlToken, ""); err != nil {
		t.Fatal(err)
	}
	expect("second")
	// A pair that is broken in any way keeps what was there, the tokens too.
	for _, breakIt := range map[string]func(){
		"no certificate": func() { os.WriteFile(certFile, []byte("nothing"), 0o600) },
		"another's key":  func() { os.Rename(filepath.Join(other(t, soon), "key.pem"), keyFile) },
		"no file":        func() { os.Remove(certFile) },
	} {
		writePair(t, dir, "third", soon)
		breakIt()
		err := s.Reload("another-control-token", "")
		if !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), "api.tls_cert_file") || !strings.Contains(err.Error(), "nothing was reloaded") {
			t.Errorf("Reload: %v", err)
		}
		expect("second")
		if a := s.do(t, "POST", "/v1/steps", bearer(controlToken)); a.StatusCode != 200 {
			t.Errorf("the token in force is answered %d after a reload that failed", a.StatusCode)
		}
	}
	// Nor does a bad token let a new pair in.
	writePair(t, dir, "fourth", soon)
	if err := s.Reload("a b", ""); err == nil {
		t.Error("a token with a space was taken")
	}
	expect("second")
	// A pipe that nobody writes to is not waited for.
	if err := os.Remove(keyFile); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(keyFile, 0o600); err != nil {
		t.Skip("there are no pipes here: ", err)
	}
	if err := s.Reload("another-control-token", ""); err == nil || !strings.Contains(err.Error(), "is no regular file") {
		t.Errorf("Reload with a pipe: %v", err)
	}
	expect("second")
}

func other(t *testing.T, notAfter time.Time) string {
	dir := t.TempDir()
	writePair(t, dir, "other", notAfter)
	return dir
}

func TestWarnings(t *testing.T) {
	clk := newClock()
	pairOf := func(notAfter time.Time) (certFile, keyFile string) {
		return writePair(t, t.TempDir(), "agent", notAfter)
	}
	goodCert, goodKey := pairOf(clk.Now().AddDate(0, 6, 0))
	endingCert, endingKey := pairOf(clk.Now().AddDate(0, 0, 7))
	endedCert, endedKey := pairOf(clk.Now().AddDate(0, 0, -1))
	earlyCert, earlyKey := pairOf(clk.Now().AddDate(2, 0, 0))
	lookup := names(map[string][]string{"outside.test": {"127.0.0.1", "192.0.2.1"}, "inside.test": {"127.0.0.1"}})
	short := strings.Repeat("x", goodTokenLength-1)
	for _, c := range []struct {
		name string
		cfg  Config
		want []string
	}{
		{"loopback", Config{Listen: "127.0.0.1:0"}, nil},
		{"loopback, token", Config{Listen: "127.0.0.1:0", Token: controlToken}, nil},
		{"beyond, TLS", Config{Listen: "0.0.0.0:0", Token: controlToken, TLSCertFile: goodCert, TLSKeyFile: goodKey}, nil},
		{"beyond, clear", Config{Listen: "0.0.0.0:0", Token: controlToken}, []string{"sent in the clear"}},
		{"name beyond, clear", Config{Listen: "outside.test:0", Token: controlToken}, []string{"sent in the clear"}},
		{"name inside, clear", Config{Listen: "inside.test:0", Token: controlToken}, nil},
		{"short", Config{Listen: "127.0.0.1:0", Token: short, ReadToken: "r"}, []string{"api.token_file: the token has 15 characters", "api.read_token_file: the token has 1 characters"}},
		{"ending", Config{Listen: "127.0.0.1:0", TLSCertFile: endingCert, TLSKeyFile: endingKey}, []string{"the certificate expires at 2026-03-08"}},
		{"ended", Config{Listen: "127.0.0.1:0", TLSCertFile: endedCert, TLSKeyFile: endedKey}, []string{"the certificate expired at 2026-02-28"}},
		{"early", Config{Listen: "127.0.0.1:0", TLSCertFile: earlyCert, TLSKeyFile: earlyKey}, []string{"the certificate is not valid before 2027-03-01"}},
	} {
		c.cfg.now, c.cfg.lookup, c.cfg.Log = clk.Now, lookup, zerolog.Nop()
		g, err := New(c.cfg)
		if err != nil {
			t.Fatal(err)
		}
		l, err := g.Listen(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		got := g.Warnings()
		if len(got) != len(c.want) {
			t.Errorf("%s: warnings %q, want %q", c.name, got, c.want)
			continue
		}
		for i, w := range got {
			if !strings.Contains(w, c.want[i]) {
				t.Errorf("%s: warning %q, want %q", c.name, w, c.want[i])
			}
			if strings.Contains(w, short) {
				t.Errorf("%s: the warning tells the token: %q", c.name, w)
			}
		}
	}
}

// Reloads and requests at the same time: each request sees one set of tokens.
func TestReloadWhileServing(t *testing.T) {
	s := serve(t, Config{Token: controlToken, ReadToken: readToken}, nil)
	var reloading sync.WaitGroup
	stop := make(chan struct{})
	reloading.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := s.Reload(controlToken, readToken); err != nil {
				t.Error(err)
			}
		}
	})
	for range 200 {
		if a := s.do(t, "POST", "/v1/steps", bearer(controlToken)); a.StatusCode != 200 {
			t.Errorf("%d while reloading", a.StatusCode)
		}
	}
	close(stop)
	reloading.Wait()
}
