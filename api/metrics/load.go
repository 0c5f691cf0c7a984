package metrics

import (
	"math"
	"time"

	"github.com/g2g-agent/g2g-agent/agent"
	"github.com/g2g-agent/g2g-agent/completion"
	"github.com/g2g-agent/g2g-agent/loadgen"
	"github.com/g2g-agent/g2g-agent/zeusd"
)

// addLoad declares what the load generators do, how well they measure, and what
// the power histories have taken in.
func (c *catalog) addLoad() {
	c.section = "Load generators"
	count := func(name, help string, value func(*loadgen.Stats) uint64) {
		c.counter(name, "model_label", help, eachLoad(func(m *agent.ModelStats, out series) {
			out.count(value(&m.Load), m.ModelLabel)
		})).onlyLive()
	}
	level := func(name, help string, value func(*loadgen.Stats) float64) {
		c.gauge(name, "model_label", help, eachLoad(func(m *agent.ModelStats, out series) {
			out.value(value(&m.Load), m.ModelLabel)
		})).onlyLive()
	}
	c.gauge("g2g_load_info", "model_label itl_method", "1, labelled with how tokens are counted now: usage (the server says how many a chunk brings) or per_chunk (each chunk counts as one, or has turned out to have been counted wrongly).",
		eachLoad(func(m *agent.ModelStats, out series) { out.value(1, m.ModelLabel, m.ITLMethod) })).onlyLive()
	level("g2g_load_in_flight_requests", "Requests under way.", func(s *loadgen.Stats) float64 { return float64(s.InFlight) })
	level("g2g_load_streams", "Streams kept, each with one request after the other.", func(s *loadgen.Stats) float64 { return float64(s.Workers) })
	level("g2g_load_wanted_streams", "Streams wanted.", func(s *loadgen.Stats) float64 { return float64(s.Concurrency) })
	count("g2g_load_started_requests_total", "Requests begun.", func(s *loadgen.Stats) uint64 { return s.Started })
	c.counter("g2g_load_requests_total", "model_label outcome", "Requests ended, by how: completed, failed, or cancelled by the end of the run.",
		eachLoad(func(m *agent.ModelStats, out series) {
			out.count(m.Load.Completed, m.ModelLabel, "completed")
			out.count(m.Load.Failed(), m.ModelLabel, "failed")
			out.count(m.Load.Cancelled, m.ModelLabel, "cancelled")
		})).onlyLive()
	c.counter("g2g_load_errors_total", "model_label kind", "Requests failed, by the kind of failure: connect, status_4xx, status_5xx, error_event (an error after a status of 200), no_done, idle_timeout, total_timeout, cut, malformed, no_tokens, aborted (a finish reason such as abort).",
		eachLoad(func(m *agent.ModelStats, out series) {
			for kind, n := range m.Load.FailedByKind {
				out.count(n, m.ModelLabel, completion.ErrorKind(kind).String())
			}
		})).onlyLive()
	count("g2g_load_tokens_total", "Output tokens received.", func(s *loadgen.Stats) uint64 { return s.Tokens })
	count("g2g_load_chunks_total", "Events received, with tokens or without.", func(s *loadgen.Stats) uint64 { return s.Chunks })
	count("g2g_load_connections_total", "Connections opened to the vLLM server.", func(s *loadgen.Stats) uint64 { return s.Connects })
	count("g2g_load_reconnects_total", "Connections opened in place of another.", func(s *loadgen.Stats) uint64 { return s.Reconnects })
	count("g2g_load_reads_total", "Reads from the network that brought tokens.", func(s *loadgen.Stats) uint64 { return s.Reads })
	level("g2g_load_multi_event_reads_ratio", "Part of the reads that brought several events with tokens, or came right behind another read, since the start, a ratio. Their tokens share the gap before them: above 0.001, percentiles of latencies are blurred, above 0.1 they are those of bundles, as from a proxy that collects events. The mean stays right.",
		func(s *loadgen.Stats) float64 { return s.MultiEventShare })
	count("g2g_load_missing_stamps_total", "Reads without the kernel's receive time, as with TLS; they are stamped after the read.", func(s *loadgen.Stats) uint64 { return s.MissingStamps })
	count("g2g_load_discarded_stamps_total", "Reads whose receive time was implausible because the clock was set; they are stamped after the read.", func(s *loadgen.Stats) uint64 { return s.DiscardedStamps })
	count("g2g_load_odd_usages_total", "Events whose number of tokens made no sense; they count as those without one.", func(s *loadgen.Stats) uint64 { return s.OddUsages })
	c.add(summary, "g2g_load_receive_lag_seconds", "model_label", "Time from the kernel's receive time to the return of the read, in seconds, since the start. It does not enter the latencies.",
		eachLoad(func(m *agent.ModelStats, out series) { out.summary(&m.Load.Lag, m.ModelLabel) })).onlyLive()

	c.section = "Power histories"
	c.counter("g2g_power_history_readings_total", "model_label", "Power readings taken into the model's history.",
		eachLoad(func(m *agent.ModelStats, out series) { out.count(m.History.Appended, m.ModelLabel) })).onlyLive()
	c.counter("g2g_power_history_disordered_readings_total", "model_label", "Readings whose time was before the last one's, or no number.",
		eachLoad(func(m *agent.ModelStats, out series) { out.count(m.History.Disordered, m.ModelLabel) })).onlyLive()
	c.counter("g2g_power_history_short_lookups_total", "model_label", "Looks back beyond the oldest reading kept: more than 0 says that the history is too short.",
		eachLoad(func(m *agent.ModelStats, out series) { out.count(m.History.BeyondOldest, m.ModelLabel) })).onlyLive()
}

