package agent

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/logtest"
	"github.com/g2g-agent/g2g-agent/sim"
)

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
	log := &logtest.Buffer{}
	s := newFaultSite(t, func(cfg *siteConfig) { patiently(cfg); cfg.Log, cfg.NoTokenLimit = zerolog.New(log), time.Second })
	w := watch(t, s)
	s.setFaults(0, sim.VLLMFaults{Freeze: true})
	w.until(t, "no measurements", w.cfg.StaleAfter+slack, func(state *datacenter.State) bool {
		return state.Models[0].Live.Server == nil && math.IsNaN(state.Models[0].ObservedITLS)
	})
	s.setFaults(0, sim.VLLMFaults{})
	w.until(t, "recovery", recoveryTime, runsBatch(4))
	w.finish(t)
	w.wantEvents(t, nil)
	if strings.Count(log.String(), "answers and makes no token") > 0 {
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
		before := s.live.Stats().Models[0].Load
		s.setFaults(0, faults)
		w.until(t, "the end of faults: "+name, 20*time.Second, func(*datacenter.State) bool {
			return s.vllms[0].Faults() == sim.VLLMFaults{SlowDown: unhurried}
		})
		w.until(t, "the load after faults: "+name, recoveryTime, func(state *datacenter.State) bool {
			l, now := state.Models[0].Live.Server, s.live.Stats().Models[0].Load
			return l != nil && l.NumRequestsRunning == 4 && l.NumRequestsWaiting >= 10 && !math.IsNaN(state.Models[0].ObservedITLS) &&
				now.Completed > before.Completed+n && (now.Failed() > before.Failed() || name == "malformed")
		})
	}
	w.finish(t)
	w.wantEvents(t, nil)
}

// testVLLMStandsStill: a server generates nothing more, but all else answers.
func testVLLMStandsStill(t *testing.T) {
	log := &logtest.Buffer{}
	s := newFaultSite(t, func(cfg *siteConfig) { patiently(cfg); cfg.Log, cfg.NoTokenLimit = zerolog.New(log), 2*time.Second })
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
	w.until(t, "the run not to be ready", w.cfg.NoTokenLimit+2*tokensInterval+slack, func(*datacenter.State) bool { return unready() != nil })
	if reasons := unready(); len(reasons) != 1 || !strings.Contains(reasons[0], `"patched" answers and has made no token for`) {
		t.Errorf("the run is not ready: %q", reasons)
	}
	s.setFaults(0, sim.VLLMFaults{})
	w.until(t, "recovery", recoveryTime, runsBatch(8))
	w.until(t, "the run to be ready", 2*tokensInterval+slack, func(*datacenter.State) bool { return unready() == nil })
	// Now it does not answer either in the end, which is no better.
	s.setFaults(0, sim.VLLMFaults{FreezeStreams: true})
	w.until(t, "the run not to be ready again", w.cfg.ITLWindow+w.cfg.NoTokenLimit+2*tokensInterval+slack, func(*datacenter.State) bool { return unready() != nil })
	s.setFaults(0, sim.VLLMFaults{Freeze: true})
	const patience = 15 * time.Second // a question is open for 5 s, and repeated
	w.until(t, "no answer", patience, func(*datacenter.State) bool { return strings.Count(log.String(), "does not answer as it should") == 1 })
	w.until(t, "no standstill", patience, func(*datacenter.State) bool { return unready() == nil })
	if n := strings.Count(log.String(), "makes tokens again"); n != 1 {
		w.untimely(t, "a server that is gone makes tokens again, as the log says:\n%s", log)
	}
	s.setFaults(0, sim.VLLMFaults{})
	w.until(t, "recovery from silence", recoveryTime, runsBatch(8))
	eventually(t, "the log of tokens", func() bool { return strings.Count(log.String(), "makes tokens again") == 2 })
	w.finish(t)
	w.wantEvents(t, nil)
	for line, want := range map[string]int{"answers and makes no token": 2, "makes tokens again": 2} {
		if n := strings.Count(log.String(), line); n != want {
			t.Errorf("%d log lines have %q, want %d", n, line, want)
		}
	}
}
