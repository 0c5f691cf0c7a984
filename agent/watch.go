package agent

import (
	"context"
	"time"

	"github.com/g2g-agent/g2g-agent/vllm"
)

// restartGuessEvery bounds how often lost connections alone make a server be
// told its batch size again.
const restartGuessEvery = 5 * time.Second

// healthInterval is the time between two looks at a server without metrics.
const healthInterval = time.Second

// watch reads a server's metrics again and again until ctx is done, or only asks
// whether it is well where metrics are not wanted. A server that could not be
// asked, or that lost connections, may have been restarted and have forgotten its
// batch size: once it answers it is told again, until commands is done.
func (l *Live) watch(ctx, commands context.Context, b *backend) {
	interval, look := l.cfg.PrometheusPollInterval, b.scrape
	if interval <= 0 {
		interval, look = healthInterval, b.server.Health
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	failing, refusing := false, false
	lost, guessedAt := uint64(0), time.Time{}
	for {
		err := look(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !failing:
			b.log.Warn().Err(err).Msg("the vLLM server does not answer as it should; it is asked on")
		case err == nil && failing:
			b.log.Info().Msg("the vLLM server answers again")
		}
		if failing = err != nil; failing {
			b.setting.doubt()
		} else {
			if n := b.lostConnections(); n != lost && time.Since(guessedAt) >= restartGuessEvery {
				lost, guessedAt = n, time.Now()
				b.setting.doubt()
			}
			err := l.tellAgain(commands, b)
			if err != nil && !refusing {
				b.log.Warn().Err(err).Msg("the vLLM server may have forgotten its batch size and does not take it again")
			}
			refusing = err != nil
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
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
