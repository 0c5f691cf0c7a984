package guard

import (
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/g2g-agent/g2g-agent/internal/apirule"
)

// listenAddress is what to listen on.
type listenAddress struct{ apirule.Address }

// namesThisHost reports whether a Host header names this host in a way that no
// name server has a say in: as localhost, by a loopback address, or by the very
// name that it was told to listen on.
func (a *listenAddress) namesThisHost(header string) bool {
	host := header
	if h, port, err := net.SplitHostPort(header); err == nil {
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return false
		}
		host = h
	} else if inner, ok := strings.CutPrefix(header, "["); ok {
		if host, ok = strings.CutSuffix(inner, "]"); !ok {
			return false
		}
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if host == "" {
		return false
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return apirule.IsLoopback(ip) || ip == a.IP
	}
	return host == a.Host || host == "localhost" || strings.HasSuffix(host, ".localhost")
}
