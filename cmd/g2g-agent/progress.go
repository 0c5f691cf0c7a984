package main

import (
	"fmt"
	"io"
	"time"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// progressEvery is how often the progress line changes.
const progressEvery = 100 * time.Millisecond

// progress is a line on a terminal that tells how far a run is. On anything but
// a terminal it writes nothing.
type progress struct {
	w        io.Writer // nil: not a terminal
	steps    int64     // 0 for a run without end
	began    time.Time
	shownAt  time.Time
	checkAt  int64 // the step at which to look at the clock next
	anything bool
}

func newProgress(w io.Writer, steps int64) *progress {
	p := &progress{steps: steps, began: time.Now()}
	if isTerminal(w) {
		p.w = w
	}
	return p
}

// begin begins anew, with a run of so many steps, 0 for one without end.
func (p *progress) begin(steps int64) {
	*p = progress{w: p.w, steps: steps, began: time.Now()}
}

func (p *progress) update(s *datacenter.State) {
	// Asking for the time costs as much as a small step: ask now and then.
	const checkEvery = 16
	done := s.Seq + 1
	if p.w == nil || done < p.checkAt {
		return
	}
	p.checkAt = done + checkEvery
	now := time.Now()
	if now.Sub(p.shownAt) < progressEvery {
		return
	}
	p.shownAt, p.anything = now, true
	if p.steps == 0 {
		fmt.Fprintf(p.w, "\r\x1b[Kt = %.1f s  %d steps  %.2f MW", s.TimeS, done, s.PowerW.Total()/1e6)
		return
	}
	elapsed := now.Sub(p.began)
	left := time.Duration(float64(elapsed) / float64(done) * float64(p.steps-done))
	fmt.Fprintf(p.w, "\r\x1b[Kt = %.1f s  %d/%d steps (%d %%)  %.2f MW  %s left",
		s.TimeS, done, p.steps, 100*done/p.steps, s.PowerW.Total()/1e6, left.Round(time.Second))
}

// clear takes the line off the terminal.
func (p *progress) clear() {
	if p.anything {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
