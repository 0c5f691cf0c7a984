package agent

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

// serverWatch is what is known of one server from one look to the next.
type serverWatch struct {
	live *Live
	b    *backend

	failing          bool
	silence, refusal episode
	lost             uint64 // connections
	guessedAt        time.Time
	unknown          unknownNumbers
	still            standstill
	stillSince       time.Time // when it began to stand still, as the log says; zero: it makes tokens
}

// watch reads a server's metrics again and again until ctx is done, or only asks
// whether it is well where metrics are not wanted, and sees whether tokens come. A
// server that could not be asked, or that lost connections, may have been
// restarted and have forgotten its batch size: once it answers it is told again,
// until commands is done.
func (l *Live) watch(ctx, commands context.Context, b *backend) {
	interval := l.cfg.PrometheusPollInterval
	if interval <= 0 {
		interval = healthInterval
	}
	looks, tokens := time.NewTicker(interval), time.NewTicker(tokensInterval)
	defer looks.Stop()
	defer tokens.Stop()
	w := &serverWatch{live: l, b: b}
	w.look(ctx, commands)
	for {
		select {
		case <-ctx.Done():
			return
		case <-looks.C:
			w.look(ctx, commands)
		case <-tokens.C:
			w.lookForTokens(ctx)
		}
	}
}

// look asks the server how it is, and tells it what it may have forgotten.
func (w *serverWatch) look(ctx, commands context.Context) {
	b := w.b
	ask := b.scrape
	if !b.polled {
		ask = b.server.Health
	}
	err := ask(ctx)
	if ctx.Err() != nil {
		return
	}
	switch began, over := w.silence.look(time.Now(), err != nil); {
	case began:
		b.log.Warn().Err(err).Msg("the vLLM server does not answer as it should; it is asked on")
	case over:
		b.log.Info().Msg("the vLLM server answers again")
	}
	if w.failing = err != nil; w.failing {
		b.setting.doubt()
		return
	}
	if b.polled {
		w.sayUnknown(time.Now())
	}
	if n := b.lostConnections(); n != w.lost && time.Since(w.guessedAt) >= restartGuessEvery {
		w.lost, w.guessedAt = n, time.Now()
		b.setting.doubt()
	}
	err = w.live.tellAgain(commands, b)
	if began, _ := w.refusal.look(time.Now(), err != nil); began {
		b.log.Warn().Err(err).Msg("the vLLM server may have forgotten its batch size and does not take it again")
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
func (w *serverWatch) sayUnknown(now time.Time) {
	page := &w.b.scraped.Load().page
	switch unknown, known := w.unknown.look(now, page.Unknown); {
	case unknown:
		w.b.log.Warn().Errs("metrics", distinct(page.Unknown)).Msg("the vLLM server's metrics do not tell all that they should; what is missing is null")
	case known:
		w.b.log.Info().Msg("the vLLM server's metrics tell all again")
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

// tellAgain tells a server its batch size if it may run another. A server that
// refuses is not told the same once more, nor one whose lease has run out: that
// is for [Live.keepFailsafe].
func (l *Live) tellAgain(ctx context.Context, b *backend) error {
	m := l.pipeline.modelIndex(b.label)
	if _, _, wanted := b.setting.toTell(time.Now()); !wanted || b.actuator() == vllm.ActuatorConcurrency || l.wantsFailsafe(m) {
		return nil
	}
	ctx, cancel := withCommandTimeout(ctx)
	defer cancel()
	select {
	case b.busy <- struct{}{}:
	default:
		return nil // a command is under way, and the looks go on meanwhile
	}
	defer b.release()
	batchSize, rampUpRate, wanted := b.setting.toTell(time.Now()) // a command may have come between
	if !wanted || ctx.Err() != nil || l.wantsFailsafe(m) {
		return nil
	}
	if err := b.setBatchSize(ctx, batchSize, rampUpRate); err != nil {
		if OutcomeOf(err) == vllm.OutcomeRefused {
			b.setting.refused()
		}
		return err
	}
	b.log.Info().Int("batch_size", batchSize).Msg("the vLLM server may have forgotten its batch size and was told again")
	return nil
}
