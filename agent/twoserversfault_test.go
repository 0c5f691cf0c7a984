package agent

import (
	"errors"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/logtest"
	"github.com/g2g-agent/g2g-agent/rig"
	"github.com/g2g-agent/g2g-agent/sim"
)

func twoServerFaults() []faultTest {
	return []faultTest{
		{"one dies", testOneOfTwoDies},
		{"one is back at once", testOneOfTwoIsBackAtOnce},
		{"a command with one dead", func(t *testing.T) {
			testCommandWithOneAway(t, "not sent", (*sim.VLLM).Kill, func(v *sim.VLLM) error { return v.Restart() })
		}},
		{"a command with one failing", func(t *testing.T) {
			testCommandWithOneAway(t, "500", func(v *sim.VLLM) { v.SetFaults(sim.VLLMFaults{Status: 500, SlowDown: unhurried}) }, healVLLM)
		}},
		{"a command with one hanging", func(t *testing.T) {
			testCommandWithOneAway(t, "no answer within 4s", func(v *sim.VLLM) { v.SetFaults(sim.VLLMFaults{Freeze: true, SlowDown: unhurried}) }, healVLLM)
		}},
		{"a command that one refuses", testCommandThatOneRefuses},
		{"a command that neither takes", testCommandThatNeitherTakes},
		{"a command that is late at one", testCommandIsLateAtOne},
		{"one stands still", testOneOfTwoStandsStill},
		{"the daemon of one dies", testDaemonOfOneDies},
	}
}

func healVLLM(v *sim.VLLM) error {
	v.SetFaults(sim.VLLMFaults{SlowDown: unhurried})
	return nil
}

// goesOn tells whether the first server alone is measured: it runs a batch of 8, the
// GPUs of the other draw nothing, and the latency is its own.
func (s *liveSite) goesOn(state *datacenter.State) bool {
	m := &state.Models[0]
	trueS := s.vllms[first].ITLOver(s.cfg.ITLWindow).MeanS
	return oneRuns(8)(state) && draws(batch8W+idleW)(state) && !m.Live.Stale && math.Abs(m.ObservedITLS-trueS) < 0.15*trueS
}

// testOneOfTwoDies: the steps go on by the other, whose batch and load stay as they
// are, and one that comes back is told its batch size.
func testOneOfTwoDies(t *testing.T) {
	s := newTwoServerSite(t, patiently)
	w := watch(t, s)
	w.setBatchSize(t, "patched", 8)
	full := func(state *datacenter.State) bool { return s.bothRun(8)(state) && draws(2*batch8W)(state) }
	w.until(t, "a batch of 8 at both", recoveryTime, full)
	before := s.vllms[first].Truth()
	w.floorW[0] = 0.99 * (batch8W + idleW)
	s.vllms[second].Kill()
	killed := time.Now()
	w.until(t, "the word that it does not answer", time.Second+slack, func(*datacenter.State) bool { return !s.status(second).Answers })
	w.until(t, "the other's measurements alone", w.cfg.StaleAfter+slack, s.goesOn)
	w.never(t, "other measurements", 1500*time.Millisecond, func(state *datacenter.State) bool { return !s.goesOn(state) })
	if status := s.live.Status().Models[0]; status.AchievedBatchSize != 8 || status.BatchSize != 8 || !status.Servers[0].Answers || status.Servers[1].Answers || !math.IsNaN(status.Servers[1].AchievedBatchSize) {
		t.Errorf("the status is %+v", status)
	}
	if reasons := readiness(s); reasons != nil {
		w.untimely(t, "the run is not ready: %q", reasons)
	}
	now, took := s.vllms[first].Truth(), time.Since(killed).Seconds()
	if len(now.Commands) != len(before.Commands) {
		w.untimely(t, "the server that lives was told %v", s.told(first))
	}
	// Eight streams of 14.7 ms a token, slowed down.
	if tokens, want := float64(now.Tokens-before.Tokens), took*8/(0.01467*unhurried); tokens < 0.9*want {
		w.untimely(t, "the server that lives made %v tokens in %v s, want %v", tokens, took, want)
	}

	w.roofW[0] = 1.01 * (batch8W + 1200) // until it is told its batch size, it runs all there is
	if err := s.vllms[second].Restart(); err != nil {
		t.Fatal(err)
	}
	w.until(t, "the batch of 8 at both again", recoveryTime, func(state *datacenter.State) bool {
		return full(state) && s.limit(second) == 8 && s.status(second).Answers
	})
	w.finish(t)
	w.wantEvents(t, nil)
	s.wantTold(t, first, 4, 8, 4)
	s.wantTold(t, second, 4, 8, 4)
}

