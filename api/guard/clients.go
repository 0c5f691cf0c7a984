package guard

import (
	"math"
	"net"
	"net/netip"
	"slices"
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
	// An address may try so many different tokens before it has to wait for the
	// next one to be looked at.
	guessBurst, guessesPerS = 100, 1
	// rememberedWrong is the wrong tokens that an address may send again without it
	// counting as one more guess.
	rememberedWrong = 4
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
	// requests with a token of ours, and without.
	known, unknown    *rate.Limiter
	failures, guesses *rate.Limiter
	wrong             []digest
	// The tokens that were accepted from here.
	control, read digest
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
			known: rate.NewLimiter(c.perS, c.burst), unknown: rate.NewLimiter(c.perS, c.burst),
			failures: rate.NewLimiter(failuresPerS, failureBurst), guesses: rate.NewLimiter(guessesPerS, guessBurst),
		}
		c.byAddress.Add(address, visitor)
	}
	visitor.lastSeen = now
	for _, oldest, ok := c.byAddress.GetOldest(); ok && now.Sub(oldest.lastSeen) > clientExpiry; _, oldest, ok = c.byAddress.GetOldest() {
		c.byAddress.RemoveOldest()
	}
	f(visitor)
}

// takeRequest counts a request; the time returned is how long to wait before the
// next if this one is one too many, else 0.
func (c *clients) takeRequest(of *client, known bool, now time.Time) time.Duration {
	switch {
	case c.perS == 0:
		return 0
	case known:
		return take(of.known, now)
	default:
		return take(of.unknown, now)
	}
}

// identify returns the role that comes with the token sent. To an address that has
// guessed too often a token is wrong unless it was accepted from there before.
func (c *client) identify(t *tokens, sent digest, now time.Time) string {
	role := t.roleOf(sent)
	accepted := &c.control
	switch role {
	case roleAnyone:
		if !slices.Contains(c.wrong, sent) {
			c.guesses.AllowN(now, 1)
			c.wrong = append(c.wrong[max(0, len(c.wrong)-rememberedWrong+1):], sent)
		}
		return roleAnyone
	case roleRead:
		accepted = &c.read
	}
	if !accepted.equal(sent) && c.guesses.TokensAt(now) < 1 {
		return roleAnyone
	}
	*accepted = sent
	return role
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
