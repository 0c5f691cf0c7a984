package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"time"

	"github.com/g2g-agent/g2g-agent/augment"
	"github.com/g2g-agent/g2g-agent/buffer"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/loadgen"
	"github.com/g2g-agent/g2g-agent/power"
	"github.com/g2g-agent/g2g-agent/recording"
	"github.com/g2g-agent/g2g-agent/rig"
)

// RecordedConfig is what a run from a recording needs beside a pipeline's config.
type RecordedConfig struct {
	Config
	// SimulatedReplicas are, by model, the replicas that the real ones stand for.
	SimulatedReplicas []int
	ITLWindow         time.Duration
	Stagger           time.Duration
	StaleAfter        time.Duration
	// WhatIf says what is otherwise than in the recording: the states are then others, and
	// are not compared.
	WhatIf []string
	// LeaveOutCommands leaves out what commands and the ends of leases changed, which is a
	// what-if too.
	LeaveOutCommands bool
	// Tell is told what is missing in the recording, and how its states differ.
	Tell func(string)
}

// Recorded is a run from a recording: what a live run read goes through the same
// pipeline again. As long as nothing else is asked for, each state is compared with the
// hash of the recorded one. It is for one goroutine.
type Recorded struct {
	*Pipeline
	cfg      RecordedConfig
	lines    *recordedLines
	header   *recording.Header
	feed     *rig.Feed
	readings *liveReadings
	models   []*recordedModel

	second      *recordedSecond
	index       map[string]int // of GPUs
	waiting     []*recording.Event
	compareFrom int64 // step
	heard       bool  // of all GPUs, since the last gap
	// agreeFrom is, where what commands have changed may be among what is damaged, the
	// step from which on a full state has it all; else 0.
	agreeFrom  int64
	outcome    Comparison
	memberTold bool
}

// Comparison is how the states of a run from a recording compare with the recorded ones.
type Comparison struct {
	// Steps were computed, Compared of them compared and Different found to differ.
	Steps, Compared, Different int64
	// First tells of the first that differs, empty if none does.
	First string
	// WhatIf says what is otherwise; nothing is compared then.
	WhatIf []string
	// Missing is how many steps are missing in the recording.
	Missing int64
}

// recordedModel is what a recording says of a model's servers.
type recordedModel struct {
	came  *loadgen.StepITL
	loads []rig.LoadReading
}

func (m *recordedModel) TakeStep(_ time.Time, s *loadgen.StepITL) {
	*s = loadgen.StepITL{Bins: s.Bins[:0], Counts: s.Counts[:0]}
	if m.came != nil {
		s.Count, s.SumNs, s.PerChunk, s.Output = m.came.Count, m.came.SumNs, m.came.PerChunk, m.came.Output
		s.Bins, s.Counts = append(s.Bins, m.came.Bins...), append(s.Counts, m.came.Counts...)
	}
}

func (m *recordedModel) LoadReadings(into []rig.LoadReading) []rig.LoadReading {
	return append(into, m.loads...)
}

// newRecorded prepares a run from lines whose first second has been read.
func newRecorded(cfg RecordedConfig, lines *recordedLines, first *recordedSecond, servers []int) (*Recorded, error) {
	if cfg.LeaveOutCommands {
		cfg.WhatIf = append(cfg.WhatIf, "without the commands")
	}
	r := &Recorded{cfg: cfg, lines: lines, header: first.header, second: first, index: map[string]int{}}
	r.outcome.WhatIf = cfg.WhatIf
	for m := range cfg.Models {
		model := &recordedModel{}
		for range servers[m] {
			model.loads = append(model.loads, rig.LoadReading{Preempted: math.NaN()})
		}
		r.models = append(r.models, model)
	}
	r.begin()
	pool := cfg.newPool(augment.StaggerSeconds(cfg.Stagger.Seconds()))
	r.readings.stagger = buffer.NewOffsets(pool.StaggerSeconds())
	var err error
	if r.Pipeline, err = newPipeline(cfg.Config, pool, r.readings); err != nil {
		return nil, err
	}
	d := &r.demand
	d.fromZero, d.maxWalk = true, maxStartWalk
	if over := d.firstOverload(0, r.horizon); over != nil && len(cfg.WhatIf) > 0 {
		return nil, fmt.Errorf("%w: models: the replica schedules need %s; in a run from a recording the capacity is the sum of "+
			"simulated_num_replicas times gpus_per_replica", datacenter.ErrInvalidInput, d.describe(over))
	}
	d.maxWalk = maxLiveWalk
	if r.header.InForce != nil && !cfg.LeaveOutCommands {
		if err := r.setInForce(r.header.InForce); err != nil {
			return nil, err
		}
	}
	r.passed()
	if err := r.goTo(first.hashes.Seq); err != nil {
		return nil, err
	}
	if first.hashes.Seq == 0 {
		r.compareFrom, r.heard = 0, true
	}
	return r, nil
}

