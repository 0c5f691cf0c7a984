package plots

import "math"

// maxBuckets is how many buckets a [reducer] has at most: at least two a pixel of
// the widest picture that anybody looks at as a whole.
const maxBuckets = 2048

// reducer keeps a series of any length in bounded memory, and its peaks with it:
// each bucket is a number of samples in a row, of which the first, the lowest, the
// highest and the last are kept. When there are too many buckets, two neighbours
// become one. Up to maxBuckets samples are kept as they are. A gap is kept if it is
// as long as a bucket.
type reducer struct {
	perBucket int // samples
	inLast    int // samples in the last bucket
	buckets   []bucket
}

// bucket is what is kept of some samples in a row. Those of y not a number count only
// where all are.
type bucket struct {
	first, low, high, last XY
	lowFirst               bool // low came before high
	gap                    bool // no sample has a number
}

func newBucket(at XY) bucket {
	return bucket{first: at, low: at, high: at, last: at, lowFirst: true, gap: !isFinite(at.Y)}
}

// followedBy is the bucket of the samples of b and then of next.
func (b bucket) followedBy(next bucket) bucket {
	switch {
	case next.gap:
		return b
	case b.gap:
		return next
	}
	lowLater, highLater := next.low.Y < b.low.Y, next.high.Y > b.high.Y
	switch {
	case lowLater && highLater:
		b.lowFirst = next.lowFirst
	case lowLater:
		b.lowFirst = false
	case highLater:
		b.lowFirst = true
	}
	if lowLater {
		b.low = next.low
	}
	if highLater {
		b.high = next.high
	}
	b.last = next.last
	return b
}

// add appends a sample.
func (r *reducer) add(at XY) {
	if math.IsInf(at.Y, 0) {
		at.Y = math.NaN()
	}
	if n := len(r.buckets); n > 0 && r.inLast < r.perBucket {
		r.buckets[n-1] = r.buckets[n-1].followedBy(newBucket(at))
		r.inLast++
		return
	}
	if len(r.buckets) == maxBuckets {
		for i := range maxBuckets / 2 {
			r.buckets[i] = r.buckets[2*i].followedBy(r.buckets[2*i+1])
		}
		r.buckets = r.buckets[:maxBuckets/2]
		r.perBucket *= 2
	}
	r.perBucket = max(r.perBucket, 1)
	r.buckets, r.inLast = append(r.buckets, newBucket(at)), 1
}

// points are the samples that were kept, without those on a level line between two
// others.
func (r *reducer) points() []XY {
	var all []XY
	add := func(at XY) {
		n := len(all)
		if n > 0 && all[n-1] == at {
			return
		}
		if n > 1 && all[n-2].Y == all[n-1].Y && all[n-1].Y == at.Y {
			all[n-1] = at
			return
		}
		all = append(all, at)
	}
	for _, b := range r.buckets {
		if b.gap {
			add(XY{b.first.X, math.NaN()})
			continue
		}
		add(b.first)
		if b.lowFirst {
			add(b.low)
			add(b.high)
		} else {
			add(b.high)
			add(b.low)
		}
		add(b.last)
	}
	return all
}

// maxMarks is how many moments or spans of one kind are kept.
const maxMarks = 2048

// thinner keeps moments in bounded memory: when there are too many, those closer to
// the one before than a picture can show are left out.
type thinner struct {
	apart float64
	at    []float64
}

func (t *thinner) add(at float64) {
	if n := len(t.at); n > 0 && at-t.at[n-1] <= t.apart {
		return
	}
	if t.at = append(t.at, at); len(t.at) < maxMarks {
		return
	}
	t.apart = max((t.at[len(t.at)-1]-t.at[0])/(maxMarks/2), 0)
	all := t.at
	t.at = all[:0]
	for i, at := range all {
		if n := len(t.at); i == 0 || at-t.at[n-1] > t.apart {
			t.at = append(t.at, at)
		}
	}
}

// spans keeps when something was the case, in bounded memory: when there are too
// many spans, those with the shortest gaps between them become one.
type spans struct {
	apart float64
	on    bool
	all   [][2]float64
}

// add says whether it is the case at a time. Times must not go back.
func (s *spans) add(at float64, on bool) {
	switch n := len(s.all); {
	case s.on:
		s.all[n-1][1] = at
	case on && n > 0 && at-s.all[n-1][1] <= s.apart:
		s.all[n-1][1] = at
	case on:
		s.all = append(s.all, [2]float64{at, at})
	}
	if s.on = on; len(s.all) < maxMarks {
		return
	}
	s.apart = (s.all[len(s.all)-1][1] - s.all[0][0]) / (maxMarks / 2)
	joined := s.all[:1]
	for _, next := range s.all[1:] {
		if last := &joined[len(joined)-1]; next[0]-last[1] <= s.apart {
			last[1] = next[1]
		} else {
			joined = append(joined, next)
		}
	}
	s.all = joined
}
