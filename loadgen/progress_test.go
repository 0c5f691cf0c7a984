package loadgen

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/completion"
)

// answer feeds a meter with one answer after the other: chunks that come one by
// one, each after the one before.
func (r *reader) answer(from, gap time.Duration, chunks ...completion.Chunk) {
	r.progress = r.progress.next(r.limit)
	for i, chunk := range chunks {
		r.read(from+time.Duration(i)*gap, chunk)
	}
}

// Usages that are missing lose no tokens, and what is measured is the truth, or
// said not to be.
// It is long because it is one table.
func TestUsageMissingInSomeChunks(t *testing.T) {
	const gap = 10 * ms
	role, none := tokens(0), content()
	zero := completion.Chunk{Content: true, Bytes: eventBytes}
	rest := completion.Chunk{Tokens: 4, Content: true, Last: true, Bytes: eventBytes}
	for _, test := range []struct {
		name    string
		chunks  []completion.Chunk
		tokens  uint64 // of an answer
		samples int64
		meanMS  float64
		method  string // of a second answer, when it is known what the server does
		first   string // of the first answer
	}{
		{
			"in every other chunk", []completion.Chunk{role, none, tokens(2), none, tokens(4), none, last(5)},
			5, 4, 10, MethodUsage, MethodPerChunk,
		},
		{
			"in the first chunks", []completion.Chunk{none, none, none, tokens(4), tokens(5), last(5)},
			5, 4, 10, MethodUsage, MethodPerChunk,
		},
		{
			"in the last chunk with output", []completion.Chunk{role, tokens(1), tokens(2), tokens(3), none, last(4)},
			4, 3, 10, MethodUsage, MethodUsage,
		},
		{
			"in the end", []completion.Chunk{role, tokens(1), none, tokens(3), none}, 4, 3, 10, MethodUsage, MethodUsage,
		},
		{
			"in half of the chunks, of three tokens each", []completion.Chunk{role, tokens(3), none, tokens(9), none, tokens(15), none, last(18)},
			18, 15, 60. / 15, MethodPerChunk, MethodPerChunk, // the last three come with no chunk of their own
		},
		{
			"in the first of chunks of three tokens", []completion.Chunk{role, none, tokens(6), tokens(9), tokens(12)},
			12, 9, 30. / 9, MethodPerChunk, MethodPerChunk,
		},
		{
			"in all but the role's chunk", []completion.Chunk{role, none, none, none, last(9)},
			3, 2, 10, MethodPerChunk, MethodPerChunk,
		},
		{
			"in all chunks", []completion.Chunk{none, none, none}, 3, 2, 10, MethodPerChunk, MethodPerChunk,
		},
		{
			"nowhere, but an empty text was a token", []completion.Chunk{role, tokens(1), empty(), tokens(3), tokens(4)},
			4, 3, 10, MethodUsage, MethodUsage,
		},
		{
			"and fewer than were counted", []completion.Chunk{role, tokens(1), none, none, tokens(2), tokens(3), tokens(4)},
			4, 3, 50. / 3, MethodPerChunk, MethodPerChunk,
		},
		{
			"nowhere: not cumulative", []completion.Chunk{role, tokens(1), tokens(1), tokens(1), tokens(1), last(4)}, 4, 3, 10, MethodPerChunk, MethodPerChunk,
		},
		{
			"nowhere: always 0", []completion.Chunk{role, zero, zero, zero, zero, last(0)}, 4, 3, 10, MethodPerChunk, MethodPerChunk,
		},
		{
			"nowhere: always 0 but in the end", []completion.Chunk{role, zero, zero, quiet(0), zero, zero, last(9)}, 4, 3, 40. / 3, MethodPerChunk, MethodPerChunk,
		},
		{
			"nowhere: always 1", []completion.Chunk{tokens(1), tokens(1), tokens(1), tokens(1), last(1)}, 4, 3, 10, MethodPerChunk, MethodPerChunk,
		},
		{
			"nowhere: stands still for a while", []completion.Chunk{role, tokens(1), tokens(2), tokens(2), tokens(2), tokens(5), tokens(6), last(6)}, 6, 5, 10, MethodPerChunk, MethodPerChunk,
		},
		{
			"nowhere: rises with every other chunk", []completion.Chunk{role, tokens(1), tokens(1), tokens(3), tokens(3), tokens(5), last(5)}, 5, 4, 10, MethodUsage, MethodUsage,
		},
		{
			"nowhere: one too few", []completion.Chunk{zero, tokens(1), tokens(2), tokens(3), last(4)}, 4, 3, 40. / 3, MethodUsage, MethodPerChunk,
		},
		{
			"nowhere: the last output is what was held back", []completion.Chunk{role, tokens(1), tokens(2), tokens(3), tokens(4), rest, last(4)}, 4, 3, 10, MethodUsage, MethodUsage,
		},
		{
			"nowhere: output without a token of its own", []completion.Chunk{role, tokens(1), quiet(1), quiet(2), quiet(2), tokens(3), quiet(3), last(3)}, 3, 2, 20, MethodUsage, MethodUsage,
		},
		{
			"nowhere: backwards", []completion.Chunk{role, tokens(1), tokens(3), tokens(2), tokens(4), tokens(5)}, 5, 4, 10, MethodUsage, MethodUsage,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newMeter(time.Second)
			r := &reader{meter: m}
			r.answer(10*time.Second, gap, test.chunks...)
			if w := m.itl(10*time.Second + 200*ms); w.Method != test.first {
				t.Errorf("the method of the first answer is %q, want %q", w.Method, test.first)
			}
			r.answer(20*time.Second, gap, test.chunks...)
			w := m.itl(20*time.Second + 200*ms)
			if !near(w.MeanS*1e3, test.meanMS, 1e-9) || w.Tokens != test.samples || w.Method != test.method {
				t.Errorf("mean %v ms of %d tokens by %q, want %v of %d by %q", w.MeanS*1e3, w.Tokens, w.Method, test.meanMS, test.samples, test.method)
			}
			var s Stats
			m.sumUp(&s)
			if s.Tokens != 2*test.tokens {
				t.Errorf("%d tokens of two answers, want %d", s.Tokens, 2*test.tokens)
			}
		})
	}
}

