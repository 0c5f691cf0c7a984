package loadgen

import (
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/completion"
)

// outages logs the first failure of each kind, and that it is over once requests
// complete and it has not been seen for a while. Thousands of streams fail
// together, and one line says it.
type outages struct {
	log zerolog.Logger

	mu     sync.Mutex
	open   int // kinds that last
	byKind [completion.NumErrorKinds]outage
}

type outage struct {
	open     bool
	failures uint64
	latest   time.Time
}

// quietAfter is how long a kind of failure must not be seen to be over.
const quietAfter = 5 * time.Second

func (o *outages) failed(now time.Time, failure *completion.Error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	k := &o.byKind[failure.Kind]
	k.latest = now
	k.failures++
	if k.open {
		return
	}
	k.open, k.failures = true, 1
	o.open++
	o.log.Warn().Err(failure).Str("kind", failure.Kind.String()).
		Msg("requests fail; each is tried again, and this is logged once until it is over")
}

func (o *outages) completed(now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.open == 0 {
		return
	}
	for kind := range o.byKind {
		k := &o.byKind[kind]
		if k.open && now.Sub(k.latest) >= quietAfter {
			k.open = false
			o.open--
			o.log.Info().Str("kind", completion.ErrorKind(kind).String()).Uint64("failures", k.failures).
				Msg("requests no longer fail in this way")
		}
	}
}
