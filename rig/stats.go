package rig

import (
	"time"

	"github.com/g2g-agent/g2g-agent/buffer"
	"github.com/g2g-agent/g2g-agent/loadgen"
	"github.com/g2g-agent/g2g-agent/power"
)

// Stats tells how well a rig measures, since its start.
type Stats struct {
	// Models are in config order, Sources in the order they are first named.
	Models  []ModelStats
	Sources []SourceStats
}

// ModelStats is the part of [Stats] of one model.
type ModelStats struct {
	ModelLabel string
	Servers    []ServerStatus
	// ITLMethod is how tokens are counted now, [loadgen.MethodUsage] or
	// [loadgen.MethodPerChunk].
	ITLMethod string
	Load      loadgen.Stats
	History   buffer.Stats
}

// SourceStats is the part of [Stats] of one power source.
type SourceStats struct {
	Kind, Address string
	power.Health
}

// Stats may be called from any goroutine. It takes some tens of microseconds a
// server.
func (r *Rig) Stats() Stats {
	var stats Stats
	for _, m := range r.models {
		stats.Models = append(stats.Models, ModelStats{
			ModelLabel: m.label, Servers: m.Servers(), ITLMethod: loadgen.ITLOf(time.Now(), m.loads...).Method,
			Load: loadgen.StatsOf(m.loads...), History: r.feed.History(m.index).Stats(),
		})
	}
	for _, source := range r.sources {
		stats.Sources = append(stats.Sources, SourceStats{source.Kind(), source.String(), source.Health()})
	}
	return stats
}

// LogStats says what was measured and how well.
func (r *Rig) LogStats() {
	stats := r.Stats()
	for i := range stats.Models {
		m := &stats.Models[i]
		r.cfg.Log.Info().Str("model_label", m.ModelLabel).
			Uint64("requests_completed", m.Load.Completed).Uint64("requests_failed", m.Load.Failed()).Uint64("reconnects", m.Load.Reconnects).
			Uint64("tokens", m.Load.Tokens).Str("itl_method", m.ITLMethod).Float64("receive_lag_p99_s", m.Load.Lag.P99S).
			Float64("multi_event_share", m.Load.MultiEventShare).Uint64("missing_stamps", m.Load.MissingStamps).
			Uint64("discarded_stamps", m.Load.DiscardedStamps).Msg("load and latency")
	}
	for i := range stats.Sources {
		s := &stats.Sources[i]
		line := r.cfg.Log.Info().Str("source", s.Kind).Str("endpoint", s.Address).Uint64("reconnects", s.Reconnects).
			Float64("clock_offset_s", s.ClockOffset.Seconds())
		for _, c := range s.Counts {
			line = line.Uint64(c.Name, c.N)
		}
		line.Msg("power")
	}
}
