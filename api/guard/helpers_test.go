package guard

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/g2g-agent/g2g-agent/api/problem"
	"github.com/g2g-agent/g2g-agent/internal/logtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	controlToken = "control-7f3a9c41d2e85b60"
	readToken    = "read-51c0e6d7b2a94f83"
	wrongToken   = "wrong-0d9e8c7b6a5f4e3d"
)

// logged is a log of JSON lines.
type logged struct{ logtest.Buffer }

// lines are the log's lines that have the key.
func (l *logged) lines(t *testing.T, key string) []map[string]any {
	t.Helper()
	return slices.DeleteFunc(l.Lines(t), func(fields map[string]any) bool {
		_, ok := fields[key]
		return !ok
	})
}

// clock stands still unless it is moved.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 3, 1, 12, 0, 0, 123_456_000, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// served is a guard with a server behind it, on a real socket.
type served struct {
	*Guard
	url     string
	address string
	log     *logged
	client  *http.Client
}

// echo answers with what the API sees of a request.
func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusTeapot)
		return
	}
	_ = json.NewEncoder(w).Encode(seen{Caller: callerFrom(r.Context()), Header: r.Header, Body: len(body), Length: r.ContentLength})
}

type seen struct {
	Caller caller
	Header http.Header
	Body   int
	Length int64
}

func serve(t *testing.T, cfg Config, handler http.HandlerFunc) *served {
	t.Helper()
	s := &served{log: &logged{}}
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	cfg.Log = zerolog.New(s.log).Level(zerolog.TraceLevel)
	g, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.Guard = g
	l, err := g.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if handler == nil {
		handler = echo
	}
	server := &http.Server{Handler: g.Wrap(handler), ErrorLog: newStdLog(s.log)}
	g.Watch(server)
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("Serve: %v", err)
		}
	})
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	s.client = &http.Client{Transport: transport, Timeout: 20 * time.Second}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		// It waits for connections that net/http lingers over.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		serving.Wait()
	})
	s.address = l.Addr().String()
	s.url = "http://" + s.address
	if cfg.TLSCertFile != "" {
		s.url = "https://" + s.address
	}
	return s
}

// answer is a response that was read whole.
type answer struct {
	*http.Response
	body string
}

func (a *answer) problem(t *testing.T) problem.Problem {
	t.Helper()
	var p problem.Problem
	if ct := a.Header.Get("Content-Type"); ct != "application/problem+json" {
		t.Fatalf("%d with Content-Type %q, want a problem; body %q", a.StatusCode, ct, a.body)
	}
	if err := json.Unmarshal([]byte(a.body), &p); err != nil {
		t.Fatalf("problem %q: %v", a.body, err)
	}
	if p.Status != a.StatusCode || p.Title != http.StatusText(p.Status) || p.Detail == "" {
		t.Errorf("status %d with problem %+v; want the same status, its text and a detail", a.StatusCode, p)
	}
	return p
}

func (a *answer) seen(t *testing.T) seen {
	t.Helper()
	var s seen
	if err := json.Unmarshal([]byte(a.body), &s); err != nil {
		t.Fatalf("status %d, body %q: %v", a.StatusCode, a.body, err)
	}
	return s
}

// do makes a request; edits change it first.
func (s *served) do(t *testing.T, method, path string, edits ...func(*http.Request)) *answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, edit := range edits {
		edit(r)
	}
	resp, err := s.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return &answer{resp, string(body)}
}

func header(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

func bearer(token string) func(*http.Request) {
	if token == "" {
		return func(*http.Request) {}
	}
	return header("Authorization", "Bearer "+token)
}

func host(name string) func(*http.Request) { return func(r *http.Request) { r.Host = name } }

func content(body string) func(*http.Request) {
	return func(r *http.Request) {
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
	}
}

// socket makes the request one for a WebSocket.
func socket(protocols ...string) func(*http.Request) {
	return func(r *http.Request) {
		r.Header.Set("Connection", "Upgrade")
		r.Header.Set("Upgrade", "websocket")
		if len(protocols) > 0 {
			r.Header.Set("Sec-WebSocket-Protocol", strings.Join(protocols, ", "))
		}
	}
}

func protocolOf(token string) string {
	return bearerProtocol + base64.RawURLEncoding.EncodeToString([]byte(token))
}

// eventually waits until the condition holds.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}

// writePair writes a certificate of the name for this host, and its key.
func writePair(t *testing.T, dir, name string, notAfter time.Time) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: notAfter.AddDate(-1, 0, 0), NotAfter: notAfter, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: cert}, keyFile: {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// lineWriter makes a log line of what net/http has to say.
type lineWriter struct{ log zerolog.Logger }

func (w lineWriter) Write(p []byte) (int, error) {
	w.log.Debug().Msg(string(p))
	return len(p), nil
}

func newStdLog(l *logged) *log.Logger { return log.New(lineWriter{zerolog.New(l)}, "", 0) }
