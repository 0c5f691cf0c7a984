// Package apirule says what the settings of the HTTP API must be. Each rule is here
// once: package config checks what was written with it, package guard what it is
// given. Who calls adds to an error which setting it is about.
package apirule

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/g2g-agent/g2g-agent/internal/excerpt"
	"github.com/g2g-agent/g2g-agent/internal/hostname"
)

// The bounds of the settings.
const (
	maxRequestsPerS = 1_000_000
	maxConnections  = 1_000_000
	maxQuoted       = 300 // bytes that a message repeats of a setting
)

// Address is what to listen on.
type Address struct {
	// Host is empty for all addresses of this host, lower case otherwise.
	Host, Port string
	IP         netip.Addr // the host, unless it is a name or empty
}

// ParseListen reads HOST:PORT.
func ParseListen(listen string) (Address, error) {
	host, port, err := net.SplitHostPort(listen)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil || strings.ContainsAny(host, " \t\r\n/@,[]") {
		return Address{}, fmt.Errorf("must be HOST:PORT such as 127.0.0.1:8480, got %s", excerpt.Quote(listen, maxQuoted))
	}
	a := Address{Host: strings.ToLower(host), Port: port}
	if ip, err := netip.ParseAddr(host); err == nil {
		a.IP = ip
	}
	return a, nil
}

// IsOpen reports whether the address is, without asking anybody, one that other
// hosts may reach. What a name stands for is seen when it is listened on.
func (a *Address) IsOpen() bool { return a.Host == "" || a.IP.IsValid() && !IsLoopback(a.IP) }

// IsLoopback reports whether only this host reaches the address.
func IsLoopback(ip netip.Addr) bool { return ip.Unmap().IsLoopback() }

// OpenWithoutToken is what is wrong with listening where other hosts reach it
// without a control token.
func OpenWithoutToken(listen string) error {
	return fmt.Errorf("%s is open to other machines, which needs a token: set api.token_file, or listen on 127.0.0.1", excerpt.Quote(listen, maxQuoted))
}

// Origin returns the origin of web pages as browsers write it: without a port that
// goes without saying.
func Origin(text string) (string, error) {
	origin := strings.ToLower(text)
	u, err := url.Parse(origin)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || strings.ContainsAny(u.Host, "* ,") ||
		origin != u.Scheme+"://"+u.Host || !hasPortOrNone(u) {
		return "", fmt.Errorf("must be a scheme, a host and perhaps a port, such as https://grid.example:8443, got %s", excerpt.Quote(text, maxQuoted))
	}
	usual := map[string]string{"http": ":80", "https": ":443"}
	return strings.TrimSuffix(origin, usual[u.Scheme]), nil
}

// hasPortOrNone reports whether the port is a number that ports have, or there is no
// colon either.
func hasPortOrNone(u *url.URL) bool {
	if port := u.Port(); port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		return err == nil && n > 0
	}
	return !strings.HasSuffix(u.Host, ":")
}

// TLSFiles checks the files of a certificate and its key: both or none. The error
// is about the setting called missing.
func TLSFiles(certFile, keyFile string) (missing string, err error) {
	const cert, key = "tls_cert_file", "tls_key_file"
	switch {
	case certFile == "" && keyFile != "":
		return cert, errors.New("is missing; " + key + " needs it")
	case keyFile == "" && certFile != "":
		return key, errors.New("is missing; " + cert + " needs it")
	}
	return "", nil
}

// ControlWithRead checks that there is a control token, or its file, where there is
// one for reading. The error is about the setting of the former.
func ControlWithRead(control, read string) error {
	if read != "" && control == "" {
		return errors.New("is missing; read_token_file needs it, or anyone could command and not read")
	}
	return nil
}

// RequestsPerS checks how many requests a second a client may make.
func RequestsPerS(r float64) error {
	if !(r >= 0 && r <= maxRequestsPerS) {
		return fmt.Errorf("must be from 0 (no limit) to %d, got %v", maxRequestsPerS, r)
	}
	return nil
}

// Connections checks how many connections may be open at once.
func Connections(n int) error {
	if n < 1 || n > maxConnections {
		return fmt.Errorf("must be from 1 to %d, got %d", maxConnections, n)
	}
	return nil
}

// ConnectionsPerAddress checks how many of most connections may be open from one
// client address; 0 leaves that to the API.
func ConnectionsPerAddress(n, most int) error {
	if n < 0 || n > max(most, 1) {
		return fmt.Errorf("must be from 1 to max_connections (%d), or 0 for half of it, got %d", most, n)
	}
	return nil
}

// Host returns a host name as it stands in requests, without a port.
func Host(text string) (string, error) {
	bare := strings.TrimSuffix(strings.TrimPrefix(text, "["), "]")
	if _, err := netip.ParseAddr(bare); err == nil {
		return hostname.Canonical(bare), nil
	}
	host := hostname.Canonical(text)
	if strings.Trim(host, ".") == "" || strings.ContainsAny(host, ":/@*,[]?# \t\r\n") {
		return "", fmt.Errorf("must be a host name or an address without a port, such as agent.example, got %s", excerpt.Quote(text, maxQuoted))
	}
	return host, nil
}
