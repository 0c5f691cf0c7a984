package zeusd

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/g2g-agent/g2g-agent/internal/credential"
	"github.com/g2g-agent/g2g-agent/internal/hostname"
	"github.com/g2g-agent/g2g-agent/power"
)

// defaultPort is the TCP port of a zeusd unless it was told another.
const defaultPort = 4938

// Endpoint is where a daemon listens: a TCP address or a Unix socket. It is
// comparable; two endpoints of one address are one daemon, whatever their tokens.
type Endpoint struct {
	// Host is a name or an IP address; empty for a Unix socket.
	Host string
	// Port is the TCP port, 0 for [defaultPort].
	Port int
	// Socket is the path of a Unix socket; empty for TCP.
	Socket string
	// Token is sent as bearer token if there is one, and renewed when it is refused.
	// It is never logged or printed.
	Token *credential.Credential `json:"-"`
}

// String returns the address without the token: "node1:4938" or a socket's path.
func (e Endpoint) String() string {
	if e.Socket != "" {
		return e.Socket
	}
	return net.JoinHostPort(e.Host, strconv.Itoa(cmp.Or(e.Port, defaultPort)))
}

// GoString is String, so that no way of printing shows the token.
func (e Endpoint) GoString() string { return "zeusd.Endpoint(" + e.String() + ")" }

// url is the root of the daemon's API.
func (e Endpoint) url() string {
	if e.Socket != "" {
		return "http://localhost" // for the Host header; the path of the socket is no host name
	}
	return (&url.URL{Scheme: "http", Host: e.String()}).String()
}

// Address is the endpoint in the form in which it is connected to and shown; it has
// no token.
func (e Endpoint) Address() Endpoint {
	if e.Socket != "" {
		return Endpoint{Socket: filepath.Clean(e.Socket)}
	}
	return Endpoint{Host: hostname.Canonical(e.Host), Port: cmp.Or(e.Port, defaultPort)}
}

// daemon is the endpoint in the one form that names its daemon, however it is spelled,
// which is the key of everything kept per daemon.
func (e Endpoint) daemon() Endpoint {
	if e.Socket != "" {
		return Endpoint{Socket: power.PathIdentity(e.Socket)}
	}
	return Endpoint{Host: hostname.Identity(e.Host), Port: cmp.Or(e.Port, defaultPort)}
}

func (e Endpoint) validate() error {
	var errs []error
	at := power.Endpoint{Host: e.Host, Port: e.Port, Socket: e.Socket}
	for _, p := range at.CheckAddress() {
		errs = append(errs, errors.New(strings.TrimSpace("endpoint "+p.Key)+": "+p.Text))
	}
	if err := e.Token.Check(); err != nil {
		errs = append(errs, fmt.Errorf("endpoint %s: token: %w", e, err))
	}
	return errors.Join(errs...)
}

// Target is what to read from a daemon.
type Target struct {
	Endpoint Endpoint
	// GPUs are the indices of the GPUs to read.
	GPUs []int
	// CPU asks for all CPUs of the host as well. Beside GPUs they are read if the
	// daemon allows it; alone they are what the endpoint is for, and a refusal is
	// an error of the endpoint.
	CPU bool
	// PowerRangeW is the least and the most power that one of the GPUs can draw, in
	// watts; a reading outside is treated as missing. Zero is what the daemon says
	// of its power limit, up to twice the largest, or 4000 W.
	PowerRangeW [2]float64
}

// maxIndex bounds the index of a device.
const maxIndex = power.MaxGPUIndex

// mergeTargets joins the targets of one daemon, in the order of their first
// mention, with their GPUs sorted.
func mergeTargets(targets []Target) ([]Target, error) {
	var merged []Target
	var errs []error
	at := make(map[Endpoint]int)
	for i, t := range targets {
		if err := t.Endpoint.validate(); err != nil {
			errs = append(errs, fmt.Errorf("zeusd target %d: %w", i, err))
			continue
		}
		if len(t.GPUs) == 0 && !t.CPU {
			errs = append(errs, fmt.Errorf("zeusd target %d (%s): names no GPU and no CPU", i, t.Endpoint))
		}
		for _, p := range power.CheckGPUs(t.GPUs) {
			errs = append(errs, fmt.Errorf("zeusd target %d (%s): %s: %s", i, t.Endpoint, p.Key, p.Text))
		}
		address := t.Endpoint.Address()
		k, known := at[t.Endpoint.daemon()]
		if !known {
			k = len(merged)
			at[t.Endpoint.daemon()] = k
			merged = append(merged, Target{Endpoint: address})
		}
		m := &merged[k]
		m.GPUs = append(m.GPUs, t.GPUs...)
		m.CPU = m.CPU || t.CPU
		if err := m.mergeSecret(&t.Endpoint); err != nil {
			errs = append(errs, fmt.Errorf("zeusd target %d (%s): %w", i, t.Endpoint, err))
		}
	}
	for i := range merged {
		slices.Sort(merged[i].GPUs)
		merged[i].GPUs = slices.Compact(merged[i].GPUs)
	}
	return merged, errors.Join(errs...)
}

func (t *Target) mergeSecret(other *Endpoint) error {
	e := &t.Endpoint
	switch {
	case other.Token.Key() == "":
	case e.Token.Key() == "":
		e.Token = other.Token
	case e.Token.Key() != other.Token.Key():
		return errors.New("another target gives this endpoint another token; one connection has one")
	}
	return nil
}
