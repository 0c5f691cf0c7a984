package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/credential"
	"github.com/g2g-agent/g2g-agent/sim"
	"github.com/g2g-agent/g2g-agent/zeusd"
)

const (
	// recoveryTime bounds the time from a peer's return to good data. 2 s are
	// promised; the rest is for a machine that is busy elsewhere.
	recoveryTime = 4 * time.Second
	// slack is what a thing may be late on such a machine.
	slack = 1500 * time.Millisecond
	// What a model of [fastProfile] on two GPUs draws: at rest, at a batch of 8,
	// and about the middle between a batch of 4 and of 8.
	idleW, batch8W, between4And8W = 200.0, 773.4, 640.0
	// stopTime is how long a run may take to end.
	stopTime = 10 * time.Second
)

// faultTest is one of several tests that mostly wait.
type faultTest struct {
	name string
	test func(*testing.T)
}

// together runs tests beside each other, since each of them mostly waits.
func together(t *testing.T, tests []faultTest) {
	t.Helper()
	room := make(chan struct{}, 8)
	var group sync.WaitGroup
	for _, f := range tests {
		group.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			t.Run(f.name, f.test)
		})
	}
	group.Wait()
}

// unhurried slows the servers down, so that several sites can share a machine.
const unhurried = 3

// newFaultSite is a site as newLiveSite makes it that asks little of the machine.
func newFaultSite(t *testing.T, change func(*LiveConfig)) *liveSite {
	t.Helper()
	return newFaultSiteWith(t, sim.Zeusd05, change)
}

// newFaultSiteWith is one whose zeusd has the version.
func newFaultSiteWith(t *testing.T, version sim.ZeusdVersion, change func(*LiveConfig)) *liveSite {
	t.Helper()
	s := newLiveSiteWith(t, version, func(cfg *LiveConfig) {
		cfg.PrometheusPollInterval = 200 * time.Millisecond
		cfg.Stagger = 300 * time.Millisecond
		cfg.StaleAfter = 1500 * time.Millisecond
		if change != nil {
			change(cfg)
		}
	})
	for i := range s.vllms {
		s.setFaults(i, sim.VLLMFaults{})
	}
	return s
}

func (s *liveSite) setFaults(model int, f sim.VLLMFaults) {
	f.SlowDown = unhurried
	s.vllms[model].SetFaults(f)
}

// pulse notices when the machine has no time for us. Then nothing can be said of
// what should have been in time.
type pulse struct {
	mu          sync.Mutex
	began, last time.Time
	worst, lost time.Duration
}

const pulseInterval = 10 * time.Millisecond

func startPulse(t *testing.T) *pulse {
	now := time.Now()
	p := &pulse{began: now, last: now}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(pulseInterval)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				p.beat()
			}
		}
	}()
	t.Cleanup(func() { close(done); <-ended })
	return p
}

func (p *pulse) beat() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	late := now.Sub(p.last) - pulseInterval
	p.last = now
	p.worst = max(p.worst, late)
	if late > pulseInterval {
		p.lost += late
	}
}

// starved reports whether we waited long for the processor, at once or in all.
func (p *pulse) starved() bool {
	p.beat()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.worst > 250*time.Millisecond || p.lost > time.Since(p.began)/5
}

// watcher looks at every state of a running site, from the first on.
type watcher struct {
	*liveSite
	pulse    *pulse
	last     *datacenter.State
	began    time.Time // when the first state was seen
	firstSeq int64
	// floorW and roofW are, by model, what its real GPUs draw together at least and
	// at most, in watts.
	floorW, roofW []float64
	broken        int
}

// watch starts a site and waits until all is measured.
func watch(t *testing.T, s *liveSite) *watcher {
	t.Helper()
	s.start(t)
	w := &watcher{liveSite: s, pulse: startPulse(t), floorW: []float64{1.2 * idleW, 0.99 * idleW}, roofW: []float64{1.01 * batch8W, 1.01 * batch8W}}
	w.until(t, "measurements", 20*time.Second, func(state *datacenter.State) bool {
		for i := range state.Models {
			if m := &state.Models[i]; math.IsNaN(m.ObservedITLS) || m.Live.Server == nil {
				return false
			}
		}
		return true
	})
	return w
}

// see checks what holds for each state, whatever goes wrong.
func (w *watcher) see(t *testing.T, state *datacenter.State) {
	t.Helper()
	if w.last == nil {
		w.began, w.firstSeq = time.Now(), state.Seq
	} else if state.Seq != w.last.Seq+1 {
		t.Errorf("after state %d comes state %d", w.last.Seq, state.Seq)
	}
	w.last = state
	for i := range state.Models {
		m := &state.Models[i]
		perGPUW := m.PowerW / float64(m.ActiveReplicas*w.cfg.Models[i].GPUsPerReplica)
		augmentedW := perGPUW * float64(len(w.cfg.Hardware[i].GPUs))
		for what, powerW := range map[string]float64{"measures": m.Live.MeasuredPowerW, "draws, per real GPUs,": augmentedW} {
			if !(powerW >= w.floorW[i] && powerW <= w.roofW[i]) {
				if w.broken++; w.broken <= 5 {
					t.Errorf("state %d: model %s %s %v W, want %v to %v", state.Seq, m.ModelLabel, what, powerW, w.floorW[i], w.roofW[i])
				}
			}
		}
		if m.Live.Stale != (m.Live.StaleAgeS > 0) || m.Live.Stale && m.Live.StaleAgeS < w.cfg.StaleAfter.Seconds() {
			t.Errorf("state %d: model %s is stale: %v, for %v s", state.Seq, m.ModelLabel, m.Live.Stale, m.Live.StaleAgeS)
		}
	}
}

// untimely is an error unless the machine was too busy to be in time.
func (w *watcher) untimely(t *testing.T, format string, args ...any) {
	t.Helper()
	if w.pulse.starved() {
		t.Logf("on a busy machine: "+format, args...)
		return
	}
	t.Errorf(format, args...)
}

// until returns the first state that is as it should be, and takes it ill if
// that takes longer than within.
func (w *watcher) until(t *testing.T, what string, within time.Duration, ok func(*datacenter.State) bool) *datacenter.State {
	t.Helper()
	began := time.Now()
	timeout := time.NewTimer(within + 10*time.Second)
	defer timeout.Stop()
	for {
		select {
		case state := <-w.states:
			w.see(t, state)
			if !ok(state) {
				continue
			}
			if took := time.Since(began); took > within {
				w.untimely(t, "%s came after %v, want %v at most", what, took, within)
			}
			return state
		case <-w.done:
			t.Fatalf("waiting for %s: the run ended with %v", what, w.err)
		case <-timeout.C:
			t.Fatalf("waiting for %s: the last state is %s", what, w.last.AppendJSON(nil))
		}
	}
}

