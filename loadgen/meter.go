package loadgen

import (
	"math"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/g2g-agent/g2g-agent/completion"
)

// meter turns what the streams read into latencies, over a sliding window and
// over all time, in a fixed amount of memory. Streams write to different shards,
// so that they seldom wait for each other.
type meter struct {
	window time.Duration
	began  atomic.Int64 // the load, since the epoch; 0: with it, or not yet
	shards [numShards]shard
}

const (
	numShards = 8
	// meanSlots and histogramSlots are the parts a window is made of. A mean is
	// over the window and at most one part more, percentiles likewise.
	meanSlots      = 128
	histogramSlots = 16
)

type shard struct {
	mu sync.Mutex

	slots      [meanSlots + 1]meanSlot
	histograms [histogramSlots + 1]histogramSlot
	step       stepPart

	itl, ttft, lag histogram
	counts         counts
	tap            *shardTap // nil: nobody wants single latencies
	_              [64]byte  // keeps the next shard's mutex off this one's cache line
}

// meanSlot sums up the samples of one part of the window.
type meanSlot struct {
	number          int64 // of the part since the epoch
	sum             time.Duration
	tokens          int64
	reads           int64 // that brought tokens
	multiEventReads int64
	perChunkTokens  int64
	output          int64 // tokens of all kinds, those that are no latency too
}

// histogramSlot counts the samples of one part of the window by their value;
// low and high bound the bins in use.
type histogramSlot struct {
	number    int64
	count     uint64
	low, high int
	bins      [numBins]uint32
}

// counts are what a shard counts over all time.
type counts struct {
	chunks, tokens  uint64
	reads           uint64
	multiEventReads uint64
	missing         uint64
	discarded       uint64
	oddUsages       uint64
	bundles         [maxBundle + 1]uint64
}

func newMeter(window time.Duration) *meter {
	m := &meter{window: window}
	for i := range m.shards {
		s := &m.shards[i]
		for j := range s.slots {
			s.slots[j].number = -1
		}
		for j := range s.histograms {
			s.histograms[j].number = -1
		}
		s.step.next()
	}
	return m
}

