package power

import (
	"cmp"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"

	"github.com/g2g-agent/g2g-agent/internal/credential"
	"github.com/g2g-agent/g2g-agent/internal/excerpt"
	"github.com/g2g-agent/g2g-agent/internal/hostname"
)

// Endpoint is where a source reads, and which GPUs. Each kind uses some of the
// fields.
type Endpoint struct {
	// Host and Port are where it listens, or Socket.
	Host   string
	Port   int
	Socket string
	// File is what it reads, for sources of files.
	File string
	// TokenFile is where the token came from, and Token the token itself, nil for none.
	TokenFile string
	Token     *credential.Credential `json:"-"`
	// GPUIndices are the GPUs' on their host.
	GPUIndices []int
	// RangeW is the least and the most that one of the GPUs can draw, in watts; a
	// reading outside is treated as missing. Zero leaves that to the source.
	RangeW [2]float64
}

// MaxGPUIndex bounds the index of a GPU on its host.
const MaxGPUIndex = 65_535

// maxQuoted bounds what a message repeats of an address, in bytes.
const maxQuoted = 100

// maxRangeW is more than one GPU will ever draw.
const maxRangeW = 1_000_000

// CheckGPUs returns what is wrong with the indices of an endpoint's GPUs.
func CheckGPUs(indices []int) []Problem {
	var problems []Problem
	for i, index := range indices {
		key := fmt.Sprintf("gpu_indices[%d]", i)
		switch {
		case index < 0:
			problems = append(problems, Problem{key, fmt.Sprintf("must be >= 0, got %d", index)})
		case index > MaxGPUIndex:
			problems = append(problems, Problem{key, fmt.Sprintf("must be at most %d, got %d", MaxGPUIndex, index)})
		}
	}
	return problems
}

// CheckRange returns what is wrong with the range of a GPU's power, nothing for
// one that is not given.
func CheckRange(rangeW []float64) []Problem {
	if rangeW == nil || len(rangeW) == 2 && rangeW[0] >= 0 && rangeW[1] > rangeW[0] && rangeW[1] <= maxRangeW {
		return nil
	}
	return []Problem{{"power_range_w", fmt.Sprintf("must be [least, most] in watts, 0 <= least < most <= %v, got %v",
		float64(maxRangeW), rangeW)}}
}

// CheckAddress returns what is wrong with the address of an endpoint that is
// reached by host and port, or by a socket.
func (e *Endpoint) CheckAddress() []Problem {
	var problems []Problem
	add := func(ok bool, key, format string, args ...any) bool {
		if !ok {
			problems = append(problems, Problem{key, fmt.Sprintf(format, args...)})
		}
		return ok
	}
	add(e.Host != "" || e.Socket != "", "", "needs host or socket, has neither")
	add(e.Host == "" || e.Socket == "", "", "needs host or socket, has both")
	if e.Host != "" {
		add(validHost(e.Host), "host", "must be a name or an IP address alone, such as node1 or ::1, got %s; %s",
			QuoteAddress(e.Host), hostAdvice(e.Host))
	}
	if add(e.Port >= 0 && e.Port <= math.MaxUint16, "port", "must be a port, 0 to %d, got %d", math.MaxUint16, e.Port) {
		add(e.Socket == "" || e.Port == 0, "port", "a socket has no port; leave it out, got %d", e.Port)
	}
	return problems
}

// Address is the host and port, or the socket, in the form in which they are
// connected to and shown.
func (e *Endpoint) Address(defaultPort int) string {
	if e.Socket != "" {
		return filepath.Clean(e.Socket)
	}
	return net.JoinHostPort(hostname.Canonical(e.Host), strconv.Itoa(cmp.Or(e.Port, defaultPort)))
}

// Identity is the host and port, or the socket, in the one form that names them,
// however they are spelled. It is for telling daemons apart, not for connecting: see
// [hostname.Identity].
func (e *Endpoint) Identity(defaultPort int) string {
	if e.Socket != "" {
		return PathIdentity(e.Socket)
	}
	return net.JoinHostPort(hostname.Identity(e.Host), strconv.Itoa(cmp.Or(e.Port, defaultPort)))
}

// PathIdentity is the absolute path of a socket or file without links on the way, as
// far as it is there: /var/run is often /run.
func PathIdentity(path string) string {
	if dir, err := os.Getwd(); err == nil && !filepath.IsAbs(path) {
		path = dir + string(filepath.Separator) + path // not cleaned: a link may be on the way
	}
	if target, err := filepath.EvalSymlinks(path); err == nil {
		return target
	}
	dir, name := filepath.Split(filepath.Clean(path))
	if target, err := filepath.EvalSymlinks(dir); err == nil && dir != "" {
		return filepath.Join(target, name)
	}
	return filepath.Clean(path)
}

// validHost reports whether host is a name or an IP address and nothing beside it.
func validHost(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	return strings.Trim(host, ".") != "" && !strings.ContainsFunc(host, func(c rune) bool {
		return !unicode.IsLetter(c) && !unicode.IsDigit(c) && !strings.ContainsRune("-._", c)
	})
}

// hostAdvice says how to write what was put into host.
func hostAdvice(host string) string {
	inner, bracketed := strings.CutPrefix(host, "[")
	if inner, closed := strings.CutSuffix(inner, "]"); bracketed && closed {
		return "write " + excerpt.Printable(inner, maxQuoted) + " without brackets"
	}
	if name, port, err := net.SplitHostPort(host); err == nil && validHost(name) && name != "" {
		if _, err := strconv.ParseUint(port, 10, 16); err == nil {
			return fmt.Sprintf("put the port into port: {host: %q, port: %s}", name, port)
		}
	}
	return "scheme, path and blanks do not belong there, and the port has a key of its own"
}

// QuoteAddress quotes what was written as an address, unless there may be a
// password in it.
func QuoteAddress(address string) string {
	if strings.Contains(address, "@") {
		return "something with an @ in it, which is not shown since it may hold a password"
	}
	return excerpt.Quote(address, maxQuoted)
}