// begin makes the histories and windows, empty.
func (r *Recorded) begin() {
	gpus := make([][]rig.GPU, len(r.cfg.Models))
	place := 0
	for _, g := range r.header.GPUs {
		id := rig.GPU{Source: recordedSource(g.Endpoint), Index: g.GPUID}
		if _, there := r.index[g.GPU]; !there {
			r.index[g.GPU] = place
			place++
		}
		if m := slices.IndexFunc(r.cfg.Models, func(s datacenter.ModelSpec) bool { return s.ModelLabel == g.ModelLabel }); m >= 0 {
			gpus[m] = append(gpus[m], id)
		}
	}
	r.feed = rig.NewFeed(gpus, r.cfg.Stagger.Seconds())
	for i, g := range r.feed.GPUs() {
		r.index[gpuName(string(g.Source.(recordedSource)), g.Index)] = i
	}
	var offsets *buffer.Offsets
	if r.readings != nil {
		offsets = r.readings.stagger
	}
	readings := &liveReadings{feed: r.feed, staleAfterS: r.cfg.StaleAfter.Seconds(), dtS: r.cfg.DT.Float64(), stagger: offsets}
	for m, model := range r.models {
		readings.models = append(readings.models, newLiveModel(model, newWindow(r.cfg.ITLWindow, r.cfg.DT),
			len(gpus[m]), r.cfg.Models[m].GPUsPerReplica, r.cfg.SimulatedReplicas[m]))
		if r.readings != nil {
			readings.models[m].offsets = r.readings.models[m].offsets
		}
	}
	if r.readings == nil {
		r.readings = readings
	} else {
		*r.readings = *readings
	}
	r.readings.clock = func(time.Time) time.Duration {
		return time.Duration(r.header.ClockZeroNs) + dueAfter(r.cfg.DT, r.step)
	}
}

// goTo goes on at a step, with nothing known of what was before it: comparing begins when
// all that a step looks back on has been read.
func (r *Recorded) goTo(seq int64) error {
	if err := r.augmenter.Skip(seq-r.step, r.lines.over); err != nil {
		return err
	}
	r.step = seq
	lookBackS := max(r.cfg.Stagger.Seconds(), 2*r.cfg.ITLWindow.Seconds())
	r.compareFrom = seq + int64(math.Ceil(lookBackS/r.cfg.DT.Float64())) + 1
	r.heard = false
	return nil
}

// Step computes the next state, io.EOF after the last one.
func (r *Recorded) Step(due time.Time) (*datacenter.State, error) {
	if err := r.advance(); err != nil {
		return nil, err
	}
	if err := r.applyEffects(); err != nil {
		return nil, err
	}
	r.agree()
	r.takeStep()
	state, err := r.Pipeline.Step(due)
	if err != nil {
		return nil, err
	}
	if due.IsZero() {
		h := r.second.hashes
		after := dueAfter(r.cfg.DT, state.Seq) - dueAfter(r.cfg.DT, h.Seq)
		state.WallTime = time.UnixMilli(h.WallMs).Add(after)
	}
	r.outcome.Steps++
	r.compare(state)
	return state, nil
}

// Comparison is how the states so far compare with the recorded ones.
func (r *Recorded) Comparison() Comparison { return r.outcome }

// advance goes to the second that has the next step.
func (r *Recorded) advance() error {
	if h := r.second.hashes; r.step < h.Seq+int64(len(h.Hash)) {
		return nil
	}
	second, err := r.lines.second()
	if err != nil {
		return err
	}
	r.second = second
	missing := second.hashes.Seq - r.step
	switch {
	case missing < 0:
		return fmt.Errorf("%w: the recording goes back from step %d to step %d", datacenter.ErrInvalidInput, r.step, second.hashes.Seq)
	case missing == 0 && !r.lines.gap && !r.lines.damaged:
		r.header = second.header
		r.passed()
		return nil
	}
	r.header = second.header
	if r.lines.damaged {
		r.agreeFrom = second.hashes.Seq + int64(max(math.Ceil(eventsAheadS/r.cfg.DT.Float64()), float64(len(second.hashes.Hash)))) + 1
	}
	r.outcome.Missing += missing
	if missing > 0 {
		r.cfg.Tell(fmt.Sprintf("steps %d to %d are missing in the recording: comparing begins again when what steps look back on has been read",
			r.step, second.hashes.Seq-1))
	}
	r.begin()
	if err := r.goTo(second.hashes.Seq); err != nil {
		return err
	}
	if begun := r.lines.begun; begun != nil && begun.InForce != nil && !r.cfg.LeaveOutCommands {
		if err := r.setInForce(begun.InForce); err != nil {
			return err
		}
		r.waiting = nil // it is in force
		r.lines.happened = r.lines.happened[min(r.lines.sinceHeader, len(r.lines.happened)):]
	}
	r.passed()
	return nil
}