// never looks at the states of d and wants none to be as said.
func (w *watcher) never(t *testing.T, what string, d time.Duration, is func(*datacenter.State) bool) {
	t.Helper()
	began, said := time.Now(), false
	w.until(t, "the end of the time", math.MaxInt64/2, func(state *datacenter.State) bool {
		if is(state) && !said {
			said = true
			w.untimely(t, "%s: %s", what, state.AppendJSON(nil))
		}
		return time.Since(began) >= d
	})
}

// passed looks at the states that have come so far.
func (w *watcher) passed(t *testing.T) {
	t.Helper()
	for len(w.states) > 0 {
		w.see(t, <-w.states)
	}
}

// finish stops the run and checks that it went by the clock.
func (w *watcher) finish(t *testing.T) {
	t.Helper()
	w.passed(t)
	took := time.Since(w.began).Seconds()
	if steps := float64(w.last.Seq - w.firstSeq); math.Abs(steps*w.cfg.DT.Float64()-took) > 1 {
		w.untimely(t, "%v steps of %v s in %v s", steps, w.cfg.DT.Float64(), took)
	}
	began := time.Now()
	w.stop(t)
	if d := time.Since(began); d > stopTime {
		t.Errorf("the end took %v", d)
	}
	w.passed(t)
	if w.timing.MaxLateness > 900*time.Millisecond { // less than any wait for the network
		w.untimely(t, "a step was %v late", w.timing.MaxLateness)
	}
}

// wantEvents checks how often each model became stale and fresh.
func (w *watcher) wantEvents(t *testing.T, stale map[string]int) {
	t.Helper()
	became := map[string][2]int{}
	for len(w.events) > 0 {
		switch e := (<-w.events).Data.(type) {
		case datacenter.DataStale:
			n := became[e.ModelLabel]
			became[e.ModelLabel] = [2]int{n[0] + 1, n[1]}
		case datacenter.DataFresh:
			n := became[e.ModelLabel]
			became[e.ModelLabel] = [2]int{n[0], n[1] + 1}
		}
	}
	for i := range w.cfg.Models {
		label := w.cfg.Models[i].ModelLabel
		if got := became[label]; got != [2]int{stale[label], stale[label]} {
			w.untimely(t, "model %s became stale %d times and fresh %d times, want %d of each", label, got[0], got[1], stale[label])
		}
	}
}

func (w *watcher) setBatchSize(t *testing.T, label string, n int) {
	t.Helper()
	if err := w.live.Apply(t.Context(), datacenter.SetBatchSize{BatchSizeByModel: map[string]int{label: n}}); err != nil {
		t.Error(err)
	}
}

// follows checks that the measured power of "patched" still follows the truth:
// with the batch size it rises.
func (w *watcher) follows(t *testing.T) {
	t.Helper()
	w.setBatchSize(t, "patched", 8)
	w.until(t, "the power at a batch of 8", recoveryTime, func(state *datacenter.State) bool {
		return state.Models[0].Live.MeasuredPowerW > between4And8W
	})
}

func anyStale(state *datacenter.State) bool {
	return state.Models[0].Live.Stale || state.Models[1].Live.Stale
}

func bothStale(state *datacenter.State) bool {
	return state.Models[0].Live.Stale && state.Models[1].Live.Stale
}

// patiently is for where no data is lost: then nothing may become stale, not even
// on a machine that is busy elsewhere.
func patiently(cfg *LiveConfig) { cfg.StaleAfter = 3 * time.Second }

func staleSoon(w *watcher) time.Duration {
	return w.cfg.StaleAfter + time.Duration(w.cfg.DT.Float64()*float64(time.Second)) + slack
}

// startDaemon starts a daemon beside that of a site.
func startDaemon(t *testing.T, cfg sim.ZeusdConfig) (*sim.Zeusd, zeusd.Endpoint) {
	t.Helper()
	cfg.Listen = "127.0.0.1:0"
	z, err := sim.StartZeusd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = z.Close() })
	host, port, err := net.SplitHostPort(z.Addr())
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return z, zeusd.Endpoint{Host: host, Port: number}
}

func TestLiveUnderFaults(t *testing.T) {
	t.Parallel()
	var tests []faultTest
	for _, version := range []sim.ZeusdVersion{sim.Zeusd05, sim.Zeusd04} {
		for _, f := range daemonFaults() {
			tests = append(tests, faultTest{fmt.Sprintf("zeusd %s: %s", version, f.name), func(t *testing.T) { f.test(t, version) }})
		}
	}
	together(t, append(tests, []faultTest{
		{"vLLM dies", testVLLMDies},
		{"vLLM is back at once", testVLLMIsBackAtOnce},
		{"metrics gone", func(t *testing.T) { testNoMetrics(t, sim.VLLMFaults{MetricsGone: true}) }},
		{"metrics fail", func(t *testing.T) { testNoMetrics(t, sim.VLLMFaults{MetricsStatus: 500}) }},
		{"vLLM hangs", testVLLMHangs},
		{"a command hangs", testCommandHangs},
		{"a command is late", testCommandIsLate},
		{"bad completions", testBadCompletions},
		{"vLLM stands still", testVLLMStandsStill},
	}...))
}

// daemonFault is what may be wrong with a zeusd, of whatever version.
type daemonFault struct {
	name string
	test func(*testing.T, sim.ZeusdVersion)
}

