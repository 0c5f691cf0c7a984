package agent

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/recording"
)

// startRecording begins the recording, if there is one, and returns when step 0 is due.
func (l *Live) startRecording() (start time.Time) {
	to := l.cfg.Recorder
	if to == nil {
		return time.Now()
	}
	feed := l.rig.Feed()
	gpus, offsets := l.recordedGPUs(), map[string]int64{}
	for _, s := range l.rig.Stats().Sources {
		offsets[s.Address] = int64(s.ClockOffset)
	}
	start = time.Now()
	zero := feed.Clock(start)
	l.mu.Lock()
	h := l.cfg.Header
	h.RunID = l.pipeline.runID
	l.mu.Unlock()
	h.StartMs, h.ClockZeroNs, h.StartedAt = start.UnixMilli(), int64(zero), start
	h.Seed, h.DT, h.Models = l.cfg.Seed, l.cfg.DT, l.cfg.labels()
	h.GPUs, h.ClockOffsetNs = gpus, offsets
	to.Start(h)
	l.mu.Lock()
	l.notes.to = to
	l.pipeline.onApplied = func(a Applied) { l.notes.applied(l.pipeline, a) }
	l.mu.Unlock()
	l.readings.tape = &tape{
		to: to, labels: h.Models, startMs: h.StartMs, zero: zero, loads: make([][]loadSeen, len(h.Models)),
		power: make([]powerSeen, len(feed.GPUs())), dt: l.cfg.DT, stale: l.cfg.StaleAfter,
	}
	return start
}

// recordedGPUs are the GPUs in the order in which their power is recorded, then those
// again that several models have.
func (l *Live) recordedGPUs() []recording.GPU {
	feed := l.rig.Feed()
	var gpus, again []recording.GPU
	for i, g := range feed.GPUs() {
		for n, m := range feed.ModelsOf(i) {
			gpu := recording.GPU{
				GPU: gpuName(g.Source.String(), g.Index), Endpoint: g.Source.String(), GPUID: g.Index, ModelLabel: l.cfg.Models[m].ModelLabel,
			}
			if n == 0 {
				gpus = append(gpus, gpu)
			} else {
				again = append(again, gpu)
			}
		}
	}
	return append(gpus, again...)
}

// Announce sends an event of the run that came up outside it. It may be called from any
// goroutine, and does not wait for the network.
func (l *Live) Announce(data datacenter.EventData) {
	l.mu.Lock()
	l.pipeline.emit(data)
	l.unlock()
}

// notes are what is to be recorded of what happens between steps. They are guarded by
// the run's mutex.
type notes struct {
	to     Recorder // nil: nothing is recorded
	events []recording.Event
	nextID int64
}

// event notes an event of the API before a step.
func (n *notes) event(seq int64, e datacenter.Event) {
	id := n.nextID
	n.nextID++ // as whoever publishes them numbers them
	if n.to != nil {
		n.add(seq, id, e.TimeS, e.Topic, e.Data)
	}
}

// applied notes what takes effect from the next step on.
func (n *notes) applied(p *Pipeline, a Applied) {
	n.add(p.step, -1, p.nextStepS(), recording.TopicApplied, a)
}

func (n *notes) add(seq, id int64, timeS float64, topic string, data any) {
	raw, err := json.Marshal(data)
	if err != nil { // nothing in an event cannot be written
		raw, _ = json.Marshal(err.Error())
	}
	n.events = append(n.events, recording.Event{Seq: seq, ID: id, WallTime: time.Now(), TimeS: timeS, Topic: topic, Data: raw})
}

// hand gives the notes to the recorder.
func (n *notes) hand(p *Pipeline) {
	if len(n.events) == 0 {
		return
	}
	after := p.inForce()
	for i := range n.events {
		n.to.Event(n.events[i], after)
	}
	n.events = n.events[:0]
}

// gpuName is how a recording names a GPU.
func gpuName(endpoint string, index int) string { return endpoint + "/" + strconv.Itoa(index) }

// inForce is what commands have left in force.
func (p *Pipeline) inForce() *recording.InForce {
	f := &recording.InForce{}
	until := func(s float64) *float64 {
		if math.IsNaN(s) {
			return nil
		}
		return &s
	}
	for m := range p.cfg.Models {
		l := &p.leases[m]
		f.Models = append(f.Models, recording.ModelInForce{
			ModelLabel: p.cfg.Models[m].ModelLabel, BatchSize: p.batchSizes[m], BatchSizeUntilS: until(l.batchSizeUntilS),
			ReplicaDelta: p.demand.shift[m], LeasedReplicaDelta: l.leasedShift, ReplicaUntilS: until(l.shiftUntilS), Overdue: l.overdue,
		})
	}
	return f
}

// setInForce puts into force what is in force where a recording, or a segment of one,
// begins; models that it does not name keep what they have. It fails, wrapping
// [datacenter.ErrInvalidInput], for what no command can have left.
func (p *Pipeline) setInForce(f *recording.InForce) error {
	orNaN := func(s *float64) float64 {
		if s == nil {
			return math.NaN()
		}
		return *s
	}
	for _, in := range f.Models {
		m := slices.IndexFunc(p.cfg.Models, func(spec datacenter.ModelSpec) bool { return spec.ModelLabel == in.ModelLabel })
		if m < 0 {
			continue
		}
		if !shiftable(0, in.ReplicaDelta) || !shiftable(0, in.LeasedReplicaDelta) {
			return fmt.Errorf("%w: the recording's header has %d replicas of %s shifted, %d of them leased: want at most %d",
				datacenter.ErrInvalidInput, in.ReplicaDelta, in.ModelLabel, in.LeasedReplicaDelta, math.MaxInt32)
		}
		p.batchSizes[m], p.demand.shift[m] = in.BatchSize, in.ReplicaDelta
		p.leases[m] = lease{orNaN(in.BatchSizeUntilS), orNaN(in.ReplicaUntilS), in.LeasedReplicaDelta, in.Overdue}
	}
	return nil
}

// shiftable reports whether a command may shift so many replicas beside those that are
// shifted already.
func shiftable(shifted, delta int) bool {
	return delta >= -math.MaxInt32 && delta <= math.MaxInt32 && shifted+delta >= -math.MaxInt32 && shifted+delta <= math.MaxInt32
}
