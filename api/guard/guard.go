package guard

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/apirule"
)

// Config is what a [Guard] is made from.
type Config struct {
	// Listen is HOST:PORT; without HOST, all addresses of this host; port 0 takes
	// a free one.
	Listen string
	// Token is needed for commands, ReadToken or Token for reading; empty: none is.
	// A ReadToken needs a Token.
	Token, ReadToken string
	// TLSCertFile and TLSKeyFile hold the certificate chain and its key in PEM;
	// both empty: plain HTTP.
	TLSCertFile, TLSKeyFile string
	// AllowedOrigins are the origins of web pages, beside the agent's own, that may
	// use the API, such as https://grid.example.
	AllowedOrigins []string
	// AllowedHosts are names of this host, beside its addresses and its own name, by
	// which reading is allowed where it needs no token.
	AllowedHosts []string
	// MaxRequestsPerS is the requests a second that each client address may make;
	// 0: as many as it likes.
	MaxRequestsPerS float64
	// MaxConnections bounds the connections open at once; 0 is 2048.
	MaxConnections int
	// MaxConnectionsPerAddress bounds those of one client address; 0 is half of
	// MaxConnections, though at least 64 of them.
	MaxConnectionsPerAddress int
	Log                      zerolog.Logger

	// For tests.
	now    func() time.Time
	lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	// bodyTimeout bounds how long a request's body may take to come.
	bodyTimeout time.Duration
}

// defaultMaxConnections is the limit on connections where none is given.
const defaultMaxConnections = 2048

// Guard stands before the control API. Its methods are safe for use by many
// goroutines.
type Guard struct {
	cfg     Config // without the tokens
	address listenAddress
	tokens  atomic.Pointer[tokens]
	// beyond says that the guard listens, or would listen, beyond loopback. For a
	// host name it is known once Listen has resolved it.
	beyond       atomic.Bool
	certificate  *certificate // nil without TLS
	origins      *origins
	hosts        hosts
	clients      *clients
	connections  *connections
	acceptErrors atomic.Uint64
	acceptLog    *throttle
	rejected     [numReasons]atomic.Uint64
	throttles    [numReasons]*throttle
	refusedAudit *throttle
	reloading    sync.Mutex
}

