package loadgen

import (
	"math"

	"github.com/g2g-agent/g2g-agent/completion"
)

// maxBundle is the number of tokens in a chunk from which on bundles are counted
// together.
const maxBundle = 32

// Stats is what a generator has done and measured since it was made.
type Stats struct {
	// InFlight is the number of requests under way, Workers that of the streams
	// kept, Concurrency the wanted number of both.
	InFlight, Workers, Concurrency int
	// Started, Completed and Cancelled count requests; cancelled are those that
	// the end of [Generator.Run] cut short.
	Started, Completed, Cancelled uint64
	// FailedByKind counts the other requests, by [completion.ErrorKind].
	FailedByKind [completion.NumErrorKinds]uint64
	// Connects counts connections opened, Reconnects those among them that
	// replaced another.
	Connects, Reconnects uint64
	// Chunks counts events, Tokens the output tokens they brought.
	Chunks, Tokens uint64
	// TTFT is the time from sending a request to its first token, ITL the time
	// between tokens as in [ITLWindow], but over all time.
	TTFT, ITL Distribution
	// Bundles[n] counts the chunks that brought n tokens, the last element those
	// that brought as many or more.
	Bundles [maxBundle + 1]uint64

	// How good the measurement is:

	// Reads counts reads from the network that brought tokens.
	Reads uint64
	// Lag is the time from the kernel's receive time to the return of the read. It
	// does not enter the latencies, and about a millisecond of it is on purpose:
	// what came to many streams is read in one go.
	Lag Distribution
	// MultiEventShare is the share of them with several events that brought
	// tokens, or right behind another read, as in [ITLWindow].
	MultiEventShare float64
	// OddUsages counts chunks whose usage made no sense. They count as chunks without
	// usage.
	OddUsages uint64
	// MissingStamps counts reads without the kernel's receive time (as with TLS),
	// DiscardedStamps those whose receive time was implausible because the clock
	// was set; both are stamped after the read.
	MissingStamps, DiscardedStamps uint64
}

// Failed is the number of requests that failed, of any kind.
func (s *Stats) Failed() uint64 {
	var total uint64
	for _, n := range s.FailedByKind {
		total += n
	}
	return total
}

// Stats sums up since the start. It takes some ten microseconds and may be
// called from any goroutine.
func (g *Generator) Stats() Stats { return StatsOf(g) }

// StatsOf is [Generator.Stats] of several generators together.
func StatsOf(generators ...*Generator) Stats {
	var s Stats
	var m measured
	for _, g := range generators {
		t := &g.tallies
		s.InFlight += int(t.inFlight.Load())
		s.Started += t.started.Load()
		s.Completed += t.completed.Load()
		s.Cancelled += t.cancelled.Load()
		s.Connects += t.connects.Load()
		s.Reconnects += t.reconnects.Load()
		for kind := range t.failed {
			s.FailedByKind[kind] += t.failed[kind].Load()
		}
		g.mu.Lock()
		s.Workers += g.workers
		s.Concurrency += g.target
		g.mu.Unlock()
		g.meter.addTo(&s, &m)
	}
	m.finish(&s)
	return s
}

// measured is what of a [Stats] cannot be added up as it stands there.
type measured struct {
	ttft, itl, lag  histogram
	multiEventReads uint64
}

func (m *measured) finish(s *Stats) {
	s.TTFT = m.ttft.distribution()
	s.ITL = m.itl.distribution()
	s.Lag = m.lag.distribution()
	s.MultiEventShare = math.NaN()
	if s.Reads > 0 {
		s.MultiEventShare = float64(m.multiEventReads) / float64(s.Reads)
	}
}

// addTo adds what the meter knows.
func (m *meter) addTo(s *Stats, sum *measured) {
	for i := range m.shards {
		shard := &m.shards[i]
		shard.mu.Lock()
		sum.ttft.merge(&shard.ttft)
		sum.itl.merge(&shard.itl)
		sum.lag.merge(&shard.lag)
		c := &shard.counts
		s.Chunks += c.chunks
		s.Tokens += c.tokens
		s.Reads += c.reads
		sum.multiEventReads += c.multiEventReads
		s.MissingStamps += c.missing
		s.DiscardedStamps += c.discarded
		s.OddUsages += c.oddUsages
		for tokens, n := range c.bundles {
			s.Bundles[tokens] += n
		}
		shard.mu.Unlock()
	}
}
