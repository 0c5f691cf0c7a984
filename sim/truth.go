package sim

import (
	"math"
	"math/bits"
	"slices"
	"sync"
	"time"
)

// ITL is inter-token latency as it really was at the server: a chunk that brings
// inc tokens dt after the stream's previous chunk with tokens is inc samples of
// dt/inc. The first chunk with tokens and the one with only usage are none. The
// times are taken directly before each write. Without samples all times are 0.
type ITL struct {
	// Tokens counts the samples, Chunks the chunks they came in.
	Tokens int64 `json:"tokens"`
	Chunks int64 `json:"chunks"`
	// SumS is the sum of all dt, and MeanS is SumS/Tokens, in seconds.
	SumS  float64 `json:"sum_s"`
	MeanS float64 `json:"mean_s"`
	// The quantiles, in seconds, are the smallest sample with at least that share
	// at or below it: exact in a window, within 0.2 % in Truth.
	P50S  float64 `json:"p50_s"`
	P90S  float64 `json:"p90_s"`
	P95S  float64 `json:"p95_s"`
	P99S  float64 `json:"p99_s"`
	P999S float64 `json:"p999_s"`
	// Complete says that no chunk of the window is forgotten, which happens to
	// those before the latest TruthChunks; always true in Truth.
	Complete bool `json:"complete"`
}

// itlSample is one chunk: when it was written, and inc tokens after gapNS.
type itlSample struct {
	atNS  int64 // on the server's monotonic clock
	gapNS int64
	inc   int32
}

const (
	// A histogram's bucket holds values whose leading bits are the same:
	// 2^histBits buckets for each octave.
	histBits    = 8
	histBuckets = (64 - histBits) << histBits
)

// itlTruth keeps the sums of all samples, and the latest samples themselves.
type itlTruth struct {
	most int // samples to keep

	mu      sync.Mutex
	ring    []itlSample // grows, then wraps
	next    int
	lostNS  int64 // samples up to here are no more
	tokens  int64
	chunks  int64
	sumNS   int64
	buckets []int64
}

func newITLTruth(most int) *itlTruth {
	return &itlTruth{most: most, buckets: make([]int64, histBuckets), lostNS: math.MinInt64}
}

func bucketOf(ns int64) int {
	if ns < 1<<histBits {
		return int(max(ns, 0))
	}
	shift := bits.Len64(uint64(ns)) - histBits - 1
	return shift<<histBits + int(ns>>shift)
}

// bucketValue is the middle of a bucket.
func bucketValue(bucket int) float64 {
	if bucket < 2<<histBits {
		return float64(bucket)
	}
	shift := bucket>>histBits - 1
	low := int64(bucket-shift<<histBits) << shift
	return float64(low) + float64(int64(1)<<shift-1)/2
}

func (t *itlTruth) add(samples []itlSample) {
	if len(samples) == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range samples {
		t.tokens += int64(s.inc)
		t.chunks++
		t.sumNS += s.gapNS
		t.buckets[bucketOf(s.gapNS/int64(s.inc))] += int64(s.inc)
		if len(t.ring) < t.most {
			t.ring = append(t.ring, s)
			continue
		}
		t.lostNS = t.ring[t.next].atNS
		t.ring[t.next] = s
		t.next = (t.next + 1) % t.most
	}
}

func (t *itlTruth) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tokens, t.chunks, t.sumNS = 0, 0, 0
	clear(t.buckets)
}

func (t *itlTruth) all() ITL {
	t.mu.Lock()
	defer t.mu.Unlock()
	itl := ITL{Tokens: t.tokens, Chunks: t.chunks, SumS: float64(t.sumNS) / 1e9, Complete: true}
	quantiles := itl.start()
	var below int64
	for bucket, n := range t.buckets {
		if n == 0 {
			continue
		}
		below += n
		quantiles = settle(quantiles, below, bucketValue(bucket))
	}
	return itl
}

// between is the truth of one stretch of time.
func (t *itlTruth) between(fromNS, toNS int64) ITL { return t.within([]stretch{{fromNS, toNS}}) }

// stretch is time on the server's monotonic clock.
type stretch struct{ fromNS, toNS int64 }

