package sim

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"
)

// VLLMActuator says how the batch size cap of a simulated server can be changed.
type VLLMActuator string

// What servers can do.
const (
	// SetMaxNumSeqs is POST /set_max_num_seqs, as on servers patched for OpenG2G.
	SetMaxNumSeqs VLLMActuator = "set_max_num_seqs"
	// RuntimeConfig is PATCH /v1/runtime_config, as proposed upstream; the cap
	// cannot exceed the one at the start.
	RuntimeConfig VLLMActuator = "runtime_config"
	// StockVLLM has neither: both answer 404.
	StockVLLM VLLMActuator = "stock"
)

// VLLMConfig says what server to simulate. Listen and ModelID are required.
type VLLMConfig struct {
	// Listen is "host:port" (port 0: any free one) or "unix:/path/to.sock".
	Listen string
	// ModelID is the model served.
	ModelID string
	// Profile is how it behaves; the default is what [LookUpProfile] knows of it.
	Profile Profile
	// MaxNumSeqs is the cap of the running batch at the start; the default is 256.
	MaxNumSeqs int
	// Engines is the number of data-parallel engines that metrics show; the
	// default is 1. The cap and the profile are of all of them together.
	Engines int
	// APIServers is the number of its processes that speak HTTP (--api-server-count);
	// the default is 1. With more, the gauges of the load are on the metrics page only
	// after the first request.
	APIServers int
	// GPUs draw what the profile says for the running batch; there may be none.
	GPUs []*GPU
	// Actuator defaults to [SetMaxNumSeqs].
	Actuator VLLMActuator
	// TokensPerChunk are the weights of 1, 2, 3, … tokens in a content chunk; the
	// default is always 1. The time per token stays that of the profile.
	TokensPerChunk []float64
	// IgnoreContinuousUsage: chunks have no usage even if asked for, as on older
	// servers; only the last one has.
	IgnoreContinuousUsage bool
	// OldMetricNames: the KV cache usage is vllm:gpu_cache_usage_perc.
	OldMetricNames bool
	// Spread: what an iteration generates is written evenly over it, stream by
	// stream, and not in one burst at its end.
	Spread bool
	// OutputTokens is the length of answers to requests that name none; the
	// default is 512.
	OutputTokens int
	// EarlyStop: answers end by themselves after 1 to max_completion_tokens tokens,
	// all lengths being as likely, unless a request says ignore_eos. Without it all
	// have the full length.
	EarlyStop bool
	// KVCacheTokens is the size of the KV cache; the default is a million. It
	// shows in the metrics only.
	KVCacheTokens int
	// TruthChunks is how many of the latest chunks the true latency of a window can
	// be told from; the default is 2^20, which take 24 MiB.
	TruthChunks int
	// APIKey, unless empty, is what clients must bear below /v1.
	APIKey string
	// Seed decides lengths of iterations and sizes of chunks: iteration i, and
	// chunk k of request r, in the order of their arrival, are always the same.
	Seed uint64
}

// VLLM is a simulated vLLM server with continuous batching: requests wait in a
// queue, in the order of their arrival, until fewer than the cap are running;
// then each iteration of the engine gives all running ones their next tokens.
// A lower cap acts only as running requests finish. Its methods may be called
// from any goroutine.
//
// Beside the server's API it has PUT and GET /sim/faults ([VLLMFaults] as JSON),
// POST /sim/restart ({"down_s": 1}) and GET /sim/truth ([Truth]), which work
// whatever else is broken.
type VLLM struct {
	cfg   VLLMConfig
	front *front
	life  lifecycle
	base  time.Time // the origin of nowNS
	page  []pageFamily
	itl   *itlTruth

	mu          sync.Mutex // taken before the engine's
	faults      VLLMFaults
	changed     chan struct{} // closed and replaced when the faults change
	engine      *engine       // of this life, or the last
	lives       uint64
	started     int64 // requests, ever
	commands    []Command
	errorEvents int // sent so far
	total       counters
	atReset     counters // total when the truth was reset
	atBirth     counters // total when this life began
	ttft        histogram
	tpot        histogram
}

// counters are sums since the first start.
type counters struct {
	started, finished, failed, aborted        int64
	stopped                                   int64 // of the finished: before their full length
	chunks, tokens, prompt, iterations, overs int64
}

