package loadgen

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/completion"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/backoff"
	"github.com/g2g-agent/g2g-agent/internal/credential"
	"github.com/g2g-agent/g2g-agent/internal/excerpt"
)

// Config says what load to keep on which server.
type Config struct {
	// BaseURL is the server's address, http or https, without /v1.
	BaseURL string
	// ModelID is the name the server serves the model under, ModelLabel the one
	// that logs use.
	ModelID, ModelLabel string
	// Credential is the server's API key; nil for none. After a refusal it is looked
	// for anew.
	Credential *credential.Credential
	// Concurrency is the number of requests in flight at first.
	Concurrency int
	// Requests are cycled through. Without any, a minimal one that asks for an answer
	// to MinimalRequestText is repeated.
	Requests []Request
	// MinimalRequestText is a message to the model; empty is OpenG2G's.
	MinimalRequestText string
	// MaxOutputTokens is the most tokens of an answer to it; 0 is 512.
	MaxOutputTokens int
	// ExtraBody has keys that are set in every request, in place of its own.
	ExtraBody map[string]any
	// ITLWindow is the length of the sliding window; 0 is 1 s.
	ITLWindow time.Duration
	// idleTimeout fails a request when the server sends nothing for that long; 0
	// is 60 s. requestTimeout fails one that takes longer in all; 0 is 300 s.
	idleTimeout, requestTimeout time.Duration
	// tls shapes https connections; nil is Go's default.
	tls *tls.Config
	// Log is told when requests begin to fail, and when they no longer do.
	Log zerolog.Logger
	// Seed is for the jitter of the back-off.
	Seed uint64
}

// Generator keeps a server under load.
type Generator struct {
	cfg          Config
	client       *completion.Client
	requests     []preparedRequest
	meter        *meter
	log          zerolog.Logger
	outages      outages
	bundling     bundling
	unmeasured   unmeasured
	oddUsageSaid sync.Once
	wake         chan struct{} // of Run, holds one: workers are missing

	next    atomic.Uint64 // request to send
	tallies tallies

	mu      sync.Mutex
	running bool
	target  int
	workers int
	started uint64 // workers so far
}

// tallies count requests.
type tallies struct {
	inFlight                      atomic.Int64
	started, completed, cancelled atomic.Uint64
	connects, reconnects          atomic.Uint64
	failed                        [completion.NumErrorKinds]atomic.Uint64
}

// New checks cfg and prepares all requests. Nothing is sent before
// [Generator.Run].
func New(cfg Config) (*Generator, error) {
	if cfg.MaxOutputTokens == 0 {
		cfg.MaxOutputTokens = 512
	}
	if cfg.MinimalRequestText == "" {
		cfg.MinimalRequestText = "Hello, how are you?"
	}
	if cfg.ITLWindow == 0 {
		cfg.ITLWindow = time.Second
	}
	switch {
	case cfg.ModelID == "":
		return nil, fmt.Errorf("%w: the load generator has no model id", datacenter.ErrInvalidInput)
	case cfg.Concurrency < 0:
		return nil, fmt.Errorf("%w: concurrency is %d, want 0 or more", datacenter.ErrInvalidInput, cfg.Concurrency)
	case cfg.MaxOutputTokens < 1:
		return nil, fmt.Errorf("%w: the maximum of output tokens is %d, want 1 or more", datacenter.ErrInvalidInput, cfg.MaxOutputTokens)
	case cfg.ITLWindow < minWindow:
		return nil, fmt.Errorf("%w: the ITL window is %v, want %v or more", datacenter.ErrInvalidInput, cfg.ITLWindow, minWindow)
	}
	client, err := completion.NewClient(completion.Config{
		BaseURL: cfg.BaseURL, Credential: cfg.Credential, TLS: cfg.tls,
		IdleTimeout: cfg.idleTimeout, RequestTimeout: cfg.requestTimeout,
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", datacenter.ErrInvalidInput, err)
	}
	requests, err := prepare(&cfg)
	if err != nil {
		return nil, err
	}
	log := cfg.Log.With().Str("model_label", cfg.ModelLabel).Logger()
	return &Generator{
		cfg: cfg, client: client, requests: requests, meter: newMeter(cfg.ITLWindow),
		outages: outages{log: log}, bundling: bundling{log: log, window: cfg.ITLWindow}, unmeasured: unmeasured{log: log},
		log: log, wake: make(chan struct{}, 1), target: cfg.Concurrency,
	}, nil
}

// minWindow keeps a window longer than what is read is late.
const minWindow = 10 * time.Millisecond

// prepare renders all requests.
func prepare(cfg *Config) ([]preparedRequest, error) {
	extra := make(map[string]json.RawMessage, len(cfg.ExtraBody))
	for key, value := range cfg.ExtraBody {
		raw, err := json.Marshal(value)
		if err != nil {
			return nil, fmt.Errorf("%w: extra body of requests: %s: %w", datacenter.ErrInvalidInput, excerpt.Printable(key, maxQuoted), err)
		}
		extra[key] = raw
	}
	requests := cfg.Requests
	if len(requests) == 0 {
		minimal, err := minimalRequest(cfg.MinimalRequestText, cfg.MaxOutputTokens)
		if err != nil {
			return nil, err
		}
		requests = []Request{minimal}
	}
	prepared := make([]preparedRequest, len(requests))
	for i, r := range requests {
		var err error
		if prepared[i], err = r.prepare(cfg.ModelID, extra); err != nil {
			return nil, fmt.Errorf("%w: request %d: %w", datacenter.ErrInvalidInput, i+1, err)
		}
	}
	return prepared, nil
}

// Run keeps the load up until ctx ends, whatever the server does. It returns
// once all requests are given up, with nil. A generator runs once at a time.
func (g *Generator) Run(ctx context.Context) error {
	g.mu.Lock()
	if g.running {
		g.mu.Unlock()
		return errors.New("the load generator is running already")
	}
	g.running = true
	g.mu.Unlock()
	g.meter.begin(time.Since(g.client.Epoch()))
	var workers sync.WaitGroup
	g.startWorkers(ctx, &workers)
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-g.wake:
			g.startWorkers(ctx, &workers)
		}
	}
	workers.Wait()
	g.mu.Lock()
	g.running = false
	g.mu.Unlock()
	return nil
}

