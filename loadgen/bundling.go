package loadgen

import (
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// bundling logs that tokens come in bundles, and that it is over once they have
// not for a while.
type bundling struct {
	log    zerolog.Logger
	window time.Duration // that latencies are taken over

	mu     sync.Mutex
	open   bool
	latest time.Time // when a window had many of them
	few    fewReads
}

// fewReads sums up windows that have too few reads each, one behind the other.
type fewReads struct {
	from, to     time.Time // when the first and the latest window ended
	reads, multi float64
}

const (
	// bundlingBegins and bundlingEnds are the shares of reads with several events
	// above and below which a window has many of them, or few.
	bundlingBegins, bundlingEnds = 0.1, 0.05
	// bundlingReads is how many reads a window must have for its share to count.
	bundlingReads = 50
	// fewReadsSpan is how long windows are summed up that have fewer; then
	// fewReadsCount will do.
	fewReadsSpan  = time.Minute
	fewReadsCount = 20
)

// look takes in a window that ends at now.
func (b *bundling) look(now time.Time, w *ITLWindow) {
	b.mu.Lock()
	defer b.mu.Unlock()
	share, known := b.share(now, w)
	switch {
	case !known:
	case share >= bundlingEnds && b.open:
		b.latest = now
	case share >= bundlingBegins:
		b.open, b.latest = true, now
		b.log.Warn().Float64("multi_event_share", share).
			Msg("tokens of a request come in bundles, as from a proxy that collects events: the mean latency is right, " +
				"percentiles are those of whole bundles; this is logged once until it is over")
	case b.open && now.Sub(b.latest) >= quietAfter:
		b.open = false
		b.log.Info().Float64("multi_event_share", share).Msg("tokens of a request no longer come in bundles")
	}
}

// share is the share of reads with several events, in the window or, if that has few
// reads, in those before it as well. It is not known until there are enough.
func (b *bundling) share(now time.Time, w *ITLWindow) (share float64, known bool) {
	f := &b.few
	switch {
	case w.Reads >= bundlingReads:
		*f = fewReads{}
		return w.MultiEventShare, true
	case w.Reads == 0 || now.Sub(f.to) < b.window: // it has reads that were summed up already
		return 0, false
	case f.reads == 0:
		f.from = now
	}
	f.to = now
	f.reads += float64(w.Reads)
	f.multi += float64(float64(w.Reads) * w.MultiEventShare)
	if f.reads < bundlingReads && now.Sub(f.from) < fewReadsSpan {
		return 0, false
	}
	share, known = f.multi/f.reads, f.reads >= fewReadsCount
	*f = fewReads{to: now}
	return share, known
}
