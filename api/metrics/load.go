package metrics

import (
	"math"
	"time"

	"github.com/g2g-agent/g2g-agent/completion"
	"github.com/g2g-agent/g2g-agent/loadgen"
	"github.com/g2g-agent/g2g-agent/rig"
)

// addLoad declares what the load generators do, and how well they measure.
func (c *catalog) addLoad() {
	c.section = "Load generators"
	count := func(name, help string, value func(*loadgen.Stats) uint64) {
		c.counter(name, "model_label", help, eachLoad(func(m *rig.ModelStats, out series) {
			out.count(value(&m.Load), m.ModelLabel)
		})).onlyLive()
	}
	level := func(name, help string, value func(*loadgen.Stats) float64) {
		c.gauge(name, "model_label", help, eachLoad(func(m *rig.ModelStats, out series) {
			out.value(value(&m.Load), m.ModelLabel)
		})).onlyLive()
	}
	c.gauge("g2g_load_info", "model_label itl_method",
		"1, labelled with how tokens are counted now: usage (the server says how many a chunk brings) or per_chunk "+
			"(each chunk counts as one, or has turned out to have been counted wrongly).",
		eachLoad(func(m *rig.ModelStats, out series) { out.value(1, m.ModelLabel, m.ITLMethod) })).onlyLive()
	level("g2g_load_in_flight_requests", "Requests under way.", func(s *loadgen.Stats) float64 { return float64(s.InFlight) })
	level("g2g_load_streams", "Streams kept, each with one request after the other.",
		func(s *loadgen.Stats) float64 { return float64(s.Workers) })
	level("g2g_load_wanted_streams", "Streams wanted.", func(s *loadgen.Stats) float64 { return float64(s.Concurrency) })
	count("g2g_load_started_requests_total", "Requests begun.", func(s *loadgen.Stats) uint64 { return s.Started })
	c.counter("g2g_load_requests_total", "model_label outcome",
		"Requests ended, by how: completed, failed, or cancelled by the end of the run.",
		eachLoad(func(m *rig.ModelStats, out series) {
			out.count(m.Load.Completed, m.ModelLabel, "completed")
			out.count(m.Load.Failed(), m.ModelLabel, "failed")
			out.count(m.Load.Cancelled, m.ModelLabel, "cancelled")
		})).onlyLive()
	c.counter("g2g_load_errors_total", "model_label kind",
		"Requests failed, by the kind of failure: connect, status_4xx, status_5xx, error_event (an error after a "+
			"status of 200), no_done, idle_timeout, total_timeout, cut, malformed, no_tokens, aborted (a finish reason "+
			"such as abort).",
		eachLoad(func(m *rig.ModelStats, out series) {
			for kind, n := range m.Load.FailedByKind {
				out.count(n, m.ModelLabel, completion.ErrorKind(kind).String())
			}
		})).onlyLive()
	count("g2g_load_tokens_total", "Output tokens received.", func(s *loadgen.Stats) uint64 { return s.Tokens })
	count("g2g_load_chunks_total", "Events received, with tokens or without.", func(s *loadgen.Stats) uint64 { return s.Chunks })
	count("g2g_load_connections_total", "Connections opened to the vLLM server.", func(s *loadgen.Stats) uint64 { return s.Connects })
	count("g2g_load_reconnects_total", "Connections opened in place of another.", func(s *loadgen.Stats) uint64 { return s.Reconnects })
	count("g2g_load_reads_total", "Reads from the network that brought tokens.", func(s *loadgen.Stats) uint64 { return s.Reads })
	level("g2g_load_multi_event_reads_ratio",
		"Part of the reads that brought several events with tokens, or came right behind another read, since the "+
			"start, a ratio. Their tokens share the gap before them: above 0.001, percentiles of latencies are blurred, "+
			"above 0.1 they are those of bundles, as from a proxy that collects events. The mean stays right.",
		func(s *loadgen.Stats) float64 { return s.MultiEventShare })
	count("g2g_load_missing_stamps_total", "Reads without the kernel's receive time, as with TLS; they are stamped after the read.",
		func(s *loadgen.Stats) uint64 { return s.MissingStamps })
	count("g2g_load_discarded_stamps_total",
		"Reads whose receive time was implausible because the clock was set; they are stamped after the read.",
		func(s *loadgen.Stats) uint64 { return s.DiscardedStamps })
	count("g2g_load_odd_usages_total", "Events whose number of tokens made no sense; they count as those without one.",
		func(s *loadgen.Stats) uint64 { return s.OddUsages })
	c.add(summary, "g2g_load_receive_lag_seconds", "model_label",
		"Time from the kernel's receive time to the return of the read, in seconds, since the start. It does not "+
			"enter the latencies.",
		eachLoad(func(m *rig.ModelStats, out series) { out.summary(&m.Load.Lag, m.ModelLabel) })).onlyLive()

}

