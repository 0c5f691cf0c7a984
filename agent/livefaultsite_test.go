package agent

import (
	"math"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/power"
	"github.com/g2g-agent/g2g-agent/sim"
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
	togetherOf(t, 4, tests)
}

// togetherOf runs at most so many beside each other.
func togetherOf(t *testing.T, most int, tests []faultTest) {
	t.Helper()
	room := make(chan struct{}, most)
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

// commandTimeout is for how long a server that hangs holds a command up.
const commandTimeout = 4 * time.Second

// tokensInterval is the time between two looks at how many tokens came.
const tokensInterval = time.Second

// unhurried slows the servers down, so that several sites can share a machine.
const unhurried = 3

// newFaultSite is a site as newLiveSite makes it that asks little of the machine.
func newFaultSite(t *testing.T, change func(*siteConfig)) *liveSite {
	t.Helper()
	return newFaultSiteWith(t, sim.Zeusd05, change)
}

// newFaultSiteWith is one whose zeusd has the version.
func newFaultSiteWith(t *testing.T, version sim.ZeusdVersion, change func(*siteConfig)) *liveSite {
	t.Helper()
	return unhurriedSite(t, version, oneServerEach(), change)
}

// unhurriedSite is one with the servers.
func unhurriedSite(t *testing.T, version sim.ZeusdVersion, servers []siteServer, change func(*siteConfig)) *liveSite {
	t.Helper()
	s := newSite(t, version, servers, func(cfg *siteConfig) {
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

func (s *liveSite) setFaults(server int, f sim.VLLMFaults) {
	f.SlowDown = unhurried
	s.vllms[server].SetFaults(f)
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

// pulseMark is what was lost up to a time.
type pulseMark struct {
	at   time.Time
	lost time.Duration
}

func (p *pulse) mark() pulseMark {
	p.beat()
	p.mu.Lock()
	defer p.mu.Unlock()
	return pulseMark{at: p.last, lost: p.lost}
}

// starvedSince reports whether we waited long for the processor, ever at once or
// since the mark in all.
func (p *pulse) starvedSince(m pulseMark) bool {
	p.beat()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.worst > 250*time.Millisecond || p.lost-m.lost > time.Since(m.at)/5
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
	w := &watcher{liveSite: s, pulse: startPulse(t)}
	for i, floorW := range []float64{1.2 * idleW, 0.99 * idleW} {
		servers := float64(len(s.cfg.Hardware[i].Servers))
		w.floorW = append(w.floorW, servers*floorW)
		w.roofW = append(w.roofW, servers*1.01*batch8W)
	}
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
		augmentedW := perGPUW * float64(w.cfg.Hardware[i].numGPUs())
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
	w.untimelySince(t, pulseMark{at: w.pulse.began}, format, args...)
}

// untimelySince is untimely of what began at the mark.
func (w *watcher) untimelySince(t *testing.T, m pulseMark, format string, args ...any) {
	t.Helper()
	if w.pulse.starvedSince(m) {
		t.Logf("on a busy machine: "+format, args...)
		return
	}
	t.Errorf(format, args...)
}

// until returns the first state that is as it should be, and takes it ill if
// that takes longer than within.
func (w *watcher) until(t *testing.T, what string, within time.Duration, ok func(*datacenter.State) bool) *datacenter.State {
	t.Helper()
	began := w.pulse.mark()
	timeout := time.NewTimer(within + 10*time.Second)
	defer timeout.Stop()
	for {
		select {
		case state := <-w.states:
			w.see(t, state)
			if !ok(state) {
				continue
			}
			if took := time.Since(began.at); took > within {
				w.untimelySince(t, began, "%s came after %v, want %v at most", what, took, within)
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
func patiently(cfg *siteConfig) { cfg.StaleAfter = 3 * time.Second }

func staleSoon(w *watcher) time.Duration {
	return w.cfg.StaleAfter + time.Duration(w.cfg.DT.Float64()*float64(time.Second)) + slack
}

// startDaemon starts a daemon beside that of a site.
func startDaemon(t *testing.T, cfg sim.ZeusdConfig) (*sim.Zeusd, power.Endpoint) {
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
	return z, power.Endpoint{Host: host, Port: number}
}
