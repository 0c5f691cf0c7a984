package characterize

import (
	"fmt"
	"math"
	"time"

	"github.com/g2g-agent/g2g-agent/internal/npmath"
)

const (
	// guardBefore and guardAfter are how many stretches before and after a bad one are
	// left out with it: what a server says is up to half a second old, and the first
	// latencies after a standstill have it in them.
	guardBefore, guardAfter = 2, 2
	// leastAchieved and mostAchieved bound the requests that a server runs, as shares of
	// the batch size.
	leastAchieved, mostAchieved = 0.95, 1.05
	// mostFailed is the share of the requests in flight that may fail in a stretch.
	mostFailed = 0.1
	// mostOff is by which factor the median latency of a stretch may differ from what it
	// was when it was steady.
	mostOff = 1.5
)

// look is how a model's servers are at one time. Counts are since some start.
type look struct {
	at time.Time
	// running is the number of requests that each server runs, NaN where that is not
	// known.
	running []float64
	// silent names a server that does not answer as it should, empty if all do.
	silent string
	// powerAge is for how long the power of a GPU has been taken on trust, powerErr says
	// why.
	powerAge time.Duration
	powerErr string
	// powerW is the mean power of a GPU since the look before.
	powerW float64
	// tokens, latencies and their sum, and requests that failed.
	tokens, itls uint64
	itlSumS      float64
	failed       uint64
	// itlP50S is the median latency of about the last second, NaN for none.
	itlP50S float64
	method  string
}

// span is a stretch of time between two looks.
type span struct {
	from, to time.Time
	powerW   float64 // mean of a GPU
	itlS     float64 // mean, NaN for none
	itlP50S  float64
	tokens   uint64
	running  float64 // mean of a server, NaN if not known
	bad      string  // why it does not count, empty if it does
}

func (s *span) seconds() float64 { return s.to.Sub(s.from).Seconds() }

// judge tells stretches of time that count from those that do not.
type judge struct {
	batchSize  int
	staleAfter time.Duration
	// watched says that servers are asked how many requests they run.
	watched bool
	// referenceS is the median latency when it was steady; 0 before that is known.
	referenceS float64

	last      *look
	spans     []span
	after     int // spans to be left out still
	afterWhat string
}

// add takes in a look.
func (j *judge) add(l look) {
	last := j.last
	j.last = &l
	if last == nil || !l.at.After(last.at) {
		return
	}
	s := span{
		from: last.at, to: l.at, powerW: l.powerW, itlP50S: l.itlP50S, tokens: l.tokens - last.tokens,
		itlS: (l.itlSumS - last.itlSumS) / float64(l.itls-last.itls), running: meanKnown(l.running),
	}
	s.bad = j.fault(last, &l)
	switch {
	case s.bad != "":
		j.after, j.afterWhat = guardAfter, s.bad
		from := len(j.spans) - guardBefore
		if l.powerAge >= j.staleAfter {
			for from > 0 && j.spans[from].to.After(l.at.Add(-l.powerAge)) {
				from--
			}
		}
		for i := max(from, 0); i < len(j.spans); i++ {
			if j.spans[i].bad == "" {
				j.spans[i].bad = s.bad
			}
		}
	case j.after > 0:
		j.after--
		s.bad = j.afterWhat
	}
	j.spans = append(j.spans, s)
}

// fault is why the time between two looks does not count, empty if it does. The kind
// comes first, up to a colon.
func (j *judge) fault(last, l *look) string {
	switch {
	case l.powerAge >= j.staleAfter:
		return "power stale: " + l.powerErr
	case l.silent != "":
		return "server silent: " + l.silent
	case l.tokens == last.tokens || l.itls == last.itls:
		return "no token: none came"
	case float64(l.failed-last.failed) > mostFailed*float64(j.batchSize*len(l.running)):
		return fmt.Sprintf("requests failed: %d at once", l.failed-last.failed)
	}
	for _, n := range l.running {
		// Where the load alone keeps the batch down, one request is just being followed by
		// the next now and then.
		b := float64(j.batchSize)
		if least := max(leastAchieved*b-1, 1); j.watched && !(n >= least && n <= mostAchieved*b+0.5) {
			return fmt.Sprintf("batch size not achieved: a server runs %v of %d", n, j.batchSize)
		}
	}
	if j.referenceS > 0 && !(l.itlP50S <= mostOff*j.referenceS && l.itlP50S*mostOff >= j.referenceS) {
		return fmt.Sprintf("latency out of line: its median is %.4g s, and was %.4g s when it was steady", l.itlP50S, j.referenceS)
	}
	return ""
}

// meanKnown is the mean over those that are known, NaN if none is.
func meanKnown(values []float64) float64 {
	sum, n := 0.0, 0
	for _, v := range values {
		if !math.IsNaN(v) {
			sum += v
			n++
		}
	}
	return sum / float64(n)
}

// settled are the spans of which it is sure whether they count: a bad one to come does
// not reach them any more.
func (j *judge) settled() []span { return j.spans[:max(len(j.spans)-guardBefore, 0)] }

// good adds up the settled time that counts, in seconds.
func (j *judge) good() float64 {
	var total float64
	for _, s := range j.settled() {
		if s.bad == "" {
			total += s.seconds()
		}
	}
	return total
}

// badInARow is how long the latest spans have been bad, in seconds, and why the last
// one was.
func (j *judge) badInARow() (seconds float64, why string) {
	for i := len(j.spans) - 1; i >= 0 && j.spans[i].bad != ""; i-- {
		if why == "" {
			why = j.spans[i].bad
		}
		seconds += j.spans[i].seconds()
	}
	return seconds, why
}

// seriesOf has power and latency over the spans that count: the median latency, since
// the mean jumps with each stall for new requests.
func seriesOf(spans []span) (s series) {
	for i := range spans {
		if spans[i].bad == "" {
			s.add(spans[i].powerW, spans[i].itlP50S)
		}
	}
	return s
}

// medianP50 is the median of the spans' median latencies, over those that count; 0 if
// there are none.
func medianP50(spans []span) float64 {
	var all []float64
	for i := range spans {
		if s := &spans[i]; s.bad == "" && s.itlP50S > 0 {
			all = append(all, s.itlP50S)
		}
	}
	if len(all) == 0 {
		return 0
	}
	return npmath.Median(all)
}