// New checks the config and reads the certificate. It binds nothing yet. Its
// errors name the key at fault and wrap [datacenter.ErrInvalidInput]; all that is
// wrong is reported together.
func New(cfg Config) (*Guard, error) {
	address, err := apirule.ParseListen(cfg.Listen)
	secrets, tokenErr := newTokens(cfg.Token, cfg.ReadToken)
	trusted, originErr := newOrigins(cfg.AllowedOrigins)
	own, _ := os.Hostname() // without one it has none
	named, hostErr := newHosts(cfg.AllowedHosts, trusted, own)
	wrong := func(key string, err error) error {
		if err == nil {
			return nil
		}
		return fmt.Errorf("%w: api.%s %w", datacenter.ErrInvalidInput, key, err)
	}
	if cfg.MaxConnections == 0 {
		cfg.MaxConnections = defaultMaxConnections
	}
	err = errors.Join(wrong("listen", err), tokenErr, originErr, hostErr,
		wrong("max_requests_per_s", apirule.RequestsPerS(cfg.MaxRequestsPerS)), wrong("max_connections", apirule.Connections(cfg.MaxConnections)),
		wrong("max_connections_per_address", apirule.ConnectionsPerAddress(cfg.MaxConnectionsPerAddress, cfg.MaxConnections)))
	var pair *certificate
	if cfg.TLSCertFile != "" || cfg.TLSKeyFile != "" {
		var pairErr error
		pair, pairErr = newCertificate(cfg.TLSCertFile, cfg.TLSKeyFile)
		err = errors.Join(err, pairErr)
	}
	if err != nil {
		return nil, err
	}
	if cfg.now == nil {
		cfg.now = time.Now
	}
	if cfg.bodyTimeout == 0 {
		cfg.bodyTimeout = defaultBodyTimeout
	}
	if cfg.lookup == nil {
		cfg.lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	cfg.Token, cfg.ReadToken = "", "" // only their digests stay
	g := &Guard{
		cfg: cfg, address: listenAddress{address}, certificate: pair, origins: trusted, hosts: named,
		clients: newClients(cfg.MaxRequestsPerS), refusedAudit: newThrottle(refusedAuditEvery, refusedAuditBurst),
		connections: newConnections(cfg.MaxConnections, cfg.MaxConnectionsPerAddress, cfg.now), acceptLog: newThrottle(refusalLogEvery, 1),
	}
	for i := range g.throttles {
		g.throttles[i] = newThrottle(refusalLogEvery, 1)
	}
	g.tokens.Store(secrets)
	g.beyond.Store(address.IsOpen())
	return g, nil
}

// Reload puts new tokens in place of the old ones and reads the certificate files
// again. If anything is wrong with either, nothing is changed and the error, which
// wraps [datacenter.ErrInvalidInput], says what. Connections that are open stay.
func (g *Guard) Reload(token, readToken string) error {
	var pair *pair
	var pairErr error
	if g.certificate != nil {
		pair, pairErr = g.certificate.readAnew()
	}
	g.reloading.Lock()
	defer g.reloading.Unlock()
	secrets, err := newTokens(token, readToken)
	if err == nil && secrets.control == nil && g.beyond.Load() {
		err = fmt.Errorf("%w: api.token_file: there is no control token any more, and api.listen (%s) is reachable from other hosts: "+
			"write one into the file",
			datacenter.ErrInvalidInput, g.cfg.Listen)
	}
	if err = errors.Join(err, pairErr); err != nil {
		return fmt.Errorf("nothing was reloaded: %w", err)
	}
	if pair != nil {
		g.certificate.pair.Store(pair)
	}
	g.tokens.Store(secrets)
	return nil
}

// Warnings are remarks on how the API is protected that do not stop a run. For a
// host name in Config.Listen they are complete once Listen has resolved it.
func (g *Guard) Warnings() []string {
	var warnings []string
	t := g.tokens.Load()
	if t.control != nil && g.beyond.Load() && g.certificate == nil {
		warnings = append(warnings, fmt.Sprintf("api.listen (%s) is reachable from other hosts without TLS: tokens are sent in the clear; "+
			"set api.tls_cert_file and api.tls_key_file", g.cfg.Listen))
	}
	for _, token := range []struct {
		key string
		of  *token
	}{{"api.token_file", t.control}, {"api.read_token_file", t.read}} {
		if token.of != nil && token.of.length < goodTokenLength {
			warnings = append(warnings, fmt.Sprintf("%s: the token has %d characters and can be guessed; use at least %d random ones, "+
				"such as from: openssl rand -base64 32",
				token.key, token.of.length, goodTokenLength))
		}
	}
	if g.certificate != nil {
		if w := g.certificate.pair.Load().warning(g.cfg.now()); w != "" {
			warnings = append(warnings, fmt.Sprintf("api.tls_cert_file: %s: %s", g.cfg.TLSCertFile, w))
		}
	}
	return warnings
}

// The roles of a caller.
const (
	// roleControl: the caller sent the control token.
	roleControl = "control"
	// roleRead: the caller sent the read token.
	roleRead = "read"
	// roleAnyone: the caller sent no token of ours, or none is configured.
	roleAnyone = "anyone"
)

// caller is who made a request.
type caller struct {
	// Role is roleControl, roleRead or roleAnyone.
	Role string
	// Address is the client's, without its port.
	Address string
	// UserAgent is what the client calls itself, cut to a bearable length.
	UserAgent string
	// counted is what of the address is counted together.
	counted netip.Addr
}

type callerKey struct{}

// ClientOf says who made the request that ctx belongs to, as far as one is told from
// another: by role and address. It is empty if ctx did not come through [Guard.Wrap].
func ClientOf(ctx context.Context) string {
	c, ok := ctx.Value(callerKey{}).(caller)
	if !ok {
		return ""
	}
	return c.Role + " " + c.counted.String()
}

// callerFrom returns who made the request that ctx belongs to, anyone if ctx did
// not come through [Guard.Wrap].
func callerFrom(ctx context.Context) caller {
	if c, ok := ctx.Value(callerKey{}).(caller); ok {
		return c
	}
	return caller{Role: roleAnyone}
}

// CheckOrigin reports whether a browser may make the request for the page that it
// comes from: the page is the agent's own or of an allowed origin. What is not
// from a browser names no origin and may.
func (g *Guard) CheckOrigin(r *http.Request) bool { return g.origins.allow(r) }
