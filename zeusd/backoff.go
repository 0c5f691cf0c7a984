package zeusd

import (
	"context"
	"math"
	"time"
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
	d := float64(refusedFirst) * math.Pow(1.5, float64(min(refusals, 16)))
	return time.Duration(min(d, float64(refusedMost)) * (1 - u/5))
}

// backoffDelay returns the time from the start of a failed attempt to the next:
// u times a ceiling that doubles with each failure in a row, the first being 0,
// from 50 ms up to 1 s. With u uniform in [0, 1), clients that lost one daemon
// together do not come back together.
func backoffDelay(failures int, u float64) time.Duration {
	ceiling := backoffMost
	if failures < 5 { // 50 ms * 2^5 is beyond 1 s
		ceiling = min(ceiling, backoffFirst<<max(failures, 0))
	}
	return time.Duration(u * float64(ceiling))
}

// wait returns false if the context ended first.
func wait(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
