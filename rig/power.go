package rig

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// firstReadingTimeout is for each GPU to be read once.
const firstReadingTimeout = 10 * time.Second

var errNoReading = errors.New("no power reading")

// awaitPower waits until every GPU has been read once. A model of which none is
// read in time ends the run; single GPUs are left out, with a warning.
func (r *Rig) awaitPower(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, firstReadingTimeout, errNoReading)
	defer cancel()
	ticker := time.NewTicker(warmupPollInterval)
	defer ticker.Stop()
	for {
		unread := 0
		for _, m := range r.models {
			unread += len(r.feed.unread(m.index))
		}
		if unread == 0 {
			return nil
		}
		select {
		case <-ticker.C:
			continue
		case <-ctx.Done():
		}
		if !errors.Is(context.Cause(ctx), errNoReading) {
			return context.Cause(ctx)
		}
		break
	}
	var errs []error
	for _, m := range r.models {
		var unread []string
		for _, i := range r.feed.unread(m.index) {
			unread = append(unread, m.gpus[i].String())
		}
		switch {
		case len(m.gpus) == 0: // it has none, and draws no power
		case len(unread) == len(m.gpus):
			errs = append(errs, fmt.Errorf("model %q: %w from any of its GPUs within %v: %s", m.label, errNoReading, firstReadingTimeout, m.PowerErrors()))
		case len(unread) > 0:
			r.cfg.Log.Warn().Str("model_label", m.label).Strs("gpus", unread).Msg("no power reading yet; the model's power is the mean over its other GPUs")
		}
	}
	return errors.Join(errs...)
}

// PowerErrors says why power of the model's GPUs is missing.
func (m *Model) PowerErrors() string {
	var texts []string
	agesS := m.rig.feed.agesS(m.index)
	for _, source := range m.rig.sources {
		var silent []string
		uses := false
		for i, g := range m.gpus {
			if g.Source != source {
				continue
			}
			uses = true
			if agesS[i] >= m.rig.cfg.StaleAfter.Seconds() {
				silent = append(silent, fmt.Sprintf("GPU %d for %.1f s", g.Index, agesS[i]))
			}
		}
		if !uses {
			continue
		}
		if err := source.Health().Err; err != nil {
			texts = append(texts, err.Error())
		} else if silent != nil {
			texts = append(texts, fmt.Sprintf("%s %s is connected and reports no error, but nothing confirms the power of %s",
				source.Kind(), source, strings.Join(silent, ", ")))
		}
	}
	return strings.Join(texts, "; ")
}