// addHistories declares what the power histories have taken in.
func (c *catalog) addHistories() {
	c.section = "Power histories"
	c.counter("g2g_power_history_readings_total", "model_label", "Power readings taken into the model's history.",
		eachLoad(func(m *rig.ModelStats, out series) { out.count(m.History.Appended, m.ModelLabel) })).onlyLive()
	c.counter("g2g_power_history_disordered_readings_total", "model_label", "Readings whose time was before the last one's, or no number.",
		eachLoad(func(m *rig.ModelStats, out series) { out.count(m.History.Disordered, m.ModelLabel) })).onlyLive()
	c.counter("g2g_power_history_short_lookups_total", "model_label",
		"Looks back beyond the oldest reading kept: more than 0 says that the history is too short.",
		eachLoad(func(m *rig.ModelStats, out series) { out.count(m.History.BeyondOldest, m.ModelLabel) })).onlyLive()
}

// addSources declares how well power is read.
func (c *catalog) addSources() {
	c.section = "Power sources"
	read := func(value func(*rig.SourceStats) float64) func(*snapshot, series) {
		return func(s *snapshot, out series) {
			if s.live == nil {
				return
			}
			for i := range s.live.Sources {
				source := &s.live.Sources[i]
				out.value(value(source), source.Kind, source.Address)
			}
		}
	}
	level := func(name, help string, value func(*rig.SourceStats) float64) {
		c.gauge(name, "source endpoint", help, read(value)).onlyLive()
	}
	level("g2g_power_source_up", "1 while readings can come from the source, else 0.", func(s *rig.SourceStats) float64 {
		if s.Connected {
			return 1
		}
		return 0
	})
	level("g2g_power_source_unknown_gpus", "GPUs of the config that the source does not have.",
		func(s *rig.SourceStats) float64 { return float64(len(s.UnknownGPUs)) })
	level("g2g_power_source_failed_gpus", "GPUs that could not be read when the source last tried.",
		func(s *rig.SourceStats) float64 { return float64(len(s.FailedGPUs)) })
	c.counter("g2g_power_source_reconnects_total", "source endpoint", "Connections to the source after the first one.",
		read(func(s *rig.SourceStats) float64 { return float64(s.Reconnects) })).onlyLive()
	c.counter("g2g_power_source_events_total", "source endpoint event",
		"What happened at the source, by what it was; which events there are depends on the kind of source, see the reference.",
		func(s *snapshot, out series) {
			if s.live == nil {
				return
			}
			for i := range s.live.Sources {
				source := &s.live.Sources[i]
				for _, n := range source.Counts {
					out.count(n.N, source.Kind, source.Address, n.Name)
				}
			}
		}).onlyLive()
	// Before a source has told its time, neither is known.
	measured := func(s *rig.SourceStats, what time.Duration) float64 {
		if s.RoundTrip == 0 {
			return math.NaN()
		}
		return what.Seconds()
	}
	level("g2g_power_source_clock_offset_seconds", "This host's wall clock less the source's when last measured, in seconds.",
		func(s *rig.SourceStats) float64 { return measured(s, s.ClockOffset) })
	level("g2g_power_source_round_trip_seconds", "How long the source takes to answer, in seconds.",
		func(s *rig.SourceStats) float64 { return measured(s, s.RoundTrip) })
}
