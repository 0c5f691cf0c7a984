package agent

import (
	"context"
	"errors"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/rig"
	"github.com/g2g-agent/g2g-agent/sim"
	"github.com/g2g-agent/g2g-agent/vllm"
)

// The places of the servers of "patched" among all of a site of two.
const first, second = 0, 2

// twoServers are those of a site whose model "patched" has two.
func twoServers() []siteServer {
	return append(oneServerEach(), siteServer{0, sim.SetMaxNumSeqs, fastProfile()})
}

// newTwoServerSite is a site as newFaultSite makes it whose model "patched" has two
// servers.
func newTwoServerSite(t *testing.T, change func(*siteConfig)) *liveSite {
	t.Helper()
	return unhurriedSite(t, sim.Zeusd05, twoServers(), change)
}

func TestTwoServers(t *testing.T) {
	t.Parallel()
	// Their sites are larger, so fewer share the machine.
	togetherOf(t, 5, append([]faultTest{
		{"they run", testTwoServersRun},
		{"different actuators", testTwoActuators},
		{"commands at the same time", testCommandsAtTheSameTime},
		{"a lease ends with one away", testLeaseEndsWithOneAway},
		{"a lease is renewed with one dead", testLeaseIsRenewedWithOneDead},
		{"a command after a lease that one missed", testCommandAfterMissedLease},
		{"the end with one hanging", testEndWithOneHanging},
		{"the end of a lease with the run", testLeaseOfBothEndsWithRun},
		{"one is not warm", testOneIsNotWarm},
		{"one hangs at the start", testOneHangsAtTheStart},
		{"one cannot be set up", testOneCannotBeSetUp},
	}, twoServerFaults()...))
}

// url is where a server of "patched" is reached.
func (s *liveSite) url(server int) string {
	return s.cfg.Hardware[0].Servers[server/second].VLLMBaseURL
}

// status is a server of "patched" as the run sees it.
func (s *liveSite) status(server int) rig.ServerStatus {
	return s.live.Status().Models[0].Servers[server/second]
}

// limit is the limit that a server really has.
func (s *liveSite) limit(server int) int { return s.vllms[server].Truth().MaxNumSeqs }

// told are the batch sizes that a server accepted.
func (s *liveSite) told(server int) []int {
	var sizes []int
	for _, c := range s.vllms[server].Truth().Commands {
		sizes = append(sizes, c.MaxNumSeqs)
	}
	return sizes
}

// wantTold checks what a server accepted, repetitions aside.
func (s *liveSite) wantTold(t *testing.T, server int, want ...int) {
	t.Helper()
	if got := s.told(server); !slices.Equal(slices.Compact(got), want) {
		t.Errorf("the server %s was told %v, want %v", s.url(server), got, want)
	}
}

// wantFailed checks that a command was not carried out by one server of "patched",
// and by all others.
func (s *liveSite) wantFailed(t *testing.T, err error, server int) {
	t.Helper()
	var models *ServersError
	if !errors.As(err, &models) || len(models.ByModel) != 1 || models.ByModel["patched"] == nil {
		t.Fatalf("the error is %v, want one of the model patched", err)
	}
	var servers *rig.ServersError
	if !errors.As(models.ByModel["patched"], &servers) || servers.Servers != 2 || len(servers.Failed) != 1 || servers.Failed[0].URL != s.url(server) {
		t.Fatalf("the error is %v, want one of the server %s alone", err, s.url(server))
	}
	if other := s.url(second - server); !contains(err, s.url(server)) || contains(err, other) {
		t.Errorf("the error names %s, or not %s: %v", other, s.url(server), err)
	}
}

// command gives "patched" a batch size, for ever with a lease of 0.
func (s *liveSite) command(t *testing.T, n int, leaseS float64) error {
	t.Helper()
	return s.live.Apply(t.Context(), datacenter.SetBatchSize{BatchSizeByModel: map[string]int{"patched": n}, LeaseS: leaseS})
}

// bothRun tells whether both servers of "patched" run a batch of n, and one after
// the other so its limit.
func (s *liveSite) bothRun(n int) func(*datacenter.State) bool {
	return func(state *datacenter.State) bool {
		m := &state.Models[0]
		return m.BatchSize == n && m.Live.Server != nil && m.Live.Server.NumRequestsRunning == float64(2*n) && !math.IsNaN(m.ObservedITLS)
	}
}

// oneRuns tells whether only one of the two runs a batch of n.
func oneRuns(n int) func(*datacenter.State) bool { return runsBatch(n) }

