package metrics

import (
	"maps"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/g2g-agent/g2g-agent/agent"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/recording"
)

// addRun declares what says how far the run has come.
func (c *catalog) addRun(live bool) {
	source := datacenter.SourceReplay
	if live {
		source = datacenter.SourceLive
	}
	c.section = "Run and steps"
	c.gauge("g2g_run_info", "facility source",
		"1, labelled with the facility's name and where readings come from, live or replay.", func(s *snapshot, out series) {
			out.value(1, s.status.Facility.Name, string(source))
		})
	c.gauge("g2g_run_phase", "run_phase",
		"1 for the phase that the run is in, 0 for the others: starting, stepping, waiting (to be advanced), ended.",
		func(s *snapshot, out series) {
			for _, phase := range []agent.Phase{agent.PhaseStarting, agent.PhaseStepping, agent.PhaseWaiting, agent.PhaseEnded} {
				out.flag(s.status.Phase == phase, string(phase))
			}
		})
	c.gauge("g2g_run_time_seconds", "",
		"Time of the next step since the first, in seconds of the run.", func(s *snapshot, out series) {
			out.value(s.status.TimeS)
		})
	c.gauge("g2g_step_interval_seconds", "", "Time from step to step, in seconds of the run.", func(s *snapshot, out series) {
		out.value(s.status.DT.Float64())
	})
	c.counter("g2g_steps_total", "", "Steps computed.", func(s *snapshot, out series) {
		out.value(float64(s.status.Steps))
	})
	c.gauge("g2g_last_step_timestamp_seconds", "",
		"When the last step was computed, in seconds since 1970.", func(s *snapshot, out series) {
			if at := s.status.LastStepAt; !at.IsZero() {
				out.value(float64(at.UnixMicro()) / 1e6)
			}
		})
	c.counter("g2g_dropped_steps_total", "",
		"Steps missing among the states published. Steps are computed late rather than left out: more than 0 is a fault "+
			"of the agent.", func(s *snapshot, out series) {
			out.count(s.stream.DroppedSteps)
		})
	c.counter("g2g_output_left_out_states_total", "",
		"States that are not in the output (--out), because it did not keep up or had failed.", func(s *snapshot, out series) {
			if s.outputLeftOut != nil {
				out.count(*s.outputLeftOut)
			}
		}).onlyLive()
	c.addRecording()
	c.addEvents()
}

// addRecording declares how the run's recording goes; without one there are no series.
func (c *catalog) addRecording() {
	add := func(declare func(name, labels, help string, read func(*snapshot, series)) *family, name, help string, value func(*recording.Stats) float64) {
		declare(name, "", help, func(s *snapshot, out series) {
			if s.recording != nil {
				out.value(value(s.recording))
			}
		}).onlyLive()
	}
	add(c.gauge, "g2g_recording_active", "1 while the run is recorded, 0 while the disk is full or fails.", func(r *recording.Stats) float64 {
		if r.Stopped {
			return 0
		}
		return 1
	})
	add(c.counter, "g2g_recording_seconds_total", "Seconds of the run that were recorded.", func(r *recording.Stats) float64 { return float64(r.Seconds) })
	add(c.counter, "g2g_recording_written_bytes_total", "Bytes written to the recording.", func(r *recording.Stats) float64 { return float64(r.Bytes) })
	add(c.counter, "g2g_recording_dropped_seconds_total", "Seconds of the run that are not in the recording, because the disk was full, slow or failed.",
		func(r *recording.Stats) float64 { return float64(r.DroppedSeconds) })
	add(c.counter, "g2g_recording_lost_lines_total", "Commands and events that are not in the recording, because the disk was away for longer than memory holds.",
		func(r *recording.Stats) float64 { return float64(r.LostCommands + r.LostEvents) })
	add(c.counter, "g2g_recording_deleted_segments_total", "Segments that were deleted to keep record.max_bytes and record.max_age_s.",
		func(r *recording.Stats) float64 { return float64(r.DeletedSegments) })
	add(c.gauge, "g2g_recording_directory_bytes", "Bytes of all segments in the recording's directory.",
		func(r *recording.Stats) float64 { return float64(r.DirectoryBytes) })
	add(c.gauge, "g2g_recording_slowest_sync_seconds", "The longest time that a second of the run took to be on the disk since the start, in seconds.",
		func(r *recording.Stats) float64 { return r.SlowestSync.Seconds() })
}