// passed forgets what was noted of the lines before the second at hand.
func (r *Recorded) passed() {
	r.lines.gap, r.lines.damaged, r.lines.begun, r.lines.sinceHeader = false, false, nil, 0
}

// applyEffects applies what took effect before the next step, in its order.
func (r *Recorded) applyEffects() error {
	r.waiting = append(r.waiting, r.lines.happened...)
	r.lines.happened = nil
	rest := r.waiting[:0]
	for _, e := range r.waiting {
		if e.Seq > r.step {
			rest = append(rest, e)
			continue
		}
		if e.Topic != recording.TopicApplied || r.cfg.LeaveOutCommands {
			continue
		}
		var a Applied
		if err := json.Unmarshal(e.Data, &a); err != nil {
			return fmt.Errorf("%w: the recording's event %s before step %d: %w", datacenter.ErrInvalidInput, e.Topic, e.Seq, err)
		}
		m := r.modelIndex(a.ModelLabel)
		if m < 0 {
			continue
		}
		if a.BatchSize != nil {
			r.setBatchSize(m, *a.BatchSize)
			r.emitBatchSizes()
		}
		if a.ReplicaDelta != nil {
			if !shiftable(r.demand.shift[m], *a.ReplicaDelta) {
				return fmt.Errorf("%w: the recording's event %s before step %d shifts %d replicas of %s beside %d: want at most %d",
					datacenter.ErrInvalidInput, e.Topic, e.Seq, *a.ReplicaDelta, a.ModelLabel, r.demand.shift[m], math.MaxInt32)
			}
			r.shift(m, datacenter.ShiftReplicas{ModelLabel: a.ModelLabel, ReplicaDelta: *a.ReplicaDelta})
		}
	}
	r.waiting = rest
	return nil
}

// eventsAheadS is how far, in seconds, events may stand before the steps that they are of:
// seconds wait for the disk where those do not.
const eventsAheadS = 6

// agree takes over the batch sizes and replicas of a full state of the next step, where
// damage may have cost what changed them. Comparing waits for that.
func (r *Recorded) agree() {
	full := r.second.states[r.step]
	if r.agreeFrom == 0 || r.step < r.agreeFrom || full == nil || len(full.Models) != len(r.models) || len(r.cfg.WhatIf) > 0 {
		return
	}
	r.agreeFrom = 0
	replicas := make([]int, len(r.models))
	r.demand.replicasAt(r.nextStepS(), replicas)
	for m := range full.Models {
		r.batchSizes[m] = full.Models[m].BatchSize
		r.demand.shift[m] += full.Models[m].ActiveReplicas - replicas[m]
	}
}

// takeStep has the next step see what the recorded one saw anew.
func (r *Recorded) takeStep() {
	s := r.second
	for i := range s.power {
		p := &s.power[i]
		gpu, known := r.index[p.gpu]
		if p.entry.Step != r.step || !known || p.entry.Mark == recording.MarkStale && r.feed.HeardGPU(gpu) {
			continue
		}
		r.feed.Take(rig.FeedEntry{GPU: gpu, At: p.at(r.header), PowerMW: p.entry.PowerMW, Lost: p.entry.Mark == recording.MarkLost})
	}
	for m, model := range r.models {
		label := r.cfg.Models[m].ModelLabel
		model.came = nil
		for _, l := range s.itl {
			if l.Seq == r.step && l.ModelLabel == label {
				model.came = stepITL(l)
			}
		}
		for _, l := range s.loads {
			if l.Step == r.step && l.ModelLabel == label && l.ServerIndex < int64(len(model.loads)) {
				model.loads[l.ServerIndex] = loadReading(l)
			}
		}
	}
}

// loadReading is what a server said, as recorded.
func loadReading(l *recording.Metrics) rig.LoadReading {
	r := rig.LoadReading{Preempted: l.NumPreemptionsTotal}
	if !l.TooOld {
		r.Load = &datacenter.ServerLoad{
			NumRequestsRunning: l.NumRequestsRunning, NumRequestsWaiting: l.NumRequestsWaiting,
			KVCacheUsagePerc: l.KVCacheUsagePerc, NumPreemptionsTotal: l.NumPreemptionsTotal,
		}
	}
	return r
}

// recordedSource stands for the source of a recorded GPU.
type recordedSource string

func (s recordedSource) String() string                      { return string(s) }
func (recordedSource) Kind() string                          { return "recording" }
func (recordedSource) Probe(context.Context) power.Report    { return power.Report{} }
func (recordedSource) Run(context.Context, power.Sink) error { return io.EOF }
func (recordedSource) Health() power.Health                  { return power.Health{} }

// Close lets go of the recording.
func (r *Recorded) Close() { r.lines.stop() }
