package agent

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/power"
	"github.com/g2g-agent/g2g-agent/power/kinds"
	"github.com/g2g-agent/g2g-agent/rig"
	"github.com/g2g-agent/g2g-agent/sim"
	"github.com/g2g-agent/g2g-agent/vllm"
)

// fastProfile makes a simulated model that is quick to warm up and easy to load.
func fastProfile() sim.Profile {
	return sim.Profile{
		Levels:      []sim.Level{{BatchSize: 1, PowerWPerGPU: 200, ITLS: 0.01}, {BatchSize: 16, PowerWPerGPU: 600, ITLS: 0.02}},
		IdleWPerGPU: 100,
	}
}

// liveSite is a live run on one simulated host with two models of two GPUs each, or
// of two for each of their servers: "patched" can have its batch size set, "stock"
// cannot.
type liveSite struct {
	zeusd   *sim.Zeusd
	vllms   []*sim.VLLM
	gpus    []*sim.GPU
	cfg     siteConfig
	sources []power.Source // in the order in which the config names them
	live    *Live
	states  chan *datacenter.State
	events  chan datacenter.Event

	cancel context.CancelFunc
	done   chan struct{}
	timing Timing
	err    error
}

// siteConfig is a site's config before its power sources are opened.
type siteConfig struct {
	LiveConfig
	// gpus are, by model and server, those that the server runs on.
	gpus [][][]gpuAt
}

// gpuAt is a GPU behind an endpoint.
type gpuAt struct {
	endpoint power.Endpoint
	index    int
}

// openSources opens the sources and gives the servers their GPUs.
func (s *liveSite) openSources(t *testing.T) {
	t.Helper()
	var endpoints []power.Endpoint
	for _, model := range s.cfg.gpus {
		for _, g := range slices.Concat(model...) {
			e := g.endpoint
			e.GPUIndices = []int{g.index}
			endpoints = append(endpoints, e)
		}
	}
	sources, err := kinds.Table()[kinds.Default].Open(endpoints, power.Options{StaleAfter: s.cfg.StaleAfter, Log: s.cfg.Log})
	if err != nil {
		t.Fatal(err)
	}
	for _, source := range sources {
		if !slices.Contains(s.sources, source) {
			s.sources = append(s.sources, source)
		}
	}
	for m, model := range s.cfg.gpus {
		for i, gpus := range model {
			for _, g := range gpus {
				server := &s.cfg.Hardware[m].Servers[i]
				server.GPUs = append(server.GPUs, rig.GPU{Source: sources[0], Index: g.index})
				sources = sources[1:]
			}
		}
	}
}

// power is how the first source reads.
func (s *liveSite) power() power.Health { return s.sources[0].Health() }

// countOf is one of the numbers that only some sources have.
func countOf(h power.Health, name string) uint64 {
	for _, c := range h.Counts {
		if c.Name == name {
			return c.N
		}
	}
	return 0
}

func newLiveSite(t *testing.T, change func(*siteConfig)) *liveSite {
	t.Helper()
	return newLiveSiteWith(t, sim.Zeusd05, change)
}

func newLiveSiteWith(t *testing.T, version sim.ZeusdVersion, change func(*siteConfig)) *liveSite {
	t.Helper()
	return newSite(t, version, oneServerEach(), change)
}

// siteServer is one server of a site, on two GPUs of its own.
type siteServer struct {
	model    int
	actuator sim.VLLMActuator
	profile  sim.Profile
}

// oneServerEach are the servers of a site whose models have one each.
func oneServerEach() []siteServer {
	return []siteServer{{0, sim.SetMaxNumSeqs, fastProfile()}, {1, sim.StockVLLM, fastProfile()}}
}