// addEvents declares what counts the run's events.
func (c *catalog) addEvents() {
	c.counter("g2g_events_total", "topic",
		"Events of the run, such as commands carried out, leases expired, readings gone stale.", func(s *snapshot, out series) {
			for topic, n := range s.events.byTopic {
				out.count(n, topic)
			}
		})
	c.counter("g2g_model_lease_expirations_total", "model_label command",
		"Leases that ran out because the command was not renewed in time; the model then returned to its failsafe batch "+
			"size, or its leased shifts were taken back.", func(s *snapshot, out series) {
			for i := range s.status.Models {
				label := s.status.Models[i].Spec.ModelLabel
				for _, command := range []string{datacenter.SetBatchSize{}.Name(), datacenter.ShiftReplicas{}.Name()} {
					out.count(s.events.expired[lease{label, command}], label, command)
				}
			}
		})
}

// stepInstruments count steps as they are made.
type stepInstruments struct {
	late               prometheus.Counter
	lateness, duration prometheus.Histogram
}

// addSteps declares what says how steps keep to their time.
func (c *catalog) addSteps() stepInstruments {
	bounds := []float64{0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5}
	late := c.counter("g2g_late_steps_total", "", "Steps that started more than 5 ms after they were due.", nil)
	lateness := c.add(histogram, "g2g_step_lateness_seconds", "",
		"How long after it was due a step started, in seconds. In lockstep, where no step is due, there is none.", nil)
	duration := c.add(histogram, "g2g_step_duration_seconds", "",
		"How long computing a state and handing it on took, in seconds.", nil)
	return stepInstruments{
		late:     prometheus.NewCounter(prometheus.CounterOpts{Name: late.name, Help: late.help}),
		lateness: prometheus.NewHistogram(prometheus.HistogramOpts{Name: lateness.name, Help: lateness.help, Buckets: bounds}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{Name: duration.name, Help: duration.help, Buckets: bounds}),
	}
}

func (s *stepInstruments) collectors() []prometheus.Collector {
	return []prometheus.Collector{s.late, s.lateness, s.duration}
}

func (s *stepInstruments) observe(t agent.StepTiming) {
	if t.Late() {
		s.late.Inc()
	}
	s.lateness.Observe(t.Lateness.Seconds())
	s.duration.Observe(t.Took.Seconds())
}

// lease names the leases of one model's commands of one kind.
type lease struct{ modelLabel, command string }

// eventCounts are counts since the start.
type eventCounts struct {
	byTopic map[string]uint64
	expired map[lease]uint64
}

// events counts events.
type events struct {
	mu    sync.Mutex
	since eventCounts
}

// newEvents counts from 0, so that the first event of a kind is seen as a rise.
func newEvents() *events {
	e := &events{since: eventCounts{byTopic: map[string]uint64{}, expired: map[lease]uint64{}}}
	for _, kind := range datacenter.EventKinds() {
		e.since.byTopic[kind.Topic()] = 0
	}
	return e
}

func (e *events) observe(event datacenter.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	topic := event.Topic
	if _, known := e.since.byTopic[topic]; !known {
		topic = other
	}
	e.since.byTopic[topic]++
	switch data := event.Data.(type) {
	case datacenter.BatchSizeLeaseExpired:
		e.since.expired[lease{data.ModelLabel, datacenter.SetBatchSize{}.Name()}]++
	case datacenter.ReplicaLeaseExpired:
		e.since.expired[lease{data.ModelLabel, datacenter.ShiftReplicas{}.Name()}]++
	}
}

func (e *events) counts() eventCounts {
	e.mu.Lock()
	defer e.mu.Unlock()
	return eventCounts{byTopic: maps.Clone(e.since.byTopic), expired: maps.Clone(e.since.expired)}
}
