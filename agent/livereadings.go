package agent

import (
	"time"

	"github.com/g2g-agent/g2g-agent/buffer"
	"github.com/g2g-agent/g2g-agent/datacenter"
)

// hardware is the real servers of one model, as they were seen last. Its methods
// do not wait.
type hardware interface {
	// Latency is the mean inter-token latency over the window, in seconds, NaN for
	// none, percentiles of it, and the output tokens per second over the same window,
	// NaN when they are not known.
	Latency() (meanS float64, percentilesS datacenter.ITLPercentiles, tokensPerS float64)
	// ServerLoad is what the vLLM servers last said, nil when that is too old, and the
	// mean number of requests that one runs, NaN when that is not known.
	ServerLoad() (load *datacenter.ServerLoad, achievedBatchSize float64)
	// PowerAgeS is for how long, in seconds, the power of the GPU heard of least
	// recently has been taken on trust.
	PowerAgeS() float64
}

// liveModel is one model of a live run.
type liveModel struct {
	hardware           hardware
	history            *buffer.Rolling // power per GPU in watts
	numGPUs            int             // real ones
	realReplicas       int
	augmentationFactor float64

	offsets buffer.Offsets // of its simulated servers
}

// liveReadings reads what the hardware last reported. Nothing in it waits.
type liveReadings struct {
	models      []liveModel
	stagger     *buffer.Offsets // of all servers
	staleAfterS float64
	clock       func(time.Time) float64 // to seconds on the clock of the histories
	dueS        float64                 // of the step
}

// newLiveModel returns a model with simulated replicas in place of the real ones
// that numGPUs GPUs hold.
func newLiveModel(h hardware, history *buffer.Rolling, numGPUs, gpusPerReplica, simulatedReplicas int) liveModel {
	realReplicas := max(numGPUs/max(gpusPerReplica, 1), 1)
	return liveModel{
		hardware: h, history: history, numGPUs: numGPUs, realReplicas: realReplicas,
		augmentationFactor: float64(simulatedReplicas) / float64(realReplicas),
	}
}

func (r *liveReadings) Kind() datacenter.SourceKind { return datacenter.SourceLive }

// Begin looks back from when the step was due: one that is late shows what was,
// not what is.
func (r *liveReadings) Begin(_ int64, due time.Time) { r.dueS = r.clock(due) }

func (r *liveReadings) Assign(model int, servers []int32) {
	r.models[model].offsets.Select(r.stagger, servers)
}

// PerGPUPower reads the model's power history, for each server its stagger
// offset ago.
func (r *liveReadings) PerGPUPower(model int, perGPUW []float64) {
	m := &r.models[model]
	m.history.Sample(r.dueS, &m.offsets, perGPUW)
}

// Observe scales the tokens per second as power is scaled: each active replica makes
// as many as a real one.
func (r *liveReadings) Observe(model, activeReplicas int) observation {
	m := &r.models[model]
	itlS, percentilesS, tokensPerS := m.hardware.Latency()
	_, perGPUW, _ := m.history.Last()
	age := m.hardware.PowerAgeS()
	load, achieved := m.hardware.ServerLoad()
	state := datacenter.LiveModelState{
		MeasuredPowerW:     float64(perGPUW * float64(m.numGPUs)),
		AugmentationFactor: m.augmentationFactor,
		Server:             load,
		ITLPercentilesS:    percentilesS,
		Stale:              age >= r.staleAfterS,
	}
	if state.Stale {
		state.StaleAgeS = age
	}
	throughput := datacenter.ThroughputOf(tokensPerS / float64(m.realReplicas) * float64(activeReplicas))
	if throughput.Known {
		state.MeasuredTokensPerS = tokensPerS
	}
	return observation{itlS, throughput, achieved, state}
}
