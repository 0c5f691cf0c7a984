// Package backoff spaces attempts that fail.
package backoff

import (
	"context"
	"math"
	"time"
)

// Policy says how long to wait after one failure in a row after another.
type Policy struct {
	// First is the longest wait after the first failure; each further one makes it
	// longer by Factor, up to Most.
	First, Most time.Duration
	Factor      float64
	// Jitter is the part of the longest wait that chance decides on, from 0 to 1: with
	// 1, those who lost one server together do not come back together.
	Jitter float64
}

// Delay is how long to wait after that many failures in a row, the first being 0;
// u is drawn evenly from [0, 1).
func (p Policy) Delay(failures int, u float64) time.Duration {
	longest := min(float64(p.First)*math.Pow(p.Factor, float64(max(failures, 0))), float64(p.Most))
	return time.Duration(longest * (1 - p.Jitter + p.Jitter*u))
}

// Sleep waits for d, or until ctx ends: it then returns the cause of that. No time
// passes for a d of 0 or less.
func Sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 || ctx.Err() != nil {
		return context.Cause(ctx)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
