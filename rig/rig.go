// Package rig is the real servers and GPUs of a run: it reads the GPUs' power,
// keeps vLLM servers under load and measures their latency, and sets their batch
// sizes and sees to it that they keep them. It knows nothing of simulated servers or
// of steps.
package rig

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/g2g-agent/g2g-agent/internal/credential"
	"github.com/g2g-agent/g2g-agent/loadgen"
	"github.com/g2g-agent/g2g-agent/power"
	"github.com/g2g-agent/g2g-agent/vllm"
)

// Config is what a rig is made from.
type Config struct {
	Models []ModelConfig

	// PrometheusPollInterval is the time between two looks at a server's metrics;
	// 0 never looks, and the warm-up then cannot see whether a server is busy.
	PrometheusPollInterval time.Duration
	ITLWindow              time.Duration
	MaxOutputTokens        int
	// MinimalRequestText is what a model without requests is asked; empty is the usual.
	MinimalRequestText string
	// HistoryWindow is how far back the power histories reach; the warm-up fills it.
	HistoryWindow       time.Duration
	WarmupTimeout       time.Duration
	SaturationThreshold float64
	// StaleAfter is for how long a power or what a server said may be old.
	StaleAfter time.Duration
	// NoTokenLimit is for how long a server that answers, with requests in flight, may
	// make no token; 0 is 10 s.
	NoTokenLimit time.Duration
	Seed         uint64
	// OnKept, if set, is told of a model's first server that runs what [Model.Keep]
	// asked for, and whether it had to be told, or that is new. It must not wait for
	// the rig.
	OnKept func(model int, told bool)
	// OnFound, if set, is told what a server's batch size is set to before it is told any,
	// 0 where that cannot be read, from any goroutine. It returns what the server is to be
	// left with in place of what restore tells; 0 is no such thing.
	OnFound func(vllmBaseURL string, batchSize int) (leave int, err error)
	// OnReading, if set, is told each reading of a model's GPU, by its place among the
	// model's, from any goroutine, one at a time. It must not wait, nor call the rig.
	OnReading func(model, gpu int, r power.Reading)
	Log       zerolog.Logger
}

// ModelConfig is the real servers of one model.
type ModelConfig struct {
	Label, ModelID string
	// InitialBatchSize is set at the start, MaxBatchSize the largest that is usually
	// set later.
	InitialBatchSize, MaxBatchSize int
	Requests                       []loadgen.Request
	Servers                        []ServerConfig
}

// ServerConfig is one vLLM server and the GPUs it runs on.
type ServerConfig struct {
	VLLMBaseURL string
	// Credential is the vLLM server's API key; nil is none.
	Credential *credential.Credential
	// Actuator is how batch sizes are set; empty takes the best there is.
	Actuator         Actuator
	GPUs             []GPU
	RequestExtraBody map[string]any
}

// Actuator names a way to set batch sizes.
type Actuator = vllm.Actuator

// Outcome says what became of a command.
type Outcome = vllm.Outcome

// GPU is a real GPU, as its power source knows it.
type GPU struct {
	Source power.Source
	Index  int
}

func (g GPU) String() string { return fmt.Sprintf("%s GPU %d", g.Source, g.Index) }

// Rig is the servers and GPUs of one run. [Rig.Run] runs it, once.
type Rig struct {
	cfg     Config
	feed    *Feed
	sources []power.Source // each once
	models  []*Model

	started  atomic.Bool
	warm     atomic.Bool
	commands atomic.Pointer[context.Context] // done when no more are taken; nil before the start
}

// New prepares a rig. Nothing is contacted before [Rig.Run].
func New(cfg Config) (*Rig, error) {
	if cfg.NoTokenLimit == 0 {
		cfg.NoTokenLimit = noTokenLimit
	}
	gpus := make([][]GPU, len(cfg.Models))
	r := &Rig{cfg: cfg}
	known := map[power.Source]bool{}
	for m := range cfg.Models {
		for _, s := range cfg.Models[m].Servers {
			gpus[m] = append(gpus[m], s.GPUs...)
		}
		for _, g := range gpus[m] {
			if !known[g.Source] {
				known[g.Source] = true
				r.sources = append(r.sources, g.Source)
			}
		}
	}
	r.feed = NewFeed(gpus, cfg.HistoryWindow.Seconds())
	r.feed.onReading = cfg.OnReading
	for m := range cfg.Models {
		model, err := newModel(r, m, gpus[m])
		if err != nil {
			r.Close()
			return nil, fmt.Errorf("model %q: %w", cfg.Models[m].Label, err)
		}
		r.models = append(r.models, model)
	}
	return r, nil
}

// Model is one of the models, in the order of the config.
func (r *Rig) Model(m int) *Model { return r.models[m] }

// Feed is the GPUs' power.
func (r *Rig) Feed() *Feed { return r.feed }

