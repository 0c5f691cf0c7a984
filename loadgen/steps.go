package loadgen

import (
	"math"
	"time"
)

// StepITL is what came of the tokens of some generators from one step to the next.
type StepITL struct {
	// Count is the number of tokens whose latencies were measured, SumNs the sum of the
	// latencies in nanoseconds.
	Count, SumNs int64
	// PerChunk is how many tokens were counted by the chunk, Output how many came in all.
	PerChunk, Output int64
	// Bins are the numbers of the histogram's bins that are not empty, rising, and Counts
	// how many latencies are in each.
	Bins, Counts []int64
}

// Method is how the tokens were counted, as in [ITLWindow].
func (s *StepITL) Method() string {
	if s.PerChunk > 0 {
		return MethodPerChunk
	}
	return MethodUsage
}

// stepPart is what came to a shard since the last step.
type stepPart struct {
	number           int64 // of the part, from 1 on
	sum              time.Duration
	tokens           int64
	perChunk, output int64
	samples          uint64
	low, high        int // bound the bins in use
	bins             [numBins]uint32
}

// add counts the bundle's tokens, of which so many are new. Those before are counted
// anew if they are in this part; else they stay as they were told to the step that has
// them.
func (p *stepPart) add(b *bundle, before time.Duration, tokens int, joins bool) {
	if !joins || b.step != p.number {
		b.step, b.stepTokens = p.number, 0
	}
	if b.stepTokens > 0 {
		p.bins[binOf(before)] -= uint32(b.stepTokens)
		p.samples -= uint64(b.stepTokens)
	}
	b.stepTokens += tokens
	bin := binOf(b.each)
	p.bins[bin] += uint32(b.stepTokens)
	p.samples += uint64(b.stepTokens)
	p.low, p.high = min(p.low, bin), max(p.high, bin+1)
}

// next begins the next part.
func (p *stepPart) next() {
	if p.high > p.low {
		clear(p.bins[p.low:p.high])
	}
	p.number++
	p.sum, p.tokens, p.perChunk, p.output, p.samples, p.low, p.high = 0, 0, 0, 0, 0, numBins, 0
}

// StepTaker takes from generators what came from one step to the next. It is for one
// goroutine, and is the only one that takes from them.
type StepTaker struct {
	generators []*Generator
	began      bool
	sum        windowSum // scratch
}

// NewStepTaker returns a taker from some generators.
func NewStepTaker(generators ...*Generator) *StepTaker { return &StepTaker{generators: generators} }

// Take sets s to what came since the last call; the first time, to what came in the
// window of the generators that ends now, and its Output to what comes in a whole one at
// the rate so far. It takes some ten microseconds a generator,
// and allocates only where s has no room.
func (t *StepTaker) Take(now time.Time, s *StepITL) {
	t.sum = windowSum{}
	for _, g := range t.generators {
		g.meter.takeStep(now.Sub(g.client.Epoch()), !t.began, &t.sum)
	}
	t.began = true
	t.set(s)
}

// set is the sum as a step has it.
func (t *StepTaker) set(s *StepITL) {
	*s = StepITL{
		Count: t.sum.tokens, SumNs: int64(t.sum.sum), PerChunk: t.sum.perChunkTokens, Output: t.sum.output,
		Bins: s.Bins[:0], Counts: s.Counts[:0],
	}
	for bin, n := range t.sum.bins {
		if n > 0 {
			s.Bins, s.Counts = append(s.Bins, int64(bin)), append(s.Counts, int64(n))
		}
	}
}

// takeStep adds what came since the last part, or over the whole window that ends at now,
// and begins the next part.
func (m *meter) takeStep(now time.Duration, whole bool, sum *windowSum) {
	if whole {
		// What comes between these two is told twice, once.
		var window windowSum
		m.addWindow(now, &window)
		// As many as come in a whole window: the load may be younger than that.
		if all := window.tokensPerS * m.window.Seconds(); all >= 0 && !math.IsInf(all, 1) {
			window.output = int64(math.RoundToEven(all))
		}
		sum.merge(&window)
	}
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		p := &s.step
		if !whole {
			sum.sum += p.sum
			sum.tokens += p.tokens
			sum.perChunkTokens += p.perChunk
			sum.output += p.output
			for bin := p.low; bin < p.high; bin++ {
				sum.bins[bin] += uint64(p.bins[bin])
			}
		}
		p.next()
		s.mu.Unlock()
	}
}

// maxStepParts bounds the memory of a [StepWindow].
const maxStepParts = 1024

// StepWindow is the inter-token latency over a window of whole steps: those of the latest
// ones that are in it. It follows from what the steps brought alone. Long windows are
// made of parts of several steps, and have up to one part more.
type StepWindow struct {
	steps   int64 // of the window
	perPart int64
	parts   []StepITL // a ring, by number
	newest  int64     // number of the newest part, -1 without one
	first   int64     // step that the window began with
	sum     StepITL   // without bins
	bins    [numBins]uint64
}

