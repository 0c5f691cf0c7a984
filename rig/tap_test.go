package rig

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/loadgen"
)

// TestServersCountAlike: of a busy server a share of the samples is kept, of a calm one
// all. Put together, each server's part is that of its tokens.
func TestServersCountAlike(t *testing.T) {
	const calm, busy = 40_000, 80_000
	at := time.Unix(1000, 0)
	samples := func(n int, itl time.Duration) []loadgen.Sample {
		var all []loadgen.Sample
		for i := range n {
			all = append(all, loadgen.Sample{At: at.Add(time.Duration(i) * time.Millisecond), ITL: itl, Tokens: 1})
		}
		return all
	}
	servers := []loadgen.Samples{
		{All: samples(calm, 20*time.Millisecond), Share: 1},
		{All: samples(busy/8, 80*time.Millisecond), Share: 1. / 8},
	}
	merged := merge(servers, 1)
	if merged.Share != 1./8 {
		t.Errorf("the share is %v, want that of the server of which the least was kept", merged.Share)
	}
	slow := 0
	for _, s := range merged.All {
		if s.ITL == 80*time.Millisecond {
			slow++
		}
	}
	if slow != busy/8 {
		t.Errorf("%d samples are the busy server's, want all %d", slow, busy/8)
	}
	if got, want := float64(slow)/float64(len(merged.All)), float64(busy)/(calm+busy); math.Abs(got-want) > 0.01 {
		t.Errorf("the busy server's part is %.3f, want %.3f", got, want)
	}
	if !slices.IsSortedFunc(merged.All, func(a, b loadgen.Sample) int { return a.At.Compare(b.At) }) {
		t.Error("not in order of time")
	}
	if diff := cmp.Diff(merged, merge(servers, 1)); diff != "" {
		t.Errorf("the same seed draws others:\n%s", diff)
	}
	servers[1].Share = 1
	if n := len(merge(servers, 1).All); n != calm+busy/8 {
		t.Errorf("%d samples where all were kept, want %d", n, calm+busy/8)
	}
}