// StartVLLM starts a simulated server. Call Close to end it.
func StartVLLM(cfg VLLMConfig) (*VLLM, error) {
	if len(cfg.Profile.Levels) == 0 {
		p, ok := LookUpProfile(cfg.ModelID)
		if !ok {
			return nil, fmt.Errorf("simulated vLLM: no profile is known for model %q: give one", cfg.ModelID)
		}
		cfg.Profile = p
	}
	setDefault(&cfg.MaxNumSeqs, 256)
	setDefault(&cfg.Engines, 1)
	setDefault(&cfg.APIServers, 1)
	setDefault(&cfg.OutputTokens, 512)
	setDefault(&cfg.KVCacheTokens, 1_000_000)
	setDefault(&cfg.TruthChunks, 1<<20)
	if cfg.Actuator == "" {
		cfg.Actuator = SetMaxNumSeqs
	}
	if len(cfg.TokensPerChunk) == 0 {
		cfg.TokensPerChunk = []float64{1}
	}
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("simulated vLLM: %w", err)
	}
	v := &VLLM{
		cfg:     cfg,
		base:    time.Now(),
		itl:     newITLTruth(cfg.TruthChunks),
		changed: make(chan struct{}),
		ttft:    newHistogram(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560),
		tpot:    newHistogram(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80),
	}
	v.page = v.layOutPage()
	var err error
	if v.front, err = newFront(cfg.Listen, uvicornHeaders, v.serve); err != nil {
		return nil, fmt.Errorf("simulated vLLM: %w", err)
	}
	v.life.up = v.up
	v.life.down = v.front.shut
	if err := v.life.start(); err != nil {
		return nil, err
	}
	return v, nil
}

func setDefault(n *int, value int) {
	if *n == 0 {
		*n = value
	}
}

func (c *VLLMConfig) check() error {
	switch {
	case c.ModelID == "":
		return errors.New("model ID is missing")
	case c.MaxNumSeqs < 1:
		return fmt.Errorf("max_num_seqs %d: need 1 or more", c.MaxNumSeqs)
	case c.Engines < 1:
		return fmt.Errorf("%d engines: need 1 or more", c.Engines)
	case c.APIServers < 1:
		return fmt.Errorf("%d API servers: need 1 or more", c.APIServers)
	case c.TruthChunks < 1:
		return fmt.Errorf("%d truth chunks: need 1 or more", c.TruthChunks)
	case c.OutputTokens < 1:
		return fmt.Errorf("%d output tokens: need 1 or more", c.OutputTokens)
	case c.KVCacheTokens < 1:
		return fmt.Errorf("%d KV cache tokens: need 1 or more", c.KVCacheTokens)
	case c.Actuator != SetMaxNumSeqs && c.Actuator != RuntimeConfig && c.Actuator != StockVLLM:
		return fmt.Errorf("actuator %q: need %q, %q or %q", c.Actuator, SetMaxNumSeqs, RuntimeConfig, StockVLLM)
	case slices.Contains(c.GPUs, nil):
		return fmt.Errorf("GPU %d is nil", slices.Index(c.GPUs, nil))
	}
	var sum float64
	for i, w := range c.TokensPerChunk {
		if !(w >= 0) || math.IsInf(w, 1) {
			return fmt.Errorf("weight %v of %d tokens per chunk: need 0 or more", w, i+1)
		}
		sum += w
	}
	if !(sum > 0) || math.IsInf(sum, 1) {
		return errors.New("the weights of tokens per chunk add up to nothing")
	}
	return c.Profile.check()
}

// up begins a life.
func (v *VLLM) up(ctx context.Context, wg *sync.WaitGroup) error {
	v.mu.Lock()
	v.lives++
	e := newEngine(v, v.lives)
	v.engine = e
	v.atBirth = v.total
	v.ttft.reset()
	v.tpot.reset()
	v.mu.Unlock()
	if err := v.front.open(ctx); err != nil {
		return err
	}
	wg.Go(func() { e.run(ctx) })
	return nil
}

// Addr returns where the server listens: host:port, or the socket's path.
func (v *VLLM) Addr() string { return v.front.addr() }