// NewStepWindow returns a window of so many steps, at least one.
func NewStepWindow(steps int64) *StepWindow {
	steps = max(steps, 1)
	perPart := (steps + maxStepParts - 1) / maxStepParts
	w := &StepWindow{steps: steps, perPart: perPart, parts: make([]StepITL, (steps+perPart-1)/perPart), newest: -1}
	return w
}

// StepsOf is the number of steps of dtS seconds that a window of windowS is made of.
func StepsOf(windowS, dtS float64) int64 { return max(int64(math.RoundToEven(windowS/dtS)), 1) }

// Add takes in what a step brought, nil for nothing. Steps come in order of their numbers, from 0.
func (w *StepWindow) Add(seq int64, s *StepITL) {
	number := seq / w.perPart
	if w.newest < 0 {
		w.first, w.newest = seq, number-1
	}
	for ; w.newest < number; w.newest++ {
		w.drop(&w.parts[(w.newest+1)%int64(len(w.parts))])
	}
	if s != nil {
		w.take(&w.parts[number%int64(len(w.parts))], s)
	}
}

// drop takes a part out of the window.
func (w *StepWindow) drop(p *StepITL) {
	w.sum.Count -= p.Count
	w.sum.SumNs -= p.SumNs
	w.sum.PerChunk -= p.PerChunk
	w.sum.Output -= p.Output
	for i, bin := range p.Bins {
		w.bins[bin] -= uint64(p.Counts[i])
	}
	*p = StepITL{Bins: p.Bins[:0], Counts: p.Counts[:0]}
}

// take adds a step to a part, and to the window.
func (w *StepWindow) take(p, s *StepITL) {
	for _, sum := range []*StepITL{p, &w.sum} {
		sum.Count += s.Count
		sum.SumNs += s.SumNs
		sum.PerChunk += s.PerChunk
		sum.Output += s.Output
	}
	for i, bin := range s.Bins {
		w.bins[bin] += uint64(s.Counts[i])
	}
	if len(p.Bins) == 0 {
		p.Bins, p.Counts = append(p.Bins, s.Bins...), append(p.Counts, s.Counts...)
		return
	}
	p.addBins(s)
}

// addBins merges the bins of more.
func (s *StepITL) addBins(more *StepITL) {
	var all [numBins]int64
	for _, from := range []*StepITL{s, more} {
		for i, bin := range from.Bins {
			all[bin] += from.Counts[i]
		}
	}
	s.Bins, s.Counts = s.Bins[:0], s.Counts[:0]
	for bin, n := range all {
		if n > 0 {
			s.Bins, s.Counts = append(s.Bins, int64(bin)), append(s.Counts, n)
		}
	}
}

// covered is how many steps' time the window has tokens of after step seq. The
// first step brings those of a whole window.
func (w *StepWindow) covered(seq int64) int64 {
	oldest := max((w.newest-int64(len(w.parts))+1)*w.perPart, 0)
	if oldest > w.first {
		return seq - oldest + 1
	}
	return seq - w.first + w.steps
}

// ITL is the latency over the window after step seq, the latest that was added, with
// steps of dtS seconds. Reads and their shares are not known.
func (w *StepWindow) ITL(seq int64, dtS float64) ITLWindow {
	itl := ITLWindow{MeanS: math.NaN(), Tokens: w.sum.Count, Method: w.sum.Method()}
	if w.sum.Count > 0 {
		itl.MeanS = time.Duration(w.sum.SumNs).Seconds() / float64(w.sum.Count)
	}
	itl.TokensPerS = float64(w.sum.Output) / (float64(w.covered(seq)) * dtS)
	var samples uint64
	for _, n := range w.bins {
		samples += n
	}
	q := quantiles(w.bins[:], samples)
	itl.P50S, itl.P90S, itl.P95S, itl.P99S = q[0], q[1], q[2], q[3]
	return itl
}

// ValidBins says whether bins are those of the histogram, rising, with counts that
// are not negative.
func ValidBins(bins, counts []int64) bool {
	if len(bins) != len(counts) {
		return false
	}
	last := int64(-1)
	for i, bin := range bins {
		if bin <= last || bin >= numBins || counts[i] < 0 {
			return false
		}
		last = bin
	}
	return true
}

// PercentilesS are the 50th, 90th, 95th and 99th percentile of the step's latencies in
// seconds, known to within 0.8 %; NaN without any, and for bins that are not valid.
func (s *StepITL) PercentilesS() [4]float64 {
	var bins [numBins]uint64
	var samples uint64
	if ValidBins(s.Bins, s.Counts) {
		for i, bin := range s.Bins {
			bins[bin] = uint64(s.Counts[i])
			samples += bins[bin]
		}
	}
	return quantiles(bins[:], samples)
}