func daemonFaults() []daemonFault {
	return []daemonFault{
		{"it dies", func(t *testing.T, v sim.ZeusdVersion) {
			testOutage(t, v, (*sim.Zeusd).Kill, func(z *sim.Zeusd) error { return z.Restart() })
		}},
		{"it hangs", func(t *testing.T, v sim.ZeusdVersion) {
			testOutage(t, v, func(z *sim.Zeusd) { z.SetFaults(sim.ZeusdFaults{Freeze: true}) }, healZeusd)
		}},
		{"it fails", func(t *testing.T, v sim.ZeusdVersion) {
			testOutage(t, v, func(z *sim.Zeusd) { z.SetFaults(sim.ZeusdFaults{Status: 500, DropStreams: true}) }, healZeusd)
		}},
		{"its driver hangs", func(t *testing.T, v sim.ZeusdVersion) {
			testOutage(t, v, func(z *sim.Zeusd) { z.SetFaults(sim.ZeusdFaults{HungGPUs: []int{0, 1, 2, 3}}) }, healZeusd)
		}},
		{"its driver hangs, and so does the network at times", testHungDriverAndNetwork},
		{"its sensors give no values", func(t *testing.T, v sim.ZeusdVersion) {
			const noValue = 1<<32 - 1 // milliwatts
			testOutage(t, v, func(z *sim.Zeusd) {
				z.SetFaults(sim.ZeusdFaults{OddMW: map[int]int64{0: noValue, 1: noValue, 2: 0, 3: 65_535_000}})
			}, healZeusd)
		}},
		{"constant power", testConstantPower},
		{"constant power with another listener", testConstantPowerWithAnother},
		{"held power of unequal GPUs", testUnequalGPUs},
		{"streams hang", testStreamsHang},
		{"a GPU is silent", testSilentGPU},
		{"a GPU fails", testFailingGPU},
		{"all GPUs of a model fail", testFailingGPUs},
		{"garbage", testGarbage},
		{"cut streams", testCutStreams},
		{"token refused for a while, 401", func(t *testing.T, v sim.ZeusdVersion) { testTokenRefusedForAWhile(t, v, 401) }},
		{"token refused for a while, 403", func(t *testing.T, v sim.ZeusdVersion) { testTokenRefusedForAWhile(t, v, 403) }},
		{"clock steps", testClockSteps},
	}
}

func healZeusd(z *sim.Zeusd) error {
	z.SetFaults(sim.ZeusdFaults{})
	return nil
}

// testOutage: the only daemon cannot be asked for a time, in which the truth
// moves on.
func testOutage(t *testing.T, version sim.ZeusdVersion, cause func(*sim.Zeusd), repair func(*sim.Zeusd) error) {
	s := newFaultSiteWith(t, version, nil)
	w := watch(t, s)
	cause(s.zeusd)
	state := w.until(t, "staleness", staleSoon(w), bothStale)
	heldW := state.Models[0].Live.MeasuredPowerW
	w.setBatchSize(t, "patched", 8)
	w.until(t, "the truth", 20*time.Second, func(*datacenter.State) bool { return s.gpus[0].PowerW() > between4And8W/2 })
	ageS := 0.0
	w.never(t, "the held power changed", time.Second, func(state *datacenter.State) bool {
		m := &state.Models[0].Live
		grew := m.StaleAgeS > ageS
		ageS = m.StaleAgeS
		return !bothStale(state) || !grew || math.Abs(m.MeasuredPowerW-heldW) > 1
	})
	if err := repair(s.zeusd); err != nil {
		t.Fatal(err)
	}
	w.until(t, "recovery", recoveryTime, func(state *datacenter.State) bool {
		return !anyStale(state) && state.Models[0].Live.MeasuredPowerW > between4And8W
	})
	w.finish(t)
	w.wantEvents(t, map[string]int{"patched": 1, "stock": 1})
}

// testUnequalGPUs: the power held is that of all GPUs, however they differ.
func testUnequalGPUs(t *testing.T, version sim.ZeusdVersion) {
	z, endpoint := startDaemon(t, sim.ZeusdConfig{Version: version, GPUs: []*sim.GPU{sim.NewGPU("busy", 600), sim.NewGPU("idle", 100)}})
	s := newFaultSiteWith(t, version, func(cfg *LiveConfig) {
		patiently(cfg)
		cfg.Hardware[0].GPUs = []GPU{{endpoint, 0}, {endpoint, 1}}
	})
	w := watch(t, s)
	w.floorW[0], w.roofW[0] = 699, 701
	z.Kill()
	w.until(t, "staleness", staleSoon(w), func(state *datacenter.State) bool { return state.Models[0].Live.Stale })
	w.never(t, "the other daemon's model is stale", time.Second, func(state *datacenter.State) bool { return state.Models[1].Live.Stale })
	if err := z.Restart(); err != nil {
		t.Fatal(err)
	}
	w.until(t, "recovery", recoveryTime, func(state *datacenter.State) bool { return !anyStale(state) })
	w.finish(t)
	w.wantEvents(t, map[string]int{"patched": 1})
}

// testStreamsHang: streams bring nothing more, but the daemon answers.
func testStreamsHang(t *testing.T, version sim.ZeusdVersion) {
	s := newFaultSiteWith(t, version, patiently)
	w := watch(t, s)
	s.zeusd.SetFaults(sim.ZeusdFaults{FreezeStream: true})
	w.follows(t)
	w.never(t, "stale", w.cfg.StaleAfter, anyStale)
	_ = healZeusd(s.zeusd)
	w.setBatchSize(t, "patched", 4)
	w.until(t, "the power at a batch of 4", recoveryTime, func(state *datacenter.State) bool {
		return state.Models[0].Live.MeasuredPowerW < between4And8W
	})
	w.finish(t)
	w.wantEvents(t, nil)
}

// testSilentGPU: the stream never speaks of a GPU, first because its power
// stays as it is, and then because its changes are lost.
func testSilentGPU(t *testing.T, version sim.ZeusdVersion) {
	steady := sim.NewGPU("steady", 250)
	_, endpoint := startDaemon(t, sim.ZeusdConfig{Version: version, GPUs: []*sim.GPU{steady}})
	s := newFaultSiteWith(t, version, func(cfg *LiveConfig) {
		patiently(cfg)
		cfg.Hardware[1].GPUs = []GPU{{endpoint, 0}}
	})
	s.zeusd.SetFaults(sim.ZeusdFaults{SilentGPUs: []int{0}})
	w := watch(t, s)
	w.never(t, "stale", w.cfg.StaleAfter+time.Second, anyStale)
	w.follows(t)
	w.finish(t)
	w.wantEvents(t, nil)
}

// testFailingGPU: a daemon cannot read one of a model's two GPUs. The model is
// marked, and goes by the other one.
func testFailingGPU(t *testing.T, version sim.ZeusdVersion) {
	s := newFaultSiteWith(t, version, patiently)
	w := watch(t, s)
	s.zeusd.SetFaults(sim.ZeusdFaults{FailedGPUs: []int{0}})
	w.until(t, "staleness", staleSoon(w), func(state *datacenter.State) bool { return state.Models[0].Live.Stale })
	w.follows(t)
	w.never(t, "stale, or fresh too soon", time.Second, func(state *datacenter.State) bool {
		return !state.Models[0].Live.Stale || state.Models[1].Live.Stale
	})
	_ = healZeusd(s.zeusd)
	w.until(t, "recovery", recoveryTime, func(state *datacenter.State) bool { return !anyStale(state) })
	w.finish(t)
	w.wantEvents(t, map[string]int{"patched": 1})
}

