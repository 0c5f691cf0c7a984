package zeusd

import (
	"time"

	"github.com/g2g-agent/g2g-agent/internal/backoff"
)

const (
	backoffFirst = 50 * time.Millisecond
	backoffMost  = time.Second
	// stableAfter is how long a connection must have lived for the next attempt to
	// come without the delay that earlier failures earned.
	stableAfter = 5 * time.Second
	// connectEvery is the time between two connections that come about, at least.
	connectEvery = time.Second

	refusedFirst = time.Second
	refusedMost  = 10 * time.Second
)

// refusedDelay returns the time from a refusal to the next attempt: it grows by
// half with each refusal in a row, the first being 0, from 1 s up to 10 s, and is
// shortened by up to a fifth, by u in [0, 1).
func refusedDelay(refusals int, u float64) time.Duration {
	return backoff.Policy{First: refusedFirst, Most: refusedMost, Factor: 1.5, Jitter: 0.2}.Delay(refusals, u)
}

// backoffDelay returns the time from the start of a failed attempt to the next:
// u times a ceiling that doubles with each failure in a row, the first being 0,
// from 50 ms up to 1 s. With u uniform in [0, 1), clients that lost one daemon
// together do not come back together.
func backoffDelay(failures int, u float64) time.Duration {
	return backoff.Policy{First: backoffFirst, Most: backoffMost, Factor: 2, Jitter: 1}.Delay(failures, u)
}