// observe records a read of the request that p belongs to. It returns a usage that
// makes no sense, if there was one.
func (m *meter) observe(shardOf int, p *progress, r *completion.Read) (oddUsage string) {
	s := &m.shards[shardOf%numShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	begun := p.tokens > 0
	var total readGain
	s.countChunks(p, r.Chunks, &total)
	s.countStamp(r)
	slot := m.meanSlot(s, r.At)
	if slot != nil {
		slot.perChunkTokens += int64(total.perChunk)
	}
	s.step.perChunk += int64(total.perChunk)
	s.step.output += int64(total.tokens)
	if total.tokens == 0 {
		return total.oddUsage
	}
	joins := begun && p.bundle.takes(p.last, r.At)
	several := total.events > 1 || joins
	p.several = p.several || several
	s.countRead(total.tokens, several)
	if slot != nil {
		slot.countRead(total.tokens, several)
	}
	switch {
	case !begun:
		s.ttft.add(r.At-r.SentAt, 1)
		p.bundle = bundle{began: r.At, first: true}
	case joins && p.bundle.first: // the clock starts when the last of them is there
	case total.end && p.several:
		// Who collects events sends the last ones when there are no more, or when the
		// time is up: that is not how long they have taken.
	case total.samples == 0:
		return total.oddUsage
	default:
		m.sample(s, slot, p, r.At, total.samples, joins)
	}
	p.last = r.At
	return total.oddUsage
}

// readGain is what the chunks of a read bring together.
type readGain struct {
	gain
	events   int  // with tokens of their own
	end      bool // of the answer
	oddUsage string
}

// countChunks adds up the chunks of a read of the request that p belongs to.
func (s *shard) countChunks(p *progress, chunks []completion.Chunk, total *readGain) {
	for i := range chunks {
		chunk := chunks[i]
		s.counts.chunks++
		if p.exceeds(&chunk) {
			chunk.Tokens, chunk.OddUsage = -1, strconv.Itoa(chunk.Tokens)
		}
		if chunk.OddUsage != "" {
			total.oddUsage = chunk.OddUsage
			s.counts.oddUsages++
		}
		total.end = total.end || chunk.Last
		corrects := chunk.Last && !chunk.Content && p.unsure > 0
		g := p.advance(&chunk)
		total.perChunk += g.perChunk
		if g.tokens == 0 {
			continue
		}
		total.tokens += g.tokens
		total.samples += g.samples
		s.counts.bundles[min(g.tokens, maxBundle)]++
		if !corrects { // its tokens came with the chunks before it
			total.events++
		}
	}
}

func (s *shard) countStamp(r *completion.Read) {
	switch r.Stamp {
	case completion.StampKernel:
		s.lag.add(r.Lag, 1)
	case completion.StampMissing:
		s.counts.missing++
	case completion.StampDiscarded:
		s.counts.discarded++
	}
}

// countRead counts a read that brought tokens.
func (s *shard) countRead(tokens int, several bool) {
	s.counts.tokens += uint64(tokens)
	s.counts.reads++
	if several {
		s.counts.multiEventReads++
	}
}

func (s *meanSlot) countRead(tokens int, several bool) {
	s.output += int64(tokens)
	s.reads++
	if several {
		s.multiEventReads++
	}
}

// sample records so many more tokens of the request, which came at the time at, that
// of the slot unless it is nil. If they join the bundle, all of it is recorded anew:
// it takes the same time, and shares it among more.
func (m *meter) sample(s *shard, slot *meanSlot, p *progress, at time.Duration, tokens int, joins bool) {
	b := &p.bundle
	before := b.each
	if joins {
		s.itl.remove(b.each, uint64(b.tokens))
		if b.part >= 0 {
			s.histograms[b.part%int64(len(s.histograms))].remove(b)
		}
	} else {
		*b = bundle{after: p.last, began: at}
	}
	b.tokens += tokens
	b.each = (at - b.after) / time.Duration(b.tokens)
	s.itl.add(b.each, uint64(b.tokens))
	if slot != nil {
		slot.sum += at - p.last
		slot.tokens += int64(tokens)
	}
	s.step.sum += at - p.last
	s.step.tokens += int64(tokens)
	s.step.add(b, before, tokens, joins)
	b.part = -1
	if h := m.histogramSlot(s, at); h != nil {
		h.add(b)
	}
	if s.tap != nil {
		s.tap.record(b, at, joins)
	}
}

func (h *histogramSlot) add(b *bundle) {
	bin := binOf(b.each)
	h.bins[bin] += uint32(b.tokens)
	h.count += uint64(b.tokens)
	h.low, h.high = min(h.low, bin), max(h.high, bin+1)
	b.part = h.number
}

// remove takes out what add has put in, unless the slot is a later part's by now.
func (h *histogramSlot) remove(b *bundle) {
	if h.number != b.part {
		return
	}
	h.bins[binOf(b.each)] -= uint32(b.tokens)
	h.count -= uint64(b.tokens)
}

// meanSlot is the slot for the time at, emptied if it was an earlier part's; nil
// if it is a later part's already: a read that was held up for longer than the
// window is no part of it any more.
func (m *meter) meanSlot(s *shard, at time.Duration) *meanSlot {
	number := int64(at / m.part(meanSlots))
	slot := &s.slots[number%int64(len(s.slots))]
	if slot.number > number {
		return nil
	}
	if slot.number < number {
		*slot = meanSlot{number: number}
	}
	return slot
}

func (m *meter) histogramSlot(s *shard, at time.Duration) *histogramSlot {
	number := int64(at / m.part(histogramSlots))
	slot := &s.histograms[number%int64(len(s.histograms))]
	if slot.number > number {
		return nil
	}
	if slot.number < number {
		if slot.count > 0 {
			clear(slot.bins[slot.low:slot.high])
		}
		slot.number, slot.count, slot.low, slot.high = number, 0, numBins, 0
	}
	return slot
}

// part is the length of a window's part, of so many.
func (m *meter) part(parts int) time.Duration { return m.window / time.Duration(parts) }

// Methods of counting tokens.
const (
	// MethodUsage: the server says with each chunk how many tokens there are.
	MethodUsage = "usage"
	// MethodPerChunk: it does not, and each chunk with output counts as one.
	MethodPerChunk = "per_chunk"
)

// ITLWindow is the inter-token latency over the sliding window, in seconds; NaN
// when it has no sample.
type ITLWindow struct {
	// MeanS is the sum of the gaps divided by the number of tokens they total.
	MeanS float64
	// P50S to P99S are percentiles over tokens: n tokens that came together, in an
	// event or in several, after a gap are n samples of gap/n. They are known to
	// within 0.8 %.
	P50S, P90S, P95S, P99S float64
	// Tokens is the number of tokens in the mean.
	Tokens int64
	// Method is [MethodUsage], or [MethodPerChunk] if any token was counted by the
	// chunk, or if counting by the chunk between two usages has turned out to be
	// wrong: then percentiles, and without any usage also the mean, are those of
	// chunks.
	Method string
	// Reads is the number of reads that brought tokens.
	Reads int64
	// MultiEventShare is the share of them with several events that brought tokens,
	// or right behind another read. These tokens share a receive time, and thus the
	// gap before it: above 0.001 the percentiles are blurred, while the mean is not.
	MultiEventShare float64
	// TokensPerS is how many output tokens came in a second, the first ones of each
	// request too, over the window without its part that is not over yet, or since the
	// load began; NaN when there is no such time.
	TokensPerS float64
}

// windowSum is what is counted in a window.
type windowSum struct {
	meanSlot
	tokensPerS float64
	samples    uint64
	bins       [numBins]uint64
}

// begin notes when the load began, the first time.
func (m *meter) begin(at time.Duration) { m.began.CompareAndSwap(0, int64(at)) }

// addWindow adds the window that ends at now.
func (m *meter) addWindow(now time.Duration, sum *windowSum) {
	newest := int64(now / m.part(meanSlots))
	var output int64 // in the parts that are over
	newestHistogram := int64(now / m.part(histogramSlots))
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		for j := range s.slots {
			if slot := &s.slots[j]; slot.number >= 0 && slot.number >= newest-meanSlots && slot.number <= newest {
				sum.meanSlot.merge(slot)
				if slot.number < newest {
					output += slot.output
				}
			}
		}
		for j := range s.histograms {
			slot := &s.histograms[j]
			if slot.number < 0 || slot.number < newestHistogram-histogramSlots || slot.number > newestHistogram || slot.count == 0 {
				continue
			}
			sum.samples += slot.count
			for bin, n := range slot.bins[slot.low:slot.high] {
				sum.bins[slot.low+bin] += uint64(n)
			}
		}
		s.mu.Unlock()
	}
	end := time.Duration(newest) * m.part(meanSlots)
	start := max(end-meanSlots*m.part(meanSlots), time.Duration(m.began.Load()))
	sum.tokensPerS += float64(output) / max(end-start, 0).Seconds()
}

func (s *meanSlot) merge(other *meanSlot) {
	s.sum += other.sum
	s.tokens += other.tokens
	s.reads += other.reads
	s.multiEventReads += other.multiEventReads
	s.perChunkTokens += other.perChunkTokens
	s.output += other.output
}

// merge adds the window of another meter.
func (s *windowSum) merge(other *windowSum) {
	s.meanSlot.merge(&other.meanSlot)
	s.tokensPerS += other.tokensPerS
	s.samples += other.samples
	for bin, n := range other.bins {
		s.bins[bin] += n
	}
}

func (s *windowSum) window() ITLWindow {
	w := ITLWindow{MeanS: math.NaN(), Tokens: s.tokens, Method: MethodUsage, Reads: s.reads, TokensPerS: s.tokensPerS}
	if s.tokens > 0 {
		w.MeanS = s.sum.Seconds() / float64(s.tokens)
	}
	if s.perChunkTokens > 0 {
		w.Method = MethodPerChunk
	}
	if s.reads > 0 {
		w.MultiEventShare = float64(s.multiEventReads) / float64(s.reads)
	}
	q := quantiles(s.bins[:], s.samples)
	w.P50S, w.P90S, w.P95S, w.P99S = q[0], q[1], q[2], q[3]
	return w
}
