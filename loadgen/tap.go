package loadgen

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"
)

// Sample is the latency of tokens of one request that came together: Tokens of them
// are so many samples of ITL.
type Sample struct {
	// At is when they came.
	At     time.Time
	ITL    time.Duration
	Tokens int
}

// Samples are what a tap has kept.
type Samples struct {
	// All are in order of time.
	All []Sample
	// Share is the part of those that came which were kept, drawn at random; 1 is all.
	Share float64
}

// Tap keeps single latencies from when it was put on until it is taken off. Without one
// a token costs no more than a look whether there is one.
type Tap struct {
	generator *Generator
	taps      [numShards]*shardTap
}

// shardTap is the part of a tap that has the samples of a shard, under its mutex.
type shardTap struct {
	most    int
	random  *rand.Rand
	halved  uint // one in 2^halved is kept
	kept    []tapped
	started uint64 // sets of indexes so far: each halving begins a new one
}

// tapped is a sample, as a bundle was recorded.
type tapped struct {
	at, each time.Duration
	tokens   int
}

// place is where a bundle was recorded in a tap.
type place struct {
	tap     *shardTap
	started uint64
	index   int
}

// Tap begins to keep single latencies, of about so many requests' tokens at most: when
// there are more, half of those so far is dropped at random, and of those to come half
// is left out. A generator has one tap at a time; a new one takes the place of the one
// before, which keeps what it has.
func (g *Generator) Tap(most int) *Tap {
	t := &Tap{generator: g}
	for i := range t.taps {
		t.taps[i] = &shardTap{most: max(most/numShards, 2), random: rand.New(rand.NewPCG(g.cfg.Seed, uint64(i)))}
		s := &g.meter.shards[i]
		s.mu.Lock()
		s.tap = t.taps[i]
		s.mu.Unlock()
	}
	return t
}

// Take takes the tap off and returns what it has kept. It is for one call.
func (t *Tap) Take() Samples {
	epoch := t.generator.client.Epoch()
	var samples Samples
	var halved uint
	for i, tap := range t.taps {
		s := &t.generator.meter.shards[i]
		s.mu.Lock()
		if s.tap == tap {
			s.tap = nil
		}
		s.mu.Unlock()
		halved = max(halved, tap.halved)
	}
	for _, tap := range t.taps {
		for ; tap.halved < halved; tap.halve() { // all streams are to count alike
		}
		for _, k := range tap.kept {
			samples.All = append(samples.All, Sample{epoch.Add(k.at), k.each, k.tokens})
		}
	}
	samples.Share = 1 / float64(uint64(1)<<halved)
	slices.SortStableFunc(samples.All, func(a, b Sample) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.ITL, b.ITL), cmp.Compare(a.Tokens, b.Tokens))
	})
	return samples
}

// record notes a bundle, in the place of the same one before more joined it.
func (t *shardTap) record(b *bundle, at time.Duration, joins bool) {
	k := tapped{at, b.each, b.tokens}
	if joins {
		if p := &b.tapped; p.tap == t && p.started == t.started && p.index >= 0 {
			t.kept[p.index] = k
		}
		return
	}
	b.tapped = place{t, t.started, -1}
	if t.halved > 0 && t.random.Uint64()>>(64-t.halved) != 0 {
		return
	}
	if len(t.kept) >= t.most {
		t.halve()
		if t.random.Uint64()>>63 != 0 {
			return
		}
	}
	b.tapped = place{t, t.started, len(t.kept)}
	t.kept = append(t.kept, k)
}

// halve drops half of what is kept, each sample as likely.
func (t *shardTap) halve() {
	t.kept = slices.DeleteFunc(t.kept, func(tapped) bool { return t.random.Uint64()>>63 != 0 })
	t.halved++
	t.started++
}
