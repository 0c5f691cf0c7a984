package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/g2g-agent/g2g-agent/agent"
	"github.com/g2g-agent/g2g-agent/api/guard"
	"github.com/g2g-agent/g2g-agent/api/stream"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/recording"
	"github.com/g2g-agent/g2g-agent/rig"
)

// snapshot is what one scrape tells about.
type snapshot struct {
	state     *datacenter.State // nil before the first
	status    agent.Status
	live      *rig.Stats       // nil in a replay
	recording *recording.Stats // nil where nothing is recorded
	// outputLeftOut is nil where that is not counted.
	outputLeftOut *uint64
	stream        stream.Stats
	guard         guard.Stats
	events        eventCounts
}

// Describe implements [prometheus.Collector].
func (m *Metrics) Describe(to chan<- *prometheus.Desc) {
	for _, f := range m.catalog.families {
		if f.read != nil {
			to <- f.desc
		}
	}
}

// Collect implements [prometheus.Collector]. Everything is asked for once, so
// that the values of a scrape fit together.
func (m *Metrics) Collect(to chan<- prometheus.Metric) {
	s := snapshot{
		state: m.cfg.Hub.Latest(), status: m.cfg.Site.Status(),
		stream: m.cfg.Hub.Stats(), guard: m.cfg.Guard.Stats(), events: m.events.counts(),
	}
	if m.cfg.LiveStats != nil {
		stats := m.cfg.LiveStats()
		s.live = &stats
	}
	if m.cfg.OutputLeftOut != nil {
		leftOut := m.cfg.OutputLeftOut()
		s.outputLeftOut = &leftOut
	}
	if m.cfg.Recording != nil {
		stats := m.cfg.Recording()
		s.recording = &stats
	}
	for _, f := range m.catalog.families {
		if f.read != nil {
			f.read(&s, series{f, to})
		}
	}
}

// liveState is the latest state of a live run, nil if there is none.
func (s *snapshot) liveState() *datacenter.State {
	if s.state == nil || s.state.Source != datacenter.SourceLive {
		return nil
	}
	return s.state
}

// eachModelState reads a value of each model in the latest state.
func eachModelState(value func(*datacenter.ModelState) float64) func(*snapshot, series) {
	return func(s *snapshot, out series) {
		if s.state == nil {
			return
		}
		for i := range s.state.Models {
			m := &s.state.Models[i]
			out.value(value(m), m.ModelLabel)
		}
	}
}

// eachLiveModelState is eachModelState for what only a live run knows.
func eachLiveModelState(value func(*datacenter.LiveModelState) float64) func(*snapshot, series) {
	return func(s *snapshot, out series) {
		state := s.liveState()
		if state == nil {
			return
		}
		for i := range state.Models {
			m := &state.Models[i]
			out.value(value(&m.Live), m.ModelLabel)
		}
	}
}

// eachModel reads a value of each model's status.
func eachModel(value func(*agent.ModelStatus) float64) func(*snapshot, series) {
	return func(s *snapshot, out series) {
		for i := range s.status.Models {
			m := &s.status.Models[i]
			out.value(value(m), m.Spec.ModelLabel)
		}
	}
}

// eachLoad hands on something of each model's load and measurement.
func eachLoad(read func(*rig.ModelStats, series)) func(*snapshot, series) {
	return func(s *snapshot, out series) {
		if s.live == nil {
			return
		}
		for i := range s.live.Models {
			read(&s.live.Models[i], out)
		}
	}
}

// eachPhase hands on the three phases of a quantity.
func eachPhase(p datacenter.ThreePhase, out series, labels ...string) {
	for i, v := range p.Array() {
		out.value(v, append(labels[:len(labels):len(labels)], "abc"[i:i+1])...)
	}
}
