// Package hostname has the rule of when two spellings of a host are one host.
package hostname

import (
	"net/netip"
	"strings"
)

// Canonical is a host's name or IP address in the one form that names it: lower case
// and without the dot at the end for a name; for an address the shortest form, that of
// IPv4 where it is one. The zone of an IPv6 address stays as it is.
func Canonical(host string) string {
	name := strings.TrimRight(host, ".")
	if name == "" {
		return host
	}
	if ip, err := netip.ParseAddr(name); err == nil {
		return ip.Unmap().String()
	}
	return strings.ToLower(name)
}

// Identity is [Canonical], and one form for all that by convention is this host:
// localhost and names below it, 127.0.0.1 and ::1, and the addresses that name none,
// which connect to it. Other addresses of 127.0.0.0/8 stay apart. It names a host and is
// not to be connected to, since a server may listen on one of them alone.
func Identity(host string) string {
	const thisHost = "::1"
	host = Canonical(host)
	switch host {
	case "localhost", "localhost.localdomain", "localhost4", "localhost6", "ip6-localhost", "ip6-loopback", "127.0.0.1", "0.0.0.0", "::":
		return thisHost
	}
	if strings.HasSuffix(host, ".localhost") { // RFC 6761, section 6.3
		return thisHost
	}
	return host
}
