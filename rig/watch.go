package rig

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/g2g-agent/g2g-agent/vllm"
)

const (
	// restartGuessEvery bounds how often lost connections alone make a server be
	// told its batch size again.
	restartGuessEvery = 5 * time.Second
	// healthInterval is the time between two looks at a server without metrics.
	healthInterval = time.Second
	// tokensInterval is the time between two looks at how many tokens came.
	tokensInterval = time.Second
)

// watch is what is known of one server from one look to the next.
type watch struct {
	s *Server

	failing    bool
	silence    episode
	lost       uint64 // connections
	guessedAt  time.Time
	unknown    unknownNumbers
	still      standstill
	stillSince time.Time // when it began to stand still, as the log says; zero: it makes tokens
}

// watch reads the server's metrics again and again until ctx is done, or only asks
// whether it is well where metrics are not wanted, and sees whether tokens come. A
// server that could not be asked, or that lost connections, may have been
// restarted and have forgotten its batch size.
func (s *Server) watch(ctx context.Context) {
	interval := s.rig.cfg.PrometheusPollInterval
	if interval <= 0 {
		interval = healthInterval
	}
	looks, tokens := time.NewTicker(interval), time.NewTicker(tokensInterval)
	defer looks.Stop()
	defer tokens.Stop()
	w := &watch{s: s}
	w.look(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case <-looks.C:
			w.look(ctx)
		case <-tokens.C:
			w.lookForTokens(ctx)
		}
	}
}

// look asks the server how it is, and tells who reconciles.
func (w *watch) look(ctx context.Context) {
	s := w.s
	ask := s.scrape
	if !s.polled() {
		ask = s.server.Health
	}
	err := ask(ctx)
	if ctx.Err() != nil {
		return
	}
	s.answers.Store(err == nil)
	switch began, over := w.silence.look(time.Now(), err != nil); {
	case began:
		s.log.Warn().Err(err).Msg("the vLLM server does not answer as it should; it is asked on")
	case over:
		s.log.Info().Msg("the vLLM server answers again")
	}
	w.failing = err != nil
	l := look{failed: w.failing}
	if w.failing {
		w.lookForTokens(ctx) // it does not stand still any more: it is gone
	} else {
		if s.polled() {
			w.sayUnknown(time.Now())
		}
		if n := s.lostConnections(); n != w.lost && time.Since(w.guessedAt) >= restartGuessEvery {
			w.lost, w.guessedAt = n, time.Now()
			l.mayForget = true
		}
	}
	select {
	case s.looks <- l:
	case <-ctx.Done():
	}
}

// episodeQuiet is for how long something must go well to be over, as far as the log
// is concerned.
const episodeQuiet = 5 * time.Second

// episode is a time in which something goes wrong, perhaps not every time.
type episode struct {
	open   bool
	latest time.Time
}

// look takes in whether it went wrong at a time. It reports, once each, that an
// episode began, and that it is over.
func (e *episode) look(now time.Time, wrong bool) (began, over bool) {
	switch {
	case wrong:
		began = !e.open
		e.open, e.latest = true, now
	case e.open && now.Sub(e.latest) >= episodeQuiet:
		over = true
		e.open = false
	}
	return began, over
}

// sayUnknown logs which numbers the server's metrics do not tell.
func (w *watch) sayUnknown(now time.Time) {
	page := &w.s.scraped.Load().page
	switch unknown, known := w.unknown.look(now, page.Unknown); {
	case unknown:
		w.s.log.Warn().Errs("metrics", distinct(page.Unknown)).Msg("the vLLM server's metrics do not tell all that they should; what is missing is null")
	case known:
		w.s.log.Info().Msg("the vLLM server's metrics tell all again")
	}
}

// distinct are the errors of metrics, without those that repeat that the page is
// of other models.
func distinct(unknown []*vllm.MetricError) []error {
	var errs []error
	said := false
	for _, e := range unknown {
		if others := (*vllm.OtherModelsError)(nil); errors.As(e, &others) {
			if said {
				continue
			}
			said = true
		}
		errs = append(errs, e)
	}
	return errs
}

// unknownAfter is for how long a number must be unknown to be spoken of: a server
// that has just started has some only after its first request.
const unknownAfter = 5 * time.Second

// unknownNumbers notices that numbers of a metrics page stay unknown.
type unknownNumbers struct {
	which, said string // the metrics
	since       time.Time
}

// look takes in which numbers are unknown at a time. It reports, once each, that
// some have been for a while, and that after that none is.
func (u *unknownNumbers) look(now time.Time, unknown []*vllm.MetricError) (becameUnknown, becameKnown bool) {
	names := make([]string, len(unknown))
	for i, e := range unknown {
		names[i] = e.Metric
	}
	if which := strings.Join(names, " "); which != u.which {
		u.which, u.since = which, now
	}
	switch {
	case u.which == u.said:
		return false, false
	case u.which == "":
		u.said = ""
		return false, true
	case now.Sub(u.since) < unknownAfter:
		return false, false
	default:
		u.said = u.which
		return true, false
	}
}