// newSite makes a site of the models "patched" and "stock" with the servers.
func newSite(t *testing.T, version sim.ZeusdVersion, servers []siteServer, change func(*siteConfig)) *liveSite {
	t.Helper()
	s := &liveSite{states: make(chan *datacenter.State, 10_000), events: make(chan datacenter.Event, 1000), done: make(chan struct{})}
	for range 2 * len(servers) {
		s.gpus = append(s.gpus, sim.NewGPU("simulated", 100))
	}
	var endpoint power.Endpoint
	s.zeusd, endpoint = startDaemon(t, sim.ZeusdConfig{GPUs: s.gpus, Version: version})
	dt, err := datacenter.ParseSeconds("1/20")
	if err != nil {
		t.Fatal(err)
	}
	s.cfg.LiveConfig = LiveConfig{
		Config: Config{
			Seed: 1, DT: dt, Augmentation: datacenter.Augmentation{AmplitudeScaleRange: [2]float64{1, 1}},
			Facility: datacenter.Facility{GPUsPerServer: 8, TotalGPUCapacity: 2 * 2 * 100, BaseKWPerPhase: 1},
			OnEvent:  func(e datacenter.Event) { s.events <- e },
		},
		PrometheusPollInterval: 50 * time.Millisecond, ITLWindow: time.Second, MaxOutputTokens: 20, Stagger: 500 * time.Millisecond,
		WarmupTimeout: 10 * time.Second, SaturationThreshold: 0.9, StaleAfter: time.Second, RestoreBatchSizes: true, Log: zerolog.Nop(),
	}
	for _, label := range []string{"patched", "stock"} {
		replicas, err := datacenter.NewReplicaSchedule(100)
		if err != nil {
			t.Fatal(err)
		}
		s.cfg.Models = append(s.cfg.Models, datacenter.ModelSpec{
			ModelLabel: label, ModelID: "org/" + label, GPUsPerReplica: 2, ITLDeadlineS: 0.1, FeasibleBatchSizes: []int{2, 4, 8},
			InitialBatchSize: 4, Replicas: replicas,
		})
		s.cfg.Hardware = append(s.cfg.Hardware, HardwareConfig{SimulatedReplicas: 100})
		s.cfg.gpus = append(s.cfg.gpus, nil)
	}
	for i, server := range servers {
		v, err := sim.StartVLLM(sim.VLLMConfig{
			Listen: "127.0.0.1:0", ModelID: s.cfg.Models[server.model].ModelID, Profile: server.profile, GPUs: s.gpus[2*i : 2*i+2], Actuator: server.actuator,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = v.Close() })
		s.vllms = append(s.vllms, v)
		h := &s.cfg.Hardware[server.model]
		h.Servers = append(h.Servers, rig.ServerConfig{VLLMBaseURL: v.URL()})
		s.cfg.gpus[server.model] = append(s.cfg.gpus[server.model], []gpuAt{{endpoint, 2 * i}, {endpoint, 2*i + 1}})
	}
	if change != nil {
		change(&s.cfg)
	}
	s.openSources(t)
	if s.live, err = NewLive(s.cfg.LiveConfig); err != nil {
		t.Fatal(err)
	}
	return s
}

// start runs the site until the test ends or stop is called.
func (s *liveSite) start(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s.cancel = cancel
	go func() {
		defer close(s.done)
		s.timing, s.err = s.live.Run(ctx, func(state *datacenter.State) error {
			select {
			case s.states <- state:
			default: // nobody looks at the states
			}
			return nil
		})
	}()
	t.Cleanup(func() { cancel(); <-s.done })
}

// stop ends the run in order.
func (s *liveSite) stop(t *testing.T) {
	t.Helper()
	s.cancel()
	<-s.done
	if s.err != nil {
		t.Errorf("the run ended with %v", s.err)
	}
}

// await returns the first state from now on that is as it should be.
func (s *liveSite) await(t *testing.T, what string, ok func(*datacenter.State) bool) *datacenter.State {
	t.Helper()
	var last *datacenter.State
	timeout := time.NewTimer(20 * time.Second)
	defer timeout.Stop()
	for {
		select {
		case last = <-s.states:
			if ok(last) {
				return last
			}
		case <-s.done:
			t.Fatalf("waiting for %s: the run ended with %v", what, s.err)
		case <-timeout.C:
			if last == nil {
				t.Fatalf("waiting for %s: no state came", what)
			}
			t.Fatalf("waiting for %s: the last state is %s", what, last.AppendJSON(nil))
		}
	}
}