// One usage that cannot be must not spoil the measurement.
func TestUsageOfMoreThanThereCanBe(t *testing.T) {
	const gap, most = 10 * ms, 9_999_999
	far := last(most)
	for _, test := range []struct {
		name   string
		limit  int
		chunks []completion.Chunk
		tokens uint64
		meanMS float64
		odd    uint64
	}{
		{"within the limit", 1000, []completion.Chunk{tokens(1), tokens(501), tokens(1000), last(1000)}, 1000, 20. / 999, 0},
		{"above the limit", 1000, []completion.Chunk{tokens(1), tokens(2), tokens(1001), tokens(4), last(4)}, 4, 10, 1},
		{"far above", 1000, []completion.Chunk{tokens(1), tokens(2), tokens(most), tokens(4), far}, 4, 10, 2},
		{"at first", 1000, []completion.Chunk{tokens(most), tokens(2), tokens(3), tokens(4), last(4)}, 4, 10, 1},
		{"in all chunks", 3, []completion.Chunk{tokens(most), tokens(most), tokens(most), far}, 3, 10, 4},
		{"as many tokens as bytes", 0, []completion.Chunk{tokens(1), tokens(1 + eventBytes), tokens(2 + eventBytes)}, 2 + eventBytes, 20. / (1 + eventBytes), 0},
		{"more tokens than bytes", 0, []completion.Chunk{tokens(1), tokens(2), tokens(3 + eventBytes), tokens(4), last(4)}, 4, 10, 1},
		{"as many as bytes since the latest usage", 0, []completion.Chunk{tokens(1), content(), tokens(1 + 2*eventBytes)}, 1 + 2*eventBytes, 20. / (2 * eventBytes), 0},
		{"far more tokens than bytes", 0, []completion.Chunk{tokens(1), tokens(2), tokens(most), tokens(4), far}, 4, 10, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newMeter(time.Second)
			r := &reader{meter: m, limit: test.limit}
			r.answer(10*time.Second, gap, test.chunks...)
			w := m.itl(10*time.Second + 200*ms)
			var s Stats
			m.sumUp(&s)
			if !near(w.MeanS*1e3, test.meanMS, 1e-9) || s.Tokens != test.tokens || s.OddUsages != test.odd {
				t.Errorf("mean %v ms, %d tokens, %d odd usages, want %v, %d, %d", w.MeanS*1e3, s.Tokens, s.OddUsages, test.meanMS, test.tokens, test.odd)
			}
		})
	}
}

// A stream that has had usages goes on to expect them over an answer that failed.
func TestTrustSurvivesAnswersWithoutTokens(t *testing.T) {
	m := newMeter(time.Second)
	r := &reader{meter: m}
	r.answer(10*time.Second, 10*ms, tokens(1), content(), tokens(3))
	r.answer(11*time.Second, 10*ms)
	r.answer(20*time.Second, 10*ms, content(), content(), content(), tokens(4))
	if w := m.itl(20*time.Second + 200*ms); w.Method != MethodUsage {
		t.Errorf("the method is %q, want %q", w.Method, MethodUsage)
	}
	r.answer(30*time.Second, 10*ms, content(), content(), content())
	r.answer(40*time.Second, 10*ms, content(), content(), content())
	if w := m.itl(40*time.Second + 200*ms); w.Method != MethodPerChunk {
		t.Errorf("after an answer without usage the method is %q, want %q", w.Method, MethodPerChunk)
	}
}