// draws tells whether "patched" measures a power, and all its servers draw it.
func draws(powerW float64) func(*datacenter.State) bool {
	return func(state *datacenter.State) bool {
		m := &state.Models[0]
		scaledW := powerW / 4 * 200 // from four real GPUs to those of 100 replicas
		return math.Abs(m.Live.MeasuredPowerW-powerW) < 0.01*powerW && math.Abs(m.PowerW-scaledW) < 0.01*scaledW
	}
}

// trueITL is the latency of both servers' tokens of the latest window, and those of
// each.
func (s *liveSite) trueITL() (meanS float64, eachS [2]float64) {
	sumS, tokens := 0.0, 0.0
	for i, server := range []int{first, second} {
		itl := s.vllms[server].ITLOver(s.cfg.ITLWindow)
		sumS += itl.SumS
		tokens += float64(itl.Tokens)
		eachS[i] = itl.MeanS
	}
	return sumS / tokens, eachS
}

// testTwoServersRun: two servers that draw and take differently are measured as one.
func testTwoServersRun(t *testing.T) {
	servers := twoServers()
	servers[second].profile = sim.Profile{
		Levels: []sim.Level{{BatchSize: 1, PowerWPerGPU: 300, ITLS: 0.01}, {BatchSize: 16, PowerWPerGPU: 900, ITLS: 0.02}}, IdleWPerGPU: 100,
	}
	s := unhurriedSite(t, sim.Zeusd05, servers, patiently)
	s.vllms[second].SetFaults(sim.VLLMFaults{SlowDown: 2 * unhurried})
	w := watch(t, s)
	w.roofW[0] = 1.01 * (773.4 + 1160)
	full := func(state *datacenter.State) bool { return s.bothRun(4)(state) && draws(2*280+2*420)(state) }
	state := w.until(t, "full measurements", recoveryTime, full)
	m := &state.Models[0]
	if m.Live.AugmentationFactor != 50 || m.ActiveReplicas != 100 || m.Live.Stale {
		t.Errorf("the model is %s, want two real replicas that stand for 100", state.AppendJSON(nil))
	}
	if waiting := m.Live.Server.NumRequestsWaiting; waiting < 20 || waiting > 24 {
		t.Errorf("%v requests wait, want the 12 of each", waiting)
	}
	w.never(t, "another power or load", time.Second, func(state *datacenter.State) bool { return !full(state) })
	merged, began := false, time.Now()
	w.until(t, "the latency of both", math.MaxInt64/2, func(state *datacenter.State) bool {
		meanS, eachS := s.trueITL()
		got, p := state.Models[0].ObservedITLS, state.Models[0].Live.ITLPercentilesS
		merged = eachS[1] > 1.5*eachS[0] && math.Abs(got-meanS) < 0.1*meanS && got > 1.1*eachS[0] && got < 0.9*eachS[1] &&
			math.Abs(p.P50-eachS[0]) < 0.1*eachS[0] && math.Abs(p.P95-eachS[1]) < 0.1*eachS[1]
		return merged || time.Since(began) > 2*recoveryTime
	})
	if !merged {
		meanS, eachS := s.trueITL()
		w.untimely(t, "the servers take %v s a token, %v s in the mean: %s", eachS, meanS, w.last.AppendJSON(nil))
	}
	if status := s.live.Status().Models[0]; len(status.Servers) != 2 || status.AchievedBatchSize != 4 || status.Actuator != "set_max_num_seqs" ||
		!status.Servers[0].Answers || !status.Servers[1].Answers || status.Servers[0].URL != s.url(first) || status.Servers[1].URL != s.url(second) {
		t.Errorf("the status is %+v", status)
	}

	w.setBatchSize(t, "patched", 8)
	if a, b := s.limit(first), s.limit(second); a != 8 || b != 8 {
		t.Errorf("the limits are %d and %d, want 8", a, b)
	}
	w.until(t, "the batch of 8 at both", recoveryTime, func(state *datacenter.State) bool {
		return s.bothRun(8)(state) && draws(2*386.7+2*580)(state)
	})
	w.finish(t)
	w.wantEvents(t, nil)
	for _, server := range []int{first, second} {
		s.wantTold(t, server, 4, 8, 4)
	}
	load := s.live.Stats().Models[0].Load
	if made := uint64(s.vllms[first].Truth().Tokens + s.vllms[second].Truth().Tokens); load.Tokens > made || load.Tokens < made-made/20 {
		t.Errorf("of the %d tokens made, %d were counted", made, load.Tokens)
	}
}

