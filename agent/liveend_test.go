package agent

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/credential"
	"github.com/g2g-agent/g2g-agent/sim"
)

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
	s := newFaultSite(t, func(cfg *siteConfig) { cfg.gpus[1][0] = []gpuAt{{endpoint, 0}} })
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
	s := newFaultSite(t, func(cfg *siteConfig) { cfg.Stagger, cfg.WarmupTimeout = time.Minute, 2*time.Minute })
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
		return slices.ContainsFunc(w.live.Status().Models, func(m ModelStatus) bool { return m.Servers[0].Commanded })
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
	s := newFaultSite(t, func(cfg *siteConfig) { cfg.RestoreBatchSizes = false })
	w := watch(t, s)
	w.setBatchSize(t, "patched", 8)
	s.endsSoon(t, slack)
	if got := s.vllms[0].Truth().MaxNumSeqs; got != 8 || s.err != nil {
		t.Errorf("the server's limit is %d, want the last 8; error %v", got, s.err)
	}
}

func testStaleForTooLong(t *testing.T) {
	s := newFaultSite(t, func(cfg *siteConfig) {
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