// It is long because it is one table.
func TestTokensOfABundleShareItsGap(t *testing.T) {
	const us = time.Microsecond
	for _, test := range []struct {
		name      string
		feed      func(r *reader)
		samplesMS []float64
		share     float64
	}{
		{"one read", func(r *reader) {
			r.read(1000*ms, tokens(1))
			r.read(1100*ms, tokens(2), tokens(3), tokens(6))
			r.read(1150*ms, tokens(7))
		}, []float64{20, 20, 20, 20, 20, 50}, 1. / 3},
		{"the first tokens", func(r *reader) {
			r.read(1000*ms, tokens(0), tokens(1), tokens(2), tokens(3))
			r.read(1100*ms, tokens(4), tokens(5))
		}, []float64{50, 50}, 1},
		{"two reads", func(r *reader) {
			r.read(1000*ms, tokens(1))
			r.read(1100*ms, tokens(2))
			r.read(1100*ms+200*us, tokens(3))
			r.read(1200*ms+200*us, tokens(4))
		}, []float64{50.1, 50.1, 100}, 1. / 4},
		{"many reads", func(r *reader) {
			r.read(1000*ms, tokens(1))
			for i := range 10 {
				r.read(1100*ms+time.Duration(i)*100*us, tokens(2+2*i), tokens(3+2*i))
			}
		}, slices.Repeat([]float64{100.9 / 20}, 20), 10. / 11},
		{"reads just apart", func(r *reader) {
			r.read(1000*ms, tokens(1))
			r.read(1100*ms, tokens(2))
			r.read(1100*ms+201*us, tokens(3))
		}, []float64{100, 0.201}, 0},
		{"the first tokens in two reads", func(r *reader) {
			r.read(1000*ms, tokens(1))
			r.read(1000*ms+100*us, tokens(2), tokens(3))
			r.read(1050*ms+100*us, tokens(4))
		}, []float64{50}, 1. / 3},
		{"the last ones, whose gap is not theirs", func(r *reader) {
			r.read(1000*ms, tokens(1))
			r.read(1050*ms, tokens(2), tokens(3))
			r.read(1100*ms, tokens(4), last(5), last(5))
		}, []float64{25, 25}, 2. / 3},
		{"one last token of a request whose tokens come in bundles", func(r *reader) {
			r.read(1000*ms, tokens(1), tokens(2))
			r.read(1050*ms, tokens(3))
			r.read(1060*ms, last(4), last(4))
		}, []float64{50}, 1. / 3},
		{"one last token", func(r *reader) {
			r.read(1000*ms, tokens(1))
			r.read(1050*ms, last(2), last(2))
		}, []float64{50}, 0},
		{"over the border of two parts", func(r *reader) {
			r.read(990*ms, tokens(1))
			r.read(1000*ms-50*us, tokens(2)) // a part is 62.5 ms, 16 of them are a second
			r.read(1000*ms+50*us, tokens(3))
		}, []float64{5.025, 5.025}, 1. / 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newMeter(time.Second)
			r := &reader{meter: m}
			test.feed(r)
			w := m.itl(1300 * ms)
			var sumMS float64
			for _, sample := range test.samplesMS {
				sumMS += sample
			}
			n := len(test.samplesMS)
			if int(w.Tokens) != n || !near(w.MeanS*1e3, sumMS/float64(n), 1e-9) || !near(w.MultiEventShare, test.share, 1e-12) {
				t.Errorf("mean %v ms of %d tokens, share %v, want %v of %d, %v", w.MeanS*1e3, w.Tokens, w.MultiEventShare, sumMS/float64(n), n, test.share)
			}
			want := make([]uint64, numBins)
			for _, sample := range test.samplesMS {
				want[binOf(time.Duration(sample*1e6+0.5))]++
			}
			if diff := cmp.Diff(binsInUse(want), binsInUse(windowBins(m))); diff != "" {
				t.Errorf("the window's bins (-want +got):\n%s", diff)
			}
			var all histogram
			for i := range m.shards {
				all.merge(&m.shards[i].itl)
			}
			if diff := cmp.Diff(binsInUse(want), binsInUse(all.bins[:])); diff != "" || all.count != uint64(n) || !near(all.sumNs/1e6, sumMS, 1e-6) {
				t.Errorf("%d samples of %v ms over all time, bins (-want +got):\n%s", all.count, all.sumNs/1e6, diff)
			}
		})
	}
}

