package config

import (
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// The bounds of the API's settings.
const (
	maxRequestsPerS  = 1_000_000
	maxConnections   = 1_000_000
	maxHistoryStates = 1_000_000
)

func (a *API) validate(r *rules) {
	if a.Listen != "" {
		a.validateListen(r)
	}
	r.that(a.TokenFile != "" || a.ReadTokenFile == "", "api.token_file", "is missing; read_token_file needs it, or nobody could command")
	r.that(a.TLSCertFile != "" || a.TLSKeyFile == "", "api.tls_cert_file", "is missing; tls_key_file needs it")
	r.that(a.TLSKeyFile != "" || a.TLSCertFile == "", "api.tls_key_file", "is missing; tls_cert_file needs it")
	for i, origin := range a.AllowedOrigins {
		u, err := url.Parse(origin)
		r.that(err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && origin == u.Scheme+"://"+u.Host,
			"api.allowed_origins["+strconv.Itoa(i)+"]", "must be a scheme, a host and perhaps a port, such as https://grid.example:8443, got %q", origin)
	}
	r.that(a.MaxRequestsPerS >= 0 && a.MaxRequestsPerS <= maxRequestsPerS, "api.max_requests_per_s",
		"must be from 0 (no limit) to %d, got %v", maxRequestsPerS, a.MaxRequestsPerS)
	r.that(a.MaxConnections >= 1 && a.MaxConnections <= maxConnections, "api.max_connections", "must be from 1 to %d, got %d", maxConnections, a.MaxConnections)
	r.that(a.HistoryStates >= 1 && a.HistoryStates <= maxHistoryStates, "api.history_states", "must be from 1 to %d, got %d", maxHistoryStates, a.HistoryStates)
}

func (a *API) validateListen(r *rules) {
	host, port, err := net.SplitHostPort(a.Listen)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if !r.that(err == nil && strings.TrimSpace(host) == host, "api.listen", "must be HOST:PORT such as 127.0.0.1:8480, or empty for no API, got %q", a.Listen) {
		return
	}
	ip, err := netip.ParseAddr(host)
	open := host == "" || err == nil && !ip.IsLoopback() // what a name stands for is seen when it is listened on
	r.that(!open || a.TokenFile != "", "api.listen", "%q is open to other machines, which needs a token: set api.token_file, or listen on 127.0.0.1", a.Listen)
}

func (c *Control) validate(r *rules) {
	r.that(c.DefaultLeaseS >= 0 && c.DefaultLeaseS <= datacenter.MaxLeaseS, "control.default_lease_s",
		"must be from 0 (no lease) to %d, got %v", datacenter.MaxLeaseS, c.DefaultLeaseS)
}