func (s *liveSite) drain() {
	for len(s.states) > 0 {
		<-s.states
	}
}

// TestLiveRun is long because it is one run, from its start to its end.
func TestLiveRun(t *testing.T) {
	s := newLiveSite(t, nil)
	s.start(t)
	state := s.await(t, "full measurements", func(state *datacenter.State) bool {
		return !math.IsNaN(state.Models[0].ObservedITLS) && !math.IsNaN(state.Models[1].ObservedITLS)
	})
	for i := range state.Models {
		m := &state.Models[i]
		// At a batch of 4: 12.0 ms a token, 280 W per GPU.
		if m.ActiveReplicas != 100 || m.BatchSize != 4 || m.Live.AugmentationFactor != 100 || m.Live.Stale {
			t.Errorf("model %+v", m)
		}
		if itl := m.ObservedITLS; itl < 0.011 || itl > 0.03 {
			t.Errorf("model %s has a latency of %v s, want about 0.012", m.ModelLabel, itl)
		}
		if w := m.Live.MeasuredPowerW; w < 2*150 || w > 2*290 {
			t.Errorf("model %s measures %v W, want about 560", m.ModelLabel, w)
		}
		if w := m.PowerW; w < 200*150 || w > 200*290 {
			t.Errorf("model %s has %v W, want about 56000", m.ModelLabel, w)
		}
		if l := m.Live.Server; l == nil || l.NumRequestsRunning < 3 || l.NumRequestsRunning > 4 {
			t.Errorf("model %s runs %+v", m.ModelLabel, l)
		}
	}
	waiting := [2]float64{state.Models[0].Live.Server.NumRequestsWaiting, state.Models[1].Live.Server.NumRequestsWaiting}
	if waiting[0] < 8 || waiting[1] > 1 {
		t.Errorf("%v requests wait; the queue of a server with its own limit never drains, that of one without is empty", waiting)
	}
	if d := time.Since(state.WallTime); d < 0 || d > 5*time.Second {
		t.Errorf("the state is of %v", state.WallTime)
	}

	// A command reaches both servers, each in its way, and all of the run.
	if err := s.live.Apply(t.Context(), datacenter.SetBatchSize{BatchSizeByModel: map[string]int{"patched": 8, "stock": 2}}); err != nil {
		t.Fatal(err)
	}
	s.drain()
	s.await(t, "the batch sizes commanded", func(state *datacenter.State) bool {
		a, b := &state.Models[0], &state.Models[1]
		return a.BatchSize == 8 && b.BatchSize == 2 && a.Live.Server != nil && b.Live.Server != nil &&
			a.Live.Server.NumRequestsRunning == 8 && b.Live.Server.NumRequestsRunning == 2 && a.Live.MeasuredPowerW > b.Live.MeasuredPowerW
	})
	if got := s.vllms[0].Truth().MaxNumSeqs; got != 8 {
		t.Errorf("the server's limit is %d, want 8", got)
	}
	if err := s.live.Apply(t.Context(), datacenter.ShiftReplicas{ModelLabel: "stock", ReplicaDelta: -60}); err != nil {
		t.Fatal(err)
	}
	s.await(t, "the shift", func(state *datacenter.State) bool { return state.Models[1].ActiveReplicas == 40 })

	s.stop(t)
	if got := s.vllms[0].Truth().MaxNumSeqs; got != 4 {
		t.Errorf("after the run the server's limit is %d, want the initial 4", got)
	}
	if err := s.live.Apply(t.Context(), datacenter.SetBatchSize{BatchSizeByModel: map[string]int{"patched": 8}}); !errors.Is(err, datacenter.ErrRunOver) {
		t.Errorf("a command after the run gives %v", err)
	}
	if s.timing.Steps == 0 {
		t.Error("no step was counted")
	}
}

