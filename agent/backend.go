package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/completion"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/loadgen"
	"github.com/g2g-agent/g2g-agent/vllm"
	"github.com/g2g-agent/g2g-agent/zeusd"
)

// backend is the real servers of one model: a vLLM server under load and the
// GPUs it runs on. It implements hardware.
type backend struct {
	label, modelID   string
	initialBatchSize int
	maxBatchSize     int // the largest feasible one
	gpus             []GPU
	power            *zeusd.Client
	began            time.Time
	server           *vllm.Server
	load             *loadgen.Generator
	wantedActuator   vllm.Actuator // empty: the best there is
	polled           bool          // its metrics are read
	loadMaxAge       time.Duration
	log              zerolog.Logger

	busy    chan struct{} // holds one while the server is being told something
	metrics atomic.Pointer[datedLoad]
	scraped atomic.Pointer[scrape]
	chosen  atomic.Pointer[vllm.Actuator] // at the start
	setting setting
	// noTokenLimit is for how long the server may make no token, standsSince when the
	// last one came if it has been longer, else nil or zero.
	noTokenLimit time.Duration
	standsSince  atomic.Pointer[time.Time]
	// leaseEnded wakes who sets the failsafe batch size.
	leaseEnded chan struct{}
}

type datedLoad struct {
	load datacenter.ServerLoad
	at   time.Time
}

// scrape is what the latest look at a server's metrics brought.
type scrape struct {
	page vllm.MetricsPage
	err  error
}

// newBackend returns the backend of model m.
func newBackend(cfg *LiveConfig, m int, power *zeusd.Client, gpus []GPU) (*backend, error) {
	h, model := &cfg.Hardware[m], &cfg.Models[m]
	log := cfg.Log.With().Str("model_label", model.ModelLabel).Logger()
	server, err := vllm.NewServer(vllm.Config{BaseURL: h.VLLMBaseURL, ModelID: model.ModelID, Credential: h.Credential, Log: log})
	if err != nil {
		return nil, err
	}
	b := &backend{
		label: model.ModelLabel, modelID: model.ModelID, initialBatchSize: model.InitialBatchSize, maxBatchSize: slices.Max(model.FeasibleBatchSizes),
		gpus: gpus, power: power, began: time.Now(), server: server, wantedActuator: h.Actuator, polled: cfg.PrometheusPollInterval > 0, busy: make(chan struct{}, 1), leaseEnded: make(chan struct{}, 1),
		// Two polls may fail before the last answer is too old.
		loadMaxAge:   max(cfg.StaleAfter, 3*cfg.PrometheusPollInterval),
		noTokenLimit: noTokenLimit, log: log,
	}
	b.load, err = loadgen.New(loadgen.Config{
		BaseURL: h.VLLMBaseURL, ModelID: model.ModelID, ModelLabel: model.ModelLabel, Credential: h.Credential,
		Concurrency: b.concurrencyFor(model.InitialBatchSize), Requests: h.Requests, MaxOutputTokens: cfg.MaxOutputTokens,
		ExtraBody: h.RequestExtraBody, ITLWindow: cfg.ITLWindow, Log: cfg.Log, Seed: cfg.Seed + uint64(m),
	})
	if err != nil {
		server.Close()
	}
	return b, err
}

// actuator is how batch sizes are set, empty before the start has found out.
func (b *backend) actuator() vllm.Actuator {
	if a := b.chosen.Load(); a != nil {
		return *a
	}
	return ""
}

