package agent

import (
	"context"
	"time"

	"github.com/g2g-agent/g2g-agent/vllm"
)

// watch reads a server's metrics again and again until ctx is done. When the
// server comes back after it could not be asked, it may have been restarted and
// have forgotten its batch size: it is told again.
func (l *Live) watch(ctx context.Context, b *backend) {
	ticker := time.NewTicker(l.cfg.PrometheusPollInterval)
	defer ticker.Stop()
	failing, forgotten := false, false
	for {
		switch err := b.scrape(ctx); {
		case ctx.Err() != nil:
			return
		case err != nil:
			if !failing {
				b.log.Warn().Err(err).Msg("no metrics from the vLLM server; it is asked on")
			}
			failing, forgotten = true, true
		default:
			if failing {
				b.log.Info().Msg("metrics from the vLLM server again")
			}
			failing = false
			if forgotten {
				forgotten = !l.assertBatchSize(ctx, b)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// assertBatchSize tells a server that came back which batch size it is to run,
// and reports whether it knows.
func (l *Live) assertBatchSize(ctx context.Context, b *backend) bool {
	l.commanding.Lock()
	defer l.commanding.Unlock()
	if b.commanded == 0 || b.actuator == vllm.ActuatorConcurrency {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	if err := b.setBatchSize(ctx, b.commanded, 0); err != nil {
		b.log.Warn().Err(err).Msg("the vLLM server is back, but would not take its batch size")
		return false
	}
	b.log.Info().Int("batch_size", b.commanded).Msg("the vLLM server is back and was told its batch size")
	return true
}
