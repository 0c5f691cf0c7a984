package loadgen

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/rand/v2"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// relay is a proxy between clients and a server: what clients send passes as it
// is, what the server sends goes through answer, which reads it until it ends and
// writes it in its own way.
type relay struct {
	url string
	tls *tls.Config // for clients, nil without TLS

	target   string
	listener net.Listener
	answer   func(to io.Writer, from net.Conn)
	running  sync.WaitGroup

	mu     sync.Mutex
	closed bool
	conns  []net.Conn
}

// startRelay runs a relay to a server's base URL until the test ends.
func startRelay(t *testing.T, target string, secure bool, answer func(to io.Writer, from net.Conn)) *relay {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{url: "http://" + listener.Addr().String(), target: strings.TrimPrefix(target, "http://"), listener: listener, answer: answer}
	if secure {
		lender := httptest.NewTLSServer(nil) // of its certificate
		lender.Close()
		roots := x509.NewCertPool()
		roots.AddCert(lender.Certificate())
		r.tls = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
		r.listener = tls.NewListener(listener, &tls.Config{Certificates: lender.TLS.Certificates, MinVersion: tls.VersionTLS12})
		r.url = "https://" + listener.Addr().String()
	}
	r.running.Go(r.accept)
	t.Cleanup(func() {
		_ = r.listener.Close()
		r.mu.Lock()
		r.closed = true
		for _, conn := range r.conns {
			_ = conn.Close()
		}
		r.mu.Unlock()
		r.running.Wait()
	})
	return r
}

func (r *relay) accept() {
	for {
		client, err := r.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", r.target) //nolint:noctx // it ends at once, one way or the other
		if err != nil {
			_ = client.Close()
			continue
		}
		r.mu.Lock()
		if r.closed {
			_, _ = client.Close(), server.Close()
		}
		r.conns = append(r.conns, client, server)
		r.mu.Unlock()
		r.running.Go(func() {
			_, _ = io.Copy(server, client)
			_ = server.Close()
		})
		r.running.Go(func() {
			r.answer(client, server)
			_ = client.Close()
		})
	}
}

// collects writes what has come every so often.
func collects(every time.Duration) func(to io.Writer, from net.Conn) {
	return func(to io.Writer, from net.Conn) {
		pieces := make(chan []byte)
		go func() {
			defer close(pieces)
			for {
				piece := make([]byte, 64<<10)
				n, err := from.Read(piece)
				if n > 0 {
					pieces <- piece[:n]
				}
				if err != nil {
					return
				}
			}
		}()
		ticks := time.NewTicker(every)
		defer ticks.Stop()
		var collected []byte
		for open := true; open; {
			select {
			case piece, more := <-pieces:
				collected = append(collected, piece...)
				if open = more; open {
					continue
				}
			case <-ticks.C:
			}
			if len(collected) == 0 {
				continue
			}
			if _, err := to.Write(collected); err != nil {
				_ = from.Close() // the pieces end, too
			}
			collected = collected[:0]
		}
	}
}

// cuts writes what comes in pieces of 1 to 97 bytes.
func cuts(seed uint64) func(to io.Writer, from net.Conn) {
	return func(to io.Writer, from net.Conn) {
		random := rand.New(rand.NewPCG(seed, 0))
		buffer := make([]byte, 64<<10)
		for {
			n, err := from.Read(buffer)
			for rest := buffer[:n]; len(rest) > 0; {
				k := min(1+random.IntN(97), len(rest))
				if _, err := to.Write(rest[:k]); err != nil {
					return
				}
				rest = rest[k:]
			}
			if err != nil {
				return
			}
		}
	}
}
