package loadgen

import (
	"math"
	"time"

	"github.com/g2g-agent/g2g-agent/completion"
)

// progress is how far a stream's request has come.
type progress struct {
	tokens int           // counted so far
	last   time.Duration // when the latest of them came
	bundle bundle        // what they came in
	// several tells that some of the request's reads had several events with tokens.
	several bool

	// usage is the highest that the request's chunks said, room the number of bytes in
	// the chunks since then, limit the most tokens that were asked for, 0 if unknown.
	usage, room, limit int
	// still is the number of chunks with output in a row whose usage did not rise.
	still int
	// unsure is the number of chunks with output since the latest usage. They had
	// none, and count as a token each until the next usage tells.
	unsure int
	// said tells that chunks before the last one had a usage, trusted that they had
	// one in this request or in the stream's last one, so that it will come.
	said, trusted bool
}

// next is the progress of the stream's next request, for at most limit tokens, 0 if
// that is not known.
func (p *progress) next(limit int) progress {
	if p.tokens == 0 {
		return progress{limit: limit, trusted: p.trusted}
	}
	return progress{limit: limit, trusted: p.said}
}

// exceeds tells whether the usage of a chunk is more than there can be: than was
// asked for, or, if that is not known, more tokens than bytes have come since the
// latest usage.
func (p *progress) exceeds(chunk *completion.Chunk) bool {
	p.room += chunk.Bytes
	if p.limit > 0 {
		return chunk.Tokens > p.limit
	}
	return chunk.Tokens-p.usage > p.room
}

// gain is what a chunk brings.
type gain struct {
	tokens int
	// samples is how many of them are latencies: not those that the request's
	// first chunk brought, as is found out now.
	samples int
	// perChunk is the number of tokens, of this chunk and of those before it, that
	// were counted by the chunk, or wrongly.
	perChunk int
}

// advance counts a chunk.
//
// A usage corrects what was counted since the one before, so that the sum is
// always right. Whether the tokens between were told to the right chunks cannot
// be known, unless each chunk has turned out to be one token.
//
// A usage that comes only in the end is not believed where chunks had to be
// counted: it would be a bundle that never was. Nor is one that stands still while
// output comes, but for that of a last chunk, with which comes what was held back.
func (p *progress) advance(chunk *completion.Chunk) (g gain) {
	unsure := p.unsure
	switch {
	case chunk.Tokens < 0:
		return p.count(chunk)
	case chunk.Tokens > p.usage:
		p.usage, p.room, p.still = chunk.Tokens, 0, 0
	case chunk.Content && !(chunk.Last && p.said && unsure == 0):
		if p.still++; p.still > 1 {
			p.said, p.trusted = false, false
		}
		return p.count(chunk)
	case !chunk.Last:
		return g
	}
	if unsure > 0 && chunk.Last && !p.trusted {
		return p.count(chunk)
	}
	if chunk.Tokens > 0 && (unsure == 0 || !chunk.Last) {
		p.said, p.trusted = true, true
	}
	p.unsure = 0
	more := chunk.Tokens - p.tokens
	g.tokens = max(more, 0)
	g.samples = g.tokens
	if unsure > 0 && (more < 0 || more > 1) {
		g.perChunk = unsure + g.tokens
		if unsure == p.tokens { // the request's first chunk is among them
			g.samples -= min(p.shareOfFirst(chunk)-1, g.tokens)
		}
	}
	p.tokens += g.tokens
	return g
}

// count counts a chunk with output as a token.
func (p *progress) count(chunk *completion.Chunk) (g gain) {
	if !chunk.Content {
		return g
	}
	p.tokens++
	p.unsure++
	g = gain{tokens: 1, samples: 1}
	if !p.trusted {
		g.perChunk = 1
	}
	return g
}

// shareOfFirst is the number of tokens that the first chunk has brought if all
// chunks up to this one have brought as many.
func (p *progress) shareOfFirst(chunk *completion.Chunk) int {
	chunks := p.tokens
	if chunk.Content || !chunk.Last {
		chunks++
	}
	return max(int(math.Round(float64(chunk.Tokens)/float64(chunks))), 1)
}

// bundle is what came together: the tokens of one read, and of those that follow
// it so soon that only the network can have parted them. Its tokens share the gap
// before it.
type bundle struct {
	after  time.Duration // when the tokens before it came
	began  time.Duration // when its first tokens came
	first  bool          // it has the request's first tokens, and no latencies
	tokens int           // that are latencies
	each   time.Duration // the latency that they are recorded as
	part   int64         // the part of the window that has them, -1 for none
	// step is the part between two steps that has the latest of them, and
	// stepTokens how many.
	step       int64
	stepTokens int
	tapped     place // in the latest tap
}

const (
	// bundleGap is the longest time between two reads of one bundle: less than
	// servers take for a token, more than packets and TLS records sent at once lie
	// apart.
	bundleGap = 200 * time.Microsecond
	// bundleSpan is the longest time that a bundle takes to come. Tokens that come
	// faster than bundleGap for ever are no bundle without an end.
	bundleSpan = 5 * time.Millisecond
)

// takes tells whether tokens that come at the time at, after others at last, are
// of the bundle.
func (b *bundle) takes(last, at time.Duration) bool {
	return at-last <= bundleGap && at-b.began <= bundleSpan
}