// Close lets go of idle connections to the servers. [Rig.Run] does it in the end;
// it is for rigs that were only prepared, or probed.
func (r *Rig) Close() {
	for s := range r.servers() {
		s.server.Close()
	}
}

// Run checks the hardware, sets the initial batch sizes, puts the servers under
// load and waits until they are warm. Then it calls use, whose context is done as
// soon as ctx is, or something that runs beside it has failed. However that ends,
// no more commands are taken, and each model for which restore tells of a batch
// size, and what that is, is set to it. Run returns when everything that it
// started has ended.
func (r *Rig) Run(ctx context.Context, use func(context.Context) error, restore func(model int) (which string, batchSize int, ok bool)) error {
	if r.started.Swap(true) {
		return errors.New("a rig runs once")
	}
	defer r.Close()
	// What runs beside use outlives ctx until the servers are restored.
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	services, running := errgroup.WithContext(running)
	using, stopUsing := context.WithCancelCause(ctx)
	defer stopUsing(nil)
	unwatch := context.AfterFunc(running, func() { stopUsing(context.Cause(running)) })

	// Commands are given up before the restoring begins, which waits for them.
	commands, stopCommands := context.WithCancel(running)
	defer stopCommands()
	r.commands.Store(&commands)

	// The servers are restored even if a service has failed.
	reconciling, stopReconciling := context.WithCancel(context.WithoutCancel(ctx))
	defer stopReconciling()
	var loops sync.WaitGroup

	err := r.start(using, running, reconciling, commands, services, &loops)
	if err == nil {
		err = use(using)
	}
	unwatch()
	if ctx.Err() != nil && (errors.Is(err, context.Cause(ctx)) || errors.Is(err, context.Canceled)) {
		err = nil
	}
	stopCommands()
	restoreErr := r.restore(reconciling, restore)
	stop()
	stopReconciling()
	loops.Wait()
	return errors.Join(err, restoreErr, services.Wait())
}

// start is [Rig.Run] up to the end of the warm-up.
func (r *Rig) start(ctx, running, reconciling, commands context.Context, services *errgroup.Group, loops *sync.WaitGroup) error {
	if err := r.checkHealth(ctx); err != nil {
		return err
	}
	for _, source := range r.sources {
		services.Go(func() error { return source.Run(running, r.feed.Sink(source)) })
	}
	if err := r.awaitPower(ctx); err != nil {
		return err
	}
	if err := r.forEach(func(s *Server) error { return s.setUp(ctx) }); err != nil {
		return err
	}
	for s := range r.servers() {
		services.Go(func() error { return s.load.Run(running) })
		services.Go(func() error { s.watch(running); return nil })
		s.looping.Store(true)
		loops.Go(func() { s.reconcile(reconciling, commands) })
	}
	if err := r.warmUp(ctx); err != nil {
		return err
	}
	r.warm.Store(true)
	return nil
}

// servers are all servers of all models, in config order.
func (r *Rig) servers() iter.Seq[*Server] {
	return func(yield func(*Server) bool) {
		for _, m := range r.models {
			for _, s := range m.servers {
				if !yield(s) {
					return
				}
			}
		}
	}
}

// forEach runs f for every server at once and joins the errors, each with its
// model.
func (r *Rig) forEach(f func(*Server) error) error {
	servers := slices.Collect(r.servers())
	errs := make([]error, len(servers))
	var group sync.WaitGroup
	for i, s := range servers {
		group.Go(func() {
			if err := f(s); err != nil {
				errs[i] = fmt.Errorf("model %q: %w", s.model.label, err)
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// checkHealth asks every vLLM server and power source at once, and reports all
// that are amiss. A GPU that cannot be read is no such thing: its model may have
// others.
func (r *Rig) checkHealth(ctx context.Context) error {
	var vllmErr error
	sourceErrs := make([]error, len(r.sources))
	var group sync.WaitGroup
	group.Go(func() { vllmErr = r.forEach(func(s *Server) error { return s.checkHealth(ctx) }) })
	for i, source := range r.sources {
		group.Go(func() {
			if report := source.Probe(ctx); report.Err != nil {
				sourceErrs[i] = fmt.Errorf("%s %w", source.Kind(), report.Err)
			}
		})
	}
	group.Wait()
	return errors.Join(vllmErr, errors.Join(sourceErrs...))
}

// restore sets the batch sizes that are to be left behind, where anything else
// may be set.
func (r *Rig) restore(ctx context.Context, restore func(model int) (which string, batchSize int, ok bool)) error {
	ctx, cancel := withCommandTimeout(ctx)
	defer cancel()
	errs := make([]error, len(r.models))
	var group sync.WaitGroup
	for i, m := range r.models {
		group.Go(func() { errs[i] = m.restore(ctx, restore) })
	}
	group.Wait()
	return errors.Join(errs...)
}