// addDaemons declares how well the zeusd daemons are read.
func (c *catalog) addDaemons() {
	c.section = "zeusd daemons"
	read := func(value func(*zeusd.EndpointStatus) float64) func(*snapshot, series) {
		return func(s *snapshot, out series) {
			if s.live == nil {
				return
			}
			for i := range s.live.Daemons {
				d := &s.live.Daemons[i]
				out.value(value(d), d.Endpoint.String())
			}
		}
	}
	level := func(name, help string, value func(*zeusd.EndpointStatus) float64) {
		c.gauge(name, "endpoint", help, read(value)).onlyLive()
	}
	count := func(name, help string, value func(*zeusd.EndpointStatus) uint64) {
		c.counter(name, "endpoint", help, read(func(d *zeusd.EndpointStatus) float64 { return float64(value(d)) })).onlyLive()
	}
	level("g2g_zeusd_up", "1 while the daemon's stream of readings is open, else 0.", func(d *zeusd.EndpointStatus) float64 {
		if d.Connected {
			return 1
		}
		return 0
	})
	level("g2g_zeusd_unknown_gpus", "GPUs of the config that the daemon does not have.", func(d *zeusd.EndpointStatus) float64 { return float64(len(d.UnknownGPUs)) })
	level("g2g_zeusd_failed_gpus", "GPUs that could not be read when the daemon was last asked, or whose power could not be.", func(d *zeusd.EndpointStatus) float64 { return float64(len(d.FailedGPUs)) })
	count("g2g_zeusd_events_total", "Events of the daemon's streams.", func(d *zeusd.EndpointStatus) uint64 { return d.Events })
	count("g2g_zeusd_bad_events_total", "Events and answers skipped: malformed, too long, cut off.", func(d *zeusd.EndpointStatus) uint64 { return d.BadEvents })
	count("g2g_zeusd_late_events_total", "Events skipped because a surely newer answer had overtaken them.", func(d *zeusd.EndpointStatus) uint64 { return d.LateEvents })
	count("g2g_zeusd_replayed_events_total", "Events skipped because they were sent before their stream was asked for: a daemon begins each stream with what it sent last.", func(d *zeusd.EndpointStatus) uint64 { return d.ReplayedEvents })
	count("g2g_zeusd_implausible_readings_total", "Readings that no such device can draw; they are treated as missing.", func(d *zeusd.EndpointStatus) uint64 { return d.ImplausibleReadings })
	count("g2g_zeusd_unwanted_readings_total", "Values of devices that nobody asked for.", func(d *zeusd.EndpointStatus) uint64 { return d.UnwantedReadings })
	count("g2g_zeusd_answers_total", "Answers to requests for the power now.", func(d *zeusd.EndpointStatus) uint64 { return d.Answers })
	count("g2g_zeusd_failed_asks_total", "Requests for the power now without an answer.", func(d *zeusd.EndpointStatus) uint64 { return d.FailedAsks })
	count("g2g_zeusd_reconnects_total", "Connections to the daemon after the first one.", func(d *zeusd.EndpointStatus) uint64 { return d.Reconnects })
	count("g2g_zeusd_reopened_streams_total", "Streams opened anew to ask a daemon that cannot be asked otherwise (zeusd 0.4).", func(d *zeusd.EndpointStatus) uint64 { return d.Reopenings })
	// Before a daemon has told its time, neither is known.
	measured := func(d *zeusd.EndpointStatus, what time.Duration) float64 {
		if d.RoundTrip == 0 {
			return math.NaN()
		}
		return what.Seconds()
	}
	level("g2g_zeusd_clock_offset_seconds", "This host's wall clock less the daemon's when last measured, in seconds.", func(d *zeusd.EndpointStatus) float64 { return measured(d, d.ClockOffset) })
	level("g2g_zeusd_round_trip_seconds", "How long the daemon took to tell its time, in seconds, the median of five.", func(d *zeusd.EndpointStatus) float64 { return measured(d, d.RoundTrip) })
	count("g2g_zeusd_clock_steps_total", "How often the daemon's clock was found to have moved.", func(d *zeusd.EndpointStatus) uint64 { return d.ClockSteps })
	count("g2g_zeusd_implausible_times_total", "Events from the future by the daemon's clock, which were skipped.", func(d *zeusd.EndpointStatus) uint64 { return d.ImplausibleTimes })
}
