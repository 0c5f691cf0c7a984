package guard

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/apirule"
)

// listenKeys is where to change what is listened on.
const listenKeys = "api.listen (or G2G_AGENT_API__LISTEN)"

// Listen binds the address. Beyond the limits, idle connections make room for
// new ones, and where none is idle a few more are let in for probes and those with
// a token; see [Guard.Watch]. With a certificate they speak TLS 1.2 or later and
// HTTP/1.1, which WebSockets need. Without a control token it refuses to listen
// where other hosts might reach it, with an error that wraps
// [datacenter.ErrInvalidInput]. The caller closes the listener.
func (g *Guard) Listen(ctx context.Context) (net.Listener, error) {
	ip, err := g.resolve(ctx)
	if err != nil {
		return nil, err
	}
	host := g.address.Host
	if ip.IsValid() {
		host = ip.String()
	}
	var config net.ListenConfig
	bound, err := config.Listen(ctx, "tcp", net.JoinHostPort(host, g.address.Port))
	if err != nil {
		return nil, g.explain(err)
	}
	var l net.Listener = newLimited(bound, g)
	if g.certificate != nil {
		l = tls.NewListener(l, &tls.Config{
			MinVersion: tls.VersionTLS12,
			NextProtos: []string{"http/1.1"},
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
				return &g.certificate.pair.Load().Certificate, nil
			},
		})
	}
	return l, nil
}

// Check returns what [Guard.Listen] would refuse before it binds the address. After
// it, [Guard.Warnings] are complete.
func (g *Guard) Check(ctx context.Context) error {
	_, err := g.resolve(ctx)
	return err
}

// resolve returns the address to bind, none for all of this host, after it made
// sure that commands are protected there. What was checked is what is bound: a
// name is not asked for twice.
func (g *Guard) resolve(ctx context.Context) (netip.Addr, error) {
	a := &g.address
	ip, beyond := a.IP, a.IsOpen()
	if a.Host != "" && !a.IP.IsValid() {
		ips, err := g.cfg.lookup(ctx, a.Host)
		if err == nil && len(ips) == 0 {
			err = errors.New("the name has no address")
		}
		if err != nil {
			return netip.Addr{}, fmt.Errorf("cannot listen on %s: %w; correct %s", g.cfg.Listen, err, listenKeys)
		}
		ip = ips[0]
		for _, other := range ips {
			beyond = beyond || !apirule.IsLoopback(other)
			if other.Unmap().Is4() && !ip.Unmap().Is4() {
				ip = other // as net.Listen prefers
			}
		}
	}
	// Not while a reload takes the token away.
	g.reloading.Lock()
	defer g.reloading.Unlock()
	g.beyond.Store(beyond)
	if beyond && g.tokens.Load().control == nil {
		return netip.Addr{}, fmt.Errorf("%w: api.listen: %w", datacenter.ErrInvalidInput, apirule.OpenWithoutToken(g.cfg.Listen))
	}
	return ip, nil
}

// explain says what to do about an address that cannot be bound.
func (g *Guard) explain(err error) error {
	advice := "correct " + listenKeys
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		advice = "another program, maybe another agent, listens there: stop it, or choose another port in " + listenKeys
	case errors.Is(err, syscall.EACCES):
		advice = "ports below 1024 need a privilege: choose a higher one in " + listenKeys
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		advice = "this host has no such address: correct " + listenKeys
	}
	return fmt.Errorf("cannot listen on %s: %w; %s", g.cfg.Listen, err, advice)
}

// limited bounds the connections open at once. One for which there is no room is
// closed rather than left waiting: who asks then knows, instead of hanging.
type limited struct {
	net.Listener
	guard *Guard
	// pace keeps a rush from filling the processors' queues: a step waits in them too.
	pace *rate.Limiter
}

// So many connections a second, and so many at once, are taken at most.
const acceptsPerS, acceptBurst = 4000, 8

func newLimited(l net.Listener, g *Guard) *limited {
	return &limited{Listener: l, guard: g, pace: rate.NewLimiter(acceptsPerS, acceptBurst)}
}

func (l *limited) Accept() (net.Conn, error) {
	g := l.guard
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				g.acceptFailed(err)
			}
			return nil, err // net/http waits and tries again when files have run out
		}
		if !l.pace.Allow() {
			<-time.After(time.Millisecond)
		}
		admitted, evicted := g.connections.admit(conn)
		if evicted != nil {
			_ = evicted.Conn.Close() // it was counted out
		}
		if admitted != nil {
			return admitted, nil
		}
		g.rejected[tooManyConnections].Add(1)
		if unlogged, ok := g.throttles[tooManyConnections].allow(g.cfg.now()); ok {
			g.cfg.Log.Warn().Int("max_connections", g.cfg.MaxConnections).Int("max_connections_per_address", g.connections.perAddress).
				Str("address", conn.RemoteAddr().String()).Uint64("unlogged", unlogged).
				Msg("connection refused: too many are open and none is idle; raise api.max_connections if they are meant to be")
		}
		_ = conn.Close() // nothing was sent
	}
}

// acceptFailed counts and tells that a connection could not be taken. If that is
// for want of files, one that is idle gives up its own.
func (g *Guard) acceptFailed(err error) {
	g.acceptErrors.Add(1)
	advice := ""
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		advice = ": raise the limit of open files (LimitNOFILE= of the unit, ulimit -n)"
		if idle := g.connections.evictOldest(); idle != nil {
			_ = idle.Conn.Close() // it was counted out
		}
	}
	if unlogged, ok := g.acceptLog.allow(g.cfg.now()); ok {
		g.cfg.Log.Error().Err(err).Uint64("unlogged", unlogged).Msg("API: connections cannot be accepted" + advice)
	}
}
