package agent

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/g2g-agent/g2g-agent/augment"
	"github.com/g2g-agent/g2g-agent/buffer"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/credential"
	"github.com/g2g-agent/g2g-agent/loadgen"
	"github.com/g2g-agent/g2g-agent/vllm"
	"github.com/g2g-agent/g2g-agent/zeusd"
)

// LiveConfig is what a live run needs beside a pipeline's config.
type LiveConfig struct {
	Config
	// Hardware is the real servers of the models, in the order of the models.
	Hardware []HardwareConfig

	// PrometheusPollInterval is the time between two looks at a server's metrics;
	// 0 never looks, and the warm-up then cannot see whether a server is busy.
	PrometheusPollInterval time.Duration
	ITLWindow              time.Duration
	MaxOutputTokens        int
	// Stagger is the power history that the servers are spread over.
	Stagger             time.Duration
	WarmupTimeout       time.Duration
	SaturationThreshold float64
	StaleAfter          time.Duration
	// StaleErrorAfter ends the run when a model's power has been stale for that
	// long; 0 never does.
	StaleErrorAfter time.Duration
	// RestoreBatchSizes sets the initial batch sizes again at the end.
	RestoreBatchSizes bool
	// OnStep, if set, is told each step's timing, from the goroutine that steps.
	OnStep func(StepTiming)
	// OnCommand, if set, is told each command's outcome, from the goroutine that
	// commands.
	OnCommand func(datacenter.Command, error)
	Log       zerolog.Logger
}

// HardwareConfig is the real servers of one model.
type HardwareConfig struct {
	VLLMBaseURL string
	// Credential is the vLLM server's API key; nil is none.
	Credential *credential.Credential
	// Actuator is how batch sizes are set; empty takes the best there is.
	Actuator vllm.Actuator
	// SimulatedReplicas is the number of replicas that the real ones stand for.
	SimulatedReplicas int
	GPUs              []GPU
	// PowerRangeW is the least and the most that a GPU can draw, in watts, of those
	// for which the daemon is not to be believed.
	PowerRangeW      map[GPU][2]float64
	Requests         []loadgen.Request
	RequestExtraBody map[string]any
}

// GPU is a real GPU behind a zeusd daemon.
type GPU struct {
	Endpoint zeusd.Endpoint
	Index    int
}

// The times a live run allows itself and the hardware.
const (
	firstReadingTimeout = 10 * time.Second
	warmupPollInterval  = 100 * time.Millisecond
	warmupLogInterval   = 10 * time.Second
	lateLogInterval     = 10 * time.Second
	// commandTimeout is for a batch size to be set. The end of a run waits for a
	// command under way and then restores, and is to take less than 10 s.
	commandTimeout = 4 * time.Second
)

// maxLiveBatchSize bounds the requests that a mistyped command makes.
const maxLiveBatchSize = 16_384

// Live is a run on real hardware: it keeps vLLM servers saturated, measures their
// latency and their GPUs' power, and scales both to the datacenter's size. [Live.Run]
// runs it, once; it is a [Controllable] meanwhile.
type Live struct {
	cfg      LiveConfig
	onEvent  func(datacenter.Event)
	began    time.Time // the zero of the histories' clock
	power    *zeusd.Client
	feed     *powerFeed
	backends []*backend
	started  atomic.Bool

	// mu guards the pipeline. Nothing waits for the network while it is held, and
	// nobody outside is called: events wait in pending.
	mu       sync.Mutex
	pipeline *Pipeline
	commands context.Context // of a run that takes commands, else nil
	pending  []datacenter.Event
	stale    []bool // per model, as of the last step
	// failsafe says which models' leases have run out: their servers are to be
	// set to the failsafe batch sizes.
	failsafe   []bool
	phase      Phase
	lastStepAt time.Time
}