// testOneOfTwoIsBackAtOnce: before anybody looks at its metrics.
func testOneOfTwoIsBackAtOnce(t *testing.T) {
	s := newTwoServerSite(t, patiently)
	w := watch(t, s)
	w.floorW[0], w.roofW[0] = 1.9*idleW, 1.01*(1200+batch8W)
	w.setBatchSize(t, "patched", 8)
	w.until(t, "a batch of 8 at both", recoveryTime, s.bothRun(8))
	if err := s.vllms[second].Restart(); err != nil {
		t.Fatal(err)
	}
	w.until(t, "the batch of 8 again", recoveryTime, func(state *datacenter.State) bool {
		return s.bothRun(8)(state) && s.limit(second) == 8 && s.limit(first) == 8
	})
	w.finish(t)
	w.wantEvents(t, nil)
	s.wantTold(t, second, 4, 8, 4)
}

// testCommandWithOneAway: the other has the new batch size, which is the model's, and
// the one that is away has it when it is back.
func testCommandWithOneAway(t *testing.T, want string, cause func(*sim.VLLM), repair func(*sim.VLLM) error) {
	s := newTwoServerSite(t, patiently)
	w := watch(t, s)
	w.floorW[0], w.roofW[0] = 1.9*idleW, 1.01*(1200+batch8W)
	cause(s.vllms[second])
	done := make(chan error, 1)
	go func() { done <- s.command(t, 8, 0) }()
	w.until(t, "the batch size at the other", slack, func(*datacenter.State) bool { return s.limit(first) == 8 })
	var err error
	w.until(t, "the end of the command", commandTimeout+slack, func(state *datacenter.State) bool {
		if anyStale(state) {
			w.untimely(t, "stale: %s", state.AppendJSON(nil))
		}
		select {
		case err = <-done:
			return true
		default:
			return false
		}
	})
	if s.wantFailed(t, err, second); !contains(err, want) {
		t.Errorf("the error lacks %q: %v", want, err)
	}
	w.until(t, "the other's batch of 8", w.cfg.StaleAfter+recoveryTime, oneRuns(8))
	w.never(t, "another batch size", time.Second, func(state *datacenter.State) bool {
		return state.Models[0].BatchSize != 8 || s.limit(first) != 8 || state.Models[1].BatchSize != 4
	})
	if got := s.told(first); !slices.Equal(got, []int{4, 8}) {
		w.untimely(t, "the other server was told %v, want 8 once", got)
	}
	if err := repair(s.vllms[second]); err != nil {
		t.Fatal(err)
	}
	w.until(t, "the batch of 8 at both", recoveryTime, func(state *datacenter.State) bool { return s.bothRun(8)(state) && s.limit(second) == 8 })
	w.finish(t)
	w.wantEvents(t, nil)
	s.wantTold(t, first, 4, 8, 4)
	s.wantTold(t, second, 4, 8, 4)
}