func testFailingGPUs(t *testing.T, version sim.ZeusdVersion) {
	s := newFaultSiteWith(t, version, patiently)
	w := watch(t, s)
	s.zeusd.SetFaults(sim.ZeusdFaults{FailedGPUs: []int{0, 1}})
	state := w.until(t, "staleness", staleSoon(w), func(state *datacenter.State) bool { return state.Models[0].Live.Stale })
	heldW := state.Models[0].Live.MeasuredPowerW
	w.setBatchSize(t, "patched", 8)
	w.never(t, "not held, or the other model is stale", time.Second, func(state *datacenter.State) bool {
		return math.Abs(state.Models[0].Live.MeasuredPowerW-heldW) > 1 || state.Models[1].Live.Stale
	})
	_ = healZeusd(s.zeusd)
	w.until(t, "recovery", recoveryTime, func(state *datacenter.State) bool {
		return !anyStale(state) && state.Models[0].Live.MeasuredPowerW > between4And8W
	})
	w.finish(t)
	w.wantEvents(t, map[string]int{"patched": 1})
}

// testGarbage: events make no sense for a while.
func testGarbage(t *testing.T, version sim.ZeusdVersion) {
	s := newFaultSiteWith(t, version, patiently)
	w := watch(t, s)
	events := 20 // each kind twice
	if version == sim.Zeusd04 {
		events = 4 // all it says is in events, and there are few
	}
	s.zeusd.SetFaults(sim.ZeusdFaults{GarbageEvents: events})
	n := 8
	w.until(t, "the end of the garbage", 20*time.Second, func(state *datacenter.State) bool {
		if state.Seq%10 == 0 { // something to tell
			w.setBatchSize(t, "stock", n)
			n = 12 - n
		}
		if anyStale(state) {
			w.untimely(t, "stale: %s", state.AppendJSON(nil))
		}
		return s.zeusd.Faults().GarbageEvents == 0
	})
	w.follows(t)
	if status := s.live.power.Status()[0]; status.BadEvents+status.UnwantedReadings < uint64(events)/2 {
		t.Errorf("of %d events of garbage were counted: %+v", events, status)
	}
	w.finish(t)
	w.wantEvents(t, nil)
}

// testCutStreams: a stream ends within an event, and in good order.
func testCutStreams(t *testing.T, version sim.ZeusdVersion) {
	s := newFaultSiteWith(t, version, patiently)
	w := watch(t, s)
	s.zeusd.SetFaults(sim.ZeusdFaults{TruncateEvent: true})
	w.follows(t)
	w.until(t, "a new stream", recoveryTime, func(*datacenter.State) bool {
		return !s.zeusd.Faults().TruncateEvent && s.live.power.Status()[0].Reconnects >= 1
	})
	s.zeusd.SetFaults(sim.ZeusdFaults{DropStreams: true})
	w.until(t, "a new stream", recoveryTime, func(*datacenter.State) bool { return s.live.power.Status()[0].Reconnects >= 2 })
	w.setBatchSize(t, "patched", 4)
	w.until(t, "the power at a batch of 4", recoveryTime, func(state *datacenter.State) bool {
		return state.Models[0].Live.MeasuredPowerW < between4And8W
	})
	w.finish(t)
	w.wantEvents(t, nil)
}

// testHungDriverAndNetwork: the driver does not return from questions, and each time
// that the connection is lost a new stream begins with what was sent before.
func testHungDriverAndNetwork(t *testing.T, version sim.ZeusdVersion) {
	s := newFaultSiteWith(t, version, nil)
	w := watch(t, s)
	hung := sim.ZeusdFaults{HungGPUs: []int{0, 1, 2, 3}}
	s.zeusd.SetFaults(hung)
	w.until(t, "staleness", staleSoon(w), bothStale)
	streams := func() uint64 {
		status := s.live.power.Status()[0]
		return status.Reconnects + status.Reopenings
	}
	const drops = 3
	connects := s.live.power.Status()[0].Reconnects
	for range drops {
		dropped := hung
		dropped.DropStreams = true
		before := streams()
		s.zeusd.SetFaults(dropped)
		w.until(t, "a new stream", recoveryTime, func(state *datacenter.State) bool {
			if !bothStale(state) {
				t.Errorf("the driver hangs, and power is fresh: %s", state.AppendJSON(nil))
			}
			return streams() > before
		})
		w.never(t, "fresh while the driver hangs", time.Second, func(state *datacenter.State) bool { return !bothStale(state) })
	}
	if got := s.live.power.Status()[0].Reconnects - connects; got > drops {
		t.Errorf("%d connections, want at most one for each that was lost: %d", got, drops)
	}
	if reasons := readiness(s); len(reasons) != 2 {
		t.Errorf("the run is unready because of %q, want the power of both models", reasons)
	}
	_ = healZeusd(s.zeusd)
	w.until(t, "recovery", recoveryTime, func(state *datacenter.State) bool { return !anyStale(state) })
	w.follows(t)
	w.finish(t)
	w.wantEvents(t, map[string]int{"patched": 1, "stock": 1})
}

func readiness(s *liveSite) []string {
	status := s.live.Status()
	return status.Unready(time.Now())
}

// testConstantPower: a GPU whose power does not change is not stale.
func testConstantPower(t *testing.T, version sim.ZeusdVersion) {
	constantPower(t, version, func(zeusd.Endpoint) {})
}

// testConstantPowerWithAnother: nor is it while somebody else listens, from before
// the start on.
func testConstantPowerWithAnother(t *testing.T, version sim.ZeusdVersion) {
	constantPower(t, version, func(e zeusd.Endpoint) {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", e.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if _, err := io.WriteString(conn, "GET /gpu/stream_power HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	})
}

func constantPower(t *testing.T, version sim.ZeusdVersion, before func(zeusd.Endpoint)) {
	gpus := []*sim.GPU{sim.NewGPU("steady", 250), sim.NewGPU("steady too", 150)}
	z, endpoint := startDaemon(t, sim.ZeusdConfig{Version: version, GPUs: gpus})
	before(endpoint)
	s := newFaultSiteWith(t, version, func(cfg *LiveConfig) {
		patiently(cfg)
		cfg.Hardware[0].GPUs = []GPU{{endpoint, 0}, {endpoint, 1}}
	})
	w := watch(t, s)
	w.floorW[0], w.roofW[0] = 400, 400
	w.never(t, "stale", w.cfg.StaleAfter+2*time.Second, anyStale)
	status := s.live.power.Status()[0]
	if status.Reconnects > 1 || status.Reopenings > uint64(2+time.Since(w.began)/time.Second) {
		t.Errorf("with nothing to tell, the daemon was connected to again and again: %+v", status)
	}
	w.finish(t)
	w.wantEvents(t, nil)
	eventually(t, "the daemon has noticed that we left", func() bool { return z.Truth().GPUStreams <= 1 })
}

