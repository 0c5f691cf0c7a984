package rig

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"
)

const (
	warmupPollInterval = 100 * time.Millisecond
	warmupLogInterval  = 10 * time.Second
)

// trajectoryEvery is how often a warm-up notes each model's running requests.
const trajectoryEvery = 5 * time.Second

// warmUp waits until the servers are busy and the power histories full.
func (r *Rig) warmUp(ctx context.Context) error {
	w := warmup{timeout: r.cfg.WarmupTimeout, stagger: r.cfg.HistoryWindow, threshold: r.cfg.SaturationThreshold}
	servers := slices.Collect(r.servers())
	for _, s := range servers {
		w.models = append(w.models, warmupModel{label: s.name(), target: s.model.initialBatchSize})
	}
	watched := r.cfg.PrometheusPollInterval > 0
	if !watched {
		r.cfg.Log.Warn().Msg("live.prometheus_poll_interval_s is 0: " +
			"the warm-up cannot see whether the servers are busy and only waits for a full stagger window")
	}
	began, lastLog := time.Now(), time.Now()
	ticker := time.NewTicker(warmupPollInterval)
	defer ticker.Stop()
	running := make([]float64, len(servers))
	for {
		now := time.Now()
		elapsed := now.Sub(began)
		for i, s := range servers {
			running[i] = s.running()
		}
		if w.observe(elapsed, running, watched) {
			return nil
		}
		if elapsed >= r.cfg.WarmupTimeout {
			for i, s := range servers {
				w.models[i].requests = s.requests()
				if watched && math.IsNaN(running[i]) {
					w.models[i].why = s.runningErr()
				}
			}
			return w.failure(elapsed)
		}
		if now.Sub(lastLog) >= warmupLogInterval {
			lastLog = now
			w.log(r.cfg.Log)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

func (w *warmup) log(log zerolog.Logger) {
	for i := range w.models {
		m := &w.models[i]
		log.Info().Str("model_label", m.label).Str("running", count(m.running)).Int("batch_size", m.target).Bool("saturated", m.saturated).Msg("warming up")
	}
}

// warmup decides when the servers are busy enough for a run to begin: every
// model's running requests have reached the threshold, and a full stagger window
// of power has been read since. Times are since the warm-up began.
type warmup struct {
	timeout, stagger time.Duration
	threshold        float64 // of the initial batch size
	models           []warmupModel
}

type warmupModel struct {
	label      string
	target     int     // the initial batch size
	running    float64 // NaN: not known
	saturated  bool
	at         time.Duration // when it first was
	trajectory []trajectoryPoint
	requests   string // what became of them, for the failure
	why        error  // why it is not known what runs, likewise
}

type trajectoryPoint struct {
	at      time.Duration
	running float64
}

// observe takes in the models' running requests and reports whether the warm-up
// is complete. Without metrics (watched false) it only waits for the window.
func (w *warmup) observe(elapsed time.Duration, running []float64, watched bool) bool {
	done := true
	for i := range w.models {
		m := &w.models[i]
		m.running = running[i]
		if n := len(m.trajectory); n == 0 || elapsed-m.trajectory[n-1].at >= trajectoryEvery {
			m.trajectory = append(m.trajectory, trajectoryPoint{elapsed, m.running})
		}
		if !m.saturated && (!watched || m.running >= w.threshold*float64(m.target)) {
			m.saturated, m.at = true, elapsed
			if !watched {
				m.at = 0
			}
		}
		done = done && m.complete(elapsed, w.stagger)
	}
	return done
}

func (m *warmupModel) complete(elapsed, stagger time.Duration) bool {
	return m.saturated && elapsed-m.at >= stagger
}

// failure is the error of a warm-up that was not complete after elapsed. It
// shows how far each failed model came, and how.
func (w *warmup) failure(elapsed time.Duration) error {
	var b strings.Builder
	fmt.Fprintf(&b, "the warm-up was not complete after %v s (live.warmup_timeout_s); each model must run %.0f %% of its initial_batch_size"+
		" (live.saturation_threshold) and then for %v s (live.stagger_s):", w.timeout.Seconds(), 100*w.threshold, w.stagger.Seconds())
	for i := range w.models {
		m := &w.models[i]
		if m.complete(elapsed, w.stagger) {
			continue
		}
		fmt.Fprintf(&b, "\n  %s: wants %d running, has %s", m.label, int(math.Ceil(w.threshold*float64(m.target))), count(m.running))
		if m.why != nil {
			fmt.Fprintf(&b, " (%v; %s)", m.why, withoutMetrics)
		}
		if m.saturated {
			fmt.Fprintf(&b, ", was there after %.1f s", m.at.Seconds())
		}
		b.WriteString(";")
		for _, p := range m.trajectory {
			if p.at < elapsed {
				fmt.Fprintf(&b, " t=%.0fs: %s,", p.at.Seconds(), count(p.running))
			}
		}
		fmt.Fprintf(&b, " t=%.0fs: %s", elapsed.Seconds(), count(m.running))
		if m.requests != "" {
			b.WriteString("; " + m.requests)
		}
	}
	return fmt.Errorf("%s", b.String())
}

// withoutMetrics is the way out for a server whose metrics do not tell what runs.
const withoutMetrics = "a run starts without a server's metrics if live.prometheus_poll_interval_s is 0"

// count prints a number of requests.
func count(n float64) string {
	if math.IsNaN(n) {
		return "unknown"
	}
	return fmt.Sprintf("%.0f", n)
}