// testCommandThatOneRefuses: it is asked once more, and then only what is new.
func testCommandThatOneRefuses(t *testing.T) {
	var refused, accepted atomic.Int64
	s := newTwoServerSite(t, func(cfg *siteConfig) {
		patiently(cfg)
		server := &cfg.Hardware[0].Servers[1]
		server.VLLMBaseURL = gateway(t, server.VLLMBaseURL, func(w http.ResponseWriter, r *http.Request) bool {
			switch {
			case r.URL.Path != "/set_max_num_seqs" || r.Method != http.MethodPost:
				return false
			case r.URL.Query().Get("max_num_seqs") == "8":
				refused.Add(1)
				w.WriteHeader(http.StatusBadRequest)
				return true
			default:
				accepted.Add(1)
				return false
			}
		})
	})
	w := watch(t, s)
	wantAsked := func(wantRefused, wantAccepted int64) {
		t.Helper()
		if r, a := refused.Load(), accepted.Load(); r != wantRefused || a != wantAccepted {
			w.untimely(t, "the server refused %d times and accepted %d times, want %d and %d", r, a, wantRefused, wantAccepted)
		}
	}
	err := s.command(t, 8, 0)
	if s.wantFailed(t, err, second); !contains(err, "400") {
		t.Errorf("the error lacks the server's answer: %v", err)
	}
	mixed := func(state *datacenter.State) bool {
		m := &state.Models[0]
		return m.BatchSize == 8 && m.Live.Server != nil && m.Live.Server.NumRequestsRunning == 8+4
	}
	w.until(t, "the other's batch of 8", recoveryTime, mixed)
	w.never(t, "other batches", 1500*time.Millisecond, func(state *datacenter.State) bool { return !mixed(state) })
	wantAsked(2, 1)
	if got := s.live.Status().Models[0].AchievedBatchSize; got != 6 {
		t.Errorf("the batch size achieved is %v, want the mean of 8 and 4", got)
	}

	// Told by name it is asked again; the other, which runs it, is not.
	s.wantFailed(t, s.command(t, 8, 0), second)
	wantAsked(3, 1)
	if got := s.told(first); !slices.Equal(got, []int{4, 8}) {
		w.untimely(t, "the other server was told %v, want 8 once", got)
	}
	w.setBatchSize(t, "patched", 2)
	w.until(t, "the batch of 2 at both", recoveryTime, s.bothRun(2))
	wantAsked(3, 2)
	w.finish(t)
	w.wantEvents(t, nil)
	s.wantTold(t, first, 4, 8, 2, 4)
	s.wantTold(t, second, 4, 2, 4)
}

// testCommandThatNeitherTakes: nothing changes, but the lease runs, as one of the two
// may have taken it.
func testCommandThatNeitherTakes(t *testing.T) {
	s := newTwoServerSite(t, patiently)
	w := watch(t, s)
	w.floorW[0], w.roofW[0] = 1.9*idleW, 1.01*(1200+batch8W)
	s.vllms[first].Kill()
	s.setFaults(second, sim.VLLMFaults{Status: 500})
	err := s.command(t, 8, 60)
	var servers *rig.ServersError
	if !errors.As(err, &servers) || len(servers.Failed) != 2 || !contains(err, "2 of 2 vLLM servers") || !contains(err, s.url(first)) || !contains(err, s.url(second)) {
		t.Errorf("the error is %v, want one of both servers", err)
	}
	if m := s.live.Status().Models[0]; m.BatchSize != 4 || !(m.BatchSizeLeaseS > 50) {
		t.Errorf("the status is %+v, want the old batch size and a lease", m)
	}
	w.until(t, "no measurements", w.cfg.StaleAfter+slack, func(state *datacenter.State) bool {
		m := &state.Models[0]
		return m.Live.Server == nil && math.IsNaN(m.ObservedITLS) && draws(2*idleW)(state)
	})
	w.never(t, "stale, or another batch size", time.Second, func(state *datacenter.State) bool {
		return anyStale(state) || state.Models[0].BatchSize != 4
	})
	if err := s.vllms[first].Restart(); err != nil {
		t.Fatal(err)
	}
	s.setFaults(second, sim.VLLMFaults{})
	w.until(t, "the batch of 4 at both", recoveryTime, func(state *datacenter.State) bool {
		return s.bothRun(4)(state) && s.limit(first) == 4 && s.limit(second) == 4
	})
	w.finish(t)
	w.wantEvents(t, nil)
	s.wantTold(t, first, 4)
	s.wantTold(t, second, 4)
}

// testCommandIsLateAtOne: one server takes a command when it was given up, and after
// a newer one.
func testCommandIsLateAtOne(t *testing.T) {
	s := newTwoServerSite(t, patiently)
	w := watch(t, s)
	w.floorW[0] = 1.9 * idleW
	s.setFaults(second, sim.VLLMFaults{Delay: commandTimeout + 2*time.Second})
	done := make(chan error, 1)
	go func() { done <- s.command(t, 8, 0) }()
	var err error
	w.until(t, "the end of the command", commandTimeout+slack, func(*datacenter.State) bool {
		select {
		case err = <-done:
			return true
		default:
			return false
		}
	})
	s.wantFailed(t, err, second)
	s.setFaults(second, sim.VLLMFaults{})
	w.setBatchSize(t, "patched", 2)
	if a, b := s.limit(first), s.limit(second); a != 2 || b != 2 {
		t.Errorf("the limits are %d and %d, want 2", a, b)
	}
	w.until(t, "the late command", 10*time.Second, func(*datacenter.State) bool { return slices.Contains(s.told(second), 8) })
	w.until(t, "what the states say", recoveryTime, func(state *datacenter.State) bool {
		return s.bothRun(2)(state) && s.limit(second) == 2
	})
	w.finish(t)
	w.wantEvents(t, nil)
	s.wantTold(t, first, 4, 8, 2, 4)
	s.wantTold(t, second, 4, 2, 8, 2, 4)
}