// testTwoActuators: each server is told in its way.
func testTwoActuators(t *testing.T) {
	servers := twoServers()
	servers[second].actuator = sim.StockVLLM
	s := unhurriedSite(t, sim.Zeusd05, servers, patiently)
	w := watch(t, s)
	w.until(t, "both batches, and the queue of the server with a limit alone", recoveryTime, func(state *datacenter.State) bool {
		return s.bothRun(4)(state) && state.Models[0].Live.Server.NumRequestsWaiting == 12
	})
	if status := s.live.Status().Models[0]; status.Actuator != "set_max_num_seqs+concurrency" ||
		status.Servers[0].Actuator != vllm.ActuatorSetMaxNumSeqs || status.Servers[1].Actuator != vllm.ActuatorConcurrency {
		t.Errorf("the status is %+v", status)
	}
	err := s.live.Apply(t.Context(), datacenter.SetBatchSize{BatchSizeByModel: map[string]int{"patched": 8}, RampUpRateByModel: map[string]float64{"patched": 2}})
	if !errors.Is(err, datacenter.ErrOutOfRange) || !contains(err, "concurrency") {
		t.Errorf("a ramp that one of the servers cannot do: %v", err)
	}
	w.setBatchSize(t, "patched", 8)
	s.wantTold(t, first, 4, 8)
	w.until(t, "the batch of 8 at both", recoveryTime, s.bothRun(8))
	if stock := s.vllms[second].Truth(); stock.MaxNumSeqs != 256 || stock.Running > 8 || stock.Running+stock.Waiting > 8 {
		t.Errorf("the server without a limit has %d running and %d waiting under a limit of %d", stock.Running, stock.Waiting, stock.MaxNumSeqs)
	}

	// The one that is told dies; the other goes on by its load.
	w.floorW[0], w.roofW[0] = 1.9*idleW, 1.01*(1200+batch8W)
	s.vllms[first].Kill()
	s.wantFailed(t, s.command(t, 2, 0), first)
	w.until(t, "the other's batch of 2", w.cfg.StaleAfter+slack, oneRuns(2))
	if err := s.vllms[first].Restart(); err != nil {
		t.Fatal(err)
	}
	w.until(t, "the restarted server to be told", recoveryTime, func(*datacenter.State) bool { return slices.Contains(s.told(first), 2) })
	w.until(t, "both batches of 2", recoveryTime, s.bothRun(2))
	w.finish(t)
	w.wantEvents(t, nil)
	s.wantTold(t, first, 4, 8, 2, 4)
}

// testCommandsAtTheSameTime: however they overlap, both servers and the states end
// with the same one.
func testCommandsAtTheSameTime(t *testing.T) {
	s := newTwoServerSite(t, patiently)
	w := watch(t, s)
	w.floorW[0] = 1.9 * idleW // requests are late, too
	for round := range 8 {
		late := []int{first, second}[round%2]
		s.setFaults(late, sim.VLLMFaults{Delay: 30 * time.Millisecond})
		var group sync.WaitGroup
		for _, n := range []int{2, 8, 4} {
			group.Go(func() {
				if err := s.command(t, n, 0); err != nil {
					w.untimely(t, "a command of %d: %v", n, err)
				}
			})
		}
		group.Wait()
		if a, b, said := s.limit(first), s.limit(second), s.live.Status().Models[0].BatchSize; a != b || a != said {
			t.Errorf("round %d: the limits are %d and %d, and the run says %d", round, a, b, said)
		}
		s.setFaults(late, sim.VLLMFaults{})
	}
	w.passed(t)
	w.never(t, "another limit", time.Second, func(state *datacenter.State) bool {
		return s.limit(first) != s.limit(second) || s.limit(first) != state.Models[0].BatchSize
	})
	w.until(t, "what the run says", recoveryTime, func(state *datacenter.State) bool { return s.bothRun(state.Models[0].BatchSize)(state) })
	w.finish(t)
	w.wantEvents(t, nil)
}

// expirations counts the leases of "patched" that ran out.
func (s *liveSite) expirations() int {
	n := 0
	for len(s.events) > 0 {
		if e, ok := (<-s.events).Data.(datacenter.BatchSizeLeaseExpired); ok && e.ModelLabel == "patched" {
			n++
		}
	}
	return n
}