// URL returns the server's base URL, without a slash at the end.
func (v *VLLM) URL() string { return "http://" + v.front.addr() }

// Close ends the server and all its goroutines.
func (v *VLLM) Close() error {
	v.life.close()
	return nil
}

// Kill makes the server die at once: connections are reset, new ones refused,
// its GPUs idle.
func (v *VLLM) Kill() { v.life.kill() }

// Restart kills the server if it lives and brings it back at the same address,
// with the cap of its start and an empty queue. It fails if the address is
// taken, or after Close. Faults stay as they are.
func (v *VLLM) Restart() error { return v.life.restart() }

// Truth returns what really happened since the start or the last ResetTruth.
func (v *VLLM) Truth() Truth {
	v.mu.Lock()
	e, now := v.engine, v.total
	now.subtract(v.atReset)
	commands := slices.Clone(v.commands)
	load := e.snapshot()
	v.mu.Unlock()
	commanded, inForce := e.caps()
	t := Truth{
		ITL:        v.itl.all(),
		MaxNumSeqs: commanded, Cap: inForce,
		Started: now.started, Finished: now.finished, Failed: now.failed, Aborted: now.aborted,
		Chunks: now.chunks, Tokens: now.tokens,
		Iterations: now.iterations, Overruns: now.overs,
		Commands:     commands,
		PowerWPerGPU: load.powerW,
	}
	for i := range load.running {
		t.Running += load.running[i]
		t.Waiting += load.waiting[i]
	}
	return t
}

// ITLBetween returns the true ITL of the chunks written in [from, to).
func (v *VLLM) ITLBetween(from, to time.Time) ITL {
	return v.itl.between(int64(from.Sub(v.base)), int64(to.Sub(v.base)))
}

// Stretch is the time in [From, To).
type Stretch struct{ From, To time.Time }

// ITLWithin returns the true ITL of the chunks written in stretches of time, which do not
// overlap.
func (v *VLLM) ITLWithin(all []Stretch) ITL {
	var stretches []stretch
	for _, s := range all {
		stretches = append(stretches, stretch{int64(s.From.Sub(v.base)), int64(s.To.Sub(v.base))})
	}
	return v.itl.within(stretches)
}

// ITLOver returns the true ITL of the latest window of that length.
func (v *VLLM) ITLOver(window time.Duration) ITL {
	now := time.Now()
	return v.ITLBetween(now.Add(-window), now)
}

// ResetTruth starts the counts anew, and forgets commands. Windows of the time
// before can still be asked for.
func (v *VLLM) ResetTruth() {
	v.mu.Lock()
	v.atReset = v.total
	v.commands = nil
	v.mu.Unlock()
	v.itl.reset()
}

// nowNS is the monotonic time since the start.
func (v *VLLM) nowNS() int64 { return max(int64(time.Since(v.base)), 1) }

// count adds what the engine has done; mu is held.
func (v *VLLM) count(t *tally, batch []itlSample) {
	c := &v.total
	c.finished += t.finished
	c.stopped += t.stopped
	c.failed += t.failed
	c.aborted += t.aborted
	c.chunks += t.chunks
	c.tokens += t.tokens
	c.prompt += t.prompt
	c.iterations += t.iterations
	c.overs += t.overruns
	for _, ns := range t.ttftNS {
		v.ttft.observe(float64(ns)/1e9, 1)
	}
	for _, s := range batch {
		v.tpot.observe(float64(s.gapNS)/1e9/float64(s.inc), int64(s.inc))
	}
}

func (v *VLLM) countOne(n *int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	*n++
}

func (c *counters) subtract(d counters) {
	c.started -= d.started
	c.finished -= d.finished
	c.stopped -= d.stopped
	c.failed -= d.failed
	c.aborted -= d.aborted
	c.chunks -= d.chunks
	c.tokens -= d.tokens
	c.prompt -= d.prompt
	c.iterations -= d.iterations
	c.overs -= d.overs
}

// command changes the cap.
func (v *VLLM) command(e *engine, n int, rate float64) {
	e.setCap(n, rate)
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.commands) == maxCommands {
		v.commands = slices.Delete(v.commands, 0, 1)
	}
	v.commands = append(v.commands, Command{At: time.Now(), MaxNumSeqs: n, RampUpRate: rate})
}