// testTokenRefusedForAWhile: one of two daemons refuses the token while the run is
// on, and then takes it again.
func testTokenRefusedForAWhile(t *testing.T, version sim.ZeusdVersion, status int) {
	other := sim.NewGPU("other", 300)
	_, endpoint := startDaemon(t, sim.ZeusdConfig{Version: version, GPUs: []*sim.GPU{other}})
	s := newFaultSiteWith(t, version, func(cfg *LiveConfig) {
		patiently(cfg)
		cfg.Hardware[1].GPUs = []GPU{{endpoint, 0}}
	})
	w := watch(t, s)
	asked := s.zeusd.Truth().Requests["/discover"]
	s.zeusd.SetFaults(sim.ZeusdFaults{Status: status, DropStreams: true})
	state := w.until(t, "staleness", staleSoon(w), func(state *datacenter.State) bool { return state.Models[0].Live.Stale })
	heldW := state.Models[0].Live.MeasuredPowerW
	w.setBatchSize(t, "patched", 8)
	other.SetPowerW(400)
	w.until(t, "the power of the other model", recoveryTime, func(state *datacenter.State) bool {
		return state.Models[1].Live.MeasuredPowerW == 400
	})
	w.never(t, "not held, or the other model is stale", 2*time.Second, func(state *datacenter.State) bool {
		return !state.Models[0].Live.Stale || math.Abs(state.Models[0].Live.MeasuredPowerW-heldW) > 1 || state.Models[1].Live.Stale
	})
	if n := s.zeusd.Truth().Requests["/discover"] - asked; n < 2 || n > 5 {
		t.Errorf("a daemon that refuses was asked %d times in some 5 s", n)
	}
	_ = healZeusd(s.zeusd)
	w.until(t, "recovery", 6*time.Second, func(state *datacenter.State) bool {
		return !anyStale(state) && state.Models[0].Live.MeasuredPowerW > between4And8W
	})
	w.finish(t)
	w.wantEvents(t, map[string]int{"patched": 1})
}

// testClockSteps: a daemon's clock is set while its GPU's power rises.
func testClockSteps(t *testing.T, version sim.ZeusdVersion) {
	gpu := sim.NewGPU("rising", 300)
	z, endpoint := startDaemon(t, sim.ZeusdConfig{Version: version, GPUs: []*sim.GPU{gpu}})
	s := newFaultSiteWith(t, version, func(cfg *LiveConfig) {
		patiently(cfg)
		cfg.Hardware[0].GPUs = []GPU{{endpoint, 0}}
	})
	w := watch(t, s)
	watts := 300.0
	w.floorW[0] = watts
	for _, offset := range []time.Duration{3 * time.Second, -3 * time.Second, 0} {
		z.SetClockOffset(offset)
		for range 4 {
			watts += 25
			w.roofW[0] = watts
			gpu.SetPowerW(watts)
			w.until(t, "a power step", slack, func(state *datacenter.State) bool { return state.Models[0].Live.MeasuredPowerW == watts })
			w.floorW[0] = 300
		}
		// The histories hold it at the right time, so it reaches the servers soon.
		w.until(t, "the power step of all servers", w.cfg.Stagger+slack, func(state *datacenter.State) bool {
			return math.Abs(state.Models[0].PowerW-200*watts) < 1
		})
		w.floorW[0] = watts
	}
	w.finish(t)
	w.wantEvents(t, nil)
}

// testVLLMDies: a server dies with its streams and comes back, having forgotten
// its batch size.
func testVLLMDies(t *testing.T) {
	s := newFaultSite(t, patiently)
	w := watch(t, s)
	w.floorW[0] = 0.99 * idleW // the truth, while it is down
	w.setBatchSize(t, "patched", 8)
	full := func(state *datacenter.State) bool {
		return runsBatch(8)(state) && state.Models[0].Live.MeasuredPowerW > between4And8W
	}
	w.until(t, "a batch of 8", recoveryTime, full)
	// Until it is told its batch size, it runs all there is.
	w.roofW[0] = 1.01 * 1200
	s.vllms[0].Kill()
	w.until(t, "no measurements", time.Second+w.cfg.StaleAfter+slack, func(state *datacenter.State) bool {
		m := &state.Models[0]
		if state.Models[1].Live.Server == nil {
			w.untimely(t, "the other server is lost: %s", state.AppendJSON(nil))
		}
		return m.Live.Server == nil && math.IsNaN(m.ObservedITLS) && m.Live.MeasuredPowerW == idleW
	})
	w.never(t, "stale power, or another batch size", time.Second, func(state *datacenter.State) bool {
		return anyStale(state) || state.Models[0].BatchSize != 8 || math.IsNaN(state.Models[1].ObservedITLS)
	})
	began := time.Now()
	if err := s.vllms[0].Restart(); err != nil {
		t.Fatal(err)
	}
	w.until(t, "the batch of 8 again", recoveryTime, full)
	t.Logf("the load was back after %v", time.Since(began))
	if got := s.vllms[0].Truth().MaxNumSeqs; got != 8 {
		t.Errorf("the server's limit is %d, want 8 as before", got)
	}
	w.finish(t)
	w.wantEvents(t, nil)
	if got := s.vllms[0].Truth().MaxNumSeqs; got != 4 {
		t.Errorf("after the run the server's limit is %d, want the initial 4", got)
	}
}

// testVLLMIsBackAtOnce: a server dies and is back before anybody looks at its
// metrics.
func testVLLMIsBackAtOnce(t *testing.T) {
	s := newFaultSite(t, patiently)
	w := watch(t, s)
	w.floorW[0], w.roofW[0] = 0.99*idleW, 1.01*1200
	w.setBatchSize(t, "patched", 8)
	w.until(t, "a batch of 8", recoveryTime, runsBatch(8))
	if err := s.vllms[0].Restart(); err != nil {
		t.Fatal(err)
	}
	w.until(t, "the batch of 8 again", recoveryTime, func(state *datacenter.State) bool {
		return runsBatch(8)(state) && s.vllms[0].Truth().MaxNumSeqs == 8
	})
	w.finish(t)
	w.wantEvents(t, nil)
}

