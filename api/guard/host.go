package guard

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/apirule"
)

// listenAddress is what to listen on.
type listenAddress struct{ apirule.Address }

// namesThisHost reports whether a Host header names this host in a way that no
// name server has a say in: as localhost, by a loopback address, or by the very
// name that it was told to listen on.
func (a *listenAddress) namesThisHost(header string) bool {
	host, ok := hostOf(header)
	if !ok {
		return false
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return apirule.IsLoopback(ip) || ip == a.IP
	}
	return host == a.Host || host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// hostOf is the name or address in a Host header, in lower case.
func hostOf(header string) (host string, ok bool) {
	host = header
	if h, port, err := net.SplitHostPort(header); err == nil {
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return "", false
		}
		host = h
	} else if inner, ok := strings.CutPrefix(header, "["); ok {
		if host, ok = strings.CutSuffix(inner, "]"); !ok {
			return "", false
		}
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	return host, host != ""
}

// hosts are the names by which others may read where that needs no token: those
// configured, of the API and of pages that may use it, and this machine's own.
type hosts map[string]bool

// newHosts checks the names.
func newHosts(allowed []string, o *origins, own string) (hosts, error) {
	h := hosts{}
	for i, text := range allowed {
		host, err := apirule.Host(text)
		if err != nil {
			return nil, fmt.Errorf("%w: api.allowed_hosts[%d] %w", datacenter.ErrInvalidInput, i, err)
		}
		h[host] = true
	}
	if o != nil {
		for origin := range o.allowed {
			if u, err := url.Parse(origin); err == nil { // it was checked
				h[u.Hostname()] = true
			}
		}
	}
	if host, err := apirule.Host(own); err == nil {
		h[host] = true
	}
	return h, nil
}

// name reports whether a Host header names this host: by one of the names, or by
// an address, which no page can point elsewhere.
func (h hosts) name(header string) bool {
	host, ok := hostOf(header)
	if !ok {
		return false
	}
	_, err := netip.ParseAddr(host)
	return err == nil || h[host]
}
