package agent

import (
	"fmt"
	"io"
	"math"
	"net"
	"testing"
	"time"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/power"
	"github.com/g2g-agent/g2g-agent/sim"
)

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
	s := newFaultSiteWith(t, version, func(cfg *siteConfig) {
		patiently(cfg)
		cfg.gpus[0][0] = []gpuAt{{endpoint, 0}, {endpoint, 1}}
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
	s := newFaultSiteWith(t, version, func(cfg *siteConfig) {
		patiently(cfg)
		cfg.gpus[1][0] = []gpuAt{{endpoint, 0}}
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
	if status := s.power(); countOf(status, "bad_events")+countOf(status, "unwanted_readings") < uint64(events)/2 {
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
	for _, fault := range []sim.ZeusdFaults{{TruncateEvent: true}, {DropStreams: true}} {
		// zeusd 0.4 is asked by opening a stream anew: what befalls one that is about
		// to be left is no loss, or there is none to drop just now.
		var caused time.Time
		before := s.power().Reconnects
		w.until(t, "a new stream", recoveryTime, func(*datacenter.State) bool {
			if time.Since(caused) >= time.Second {
				caused = time.Now()
				s.zeusd.SetFaults(fault)
			}
			return s.power().Reconnects > before
		})
	}
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
		status := s.power()
		return status.Reconnects + countOf(status, "reopened_streams")
	}
	const drops = 3
	connects := s.power().Reconnects
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
	if got := s.power().Reconnects - connects; got > drops {
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
	constantPower(t, version, func(power.Endpoint) {})
}

// testConstantPowerWithAnother: nor is it while somebody else listens, from before
// the start on.
func testConstantPowerWithAnother(t *testing.T, version sim.ZeusdVersion) {
	constantPower(t, version, func(e power.Endpoint) {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", e.Address(0))
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

func constantPower(t *testing.T, version sim.ZeusdVersion, before func(power.Endpoint)) {
	gpus := []*sim.GPU{sim.NewGPU("steady", 250), sim.NewGPU("steady too", 150)}
	z, endpoint := startDaemon(t, sim.ZeusdConfig{Version: version, GPUs: gpus})
	before(endpoint)
	s := newFaultSiteWith(t, version, func(cfg *siteConfig) {
		patiently(cfg)
		cfg.gpus[0][0] = []gpuAt{{endpoint, 0}, {endpoint, 1}}
	})
	w := watch(t, s)
	w.floorW[0], w.roofW[0] = 400, 400
	w.never(t, "stale", w.cfg.StaleAfter+2*time.Second, anyStale)
	status := s.power()
	if status.Reconnects > 1 || countOf(status, "reopened_streams") > uint64(2+time.Since(w.began)/time.Second) {
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
	s := newFaultSiteWith(t, version, func(cfg *siteConfig) {
		patiently(cfg)
		cfg.gpus[1][0] = []gpuAt{{endpoint, 0}}
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
	s := newFaultSiteWith(t, version, func(cfg *siteConfig) {
		patiently(cfg)
		cfg.gpus[0][0] = []gpuAt{{endpoint, 0}}
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