func testNoMetrics(t *testing.T, faults sim.VLLMFaults) {
	s := newFaultSite(t, patiently)
	w := watch(t, s)
	s.setFaults(0, faults)
	w.until(t, "no metrics", w.cfg.StaleAfter+slack, func(state *datacenter.State) bool { return state.Models[0].Live.Server == nil })
	w.never(t, "the run does not go on as it did", time.Second, func(state *datacenter.State) bool {
		return anyStale(state) || state.Models[0].Live.Server != nil || math.IsNaN(state.Models[0].ObservedITLS) || state.Models[1].Live.Server == nil
	})
	w.follows(t)
	s.setFaults(0, sim.VLLMFaults{})
	w.until(t, "metrics", recoveryTime, func(state *datacenter.State) bool {
		l := state.Models[0].Live.Server
		return l != nil && l.NumRequestsRunning == 8
	})
	w.finish(t)
	w.wantEvents(t, nil)
}

// runsBatch tells whether "patched" runs a batch of n and is measured in full.
func runsBatch(n int) func(*datacenter.State) bool {
	return func(state *datacenter.State) bool {
		m := &state.Models[0]
		return m.BatchSize == n && m.Live.Server != nil && m.Live.Server.NumRequestsRunning == float64(n) && !math.IsNaN(m.ObservedITLS)
	}
}

// testVLLMHangs: a server accepts and never answers, for a while.
func testVLLMHangs(t *testing.T) {
	log := &logBuffer{}
	s := newFaultSite(t, func(cfg *LiveConfig) { patiently(cfg); cfg.Log = zerolog.New(log) })
	s.live.backends[0].noTokenLimit = time.Second
	w := watch(t, s)
	s.setFaults(0, sim.VLLMFaults{Freeze: true})
	w.until(t, "no measurements", w.cfg.StaleAfter+slack, func(state *datacenter.State) bool {
		return state.Models[0].Live.Server == nil && math.IsNaN(state.Models[0].ObservedITLS)
	})
	s.setFaults(0, sim.VLLMFaults{})
	w.until(t, "recovery", recoveryTime, runsBatch(4))
	w.finish(t)
	w.wantEvents(t, nil)
	if log.count("answers and makes no token") > 0 {
		w.untimely(t, "of a server that did not answer the log says that it did:\n%s", log)
	}
}

// failingCommand tells both servers of new batch sizes, of which "patched" never
// answers, and looks at the states until the command has failed.
func (w *watcher) failingCommand(t *testing.T) {
	t.Helper()
	began := time.Now()
	failed := make(chan error, 1)
	go func() {
		failed <- w.live.Apply(t.Context(), datacenter.SetBatchSize{BatchSizeByModel: map[string]int{"patched": 8, "stock": 2}})
	}()
	var err error
	w.until(t, "the end of the command", commandTimeout+slack, func(state *datacenter.State) bool {
		if anyStale(state) {
			w.untimely(t, "stale: %s", state.AppendJSON(nil))
		}
		select {
		case err = <-failed:
			return true
		default:
			return false
		}
	})
	var servers *ServersError
	if !errors.As(err, &servers) || len(servers.ByModel) != 1 || servers.ByModel["patched"] == nil || !contains(err, w.vllms[0].URL()) {
		t.Errorf("after %v the command failed with %v, want an error of the model patched and its server", time.Since(began), err)
	}
	w.until(t, "the command's effect", recoveryTime, func(state *datacenter.State) bool {
		a, b := &state.Models[0], &state.Models[1]
		return a.BatchSize == 4 && b.BatchSize == 2 && b.Live.Server != nil && b.Live.Server.NumRequestsRunning <= 2
	})
}

// testCommandHangs: a server that hangs is given a command, and then started anew.
func testCommandHangs(t *testing.T) {
	s := newFaultSite(t, patiently)
	w := watch(t, s)
	s.setFaults(0, sim.VLLMFaults{Freeze: true})
	w.failingCommand(t)
	// Between its start and the word about its batch size, it runs all there is.
	w.floorW[0], w.roofW[0] = 0.99*idleW, 1.01*1200
	s.vllms[0].Kill()
	s.setFaults(0, sim.VLLMFaults{})
	w.never(t, "stale", time.Second, anyStale)
	if err := s.vllms[0].Restart(); err != nil {
		t.Fatal(err)
	}
	w.until(t, "recovery", recoveryTime, runsBatch(4))
	w.finish(t)
	w.wantEvents(t, nil)
}

// testCommandIsLate: a command that was given up takes effect after all, when the
// server has long been told again what it is to run.
func testCommandIsLate(t *testing.T) {
	s := newFaultSite(t, patiently)
	w := watch(t, s)
	w.floorW[0] = 0.99 * idleW // requests are late too, and it runs dry
	commands := len(s.vllms[0].Truth().Commands)
	s.setFaults(0, sim.VLLMFaults{Delay: commandTimeout + 2*time.Second})
	w.failingCommand(t)
	s.setFaults(0, sim.VLLMFaults{})
	w.until(t, "the late command", 10*time.Second, func(*datacenter.State) bool {
		for _, c := range s.vllms[0].Truth().Commands[commands:] {
			if c.MaxNumSeqs == 8 {
				return true
			}
		}
		return false
	})
	w.until(t, "what the states say", recoveryTime, func(state *datacenter.State) bool {
		return runsBatch(4)(state) && s.vllms[0].Truth().MaxNumSeqs == 4
	})
	w.finish(t)
	w.wantEvents(t, nil)
}

// testBadCompletions: streams break in every way there is.
func testBadCompletions(t *testing.T) {
	s := newFaultSite(t, patiently)
	w := watch(t, s)
	w.floorW[0] = 0.99 * idleW // it may run dry for a moment
	const n = 5
	for name, faults := range map[string]sim.VLLMFaults{
		"cut": {DropStreams: true}, "malformed": {MalformedEvents: n}, "error": {ErrorEvents: n}, "no end": {NoDone: n},
	} {
		before := s.live.backends[0].load.Stats()
		s.setFaults(0, faults)
		w.until(t, "the end of faults: "+name, 20*time.Second, func(*datacenter.State) bool {
			return s.vllms[0].Faults() == sim.VLLMFaults{SlowDown: unhurried}
		})
		w.until(t, "the load after faults: "+name, recoveryTime, func(state *datacenter.State) bool {
			l, now := state.Models[0].Live.Server, s.live.backends[0].load.Stats()
			return l != nil && l.NumRequestsRunning == 4 && l.NumRequestsWaiting >= 10 && !math.IsNaN(state.Models[0].ObservedITLS) &&
				now.Completed > before.Completed+n && (now.Failed() > before.Failed() || name == "malformed")
		})
	}
	w.finish(t)
	w.wantEvents(t, nil)
}