func TestLiveRefusesCommandsWhole(t *testing.T) {
	s := newLiveSite(t, nil)
	if err := s.live.Apply(t.Context(), datacenter.SetBatchSize{BatchSizeByModel: map[string]int{"patched": 8}}); !errors.Is(err, datacenter.ErrNotStarted) {
		t.Errorf("a command before the run gives %v", err)
	}
	s.start(t)
	s.await(t, "a state", func(*datacenter.State) bool { return true })
	for name, c := range map[string]struct {
		command datacenter.Command
		want    error
	}{
		"infeasible":     {datacenter.SetBatchSize{BatchSizeByModel: map[string]int{"patched": 8, "stock": 3}}, datacenter.ErrInfeasibleBatchSize},
		"unknown":        {datacenter.SetBatchSize{BatchSizeByModel: map[string]int{"patched": 8, "other": 8}}, datacenter.ErrUnknownModel},
		"ramp not there": {datacenter.SetBatchSize{BatchSizeByModel: map[string]int{"patched": 8, "stock": 8}, RampUpRateByModel: map[string]float64{"stock": 2}}, datacenter.ErrOutOfRange},
		"no room":        {datacenter.ShiftReplicas{ModelLabel: "stock", ReplicaDelta: 1}, datacenter.ErrNoCapacity},
	} {
		if err := s.live.Apply(t.Context(), c.command); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if got := s.vllms[0].Truth().MaxNumSeqs; got != 4 {
		t.Errorf("a refused command set the limit to %d", got)
	}
	s.stop(t)
}

// TestLiveReportsPerModel: one of two servers does not do as it is told.
func TestLiveReportsPerModel(t *testing.T) {
	var told []error
	s := newLiveSite(t, func(cfg *siteConfig) {
		cfg.Hardware[1].Servers[0].Actuator = vllm.ActuatorConcurrency
		cfg.OnCommand = func(_ datacenter.Command, err error) { told = append(told, err) }
	})
	s.start(t)
	s.await(t, "a state", func(*datacenter.State) bool { return true })
	s.vllms[0].SetFaults(sim.VLLMFaults{Status: 500})
	err := s.live.Apply(t.Context(), datacenter.SetBatchSize{BatchSizeByModel: map[string]int{"patched": 8, "stock": 2}})
	var servers *ServersError
	if !errors.As(err, &servers) || len(servers.ByModel) != 1 || servers.ByModel["patched"] == nil {
		t.Fatalf("the error is %v, want one of the model patched", err)
	}
	if len(told) != 1 || told[0] != err { //nolint:errorlint // the very error that Apply returned
		t.Errorf("OnCommand was told %v, want once what Apply returned", told)
	}
	s.drain()
	state := s.await(t, "a state after it", func(*datacenter.State) bool { return true })
	if a, b := state.Models[0].BatchSize, state.Models[1].BatchSize; a != 4 || b != 2 {
		t.Errorf("the batch sizes are %d and %d, want the old 4 and the new 2", a, b)
	}
	s.vllms[0].SetFaults(sim.VLLMFaults{})
	s.stop(t)
}

func TestLiveSaysAllThatIsMissing(t *testing.T) {
	s := newLiveSite(t, func(cfg *siteConfig) {
		cfg.Models[0].ModelID = "org/other"
		cfg.gpus[1][0][1].index = 9
	})
	_, err := s.live.Run(t.Context(), func(*datacenter.State) error { return nil })
	if err == nil {
		t.Fatal("the run began")
	}
	for _, want := range []string{"org/other", "org/patched", s.zeusd.Addr(), "9"} {
		if !contains(err, want) {
			t.Errorf("the error lacks %q: %v", want, err)
		}
	}
}

func TestLiveWarmupFails(t *testing.T) {
	s := newLiveSite(t, func(cfg *siteConfig) {
		cfg.WarmupTimeout = time.Second
		cfg.Models[1].InitialBatchSize = 8
		cfg.Hardware[0].Servers[0].RequestExtraBody = map[string]any{"max_completion_tokens": 1}
	})
	s.vllms[1].SetFaults(sim.VLLMFaults{ErrorEvents: math.MaxInt32})
	var once sync.Once
	_, err := s.live.Run(t.Context(), func(*datacenter.State) error {
		once.Do(func() { t.Error("a step was made") })
		return nil
	})
	if err == nil || !contains(err, "stock: wants 8 running") {
		t.Errorf("the error is %v", err)
	}
}

func contains(err error, text string) bool { return strings.Contains(err.Error(), text) }