// acquire waits for the right to tell the server something; release gives it
// back.
func (b *backend) acquire(ctx context.Context) error {
	select {
	case b.busy <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (b *backend) release() { <-b.busy }

// concurrencyFor is the number of requests to keep in flight at a batch size:
// twice the largest there will be, so that the server always has some waiting,
// or just the batch size where the load alone keeps the batch down.
func (b *backend) concurrencyFor(batchSize int) int {
	if b.actuator() == vllm.ActuatorConcurrency {
		return batchSize
	}
	return 2 * max(b.maxBatchSize, batchSize)
}

func (b *backend) checkHealth(ctx context.Context) error {
	if err := b.server.Health(ctx); err != nil {
		return err
	}
	return b.server.CheckModel(ctx)
}

// chooseActuator finds out how batch sizes can be set, unless the config says so;
// refused are ways that the server seemed to have.
func (b *backend) chooseActuator(ctx context.Context, refused ...vllm.Actuator) (vllm.Actuator, error) {
	if b.wantedActuator != "" {
		return b.wantedActuator, nil
	}
	actuator, err := b.server.ProbeActuator(ctx, refused...)
	if err != nil {
		return "", fmt.Errorf("no way to set batch sizes was found: %w; batch_size_actuator: %s needs none of the server's", err, vllm.ActuatorConcurrency)
	}
	return actuator, nil
}

// setUp sets the initial batch size in the way that the config says, or in the
// best there is: one that the server seemed to have and that it does not know when
// it is commanded makes way for the next.
func (b *backend) setUp(ctx context.Context) error {
	var refused []vllm.Actuator
	for {
		actuator, err := b.tryActuator(ctx, refused)
		if err == nil {
			b.log.Info().Str("batch_size_actuator", string(actuator)).Int("batch_size", b.initialBatchSize).
				Int("requests_in_flight", b.concurrencyFor(b.initialBatchSize)).Msg("vLLM server set up")
			return nil
		}
		failed := (*vllm.CommandError)(nil)
		if !errors.As(err, &failed) || !failed.NoSuchActuator() {
			return err
		}
		if b.wantedActuator != "" {
			return fmt.Errorf("%w; %w", err, b.missesActuator(ctx))
		}
		b.log.Warn().Err(err).Str("batch_size_actuator", string(actuator)).
			Msg("the vLLM server seemed to have this way to set batch sizes and does not know it; the next best is taken")
		refused = append(refused, actuator)
	}
}

// tryActuator takes the best way to set batch sizes but those refused, and sets
// the initial one.
func (b *backend) tryActuator(ctx context.Context, refused []vllm.Actuator) (vllm.Actuator, error) {
	ctx, cancel := withCommandTimeout(ctx)
	defer cancel()
	actuator, err := b.chooseActuator(ctx, refused...)
	if err != nil {
		return "", err
	}
	b.chosen.Store(&actuator)
	return actuator, b.setBatchSize(ctx, b.initialBatchSize, 0)
}

// setBatchSize tells the server, once. It is for whoever has acquired b, and for
// the start.
func (b *backend) setBatchSize(ctx context.Context, n int, rampUpRate float64) error {
	if err := b.server.SetBatchSize(ctx, b.actuator(), n, rampUpRate); err != nil {
		if OutcomeOf(err) == vllm.OutcomeUnknown {
			b.setting.leftUnanswered()
		}
		return err
	}
	b.setting.told(n, rampUpRate, time.Now())
	b.load.SetConcurrency(b.concurrencyFor(n))
	return nil
}

// OutcomeOf is what became of a command that one server did not carry out, as an
// element of [ServersError].
func OutcomeOf(err error) vllm.Outcome {
	if failed := (*vllm.CommandError)(nil); errors.As(err, &failed) {
		return failed.Outcome
	}
	return vllm.OutcomeUnreachable
}

// requests sums up what became of the load's requests.
func (b *backend) requests() string {
	stats := b.load.Stats()
	text := fmt.Sprintf("%d requests completed", stats.Completed)
	for kind, n := range stats.FailedByKind {
		if n > 0 {
			text += fmt.Sprintf(", %d failed (%s)", n, completion.ErrorKind(kind))
		}
	}
	return text
}

// lostConnections counts the requests that failed as they do when a server dies.
func (b *backend) lostConnections() uint64 {
	failed := b.load.Stats().FailedByKind
	return failed[completion.KindConnect] + failed[completion.KindCut]
}

// scrape reads the server's metrics once.
func (b *backend) scrape(ctx context.Context) error {
	page, err := b.server.Metrics(ctx)
	b.scraped.Store(&scrape{page, err})
	if err == nil {
		b.metrics.Store(&datedLoad{datacenter.ServerLoad(page.Metrics), time.Now()})
	}
	return err
}

// runningErr is why it is not known how many requests run, as of the latest look
// at the server's metrics.
func (b *backend) runningErr() error {
	s := b.scraped.Load()
	switch {
	case s == nil:
		return errors.New("its metrics have not been read yet")
	case s.err != nil:
		return s.err
	default:
		return s.page.Err(vllm.MetricRunning)
	}
}

// ServerLoad implements hardware.
func (b *backend) ServerLoad() *datacenter.ServerLoad {
	m := b.metrics.Load()
	if m == nil || time.Since(m.at) > b.loadMaxAge {
		return nil
	}
	return &m.load
}

// Latency implements hardware.
func (b *backend) Latency() (meanS float64, percentilesS datacenter.ITLPercentiles) {
	w := b.load.ITL(time.Now())
	return w.MeanS, datacenter.ITLPercentiles{P50: w.P50S, P90: w.P90S, P95: w.P95S, P99: w.P99S}
}

// PowerAgeS implements hardware.
func (b *backend) PowerAgeS() float64 {
	now := time.Now()
	oldest := time.Duration(0)
	for _, g := range b.gpus {
		oldest = max(oldest, b.ageOf(g, now))
	}
	return oldest.Seconds()
}

// ageOf is for how long a GPU's power has been taken on trust, since the start
// if it was never read.
func (b *backend) ageOf(g GPU, now time.Time) time.Duration {
	if _, confirmedAt, ok := b.power.Latest(g.Endpoint, g.Index); ok {
		return now.Sub(confirmedAt)
	}
	return now.Sub(b.began)
}

// unread lists the GPUs that were never read.
func (b *backend) unread() []string {
	var gpus []string
	for _, g := range b.gpus {
		if _, _, ok := b.power.Latest(g.Endpoint, g.Index); !ok {
			gpus = append(gpus, fmt.Sprintf("%s GPU %d", g.Endpoint, g.Index))
		}
	}
	return gpus
}

// CheckBatchSize returns why the batch size cannot be set, nil if it can.
func (b *backend) CheckBatchSize(batchSize int, rampUpRate float64) error {
	if batchSize > maxLiveBatchSize {
		return fmt.Errorf("a live run has batch sizes of at most %d", maxLiveBatchSize)
	}
	if actuator := b.actuator(); rampUpRate != 0 && actuator != "" && actuator != vllm.ActuatorSetMaxNumSeqs {
		return fmt.Errorf("ramp_up_rate needs the actuator %s, this server has %s", vllm.ActuatorSetMaxNumSeqs, actuator)
	}
	return nil
}