// testVLLMStandsStill: a server generates nothing more, but all else answers.
func testVLLMStandsStill(t *testing.T) {
	log := &logBuffer{}
	s := newFaultSite(t, func(cfg *LiveConfig) { patiently(cfg); cfg.Log = zerolog.New(log) })
	s.live.backends[0].noTokenLimit = 2 * time.Second
	w := watch(t, s)
	unready := func() []string {
		status := s.live.Status()
		return status.Unready(time.Now())
	}
	if reasons := unready(); reasons != nil {
		t.Errorf("before it stands still the run is not ready: %q", reasons)
	}
	s.setFaults(0, sim.VLLMFaults{FreezeStreams: true})
	w.until(t, "no latency", w.cfg.ITLWindow+slack, func(state *datacenter.State) bool {
		return math.IsNaN(state.Models[0].ObservedITLS) && state.Models[0].Live.Server != nil
	})
	w.setBatchSize(t, "patched", 8)
	w.until(t, "the run not to be ready", s.live.backends[0].noTokenLimit+2*tokensInterval+slack, func(*datacenter.State) bool { return unready() != nil })
	if reasons := unready(); len(reasons) != 1 || !strings.Contains(reasons[0], `"patched" answers and has made no token for`) {
		t.Errorf("the run is not ready: %q", reasons)
	}
	s.setFaults(0, sim.VLLMFaults{})
	w.until(t, "recovery", recoveryTime, runsBatch(8))
	w.until(t, "the run to be ready", 2*tokensInterval+slack, func(*datacenter.State) bool { return unready() == nil })
	// Now it does not answer either in the end, which is no better.
	s.setFaults(0, sim.VLLMFaults{FreezeStreams: true})
	w.until(t, "the run not to be ready again", w.cfg.ITLWindow+s.live.backends[0].noTokenLimit+2*tokensInterval+slack, func(*datacenter.State) bool { return unready() != nil })
	s.setFaults(0, sim.VLLMFaults{Freeze: true})
	const patience = 15 * time.Second // a question is open for 5 s, and repeated
	w.until(t, "no answer", patience, func(*datacenter.State) bool { return log.count("does not answer as it should") == 1 })
	w.until(t, "no standstill", patience, func(*datacenter.State) bool { return unready() == nil })
	if n := log.count("makes tokens again"); n != 1 {
		w.untimely(t, "a server that is gone makes tokens again, as the log says:\n%s", log)
	}
	s.setFaults(0, sim.VLLMFaults{})
	w.until(t, "recovery from silence", recoveryTime, runsBatch(8))
	eventually(t, "the log of tokens", func() bool { return log.count("makes tokens again") == 2 })
	w.finish(t)
	w.wantEvents(t, nil)
	for line, want := range map[string]int{"answers and makes no token": 2, "makes tokens again": 2} {
		if n := log.count(line); n != want {
			t.Errorf("%d log lines have %q, want %d", n, line, want)
		}
	}
}

func TestLiveStartsAndEnds(t *testing.T) {
	t.Parallel()
	together(t, []faultTest{
		{"wrong token", func(t *testing.T) {
			testTokenRefused(t, sim.ZeusdConfig{Token: "right"}, "wrong", "401")
		}},
		{"no token", func(t *testing.T) { testTokenRefused(t, sim.ZeusdConfig{Token: "right"}, "", "token") }},
		{"token without scope", func(t *testing.T) {
			testTokenRefused(t, sim.ZeusdConfig{Token: "right", Scopes: []string{sim.ScopeCPURead}}, "right", sim.ScopeGPURead)
		}},
		{"vLLM hangs at the start", func(t *testing.T) {
			s := newFaultSite(t, nil)
			s.setFaults(1, sim.VLLMFaults{Freeze: true})
			testRefusesToStart(t, s, s.vllms[1].URL(), `"stock"`)
		}},
		{"zeusd hangs at the start", func(t *testing.T) {
			s := newFaultSite(t, nil)
			s.zeusd.SetFaults(sim.ZeusdFaults{Freeze: true})
			testRefusesToStart(t, s, s.zeusd.Addr())
		}},
		{"ended in the health check", testEndInHealthCheck},
		{"ended in the warm-up", testEndInWarmup},
		{"ended with a slow command", testEndWithSlowCommand},
		{"ended with hanging commands", testEndWithHangingCommands},
		{"ended with all servers hanging", testEndWhileAllHang},
		{"restore fails", testRestoreFails},
		{"nothing to restore", testNothingIsRestored},
		{"stale for too long", testStaleForTooLong},
	})
}

// run runs a site to its end, as Run is given ctx.
func (s *liveSite) run(ctx context.Context, t *testing.T) (took time.Duration) {
	t.Helper()
	began := time.Now()
	s.timing, s.err = s.live.Run(ctx, func(*datacenter.State) error { return nil })
	return time.Since(began)
}

// testRefusesToStart wants the run to end before anything is done to a server.
func testRefusesToStart(t *testing.T, s *liveSite, wants ...string) {
	t.Helper()
	if took := s.run(t.Context(), t); took > stopTime {
		t.Errorf("the run was given up after %v", took)
	}
	if s.err == nil || s.timing.Steps > 0 {
		t.Fatalf("the run began: %d steps, error %v", s.timing.Steps, s.err)
	}
	for _, want := range wants {
		if !contains(s.err, want) {
			t.Errorf("the error lacks %q: %v", want, s.err)
		}
	}
	for _, v := range s.vllms {
		if truth := v.Truth(); truth.Started > 0 || len(truth.Commands) > 0 {
			t.Errorf("a server got %d requests and %d commands", truth.Started, len(truth.Commands))
		}
	}
}

func testTokenRefused(t *testing.T, cfg sim.ZeusdConfig, token, want string) {
	cfg.GPUs = []*sim.GPU{sim.NewGPU("locked", 300)}
	z, endpoint := startDaemon(t, cfg)
	endpoint.Token = credential.Fixed(token)
	s := newFaultSite(t, func(cfg *LiveConfig) { cfg.Hardware[1].GPUs = []GPU{{endpoint, 0}} })
	testRefusesToStart(t, s, z.Addr(), want)
	if token != "" && (contains(s.err, token) && token != "right") {
		t.Errorf("the error has the token: %v", s.err)
	}
}

// eventually waits until something is so that no state tells of.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	timeout := time.NewTimer(20 * time.Second)
	defer timeout.Stop()
	for !ok() {
		select {
		case <-ticker.C:
		case <-timeout.C:
			t.Fatal("waiting for " + what)
		}
	}
}