// SetConcurrency sets the number of requests in flight. More are sent at once;
// fewer are in flight as requests end. Below 0 is 0.
func (g *Generator) SetConcurrency(n int) {
	g.mu.Lock()
	g.target = max(n, 0)
	g.mu.Unlock()
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// startWorkers starts what is missing to the target.
func (g *Generator) startWorkers(ctx context.Context, workers *sync.WaitGroup) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for ; g.workers < g.target; g.workers++ {
		w := newWorker(g, g.started)
		g.started++
		workers.Go(func() { w.work(ctx) })
	}
}

// surplus tells a worker whether it is one too many, and then counts it as gone.
func (g *Generator) surplus() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.workers <= g.target {
		return false
	}
	g.workers--
	return true
}

// gone counts a worker as gone.
func (g *Generator) gone() {
	g.mu.Lock()
	g.workers--
	g.mu.Unlock()
}

// ITL is the inter-token latency over the window that ends at now, which is not
// long past. It takes up to some 100 µs, less when latencies are alike, and may
// be called from any goroutine.
func (g *Generator) ITL(now time.Time) ITLWindow { return ITLOf(now, g) }

// ITLOf is [Generator.ITL] over the tokens of several generators, of at least one.
func ITLOf(now time.Time, generators ...*Generator) ITLWindow {
	var all windowSum
	var w ITLWindow
	for i, g := range generators {
		sum := &all
		if i > 0 {
			sum = new(windowSum)
		}
		g.meter.addWindow(now.Sub(g.client.Epoch()), sum)
		w = sum.window()
		g.bundling.look(now, &w)
		g.unmeasured.look(now, &w)
		if i > 0 {
			all.merge(sum)
		}
	}
	if len(generators) > 1 {
		w = all.window()
	}
	return w
}

// oddUsage says once that the server does not tell how many tokens there are.
func (g *Generator) oddUsage(said string) {
	g.oddUsageSaid.Do(func() {
		g.log.Warn().Str("completion_tokens", said).
			Msg("the server's usage makes no sense, want a whole number of tokens that the answer can have: such chunks count as those " +
				"without usage, and this is logged once")
	})
}

// worker sends one request after the other on a connection of its own.
type worker struct {
	generator *Generator
	shard     int
	random    *rand.Rand
	stream    *completion.Stream
	connects  int // of the stream, as far as they are counted
	progress  progress
}

func newWorker(g *Generator, number uint64) *worker {
	return &worker{
		generator: g, shard: int(number % numShards),
		random: rand.New(rand.NewPCG(g.cfg.Seed, number)), stream: g.client.NewStream(),
	}
}

// retries are how long a worker waits between requests that fail: long enough for
// a server that restarts, and each at a time of its own.
func retries() backoff.Policy {
	return backoff.Policy{First: 50 * time.Millisecond, Most: time.Second, Factor: 2, Jitter: 0.5}
}

func (w *worker) work(ctx context.Context) {
	defer w.stream.Close()
	g := w.generator
	failures := 0 // in a row
	observe := w.observe
	for ctx.Err() == nil {
		if g.surplus() {
			return
		}
		request := &g.requests[(g.next.Add(1)-1)%uint64(len(g.requests))]
		w.progress = w.progress.next(request.maxTokens)
		g.tallies.started.Add(1)
		g.tallies.inFlight.Add(1)
		err := w.stream.Complete(ctx, request.body, observe)
		g.tallies.inFlight.Add(-1)
		w.countConnects()
		if err == nil && w.progress.tokens == 0 {
			// At once again, it would be a busy loop that measures nothing.
			err = &completion.Error{Kind: completion.KindNoTokens, Detail: "the answer is complete and has no tokens"}
		}
		var failure *completion.Error
		switch {
		case err == nil:
			g.tallies.completed.Add(1)
			g.outages.completed(time.Now())
			failures = 0
			continue
		case !errors.As(err, &failure): // ctx ended
			g.tallies.cancelled.Add(1)
			continue
		}
		g.tallies.failed[failure.Kind].Add(1)
		g.outages.failed(time.Now(), failure)
		_ = backoff.Sleep(ctx, retries().Delay(failures, w.random.Float64())) // the loop looks at ctx
		failures++
	}
	g.gone()
}

func (w *worker) observe(r *completion.Read) {
	w.countConnects()
	if odd := w.generator.meter.observe(w.shard, &w.progress, r); odd != "" {
		w.generator.oddUsage(odd)
	}
}

// countConnects counts connections; all but a worker's first are reconnects.
func (w *worker) countConnects() {
	n := w.stream.Connects() - w.connects
	if n == 0 {
		return
	}
	t := &w.generator.tallies
	t.connects.Add(uint64(n))
	if w.connects == 0 {
		n--
	}
	t.reconnects.Add(uint64(n))
	w.connects = w.stream.Connects()
}
