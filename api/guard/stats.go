package guard

import (
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Stats counts what was refused since the start, by reason, and the connections.
type Stats struct {
	// Unauthorized requests had no token or a wrong one, Forbidden ones the read
	// token where the control token is needed.
	Unauthorized, Forbidden uint64
	// Rate is the requests beyond a client's rate, and the wrong tokens beyond what
	// an address may try.
	Rate uint64
	// Connections is the connections closed at once, and the requests refused on those
	// in reserve, since too many were open.
	Connections uint64
	// Origin is the requests of web pages of other origins, Host those that named a
	// host that is not this one.
	Origin, Host uint64
	// TooLarge is the requests of more than 64 KiB.
	TooLarge uint64
	// OpenConnections is the connections open now.
	OpenConnections int
	// EvictedConnections is the idle connections that were closed to make room for new
	// ones, AcceptErrors the times a connection could not be taken.
	EvictedConnections, AcceptErrors uint64
}

// Stats returns the counts as they are now.
func (g *Guard) Stats() Stats {
	count := func(r reason) uint64 { return g.rejected[r].Load() }
	open, evicted := g.connections.counts()
	return Stats{
		Unauthorized: count(unauthorized), Forbidden: count(forbidden), Rate: count(tooFast), Connections: count(tooManyConnections),
		Origin: count(foreignOrigin), Host: count(foreignHost), TooLarge: count(tooLarge), OpenConnections: open,
		EvictedConnections: evicted, AcceptErrors: g.acceptErrors.Load(),
	}
}

// reason is why something was refused.
type reason int

const (
	unauthorized reason = iota
	forbidden
	tooFast
	tooManyConnections
	foreignOrigin
	foreignHost
	tooLarge
	numReasons
)

func (r reason) String() string {
	return [numReasons]string{"unauthorized", "forbidden", "rate", "connections", "origin", "host", "too_large"}[r]
}

// Refusals are anyone's to cause, so that their lines in the log are bounded: one
// of each reason in a while, and commands, which are audited, one by one up to a
// flood.
const (
	refusalLogEvery   = 10 * time.Second
	refusedAuditEvery = time.Second
	refusedAuditBurst = 20
)

// throttle lets a line be logged now and then, and counts those in between.
type throttle struct {
	limit    *rate.Limiter
	unlogged atomic.Uint64
}

func newThrottle(every time.Duration, burst int) *throttle {
	return &throttle{limit: rate.NewLimiter(rate.Every(every), burst)}
}

// allow reports whether to log now, and how many were not logged since the last
// line.
func (t *throttle) allow(now time.Time) (unlogged uint64, ok bool) {
	if !t.limit.AllowN(now, 1) {
		t.unlogged.Add(1)
		return 0, false
	}
	return t.unlogged.Swap(0), true
}
