package rig

import (
	"context"
	"time"
)

// noTokenLimit is for how long a server that answers, with requests in flight, may
// make no token. The longest prefills take less.
const noTokenLimit = 10 * time.Second

// standstill notices a server whose engine hangs: it answers, requests are in
// flight, and no token comes.
type standstill struct {
	tokens uint64    // that have come
	since  time.Time // of the last one, or from when on one could be expected; zero: none can
	stands bool
}

// progress is what is known of a server's load at one time.
type progress struct {
	tokens   uint64
	inFlight int
	// answers says that the server answers, begun that the warm-up is over: in it
	// the first token may take its time.
	answers, begun bool
}

// look takes in the progress made by a time, and returns since when no token has
// come although some should have, for longer than limit; zero if all is well. That
// a server answers is to be made sure of before it is said to stand still.
func (s *standstill) look(now time.Time, p progress, limit time.Duration, surelyAnswers func() bool) (since time.Time) {
	switch {
	case p.tokens != s.tokens:
		s.tokens, s.since, s.stands = p.tokens, now, false
	case !p.answers:
		s.since, s.stands = time.Time{}, false
	case s.stands:
		// It is over with the next token, even if the requests are given up meanwhile,
		// or when the server is gone.
		if s.stands = surelyAnswers(); !s.stands {
			s.since = time.Time{}
		}
	case p.inFlight == 0 || !p.begun && p.tokens == 0:
		s.since = time.Time{}
	case s.since.IsZero():
		s.since = now
	case now.Sub(s.since) >= limit:
		if s.stands = surelyAnswers(); !s.stands {
			s.since = time.Time{}
		}
	}
	if !s.stands {
		return time.Time{}
	}
	return s.since
}

// lookForTokens notes and logs that the server stands still, and that it goes on.
func (w *watch) lookForTokens(ctx context.Context) {
	s := w.s
	stats := s.load.Stats()
	s.load.ITL(time.Now()) // tells of tokens that come in bundles, or cannot be measured
	before := w.still.tokens
	since := w.still.look(time.Now(), progress{stats.Tokens, stats.InFlight, !w.failing, s.rig.warm.Load()}, s.rig.cfg.NoTokenLimit,
		func() bool { return s.server.Health(ctx) == nil })
	s.standsSince.Store(&since)
	switch {
	case ctx.Err() != nil:
	case !since.IsZero() && w.stillSince.IsZero():
		w.stillSince = since
		s.log.Error().Float64("no_token_s", time.Since(since).Seconds()).Int("requests_in_flight", stats.InFlight).
			Msg("the vLLM server answers and makes no token: its engine may hang")
	case !w.stillSince.IsZero() && stats.Tokens != before:
		s.log.Info().Float64("no_token_s", time.Since(w.stillSince).Seconds()).Msg("the vLLM server makes tokens again")
		w.stillSince = time.Time{}
	}
}

// noTokenS is for how long, in seconds, the server has stood still; 0 if it does
// not.
func (s *Server) noTokenS(now time.Time) float64 {
	since := s.standsSince.Load()
	if since == nil || since.IsZero() {
		return 0
	}
	return now.Sub(*since).Seconds()
}
