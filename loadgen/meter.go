package loadgen

import (
	"math"
	"sync"
	"time"

	"github.com/g2g-agent/g2g-agent/vllm"
)

// meter turns what the streams read into latencies, over a sliding window and
// over all time, in a fixed amount of memory. Streams write to different shards,
// so that they seldom wait for each other.
type meter struct {
	window time.Duration
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

	itl, ttft, lag histogram
	counts         counts
	_              [64]byte // keeps the next shard's mutex off this one's cache line
}

// meanSlot sums up the samples of one part of the window.
type meanSlot struct {
	number          int64 // of the part since the epoch
	sum             time.Duration
	tokens          int64
	reads           int64 // that brought tokens
	multiEventReads int64
	perChunkSamples int64
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
	}
	return m
}

// progress is how far a stream's request has come.
type progress struct {
	tokens   int           // so far
	last     time.Duration // when the latest of them came
	perChunk bool          // the server does not say how many tokens a chunk has
}

// observe records a read of the request that p belongs to.
func (m *meter) observe(shardOf int, p *progress, r *vllm.StreamRead) {
	s := &m.shards[shardOf%numShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	withTokens := 0
	for _, chunk := range r.Chunks {
		s.counts.chunks++
		inc := p.advance(chunk)
		if inc <= 0 {
			continue
		}
		withTokens++
		s.counts.tokens += uint64(inc)
		s.counts.bundles[min(inc, maxBundle)]++
		if p.tokens == inc { // the first
			s.ttft.add(r.At-r.SentAt, 1)
		} else {
			m.sample(s, r.At, r.At-p.last, inc, p.perChunk)
		}
		p.last = r.At
	}
	switch r.Stamp {
	case vllm.StampKernel:
		s.lag.add(r.Lag, 1)
	case vllm.StampMissing:
		s.counts.missing++
	case vllm.StampDiscarded:
		s.counts.discarded++
	}
	if withTokens == 0 {
		return
	}
	s.counts.reads++
	if withTokens > 1 {
		s.counts.multiEventReads++
	}
	if slot := m.meanSlot(s, r.At); slot != nil {
		slot.reads++
		if withTokens > 1 {
			slot.multiEventReads++
		}
	}
}

// advance is the number of tokens that chunk brings. A server that leaves out
// the usage of a chunk with output is not believed later either: its final usage
// would be a bundle that never was.
func (p *progress) advance(chunk vllm.StreamChunk) (inc int) {
	switch {
	case chunk.Tokens < 0 && chunk.Content:
		p.perChunk = true
		inc = 1
	case chunk.Tokens >= 0 && !p.perChunk:
		inc = chunk.Tokens - p.tokens
	}
	if inc > 0 {
		p.tokens += inc
	}
	return inc
}

// sample records inc tokens that came together, dt after the ones before them,
// at the time at.
func (m *meter) sample(s *shard, at, dt time.Duration, inc int, perChunk bool) {
	n := uint64(inc)
	each := dt / time.Duration(inc)
	s.itl.add(each, n)
	if slot := m.meanSlot(s, at); slot != nil {
		slot.sum += dt
		slot.tokens += int64(inc)
		if perChunk {
			slot.perChunkSamples += int64(inc)
		}
	}
	if h := m.histogramSlot(s, at); h != nil {
		bin := binOf(each)
		h.bins[bin] += uint32(n)
		h.count += n
		h.low, h.high = min(h.low, bin), max(h.high, bin+1)
	}
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
	// MeanS is the sum of the gaps divided by the number of tokens they brought.
	MeanS float64
	// P50S to P99S are percentiles over tokens: inc tokens that came together
	// after a gap are inc samples of gap/inc. They are known to within 0.8 %.
	P50S, P90S, P95S, P99S float64
	// Tokens is the number of tokens in the mean.
	Tokens int64
	// Method is [MethodUsage], or [MethodPerChunk] if it was used for any token.
	Method string
	// MultiEventShare is the share of reads with several events that brought
	// tokens. These share a receive time: above 0.001 the percentiles are
	// blurred, while the mean is not.
	MultiEventShare float64
}

// itl is the window that ends at now.
func (m *meter) itl(now time.Duration) ITLWindow {
	var (
		total   meanSlot
		bins    [numBins]uint64
		samples uint64
	)
	newest := int64(now / m.part(meanSlots))
	newestHistogram := int64(now / m.part(histogramSlots))
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		for j := range s.slots {
			if slot := &s.slots[j]; slot.number >= 0 && slot.number >= newest-meanSlots && slot.number <= newest {
				total.sum += slot.sum
				total.tokens += slot.tokens
				total.reads += slot.reads
				total.multiEventReads += slot.multiEventReads
				total.perChunkSamples += slot.perChunkSamples
			}
		}
		for j := range s.histograms {
			slot := &s.histograms[j]
			if slot.number < 0 || slot.number < newestHistogram-histogramSlots || slot.number > newestHistogram || slot.count == 0 {
				continue
			}
			samples += slot.count
			for bin, n := range slot.bins[slot.low:slot.high] {
				bins[slot.low+bin] += uint64(n)
			}
		}
		s.mu.Unlock()
	}
	w := ITLWindow{MeanS: math.NaN(), Tokens: total.tokens, Method: MethodUsage}
	if total.tokens > 0 {
		w.MeanS = total.sum.Seconds() / float64(total.tokens)
	}
	if total.perChunkSamples > 0 {
		w.Method = MethodPerChunk
	}
	if total.reads > 0 {
		w.MultiEventShare = float64(total.multiEventReads) / float64(total.reads)
	}
	q := quantiles(bins[:], samples)
	w.P50S, w.P90S, w.P95S, w.P99S = q[0], q[1], q[2], q[3]
	return w
}