// leaseWithOneAway leases 8 for both, fails one server, and waits for the end of the
// lease.
func leaseWithOneAway(t *testing.T) *watcher {
	t.Helper()
	s := newTwoServerSite(t, patiently)
	w := watch(t, s)
	w.floorW[0] = 1.9 * idleW
	if err := s.command(t, 8, 1); err != nil {
		t.Fatal(err)
	}
	s.setFaults(second, sim.VLLMFaults{Status: 500})
	w.until(t, "what is leased", slack, func(state *datacenter.State) bool { return state.Models[0].BatchSize == 8 })
	w.until(t, "the end of the lease", time.Second+slack, func(state *datacenter.State) bool { return state.Models[0].BatchSize == 4 })
	s.wantTold(t, first, 4, 8, 4)
	if got := s.limit(second); got != 8 {
		t.Errorf("a server that refuses has the limit %d", got)
	}
	return w
}

// testLeaseEndsWithOneAway: one server goes back at once, the other when it can.
func testLeaseEndsWithOneAway(t *testing.T) {
	w := leaseWithOneAway(t)
	w.never(t, "another batch size", 1500*time.Millisecond, func(state *datacenter.State) bool {
		return state.Models[0].BatchSize != 4 || w.limit(first) != 4
	})
	if w.status(second).Answers || !w.status(first).Answers {
		t.Errorf("the servers are %+v", w.live.Status().Models[0].Servers)
	}
	w.setFaults(second, sim.VLLMFaults{})
	w.until(t, "the failsafe batch size of the other", recoveryTime, func(state *datacenter.State) bool { return w.bothRun(4)(state) && w.limit(second) == 4 })
	w.wantTold(t, second, 4, 8, 4)
	if n := w.expirations(); n != 1 {
		t.Errorf("%d leases ran out, want one", n)
	}
	w.finish(t)
	w.wantTold(t, first, 4, 8, 4)
}

// testCommandAfterMissedLease: what one server is still to be set to, because a lease
// ran out, a new command makes void.
func testCommandAfterMissedLease(t *testing.T) {
	w := leaseWithOneAway(t)
	w.wantFailed(t, w.command(t, 2, 0), second)
	w.wantTold(t, first, 4, 8, 4, 2)
	w.until(t, "the new batch size", slack, func(state *datacenter.State) bool { return state.Models[0].BatchSize == 2 })
	w.never(t, "another batch size", 1500*time.Millisecond, func(state *datacenter.State) bool {
		return state.Models[0].BatchSize != 2 || w.limit(first) != 2
	})
	w.setFaults(second, sim.VLLMFaults{})
	w.until(t, "the new batch size at the other", recoveryTime, func(state *datacenter.State) bool { return w.bothRun(2)(state) && w.limit(second) == 2 })
	w.never(t, "another batch size", 1500*time.Millisecond, func(state *datacenter.State) bool {
		return state.Models[0].BatchSize != 2 || w.limit(first) != 2 || w.limit(second) != 2
	})
	w.wantTold(t, second, 4, 8, 2)
	w.finish(t)
	w.wantTold(t, first, 4, 8, 4, 2, 4)
}

// testLeaseIsRenewedWithOneDead: the lease lives by the server that lives.
func testLeaseIsRenewedWithOneDead(t *testing.T) {
	s := newTwoServerSite(t, patiently)
	w := watch(t, s)
	if err := s.command(t, 8, 2); err != nil {
		t.Fatal(err)
	}
	w.floorW[0], w.roofW[0] = 1.9*idleW, 1.01*(1200+batch8W)
	s.vllms[second].Kill()
	// Before it is noticed, nobody asks a server that runs 8 already.
	eventually(t, "the word that it does not answer", func() bool { return !s.status(second).Answers })
	w.passed(t)
	began, renewed, lapsed := time.Now(), 0, false
	w.until(t, "several leases' time", math.MaxInt64/2, func(state *datacenter.State) bool {
		if state.Seq%5 == 0 {
			renewed++
			s.wantFailed(t, s.command(t, 8, 1), second)
		}
		if m := s.live.Status().Models[0]; !lapsed && (m.BatchSize != 8 || !(m.BatchSizeLeaseS > 0)) {
			lapsed = true
			w.untimely(t, "a renewed lease gives %+v", m)
		}
		return time.Since(began) > 2500*time.Millisecond
	})
	if renewed < 3 {
		w.untimely(t, "%d renewals", renewed)
	}
	if got := s.told(first); !slices.Equal(got, []int{4, 8}) {
		w.untimely(t, "the server that lives was told %v, want once", got)
	}
	w.passed(t)
	w.until(t, "the end of the lease", time.Second+slack, func(state *datacenter.State) bool { return state.Models[0].BatchSize == 4 })
	if !lapsed {
		s.wantTold(t, first, 4, 8, 4)
	}
	before := len(s.told(second))
	if err := s.vllms[second].Restart(); err != nil {
		t.Fatal(err)
	}
	w.until(t, "the failsafe batch size of both", recoveryTime, func(state *datacenter.State) bool { return s.bothRun(4)(state) && s.limit(second) == 4 })
	if got := s.told(second)[before:]; slices.ContainsFunc(got, func(n int) bool { return n != 4 }) {
		t.Errorf("the server that was dead was told %v, want nothing but 4", got)
	}
	if n := s.expirations(); n != 1 && !lapsed {
		w.untimely(t, "%d leases ran out, want one", n)
	}
	w.finish(t)
}

