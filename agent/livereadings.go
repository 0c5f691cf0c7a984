package agent

import (
	"time"

	"github.com/g2g-agent/g2g-agent/buffer"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/loadgen"
	"github.com/g2g-agent/g2g-agent/rig"
)

// hardware is the real servers of one model, as they were seen last. Its methods
// do not wait.
type hardware interface {
	// TakeStep sets s to what came of their tokens since the last call, the first time
	// to what came in a whole window.
	TakeStep(now time.Time, s *loadgen.StepITL)
	// LoadReadings appends what each of the vLLM servers last said.
	LoadReadings([]rig.LoadReading) []rig.LoadReading
}

// liveModel is one model of a live run.
type liveModel struct {
	hardware           hardware
	history            *buffer.Rolling // power per GPU in watts
	numGPUs            int             // real ones
	realReplicas       int
	augmentationFactor float64
	window             *loadgen.StepWindow

	offsets buffer.Offsets    // of its simulated servers
	came    loadgen.StepITL   // since the last step
	loads   []rig.LoadReading // as of this step
}

// liveReadings reads what the hardware last reported. Nothing in it waits. All that a
// step reads follows from what it hands to the tape.
type liveReadings struct {
	feed        *rig.Feed
	models      []liveModel
	stagger     *buffer.Offsets // of all servers
	staleAfterS float64
	dtS         float64
	clock       func(time.Time) time.Duration // on the clock of the histories
	tape        *tape                         // nil: nothing is recorded

	step    int64
	due     time.Duration   // of the step, on the clock of the histories
	entries []rig.FeedEntry // that came since the last step
}

// newLiveModel returns a model with simulated replicas in place of the real ones
// that numGPUs GPUs hold.
func newLiveModel(h hardware, window *loadgen.StepWindow, numGPUs, gpusPerReplica, simulatedReplicas int) liveModel {
	realReplicas := max(numGPUs/max(gpusPerReplica, 1), 1)
	return liveModel{
		hardware: h, window: window, numGPUs: numGPUs, realReplicas: realReplicas,
		augmentationFactor: float64(simulatedReplicas) / float64(realReplicas),
	}
}

func (r *liveReadings) Kind() datacenter.SourceKind { return datacenter.SourceLive }

// Begin looks back from when the step was due: one that is late shows what was,
// not what is.
func (r *liveReadings) Begin(step int64, due time.Time) {
	r.step, r.due = step, r.clock(due)
	r.entries = r.feed.Advance(r.entries[:0])
	if step == 0 || r.models[0].history == nil {
		for m := range r.models {
			r.models[m].history = r.feed.History(m)
		}
	}
	if r.tape != nil {
		r.tape.begin(step, due, r.due, r.entries)
	}
	if step == 0 {
		r.entries = nil // the first ones are far more than come in a step
	}
}

func (r *liveReadings) Assign(model int, servers []int32) {
	r.models[model].offsets.Select(r.stagger, servers)
}

// PerGPUPower reads the model's power history, for each server its stagger
// offset ago.
func (r *liveReadings) PerGPUPower(model int, perGPUW []float64) {
	m := &r.models[model]
	m.history.Sample(r.due.Seconds(), &m.offsets, perGPUW)
}

// Observe scales the tokens per second as power is scaled: each active replica makes
// as many as a real one.
func (r *liveReadings) Observe(model, activeReplicas int) observation {
	m := &r.models[model]
	m.hardware.TakeStep(time.Now(), &m.came)
	m.window.Add(r.step, &m.came)
	itl := m.window.ITL(r.step, r.dtS)
	_, perGPUW, _ := m.history.Last()
	age := r.feed.AgeAtS(model, r.due.Seconds())
	m.loads = m.hardware.LoadReadings(m.loads[:0])
	load, achieved := rig.CombinedLoad(m.loads)
	if r.tape != nil {
		r.tape.observe(r.step, model, &m.came, m.loads)
	}
	state := datacenter.LiveModelState{
		MeasuredPowerW:     float64(perGPUW * float64(m.numGPUs)),
		AugmentationFactor: m.augmentationFactor,
		Server:             load,
		ITLPercentilesS:    datacenter.ITLPercentiles{P50: itl.P50S, P90: itl.P90S, P95: itl.P95S, P99: itl.P99S},
		Stale:              age >= r.staleAfterS,
	}
	if state.Stale {
		state.StaleAgeS = age
	}
	throughput := datacenter.ThroughputOf(itl.TokensPerS / float64(m.realReplicas) * float64(activeReplicas))
	if throughput.Known {
		state.MeasuredTokensPerS = itl.TokensPerS
	}
	return observation{itl.MeanS, throughput, achieved, state}
}
