package datacenter

import (
	"math"
	"time"
)

// SourceKind says where a state's readings come from.
type SourceKind string

// The kinds of source.
const (
	SourceLive   SourceKind = "live"
	SourceReplay SourceKind = "replay"
)

// State is the datacenter at one step. It is immutable once published.
type State struct {
	// Seq numbers the steps of a run from 0.
	Seq int64
	// TimeS is the time since the start of the run, in seconds.
	TimeS float64
	// WallTime is the time of day the step was due, zero (JSON null) in a replay
	// that does not follow the clock.
	WallTime time.Time
	Source   SourceKind
	// PowerW is the whole datacenter's power on each phase, in watts: servers,
	// base load and training.
	PowerW ThreePhase
	// MeasuredPowerW is, in a live run, what the real GPUs draw, spread evenly
	// over the phases, plus the base load, in watts.
	MeasuredPowerW ThreePhase
	// FreeGPUs is the part of the facility's capacity that no model asks for at the
	// next step.
	FreeGPUs FreeGPUs
	// Models are the models in config order.
	Models []ModelState
}

// FreeGPUs is a number of GPUs. The zero value is one that is not known, as of states
// read from CSV, Parquet or files of earlier versions, which have no
// [ModelState.AchievedBatchSize] either.
type FreeGPUs struct {
	N     int
	Known bool
}

// ModelState is one model in a [State].
type ModelState struct {
	ModelLabel string
	// PowerW is the power of the model's servers, in watts.
	PowerW float64
	// ActiveReplicas is the number of replicas its servers hold.
	ActiveReplicas int
	// BatchSize is the batch size it runs at (vLLM's max_num_seqs).
	BatchSize int
	// AchievedBatchSize is the number of requests that run, of several servers the
	// mean, NaN (JSON null) when that is not known; in a replay the batch size. It is
	// there where the state's FreeGPUs are known.
	AchievedBatchSize float64
	// ObservedITLS is its average inter-token latency in seconds, NaN (JSON
	// null) when there is none.
	ObservedITLS float64
	// Throughput is what its servers make: in a live run the measured one, scaled
	// from the real replicas to the active ones; in a replay the active replicas
	// times what the data directory has for one at the batch size.
	Throughput Throughput
	// PhaseShare is the part of its servers on each phase, 1/3 each without servers.
	PhaseShare ThreePhase
	// Live is what only a live run knows; zero in a replay.
	Live LiveModelState
}

// Throughput is how fast output tokens are made. The zero value is one that is not
// known, so that it can be told from one of no tokens.
type Throughput struct {
	TokensPerS float64
	Known      bool
}

// ThroughputOf is the throughput of so many tokens per second, one that is not known
// for NaN.
func ThroughputOf(tokensPerS float64) Throughput {
	if math.IsNaN(tokensPerS) {
		return Throughput{}
	}
	return Throughput{TokensPerS: tokensPerS, Known: true}
}

// OrNaN is the throughput in tokens per second, NaN for one that is not known.
func (t Throughput) OrNaN() float64 {
	if !t.Known {
		return math.NaN()
	}
	return t.TokensPerS
}

// LiveModelState is what the hardware behind a model shows at one step.
type LiveModelState struct {
	// MeasuredPowerW is the power of the model's real GPUs, in watts.
	MeasuredPowerW float64
	// MeasuredTokensPerS is what its real servers make, in output tokens per second,
	// 0 where the model's Throughput is not known.
	MeasuredTokensPerS float64
	// AugmentationFactor is simulated replicas per real one.
	AugmentationFactor float64
	// Server is the load of its vLLM server, nil when nothing of it is known.
	Server *ServerLoad
	// ITLPercentilesS are of the latencies that ObservedITLS is the mean of.
	ITLPercentilesS ITLPercentiles
	// Stale says that power readings have been missing for longer than is
	// allowed, StaleAgeS for how many seconds. The power is the last one read.
	Stale     bool
	StaleAgeS float64
}

// ServerLoad is the load of a vLLM server, by the names of its metrics. What the
// server does not tell is NaN (JSON null).
type ServerLoad struct {
	// NumRequestsRunning is the batch size achieved.
	NumRequestsRunning  float64
	NumRequestsWaiting  float64
	KVCacheUsagePerc    float64 // a fraction
	NumPreemptionsTotal float64
}

// ITLPercentiles are percentiles of inter-token latencies in seconds, NaN (JSON
// null) where there are none.
type ITLPercentiles struct {
	P50, P90, P95, P99 float64
}