// NewLive prepares a live run. Nothing is contacted before [Live.Run]. Its errors
// wrap [datacenter.ErrInvalidInput].
func NewLive(cfg LiveConfig) (*Live, error) {
	if len(cfg.Hardware) != len(cfg.Models) {
		return nil, fmt.Errorf("%w: %d models have hardware, want all %d", datacenter.ErrInvalidInput, len(cfg.Hardware), len(cfg.Models))
	}
	l := &Live{onEvent: cfg.OnEvent, began: time.Now(), stale: make([]bool, len(cfg.Models)), failsafe: make([]bool, len(cfg.Models)), phase: PhaseStarting}
	cfg.OnEvent = func(e datacenter.Event) { l.pending = append(l.pending, e) }
	l.cfg = cfg
	gpus := make([][]GPU, len(cfg.Models))
	var targets []zeusd.Target
	for m, h := range cfg.Hardware {
		for _, g := range h.GPUs {
			gpus[m] = append(gpus[m], GPU{g.Endpoint.Address(), g.Index})
			targets = append(targets, zeusd.Target{Endpoint: g.Endpoint, GPUs: []int{g.Index}, PowerRangeW: h.PowerRangeW[g]})
		}
	}
	l.feed = newPowerFeed(gpus, cfg.Stagger.Seconds())
	var err error
	l.power, err = zeusd.NewClient(zeusd.Config{
		Targets: targets, OnReading: l.onReading, OnStatus: l.onStatus, Log: cfg.Log,
		// Power is not to become stale because one answer was lost.
		AskAfter: cfg.StaleAfter / 4, RequestTimeout: cfg.StaleAfter / 4,
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", datacenter.ErrInvalidInput, err)
	}
	pool := cfg.newPool(augment.StaggerSeconds(cfg.Stagger.Seconds()))
	source := &liveSource{stagger: buffer.NewOffsets(pool.StaggerSeconds()), staleAfterS: cfg.StaleAfter.Seconds(), clock: l.clockS}
	for m := range cfg.Models {
		b, err := newBackend(&cfg, m, l.power, gpus[m])
		if err != nil {
			l.Close()
			return nil, fmt.Errorf("%w: model %q: %w", datacenter.ErrInvalidInput, cfg.Models[m].ModelLabel, err)
		}
		l.backends = append(l.backends, b)
		source.models = append(source.models, newLiveModel(b, l.feed.models[m].history,
			len(gpus[m]), cfg.Models[m].GPUsPerReplica, cfg.Hardware[m].SimulatedReplicas))
	}
	if l.pipeline, err = newPipeline(cfg.Config, pool, source); err == nil {
		l.pipeline.demand.fromZero, l.pipeline.demand.maxWalk = true, maxStartWalk
		if over := l.pipeline.demand.firstOverload(0, l.pipeline.horizon); over != nil {
			err = fmt.Errorf("%w: models: the replica schedules need %s; in a live run the capacity is the sum of simulated_num_replicas times gpus_per_replica",
				datacenter.ErrInvalidInput, l.pipeline.demand.describe(over))
		}
	}
	if err != nil {
		l.Close()
		return nil, err
	}
	l.pipeline.demand.maxWalk = maxLiveWalk
	return l, nil
}

// How far the look ahead for room goes step by step: at the start, and for a
// shift, when it holds up the steps.
const (
	maxStartWalk = 10_000_000
	maxLiveWalk  = 10_000
)

// clockS is a time on the clock of the power histories, in seconds.
func (l *Live) clockS(t time.Time) float64 { return t.Sub(l.began).Seconds() }

func (l *Live) onReading(r zeusd.Reading) {
	if r.Kind == zeusd.GPU {
		l.feed.read(GPU{r.Endpoint, r.Index}, l.clockS(r.At), r.PowerW)
	}
}

// onStatus leaves GPUs that a daemon turns out not to have out of their models'
// means. Those that it has and cannot read keep the power they had.
func (l *Live) onStatus(s zeusd.EndpointStatus) {
	for _, index := range s.UnknownGPUs {
		l.feed.lose(GPU{s.Endpoint, index}, l.clockS(time.Now()))
	}
}

// unlock ends a stretch under mu and hands on the events that came up in it.
func (l *Live) unlock() {
	events := l.pending
	l.pending = nil
	l.mu.Unlock()
	if l.onEvent != nil {
		for _, e := range events {
			l.onEvent(e)
		}
	}
	for _, e := range events {
		switch data := e.Data.(type) {
		case datacenter.DataStale:
			l.cfg.Log.Warn().Str("model_label", data.ModelLabel).Float64("age_s", data.AgeS).Str("cause", data.Cause).Msg("power is stale: the last reading is held")
		case datacenter.DataFresh:
			l.cfg.Log.Info().Str("model_label", data.ModelLabel).Msg("power is fresh again")
		}
	}
}

// Run checks the hardware, puts it under load, waits until it is warm and then
// computes a state every dt_s until ctx is done, handing each to emit. However
// it ends, it then restores the initial batch sizes, unless told to leave them,
// and returns when everything it started has ended. That ctx was done is no
// error.
func (l *Live) Run(ctx context.Context, emit func(*datacenter.State) error) (Timing, error) {
	if l.started.Swap(true) {
		return Timing{}, errors.New("a live run runs once")
	}
	// What runs beside the steps outlives ctx until the servers are restored.
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	services, running := errgroup.WithContext(running)
	stepping, stopStepping := context.WithCancelCause(ctx)
	defer stopStepping(nil)
	unwatch := context.AfterFunc(running, func() { stopStepping(context.Cause(running)) })

	// Commands are given up before the restoring begins, which waits for them.
	commands, stopCommands := context.WithCancel(running)
	defer stopCommands()

	timing, err := l.run(stepping, running, commands, services, emit)
	l.setPhase(PhaseEnded)
	unwatch()
	if ctx.Err() != nil && (errors.Is(err, context.Cause(ctx)) || errors.Is(err, context.Canceled)) {
		err = nil
	}
	stopCommands()
	restoreErr := l.restore(running)
	stop()
	err = errors.Join(err, restoreErr, services.Wait())
	l.Close()
	return timing, err
}

// Close lets go of idle connections to the servers. [Live.Run] does it in the
// end; it is for runs that were only prepared, or probed.
func (l *Live) Close() {
	for _, b := range l.backends {
		b.server.Close()
	}
}

// run is [Live.Run] up to the end of the steps.
func (l *Live) run(ctx, running, commands context.Context, services *errgroup.Group, emit func(*datacenter.State) error) (Timing, error) {
	if err := l.checkHealth(ctx); err != nil {
		return Timing{}, err
	}
	services.Go(func() error { return l.power.Run(running) })
	if err := l.awaitPower(ctx); err != nil {
		return Timing{}, err
	}
	if err := l.setInitialBatchSizes(ctx); err != nil {
		return Timing{}, err
	}
	for m, b := range l.backends {
		services.Go(func() error { return b.load.Run(running) })
		services.Go(func() error { l.watch(running, commands, b); return nil })
		services.Go(func() error { l.keepFailsafe(commands, m); return nil })
	}
	if err := l.warmUp(ctx); err != nil {
		return Timing{}, err
	}
	l.mu.Lock()
	l.commands = commands
	l.mu.Unlock()
	l.setPhase(PhaseStepping)
	defer l.logStats()
	for _, b := range l.backends {
		if w := b.load.ITL(time.Now()); w.Method == loadgen.MethodPerChunk {
			b.log.Warn().Str("itl_method", w.Method).Msg("the server does not say how many tokens a chunk has: each counts as one")
		}
	}
	l.cfg.Log.Info().Int("models", len(l.backends)).Msg("warm: the steps begin")
	var saidAt time.Time
	lateSteps := 0
	return RunPaced(ctx, l, l.cfg.DT, emit, func(step StepTiming) {
		if l.cfg.OnStep != nil {
			l.cfg.OnStep(step)
		}
		if !step.Late() {
			return
		}
		lateSteps++
		if time.Since(saidAt) >= lateLogInterval {
			saidAt = time.Now()
			l.cfg.Log.Warn().Float64("late_s", step.Lateness.Seconds()).Int("late_steps", lateSteps).Msg("a step was late")
		}
	})
}

// forEach runs f for every backend at once and joins the errors, each with its
// model.
func (l *Live) forEach(f func(*backend) error) error {
	errs := make([]error, len(l.backends))
	var group sync.WaitGroup
	for i, b := range l.backends {
		group.Go(func() {
			if err := f(b); err != nil {
				errs[i] = fmt.Errorf("model %q: %w", b.label, err)
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// checkHealth asks every vLLM server and zeusd daemon at once, and reports all
// that are amiss.
func (l *Live) checkHealth(ctx context.Context) error {
	var vllmErr, zeusdErr error
	var group sync.WaitGroup
	group.Go(func() { vllmErr = l.forEach(func(b *backend) error { return b.checkHealth(ctx) }) })
	group.Go(func() { zeusdErr = l.checkDaemons(ctx) })
	group.Wait()
	return errors.Join(vllmErr, zeusdErr)
}

// checkDaemons reports what is amiss with daemons. A GPU that cannot be read is no
// such thing: its model may have others.
func (l *Live) checkDaemons(ctx context.Context) error {
	var errs []error
	for _, r := range l.power.Probe(ctx) {
		if r.Err != nil {
			errs = append(errs, fmt.Errorf("zeusd %w", r.Err))
		}
	}
	return errors.Join(errs...)
}

// awaitPower waits until every GPU has been read once. A model of which none is
// read in time ends the run; single GPUs are left out, with a warning.
func (l *Live) awaitPower(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, firstReadingTimeout, errNoReading)
	defer cancel()
	ticker := time.NewTicker(warmupPollInterval)
	defer ticker.Stop()
	for {
		unread := 0
		for _, b := range l.backends {
			unread += len(b.unread())
		}
		if unread == 0 {
			return nil
		}
		select {
		case <-ticker.C:
			continue
		case <-ctx.Done():
		}
		if !errors.Is(context.Cause(ctx), errNoReading) {
			return context.Cause(ctx)
		}
		break
	}
	var errs []error
	for _, b := range l.backends {
		unread := b.unread()
		switch {
		case len(unread) == len(b.gpus):
			errs = append(errs, fmt.Errorf("model %q: %w from any of its GPUs within %v: %s", b.label, errNoReading, firstReadingTimeout, l.daemonErrors(b)))
		case len(unread) > 0:
			l.cfg.Log.Warn().Str("model_label", b.label).Strs("gpus", unread).Msg("no power reading yet; the model's power is the mean over its other GPUs")
		}
	}
	return errors.Join(errs...)
}

var errNoReading = errors.New("no power reading")

// daemonErrors says why power of a backend's GPUs is missing.
func (l *Live) daemonErrors(b *backend) string {
	var texts []string
	now := time.Now()
	for _, s := range l.power.Status() {
		var silent []string
		named := false
		for _, g := range b.gpus {
			if g.Endpoint != s.Endpoint {
				continue
			}
			named = true
			if age := b.ageOf(g, now); age >= l.cfg.StaleAfter {
				silent = append(silent, fmt.Sprintf("GPU %d for %.1f s", g.Index, age.Seconds()))
			}
		}
		switch {
		case named && s.Err != nil:
			texts = append(texts, s.Err.Error())
		case silent != nil:
			texts = append(texts, fmt.Sprintf("zeusd %s is connected and reports no error, but nothing confirms the power of %s", s.Endpoint, strings.Join(silent, ", ")))
		}
	}
	return strings.Join(texts, "; ")
}

func (l *Live) setInitialBatchSizes(ctx context.Context) error {
	return l.forEach(func(b *backend) error { return b.setUp(ctx) })
}

// warmUp waits until the servers are busy and the power histories full.
func (l *Live) warmUp(ctx context.Context) error {
	w := warmup{timeout: l.cfg.WarmupTimeout, stagger: l.cfg.Stagger, threshold: l.cfg.SaturationThreshold}
	for _, b := range l.backends {
		w.models = append(w.models, warmupModel{label: b.label, target: b.initialBatchSize})
	}
	watched := l.cfg.PrometheusPollInterval > 0
	if !watched {
		l.cfg.Log.Warn().Msg("live.prometheus_poll_interval_s is 0: the warm-up cannot see whether the servers are busy and only waits for a full stagger window")
	}
	began, lastLog := time.Now(), time.Now()
	ticker := time.NewTicker(warmupPollInterval)
	defer ticker.Stop()
	running := make([]float64, len(l.backends))
	for {
		now := time.Now()
		elapsed := now.Sub(began)
		for i, b := range l.backends {
			running[i] = math.NaN()
			if load := b.ServerLoad(); load != nil {
				running[i] = load.NumRequestsRunning
			}
		}
		if w.observe(elapsed, running, watched) {
			return nil
		}
		if elapsed >= l.cfg.WarmupTimeout {
			for i, b := range l.backends {
				w.models[i].requests = b.requests()
				if watched && math.IsNaN(running[i]) {
					w.models[i].why = b.runningErr()
				}
			}
			return w.failure(elapsed)
		}
		if now.Sub(lastLog) >= warmupLogInterval {
			lastLog = now
			for i := range w.models {
				m := &w.models[i]
				l.cfg.Log.Info().Str("model_label", m.label).Str("running", count(m.running)).Int("batch_size", m.target).Bool("saturated", m.saturated).Msg("warming up")
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

// Step computes the next state; it is for [RunPaced].
func (l *Live) Step(due time.Time) (*datacenter.State, error) {
	l.mu.Lock()
	l.endLeases()
	state, err := l.pipeline.Step(due)
	if err == nil {
		l.noteStaleness(state)
	}
	l.lastStepAt = time.Now()
	l.unlock()
	if err != nil {
		return nil, err
	}
	return state, l.checkStaleness(state)
}

// noteStaleness tells when a model's power becomes stale and fresh again.
func (l *Live) noteStaleness(state *datacenter.State) {
	for m := range state.Models {
		live, label := &state.Models[m].Live, state.Models[m].ModelLabel
		switch {
		case live.Stale && !l.stale[m]:
			l.pipeline.emit(datacenter.DataStale{ModelLabel: label, AgeS: live.StaleAgeS, Cause: l.daemonErrors(l.backends[m])})
		case !live.Stale && l.stale[m]:
			l.pipeline.emit(datacenter.DataFresh{ModelLabel: label})
		}
		l.stale[m] = live.Stale
	}
}

// checkStaleness returns an error if power has been stale for too long.
func (l *Live) checkStaleness(state *datacenter.State) error {
	limit := l.cfg.StaleErrorAfter
	if limit <= 0 {
		return nil
	}
	for m := range state.Models {
		if model := &state.Models[m]; model.Live.StaleAgeS >= limit.Seconds() {
			return fmt.Errorf("the power of model %q has been stale for %.1f s (live.stale_error_after_s is %v): %s",
				model.ModelLabel, model.Live.StaleAgeS, limit.Seconds(), l.daemonErrors(l.backends[m]))
		}
	}
	return nil
}

// restore sets the initial batch sizes again where anything else may be set, or,
// if told to leave them, the failsafe ones where what is set was leased: nobody is
// left to end the lease.
func (l *Live) restore(ctx context.Context) error {
	// The services may have failed, but the servers are to be restored all the same.
	ctx, cancel := withCommandTimeout(context.WithoutCancel(ctx))
	defer cancel()
	return l.forEach(func(b *backend) error {
		which, batchSize := "initial", b.initialBatchSize
		err := b.acquire(ctx)
		if err == nil {
			defer b.release()
			if !l.cfg.RestoreBatchSizes {
				m := l.pipeline.modelIndex(b.label)
				if !l.leftLeased(m) {
					return nil
				}
				which, batchSize = "failsafe", l.cfg.Models[m].Failsafe()
			}
			if !b.setting.mayDifferFrom(batchSize, 0) {
				return nil
			}
			err = b.setBatchSize(ctx, batchSize, 0)
		}
		if err != nil {
			return fmt.Errorf("the %s batch size was not restored: %w", which, err)
		}
		b.log.Info().Int("batch_size", batchSize).Msg(which + " batch size restored")
		return nil
	})
}