// testEndWithOneHanging: the other is restored, in time.
func testEndWithOneHanging(t *testing.T) {
	s := newTwoServerSite(t, nil)
	w := watch(t, s)
	w.setBatchSize(t, "patched", 8)
	s.setFaults(second, sim.VLLMFaults{Freeze: true})
	done := make(chan error, 1)
	go func() { done <- s.command(t, 2, 0) }()
	eventually(t, "the command", func() bool { return s.limit(first) == 2 && !s.status(first).Commanded && s.status(second).Commanded })
	s.endsSoon(t, stopTime)
	s.wantFailed(t, <-done, second)
	w.wantNotRestored(t)
	if !contains(s.err, s.url(second)) || contains(s.err, s.url(first)) {
		t.Errorf("the error is %v, want one of the server %s alone", s.err, s.url(second))
	}
	s.wantTold(t, first, 4, 8, 2, 4)
}

// testLeaseOfBothEndsWithRun: neither is left at what was lent.
func testLeaseOfBothEndsWithRun(t *testing.T) {
	s := newTwoServerSite(t, func(cfg *siteConfig) {
		cfg.RestoreBatchSizes = false
		cfg.Models[0].FailsafeBatchSize = 2
	})
	watch(t, s)
	if err := s.command(t, 8, 60); err != nil {
		t.Fatal(err)
	}
	s.stop(t)
	s.wantTold(t, first, 4, 8, 2)
	s.wantTold(t, second, 4, 8, 2)
}

func testOneIsNotWarm(t *testing.T) {
	s := newTwoServerSite(t, func(cfg *siteConfig) {
		cfg.WarmupTimeout = 4 * time.Second
		server := &cfg.Hardware[0].Servers[1]
		server.VLLMBaseURL = gateway(t, server.VLLMBaseURL, func(w http.ResponseWriter, r *http.Request) bool {
			refused := strings.HasSuffix(r.URL.Path, "/completions")
			if refused {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			return refused
		})
	})
	ctx, cancel := context.WithTimeout(t.Context(), stopTime)
	defer cancel()
	s.run(ctx, t)
	if s.err == nil || s.timing.Steps > 0 {
		t.Fatalf("the run began: %d steps, error %v", s.timing.Steps, s.err)
	}
	if !contains(s.err, "patched on "+s.url(second)+": wants 4 running, has 0") || contains(s.err, s.url(first)) || contains(s.err, "stock") {
		t.Errorf("the error is %v, want one of the server %s alone", s.err, s.url(second))
	}
}

func testOneHangsAtTheStart(t *testing.T) {
	s := newTwoServerSite(t, nil)
	s.setFaults(second, sim.VLLMFaults{Freeze: true})
	testRefusesToStart(t, s, s.url(second), `"patched"`)
	if contains(s.err, s.url(first)) {
		t.Errorf("the error names the other server: %v", s.err)
	}
}

// testOneCannotBeSetUp: the run does not begin, and no load comes.
func testOneCannotBeSetUp(t *testing.T) {
	s := newTwoServerSite(t, func(cfg *siteConfig) { cfg.Hardware[0].Servers[1].Actuator = vllm.ActuatorRuntimeConfig })
	if took := s.run(t.Context(), t); took > stopTime {
		t.Errorf("the run was given up after %v", took)
	}
	if s.err == nil || !contains(s.err, s.url(second)) || contains(s.err, s.url(first)) || strings.Contains(s.err.Error(), "not restored") {
		t.Errorf("the error is %v, want one of the server %s alone", s.err, s.url(second))
	}
	s.wantTold(t, first, 4)
	for _, v := range s.vllms {
		if truth := v.Truth(); truth.Started > 0 {
			t.Errorf("a server got %d requests", truth.Started)
		}
	}
}
