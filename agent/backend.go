package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/loadgen"
	"github.com/g2g-agent/g2g-agent/vllm"
	"github.com/g2g-agent/g2g-agent/zeusd"
)

// backend is the real servers of one model: a vLLM server under load and the
// GPUs it runs on. It implements hardware.
type backend struct {
	label            string
	initialBatchSize int
	maxBatchSize     int // the largest feasible one
	gpus             []GPU
	power            *zeusd.Client
	began            time.Time
	server           *vllm.Server
	load             *loadgen.Generator
	wantedActuator   vllm.Actuator // empty: the best there is
	loadMaxAge       time.Duration
	log              zerolog.Logger

	metrics  atomic.Pointer[datedLoad]
	actuator vllm.Actuator // chosen at the start
	setting  setting
}

type datedLoad struct {
	load datacenter.ServerLoad
	at   time.Time
}

// newBackend returns the backend of model m.
func newBackend(cfg *LiveConfig, m int, power *zeusd.Client) (*backend, error) {
	h, model := &cfg.Hardware[m], &cfg.Models[m]
	log := cfg.Log.With().Str("model_label", model.ModelLabel).Logger()
	server, err := vllm.NewServer(vllm.Config{BaseURL: h.VLLMBaseURL, ModelID: model.ModelID, APIKey: h.APIKey, Log: log})
	if err != nil {
		return nil, err
	}
	b := &backend{
		label: model.ModelLabel, initialBatchSize: model.InitialBatchSize, maxBatchSize: slices.Max(model.FeasibleBatchSizes),
		gpus: h.GPUs, power: power, began: time.Now(), server: server, wantedActuator: h.Actuator,
		// Two polls may fail before the last answer is too old.
		loadMaxAge: max(cfg.StaleAfter, 3*cfg.PrometheusPollInterval),
		log:        log,
	}
	b.load, err = loadgen.New(loadgen.Config{
		BaseURL: h.VLLMBaseURL, ModelID: model.ModelID, ModelLabel: model.ModelLabel, APIKey: h.APIKey,
		Concurrency: b.concurrencyFor(model.InitialBatchSize), Requests: h.Requests, MaxOutputTokens: cfg.MaxOutputTokens,
		ExtraBody: h.RequestExtraBody, ITLWindow: cfg.ITLWindow, Log: cfg.Log,
	})
	return b, err
}

// concurrencyFor is the number of requests to keep in flight at a batch size:
// twice the largest there will be, so that the server always has some waiting,
// or just the batch size where the load alone keeps the batch down.
func (b *backend) concurrencyFor(batchSize int) int {
	if b.actuator == vllm.ActuatorConcurrency {
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

// chooseActuator finds out how batch sizes can be set, unless the config says so.
func (b *backend) chooseActuator(ctx context.Context) error {
	b.actuator = b.wantedActuator
	if b.actuator != "" {
		return nil
	}
	var err error
	if b.actuator, err = b.server.ProbeActuator(ctx); err != nil {
		return fmt.Errorf("no way to set batch sizes was found: %w", err)
	}
	return nil
}

// setBatchSize tells the server, once. Only one may do so at a time.
func (b *backend) setBatchSize(ctx context.Context, n int, rampUpRate float64) error {
	if err := b.server.SetBatchSize(ctx, b.actuator, n, rampUpRate); err != nil {
		var failed *vllm.CommandError
		if errors.As(err, &failed) && failed.Outcome == vllm.OutcomeUnknown {
			b.setting.leftUnanswered()
		}
		return err
	}
	b.setting.told(n, rampUpRate, time.Now())
	b.load.SetConcurrency(b.concurrencyFor(n))
	return nil
}

// lostConnections counts the requests that failed as they do when a server dies.
func (b *backend) lostConnections() uint64 {
	failed := b.load.Stats().FailedByKind
	return failed[vllm.StreamConnect] + failed[vllm.StreamCut]
}

// scrape reads the server's metrics once.
func (b *backend) scrape(ctx context.Context) error {
	m, err := b.server.Metrics(ctx)
	if err != nil {
		return err
	}
	b.metrics.Store(&datedLoad{
		datacenter.ServerLoad{
			NumRequestsRunning: m.NumRequestsRunning, NumRequestsWaiting: m.NumRequestsWaiting,
			KVCacheUsagePerc: m.KVCacheUsagePerc, NumPreemptionsTotal: m.NumPreemptionsTotal,
		},
		time.Now(),
	})
	return nil
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

// CheckBatchSize implements hardware.
func (b *backend) CheckBatchSize(_ int, rampUpRate float64) error {
	if rampUpRate != 0 && b.actuator != "" && b.actuator != vllm.ActuatorSetMaxNumSeqs {
		return fmt.Errorf("ramp_up_rate needs the actuator %s, this server has %s", vllm.ActuatorSetMaxNumSeqs, b.actuator)
	}
	return nil
}
