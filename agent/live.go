package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/augment"
	"github.com/g2g-agent/g2g-agent/buffer"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/loadgen"
	"github.com/g2g-agent/g2g-agent/recording"
	"github.com/g2g-agent/g2g-agent/rig"
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
	// MinimalRequestText is what a model without requests is asked; empty is OpenG2G's.
	MinimalRequestText string
	// Stagger is the power history that the servers are spread over.
	Stagger             time.Duration
	WarmupTimeout       time.Duration
	SaturationThreshold float64
	StaleAfter          time.Duration
	// NoTokenLimit is for how long a server that answers may make no token; 0 is 10 s.
	NoTokenLimit time.Duration
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
	// OnStepped, if set, is called when no more steps are computed, before the servers
	// are restored, from the goroutine that steps.
	OnStepped func()
	// Recorder, if set, keeps what the run sees. Header is what the agent does not know of
	// the recording's header.
	Recorder Recorder
	Header   recording.Header
	// SyncCommands: who commands waits until that is on the recording's disk.
	SyncCommands bool
	Log          zerolog.Logger
}

// HardwareConfig is the real servers of one model.
type HardwareConfig struct {
	// SimulatedReplicas is the number of replicas that the real ones stand for; 0: the
	// model is only measured, and has no replica schedule.
	SimulatedReplicas int
	Requests          []loadgen.Request
	Servers           []rig.ServerConfig
}

// numGPUs is the number of real GPUs.
func (h *HardwareConfig) numGPUs() int {
	n := 0
	for i := range h.Servers {
		n += len(h.Servers[i].GPUs)
	}
	return n
}

// lateLogInterval is the least time between two log lines about late steps.
const lateLogInterval = 10 * time.Second

// Live is a run on real hardware: it scales what a [rig.Rig] measures to the
// datacenter's size. [Live.Run] runs it, once; it is a [Controllable] meanwhile.
type Live struct {
	cfg      LiveConfig
	onEvent  func(datacenter.Event)
	rig      *rig.Rig
	readings *liveReadings
	started  atomic.Bool

	// mu guards the pipeline. Nothing waits for the network while it is held, and
	// nobody outside is called: events wait in pending.
	mu            sync.Mutex
	pipeline      *Pipeline
	takesCommands bool
	pending       []datacenter.Event
	notes         notes
	stale         []bool // per model, as of the last step
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
	l := &Live{onEvent: cfg.OnEvent, stale: make([]bool, len(cfg.Models)), failsafe: make([]bool, len(cfg.Models)), phase: PhaseStarting}
	cfg.OnEvent = func(e datacenter.Event) {
		l.pending = append(l.pending, e)
		l.notes.event(l.pipeline.step, e)
	}
	l.cfg = cfg
	var err error
	if l.rig, err = rig.New(l.rigConfig()); err != nil {
		return nil, fmt.Errorf("%w: %w", datacenter.ErrInvalidInput, err)
	}
	pool := cfg.newPool(augment.StaggerSeconds(cfg.Stagger.Seconds()))
	l.readings = &liveReadings{
		feed: l.rig.Feed(), stagger: buffer.NewOffsets(pool.StaggerSeconds()), staleAfterS: cfg.StaleAfter.Seconds(), dtS: cfg.DT.Float64(),
		clock: l.rig.Feed().Clock,
	}
	for m := range cfg.Models {
		l.readings.models = append(l.readings.models, newLiveModel(l.rig.Model(m), newWindow(cfg.ITLWindow, cfg.DT),
			cfg.Hardware[m].numGPUs(), cfg.Models[m].GPUsPerReplica, cfg.Hardware[m].SimulatedReplicas))
	}
	if l.pipeline, err = newPipeline(cfg.Config, pool, l.readings); err == nil {
		err = l.checkRoomFromStart()
	}
	if err != nil {
		l.Close()
		return nil, err
	}
	l.pipeline.demand.maxWalk = maxLiveWalk
	return l, nil
}

// newWindow is the window of latencies that steps report.
func newWindow(itlWindow time.Duration, dt datacenter.Seconds) *loadgen.StepWindow {
	return loadgen.NewStepWindow(loadgen.StepsOf(itlWindow.Seconds(), dt.Float64()))
}

// rigConfig is the part of the config that the hardware needs.
func (l *Live) rigConfig() rig.Config {
	cfg := &l.cfg
	return rig.Config{
		Models: rigModels(cfg.Models, cfg.Hardware), PrometheusPollInterval: cfg.PrometheusPollInterval, ITLWindow: cfg.ITLWindow, MaxOutputTokens: cfg.MaxOutputTokens,
		MinimalRequestText: cfg.MinimalRequestText,
		HistoryWindow:      cfg.Stagger, WarmupTimeout: cfg.WarmupTimeout, SaturationThreshold: cfg.SaturationThreshold,
		StaleAfter: cfg.StaleAfter, NoTokenLimit: cfg.NoTokenLimit, Seed: cfg.Seed, OnKept: l.failsafeKept, Log: cfg.Log,
	}
}

