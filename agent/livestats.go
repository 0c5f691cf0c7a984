package agent

import (
	"time"

	"github.com/g2g-agent/g2g-agent/buffer"
	"github.com/g2g-agent/g2g-agent/loadgen"
	"github.com/g2g-agent/g2g-agent/vllm"
	"github.com/g2g-agent/g2g-agent/zeusd"
)

// LiveStats tells how well a live run measures, since its start.
type LiveStats struct {
	// Models are in config order, Daemons in the order they are first named.
	Models  []ModelStats
	Daemons []zeusd.EndpointStatus
}

// ModelStats is the part of [LiveStats] of one model.
type ModelStats struct {
	ModelLabel string
	// Actuator is how its batch size is set, empty before the start has found out.
	Actuator vllm.Actuator
	// ITLMethod is how tokens are counted now, [loadgen.MethodUsage] or
	// [loadgen.MethodPerChunk].
	ITLMethod string
	Load      loadgen.Stats
	History   buffer.Stats
}

// Stats may be called from any goroutine. It takes some tens of microseconds a
// model.
func (l *Live) Stats() LiveStats {
	stats := LiveStats{Daemons: l.power.Status()}
	for m, b := range l.backends {
		stats.Models = append(stats.Models, ModelStats{
			ModelLabel: b.label, Actuator: b.actuator(), ITLMethod: b.load.ITL(time.Now()).Method, Load: b.load.Stats(), History: l.feed.models[m].history.Stats(),
		})
	}
	return stats
}

// logStats says what was measured and how well, at the end of a run.
func (l *Live) logStats() {
	stats := l.Stats()
	for i := range stats.Models {
		m := &stats.Models[i]
		l.cfg.Log.Info().Str("model_label", m.ModelLabel).
			Uint64("requests_completed", m.Load.Completed).Uint64("requests_failed", m.Load.Failed()).Uint64("reconnects", m.Load.Reconnects).
			Uint64("tokens", m.Load.Tokens).Str("itl_method", m.ITLMethod).Float64("receive_lag_p99_s", m.Load.Lag.P99S).
			Float64("multi_event_share", m.Load.MultiEventShare).Uint64("missing_stamps", m.Load.MissingStamps).
			Uint64("discarded_stamps", m.Load.DiscardedStamps).Msg("load and latency")
	}
	for i := range stats.Daemons {
		d := &stats.Daemons[i]
		l.cfg.Log.Info().Stringer("zeusd", d.Endpoint).Uint64("events", d.Events).Uint64("bad_events", d.BadEvents).
			Uint64("reconnects", d.Reconnects).Float64("clock_offset_s", d.ClockOffset.Seconds()).Uint64("clock_steps", d.ClockSteps).Msg("power")
	}
}
