package loadgen

import (
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// unmeasured logs that tokens come and no latency can be told from them, and that
// it is over.
type unmeasured struct {
	log zerolog.Logger

	mu    sync.Mutex
	since time.Time // when such tokens came first; zero if latencies have come since
	said  bool
}

// unmeasuredAfter is how long tokens without a latency must come to be told of. The
// first tokens of requests have none.
const unmeasuredAfter = 10 * time.Second

// look takes in a window that ends at now.
func (u *unmeasured) look(now time.Time, w *ITLWindow) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case w.Tokens > 0:
		if u.said {
			u.log.Info().Msg("latencies can be told again")
		}
		u.since, u.said = time.Time{}, false
	case w.Reads == 0: // nothing comes, which others tell of
	case u.since.IsZero():
		u.since = now
	case !u.said && now.Sub(u.since) >= unmeasuredAfter:
		u.said = true
		u.log.Warn().Msg("tokens come, but all those of a request at once or in two pieces, as from a proxy that holds answers back, " +
			"or one a request: the latency is null; this is logged once until it is over")
	}
}