// within is the truth of stretches of time that do not overlap.
func (t *itlTruth) within(stretches []stretch) ITL {
	t.mu.Lock()
	var samples []itlSample
	complete := true
	for _, w := range stretches {
		complete = complete && w.fromNS > t.lostNS
		for _, s := range t.ring {
			if s.atNS >= w.fromNS && s.atNS < w.toNS {
				samples = append(samples, s)
			}
		}
	}
	t.mu.Unlock()

	itl := ITL{Chunks: int64(len(samples)), Complete: complete}
	var sumNS int64
	for _, s := range samples {
		itl.Tokens += int64(s.inc)
		sumNS += s.gapNS
	}
	itl.SumS = float64(sumNS) / 1e9
	quantiles := itl.start()
	slices.SortFunc(samples, func(a, b itlSample) int {
		return cmpFloat(float64(a.gapNS)/float64(a.inc), float64(b.gapNS)/float64(b.inc))
	})
	var below int64
	for _, s := range samples {
		below += int64(s.inc)
		quantiles = settle(quantiles, below, float64(s.gapNS)/float64(s.inc))
	}
	return itl
}

func cmpFloat(a, b float64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// quantile is one that is still to be found: the value of the rank-th sample.
type quantile struct {
	rank int64
	to   *float64
}

// start sets the mean and returns the quantiles to find, lowest first.
func (i *ITL) start() []quantile {
	if i.Tokens == 0 {
		return nil
	}
	i.MeanS = i.SumS / float64(i.Tokens)
	rank := func(q float64) int64 { return int64(math.Ceil(q * float64(i.Tokens))) }
	return []quantile{
		{rank(0.5), &i.P50S}, {rank(0.9), &i.P90S}, {rank(0.95), &i.P95S},
		{rank(0.99), &i.P99S}, {rank(0.999), &i.P999S},
	}
}

// settle sets those quantiles that are valueNS, given how many samples are no
// larger, and returns the others.
func settle(quantiles []quantile, below int64, valueNS float64) []quantile {
	for len(quantiles) > 0 && quantiles[0].rank <= below {
		*quantiles[0].to = valueNS / 1e9
		quantiles = quantiles[1:]
	}
	return quantiles
}

// Command is one accepted change of the batch size cap.
type Command struct {
	At         time.Time `json:"at"`
	MaxNumSeqs int       `json:"max_num_seqs"`
	// RampUpRate is in sequences per second; 0: at once.
	RampUpRate float64 `json:"ramp_up_rate"`
}

// maxCommands bounds how many commands are remembered.
const maxCommands = 1024

// Truth is what really happened at a simulated server. Counts are since the
// start or the last [VLLM.ResetTruth]; restarts of the server do not change them.
// All are of the same moment, the end of the engine's latest iteration, but for
// ITL, which has each burst of writes as soon as it is out.
type Truth struct {
	ITL ITL `json:"itl"`
	// Running and Waiting are the sequences of now; MaxNumSeqs is the commanded
	// cap, and Cap the one in force, which lags under a ramp.
	Running    int `json:"running"`
	Waiting    int `json:"waiting"`
	MaxNumSeqs int `json:"max_num_seqs"`
	Cap        int `json:"cap"`
	// Started counts accepted chat requests. Each ends Finished (written to the
	// end), Failed (by a fault or the server's death), or Aborted (the client
	// went, or did not read).
	Started  int64 `json:"started"`
	Finished int64 `json:"finished"`
	Failed   int64 `json:"failed"`
	Aborted  int64 `json:"aborted"`
	// Chunks counts the content chunks of streams, Tokens all generated tokens.
	Chunks int64 `json:"chunks"`
	Tokens int64 `json:"tokens"`
	// Iterations counts engine iterations; Overruns are those that began late
	// because writing took longer than an iteration.
	Iterations int64 `json:"iterations"`
	Overruns   int64 `json:"overruns"`
	// Commands are the accepted ones, the latest 1024.
	Commands []Command `json:"commands"`
	// PowerWPerGPU is the power of each GPU now, in watts.
	PowerWPerGPU float64 `json:"power_w_per_gpu"`
}
