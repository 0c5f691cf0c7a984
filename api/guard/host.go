package guard

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// listenAddress is what to listen on.
type listenAddress struct {
	// host is empty for all addresses of this host, lower case otherwise.
	host, port string
	ip         netip.Addr // the host, unless it is a name or empty
}

// parseListen reads HOST:PORT.
func parseListen(listen string) (listenAddress, error) {
	host, port, err := net.SplitHostPort(listen)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil || strings.ContainsAny(host, " \t/@,[]") {
		return listenAddress{}, fmt.Errorf("%w: api.listen must be HOST:PORT with a port of 0 to 65535, such as 127.0.0.1:8480 or [::1]:8480, got %q",
			datacenter.ErrInvalidInput, listen)
	}
	a := listenAddress{host: strings.ToLower(host), port: port}
	if ip, err := netip.ParseAddr(host); err == nil {
		a.ip = ip
	}
	return a, nil
}

// literallyBeyondLoopback reports whether the address is, without asking anybody,
// one that other hosts may reach.
func (a *listenAddress) literallyBeyondLoopback() bool {
	return a.host == "" || a.ip.IsValid() && !isLoopback(a.ip)
}

func isLoopback(ip netip.Addr) bool { return ip.Unmap().IsLoopback() }

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
		return isLoopback(ip) || ip == a.ip
	}
	return host == a.host || host == "localhost" || strings.HasSuffix(host, ".localhost")
}