// rigModels are the models as a rig knows them.
func rigModels(specs []datacenter.ModelSpec, hardware []HardwareConfig) []rig.ModelConfig {
	models := make([]rig.ModelConfig, len(specs))
	for m := range models {
		spec, h := &specs[m], &hardware[m]
		models[m] = rig.ModelConfig{
			Label: spec.ModelLabel, ModelID: spec.ModelID, InitialBatchSize: spec.InitialBatchSize,
			MaxBatchSize: slices.Max(spec.FeasibleBatchSizes), Requests: h.Requests, Servers: h.Servers,
		}
	}
	return models
}

// How far the look ahead for room goes step by step: at the start, and for a
// shift, when it holds up the steps.
const (
	maxStartWalk = 10_000_000
	maxLiveWalk  = 10_000
)

// checkRoomFromStart checks that there is room for what the schedules ask for.
func (l *Live) checkRoomFromStart() error {
	d := &l.pipeline.demand
	d.fromZero, d.maxWalk = true, maxStartWalk
	over := d.firstOverload(0, l.pipeline.horizon)
	if over == nil {
		return nil
	}
	return fmt.Errorf("%w: models: the replica schedules need %s; in a live run the capacity is the sum of simulated_num_replicas "+
		"times gpus_per_replica",
		datacenter.ErrInvalidInput, d.describe(over))
}

// unlock ends a stretch under mu and hands on the events that came up in it.
func (l *Live) unlock() {
	events := l.pending
	l.pending = nil
	l.notes.hand(l.pipeline)
	l.mu.Unlock()
	if l.onEvent != nil {
		for _, e := range events {
			l.onEvent(e)
		}
	}
	for _, e := range events {
		switch data := e.Data.(type) {
		case datacenter.DataStale:
			l.cfg.Log.Warn().Str("model_label", data.ModelLabel).Float64("age_s", data.AgeS).Str("cause", data.Cause).
				Msg("power is stale: the last reading is held")
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
	var timing Timing
	err := l.rig.Run(ctx, func(ctx context.Context) (err error) {
		timing, err = l.step(ctx, emit)
		return err
	}, l.leftBehind)
	l.setPhase(PhaseEnded)
	return timing, err
}

// Close lets go of what a run that was only prepared, or probed, has opened.
// [Live.Run] does it in the end.
func (l *Live) Close() { l.rig.Close() }

// step computes the steps, on hardware that is warm.
func (l *Live) step(ctx context.Context, emit func(*datacenter.State) error) (Timing, error) {
	defer func() {
		l.setPhase(PhaseEnded)
		if l.cfg.OnStepped != nil {
			l.cfg.OnStepped()
		}
	}()
	defer l.rig.LogStats()
	stats := l.rig.Stats()
	for i := range stats.Models {
		if m := &stats.Models[i]; m.ITLMethod == loadgen.MethodPerChunk {
			l.cfg.Log.Warn().Str("model_label", m.ModelLabel).Str("itl_method", m.ITLMethod).
				Msg("the server does not say how many tokens a chunk has: each counts as one")
		}
	}
	l.cfg.Log.Info().Int("models", len(stats.Models)).Msg("warm: the steps begin")
	start := l.startRecording()
	l.setPhase(PhaseStepping) // from here on commands are taken: the recording is to have them all
	var saidAt time.Time
	lateSteps := 0
	return runPacedFrom(ctx, start, l, l.cfg.DT, emit, func(step StepTiming) {
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

// Step computes the next state; it is for [RunPaced].
func (l *Live) Step(due time.Time) (*datacenter.State, error) {
	l.mu.Lock()
	l.endLeases()
	state, err := l.pipeline.Step(due)
	if err == nil {
		l.noteStaleness(state)
		if l.cfg.Recorder != nil {
			l.cfg.Recorder.State(state)
		}
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
			l.pipeline.emit(datacenter.DataStale{ModelLabel: label, AgeS: live.StaleAgeS, Cause: l.rig.Model(m).PowerErrors()})
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
				model.ModelLabel, model.Live.StaleAgeS, limit.Seconds(), l.rig.Model(m).PowerErrors())
		}
	}
	return nil
}

// leftBehind is what model m's servers are to be set to when the run has ended:
// the initial batch size or, if told to leave them, the failsafe one where what is
// set was leased: nobody is left to end the lease.
func (l *Live) leftBehind(m int) (which string, batchSize int, ok bool) {
	spec := &l.cfg.Models[m]
	if l.cfg.RestoreBatchSizes {
		return "initial", spec.InitialBatchSize, true
	}
	return "failsafe", spec.Failsafe(), l.leftLeased(m)
}

func (l *Live) setPhase(phase Phase) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.phase, l.lastStepAt = phase, time.Now()
	l.takesCommands = phase == PhaseStepping
}

// Status implements [Controllable].
func (l *Live) Status() Status {
	l.mu.Lock()
	s := l.pipeline.status()
	s.Phase, s.LastStepAt = l.phase, l.lastStepAt
	for m := range s.Models {
		s.Models[m].Stale = l.stale[m]
	}
	l.mu.Unlock()
	for m := range s.Models {
		s.Models[m].showServers(l.rig.Model(m).Servers())
	}
	return s
}

// Stats tells how well the run measures. It may be called from any goroutine and
// takes some tens of microseconds a server.
func (l *Live) Stats() rig.Stats { return l.rig.Stats() }

// Probe asks all hardware what a run needs to know, changing nothing.
func (l *Live) Probe(ctx context.Context) []rig.ProbeResult { return l.rig.Probe(ctx) }