// endsSoon cancels a run and wants it to end within a time.
func (s *liveSite) endsSoon(t *testing.T, within time.Duration) {
	t.Helper()
	began := time.Now()
	s.cancel()
	<-s.done
	if took := time.Since(began); took > within {
		t.Errorf("the run took %v to end, want %v at most", took, within)
	}
}

func testEndInHealthCheck(t *testing.T) {
	s := newFaultSite(t, nil)
	s.zeusd.SetFaults(sim.ZeusdFaults{Freeze: true})
	s.start(t)
	eventually(t, "the health check", func() bool { return s.zeusd.Truth().Requests["/discover"] > 0 })
	s.endsSoon(t, slack)
	if s.err != nil {
		t.Error(s.err)
	}
	if commands := s.vllms[0].Truth().Commands; len(commands) > 0 {
		t.Errorf("the server was told %v", commands)
	}
}

func testEndInWarmup(t *testing.T) {
	s := newFaultSite(t, func(cfg *LiveConfig) { cfg.Stagger, cfg.WarmupTimeout = time.Minute, 2*time.Minute })
	s.start(t)
	eventually(t, "the load", func() bool { return s.vllms[0].Truth().Running == 4 && s.vllms[1].Truth().Running > 0 })
	s.endsSoon(t, slack)
	if s.err != nil || s.timing.Steps > 0 {
		t.Errorf("%d steps, error %v", s.timing.Steps, s.err)
	}
	if got := s.vllms[0].Truth().MaxNumSeqs; got != 4 {
		t.Errorf("the server's limit is %d, want the initial 4", got)
	}
}

// commandInBackground gives a command that takes long, and waits until it is
// under way.
func (w *watcher) commandInBackground(t *testing.T, sizes map[string]int) (done chan error) {
	t.Helper()
	done = make(chan error, 1)
	go func() {
		// Nobody ends the command but the run.
		done <- w.live.Apply(context.WithoutCancel(t.Context()), datacenter.SetBatchSize{BatchSizeByModel: sizes})
	}()
	eventually(t, "the command", func() bool {
		return slices.ContainsFunc(w.live.backends, func(b *backend) bool { return len(b.busy) > 0 })
	})
	return done
}

// testEndWithSlowCommand: whatever becomes of a command that is under way, the
// initial batch size stands in the end.
func testEndWithSlowCommand(t *testing.T) {
	s := newFaultSite(t, nil)
	w := watch(t, s)
	s.setFaults(0, sim.VLLMFaults{Delay: time.Second})
	done := w.commandInBackground(t, map[string]int{"patched": 8})
	// The simulated server may mix up what it was told within milliseconds.
	began := time.Now()
	eventually(t, "the server to wait with the command", func() bool { return time.Since(began) > 200*time.Millisecond })
	s.endsSoon(t, stopTime)
	t.Logf("the command ended with %v", <-done)
	if got := s.vllms[0].Truth().MaxNumSeqs; got != 4 || s.err != nil {
		t.Errorf("the server's limit is %d, want the initial 4; error %v", got, s.err)
	}
}

// testEndWithHangingCommands: one command hangs, and others wait for their turn.
func testEndWithHangingCommands(t *testing.T) {
	s := newFaultSite(t, nil)
	w := watch(t, s)
	w.setBatchSize(t, "patched", 8)
	s.setFaults(0, sim.VLLMFaults{Freeze: true})
	var all []chan error
	for range 3 {
		all = append(all, w.commandInBackground(t, map[string]int{"patched": 2}))
	}
	w.never(t, "stale", 200*time.Millisecond, anyStale)
	s.endsSoon(t, stopTime)
	for _, done := range all {
		if err := <-done; err == nil {
			t.Error("a command succeeded")
		}
	}
	w.wantNotRestored(t)
}

// wantNotRestored checks that the run's error says which server could not be
// restored.
func (w *watcher) wantNotRestored(t *testing.T) {
	t.Helper()
	if w.err == nil || !contains(w.err, `"patched"`) || !contains(w.err, "initial batch size") || contains(w.err, `"stock"`) {
		t.Errorf("the error is %v, want one of the batch size of the model patched alone", w.err)
	}
}

func testEndWhileAllHang(t *testing.T) {
	s := newFaultSite(t, nil)
	w := watch(t, s)
	w.setBatchSize(t, "patched", 8)
	w.setBatchSize(t, "stock", 8)
	s.zeusd.SetFaults(sim.ZeusdFaults{Freeze: true})
	for i := range s.vllms {
		s.setFaults(i, sim.VLLMFaults{Freeze: true})
	}
	w.until(t, "staleness", staleSoon(w), bothStale)
	s.endsSoon(t, stopTime)
	w.passed(t)
	w.wantNotRestored(t)
}

func testRestoreFails(t *testing.T) {
	s := newFaultSite(t, nil)
	w := watch(t, s)
	w.setBatchSize(t, "patched", 8)
	w.setBatchSize(t, "stock", 8)
	s.setFaults(0, sim.VLLMFaults{Status: 503})
	s.endsSoon(t, slack)
	w.wantNotRestored(t)
	if !contains(s.err, "503") {
		t.Errorf("the error lacks the server's answer: %v", s.err)
	}
}

func testNothingIsRestored(t *testing.T) {
	s := newFaultSite(t, func(cfg *LiveConfig) { cfg.RestoreBatchSizes = false })
	w := watch(t, s)
	w.setBatchSize(t, "patched", 8)
	s.endsSoon(t, slack)
	if got := s.vllms[0].Truth().MaxNumSeqs; got != 8 || s.err != nil {
		t.Errorf("the server's limit is %d, want the last 8; error %v", got, s.err)
	}
}

func testStaleForTooLong(t *testing.T) {
	s := newFaultSite(t, func(cfg *LiveConfig) {
		cfg.StaleErrorAfter = 2 * time.Second
	})
	w := watch(t, s)
	w.setBatchSize(t, "patched", 8)
	s.zeusd.Kill()
	began := time.Now()
	<-s.done
	if took := time.Since(began); took < s.cfg.StaleErrorAfter/2 || took > s.cfg.StaleErrorAfter+slack {
		t.Errorf("the run ended after %v, want about %v", took, s.cfg.StaleErrorAfter)
	}
	if s.err == nil || !(contains(s.err, `"patched"`) || contains(s.err, `"stock"`)) || !contains(s.err, s.zeusd.Addr()) {
		t.Errorf("the error is %v, want one of a model and its daemon", s.err)
	}
	w.passed(t)
	if got := s.vllms[0].Truth().MaxNumSeqs; got != 4 {
		t.Errorf("the server's limit is %d, want the initial 4", got)
	}
}
