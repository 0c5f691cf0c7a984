package loadgen

import (
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// bundling logs that tokens come in bundles, and that it is over once they have
// not for a while.
type bundling struct {
	log zerolog.Logger

	mu     sync.Mutex
	open   bool
	latest time.Time // when a window had many of them
}

const (
	// bundlingBegins and bundlingEnds are the shares of reads with several events
	// above and below which a window has many of them, or few.
	bundlingBegins, bundlingEnds = 0.1, 0.05
	// bundlingReads is how many reads a window must have for its share to count.
	bundlingReads = 50
)

// look takes in a window that ends at now.
func (b *bundling) look(now time.Time, w *ITLWindow) {
	if w.Reads < bundlingReads {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case w.MultiEventShare >= bundlingEnds && b.open:
		b.latest = now
	case w.MultiEventShare >= bundlingBegins:
		b.open, b.latest = true, now
		b.log.Warn().Float64("multi_event_share", w.MultiEventShare).
			Msg("tokens of a request come in bundles, as from a proxy that collects events: the mean latency is right, " +
				"percentiles are those of whole bundles; this is logged once until it is over")
	case b.open && now.Sub(b.latest) >= quietAfter:
		b.open = false
		b.log.Info().Float64("multi_event_share", w.MultiEventShare).Msg("tokens of a request no longer come in bundles")
	}
}
