package guard

import (
	"math"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/time/rate"
)

const (
	// maxClients bounds the addresses remembered: the one not seen for longest makes
	// room, and each is forgotten after clientExpiry.
	maxClients   = 4096
	clientExpiry = time.Hour
	// An address that sends wrong tokens is answered 401 so often, then 429.
	failureBurst, failuresPerS = 10, 1
	// maxRetryAfter bounds how long a client is told to wait.
	maxRetryAfter = time.Hour
)

// clients remembers what client addresses have done lately.
type clients struct {
	perS  rate.Limit // requests; 0: no limit
	burst int

	mu        sync.Mutex
	byAddress *simplelru.LRU[netip.Addr, *client]
}

// client is one address, or one network of IPv6.
type client struct {
	lastSeen time.Time
	// Requests with the control token, with the read token, and without one of ours:
	// whoever shares the address cannot use up what is another's.
	control, read, anyone *rate.Limiter
	// failures are the wrong tokens that are still answered as such.
	failures *rate.Limiter
}

func newClients(requestsPerS float64) *clients {
	byAddress, _ := simplelru.NewLRU[netip.Addr, *client](maxClients, nil) // fails for a size of 0
	return &clients{perS: rate.Limit(requestsPerS), burst: int(math.Ceil(min(max(requestsPerS, 1), math.MaxInt32))), byAddress: byAddress}
}

// visit calls f with what is remembered of the address; no other call comes at the
// same time.
func (c *clients) visit(address netip.Addr, now time.Time, f func(*client)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	visitor, ok := c.byAddress.Get(address)
	if !ok {
		visitor = &client{
			control: rate.NewLimiter(c.perS, c.burst), read: rate.NewLimiter(c.perS, c.burst), anyone: rate.NewLimiter(c.perS, c.burst),
			failures: rate.NewLimiter(failuresPerS, failureBurst),
		}
		c.byAddress.Add(address, visitor)
	}
	visitor.lastSeen = now
	for _, oldest, ok := c.byAddress.GetOldest(); ok && now.Sub(oldest.lastSeen) > clientExpiry; _, oldest, ok = c.byAddress.GetOldest() {
		c.byAddress.RemoveOldest()
	}
	f(visitor)
}

// takeRequest counts a request of somebody in a role; the time returned is how long
// to wait before the next if this one is one too many, else 0.
func (c *clients) takeRequest(of *client, role string, now time.Time) time.Duration {
	switch {
	case c.perS == 0:
		return 0
	case role == roleControl:
		return take(of.control, now)
	case role == roleRead:
		return take(of.read, now)
	default:
		return take(of.anyone, now)
	}
}

// take takes one from the limiter; the time returned is how long there is none,
// 0 if there was one.
func take(l *rate.Limiter, now time.Time) time.Duration {
	if l.AllowN(now, 1) {
		return 0
	}
	wait := (1 - l.TokensAt(now)) / float64(l.Limit())
	return time.Duration(min(max(wait, 0.001), maxRetryAfter.Seconds()) * float64(time.Second))
}

// clientAddress reads a connection's remote address: what is counted together, and
// what the log calls it. A host has a whole /64 of IPv6 to itself, as a rule, and
// counts once.
func clientAddress(remote string) (counted netip.Addr, name string) {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		host = remote
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}, printable(host)
	}
	ip = ip.Unmap().WithZone("")
	if ip.Is4() {
		return ip, ip.String()
	}
	network, err := ip.Prefix(64)
	if err != nil {
		return ip, ip.String()
	}
	return network.Addr(), ip.String()
}