// testOneOfTwoStandsStill: the run is not ready, and goes by the other's tokens.
func testOneOfTwoStandsStill(t *testing.T) {
	log := &logtest.Buffer{}
	s := newTwoServerSite(t, func(cfg *siteConfig) { patiently(cfg); cfg.Log, cfg.NoTokenLimit = zerolog.New(log), 2*time.Second })
	w := watch(t, s)
	w.until(t, "both batches", recoveryTime, s.bothRun(4))
	s.setFaults(second, sim.VLLMFaults{FreezeStreams: true})
	w.until(t, "the run not to be ready", w.cfg.NoTokenLimit+2*tokensInterval+slack, func(*datacenter.State) bool { return readiness(s) != nil })
	if reasons := readiness(s); len(reasons) != 1 || !strings.Contains(reasons[0], `"patched" answers and has made no token for`) {
		w.untimely(t, "the run is not ready: %q", reasons)
	}
	if a, b := s.status(first), s.status(second); a.NoTokenS != 0 || b.NoTokenS < w.cfg.NoTokenLimit.Seconds() || !a.Answers || !b.Answers {
		w.untimely(t, "the servers are %+v and %+v", a, b)
	}
	w.passed(t)
	w.never(t, "not the other's latency, or not both loads", time.Second, func(state *datacenter.State) bool {
		trueS := s.vllms[first].ITLOver(s.cfg.ITLWindow).MeanS
		m := &state.Models[0]
		return !s.bothRun(4)(state) || m.Live.Stale || math.Abs(m.ObservedITLS-trueS) > 0.15*trueS
	})
	if n := strings.Count(log.String(), `"vllm":"`+s.url(second)+`","model_label":"patched","no_token_s"`); n != 1 {
		w.untimely(t, "%d lines say that the server %s stands still, want one:\n%s", n, s.url(second), log)
	}
	s.setFaults(second, sim.VLLMFaults{})
	w.until(t, "the run to be ready", recoveryTime, func(state *datacenter.State) bool { return readiness(s) == nil && s.bothRun(4)(state) })
	w.finish(t)
	w.wantEvents(t, nil)
}

// testDaemonOfOneDies: the power of one server's GPUs is held and the model stale,
// while that of the other's follows the truth.
func testDaemonOfOneDies(t *testing.T) {
	z, endpoint := startDaemon(t, sim.ZeusdConfig{GPUs: []*sim.GPU{sim.NewGPU("one", 300), sim.NewGPU("other", 500)}})
	s := newTwoServerSite(t, func(cfg *siteConfig) {
		patiently(cfg)
		cfg.gpus[0][1] = []gpuAt{{endpoint, 0}, {endpoint, 1}}
	})
	w := watch(t, s)
	w.floorW[0], w.roofW[0] = 0.99*(800+2*280), 1.01*(800+batch8W)
	w.until(t, "the power of all", recoveryTime, draws(800+2*280))
	z.Kill()
	w.until(t, "staleness", staleSoon(w), func(state *datacenter.State) bool { return state.Models[0].Live.Stale })
	w.setBatchSize(t, "patched", 8)
	w.until(t, "the batch of 8 and its power", recoveryTime, func(state *datacenter.State) bool {
		return draws(800+batch8W)(state) && s.bothRun(8)(state)
	})
	w.never(t, "another power, or another model stale", time.Second, func(state *datacenter.State) bool {
		return !draws(800+batch8W)(state) || !state.Models[0].Live.Stale || state.Models[1].Live.Stale || !s.bothRun(8)(state)
	})
	if err := z.Restart(); err != nil {
		t.Fatal(err)
	}
	w.until(t, "recovery", recoveryTime, func(state *datacenter.State) bool { return !anyStale(state) && draws(800+batch8W)(state) })
	w.finish(t)
	w.wantEvents(t, map[string]int{"patched": 1})
}