func windowBins(m *meter) []uint64 {
	bins := make([]uint64, numBins)
	for i := range m.shards {
		for j := range m.shards[i].histograms {
			for bin, n := range m.shards[i].histograms[j].bins {
				bins[bin] += uint64(n)
			}
		}
	}
	return bins
}

// binsInUse are the bins that have samples, by the duration they begin with.
func binsInUse(bins []uint64) map[string]uint64 {
	in := map[string]uint64{}
	for bin, n := range bins {
		if n > 0 {
			in[fmt.Sprint(time.Duration(binStart(bin)))] = n
		}
	}
	return in
}

// However the reads come, nothing is counted twice or lost when bundles are put
// together anew, and what was counted up to a bound never becomes less: it is
// exported as a counter.
func TestMergedBundlesKeepTheSums(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	m := newMeter(100 * ms)
	readers := make([]reader, 8)
	for i := range readers {
		readers[i] = reader{meter: m, shard: i % 3}
	}
	now := time.Second
	var before Stats
	for step := range 20_000 {
		now += time.Duration(math.Exp(random.Float64()*12)) * time.Microsecond / 100
		r := &readers[random.IntN(len(readers))]
		var chunks []completion.Chunk
		for n := r.progress.tokens; len(chunks) < 1+random.IntN(3); {
			n += random.IntN(3)
			chunks = append(chunks, completion.Chunk{Tokens: n, Content: random.IntN(3) > 0, Last: random.IntN(50) == 0, Bytes: eventBytes})
		}
		r.read(now, chunks...)
		if chunks[len(chunks)-1].Last {
			r.progress = r.progress.next(0)
		}
		if step%10 != 0 {
			continue
		}
		var s Stats
		m.sumUp(&s)
		for i, n := range s.ITL.Cumulative {
			if n < before.ITL.Cumulative[i] || n > s.ITL.Count {
				t.Fatalf("step %d: %d of %d samples up to bound %d, and %d before", step, n, s.ITL.Count, i, before.ITL.Cumulative[i])
			}
		}
		if s.ITL.Count < before.ITL.Count || s.ITL.SumS < before.ITL.SumS-1e-9 || s.ITL.Count > s.Tokens {
			t.Fatalf("step %d: %d samples of %v s, and %d of %v s before, of %d tokens", step, s.ITL.Count, s.ITL.SumS, before.ITL.Count, before.ITL.SumS, s.Tokens)
		}
		before = s
		for i := range m.shards {
			for j := range m.shards[i].histograms {
				h := &m.shards[i].histograms[j]
				var count uint64
				for _, n := range h.bins {
					count += uint64(n)
				}
				if h.number >= 0 && count != h.count {
					t.Fatalf("step %d: a part says that it has %d samples, and has %d", step, h.count, count)
				}
			}
		}
	}
}

// Behind a proxy that collects events, the mean is the server's.
func TestMeanBehindAProxyThatCollects(t *testing.T) {
	random := rand.New(rand.NewPCG(9, 10))
	for _, test := range []struct{ itl, every time.Duration }{
		{4 * ms, 50 * ms}, {20 * ms, 50 * ms}, {20 * ms, 7 * ms}, {50 * ms, 50 * ms}, {30 * ms, 200 * ms},
	} {
		for _, atEnd := range []bool{false, true} { // the proxy does not wait with the end
			m := newMeter(time.Second)
			var sum time.Duration
			var count int
			for range 3000 {
				const length = 60
				r := &reader{meter: m}
				at := time.Hour + time.Duration(random.Int64N(int64(test.every)))
				var due time.Duration
				var collected []completion.Chunk
				for n := range length {
					if n > 0 {
						gap := time.Duration(float64(test.itl) * (0.5 + random.Float64()))
						at += gap
						sum += gap
						count++
					}
					flush := (at/test.every + 1) * test.every
					if len(collected) > 0 && flush > due {
						r.read(due, collected...)
						collected = collected[:0]
					}
					due = flush
					collected = append(collected, completion.Chunk{Tokens: n + 1, Content: true, Last: n == length-1, Bytes: eventBytes})
				}
				if atEnd {
					due = at
				}
				r.read(due, collected...)
			}
			var s Stats
			m.sumUp(&s)
			if want := sum.Seconds() / float64(count); !near(s.ITL.MeanS, want, 0.004) {
				t.Errorf("%v a token, collected for %v, the end at once %v: mean %v, want %v (%+.2f %%)", test.itl, test.every, atEnd, s.ITL.MeanS, want, 100*(s.ITL.MeanS/want-1))
			}
		}
	}
}

// sumUp fills in what the meter knows.
func (m *meter) sumUp(s *Stats) {
	var sum measured
	m.addTo(s, &sum)
	sum.finish(s)
}
