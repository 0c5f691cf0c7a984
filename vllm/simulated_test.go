package vllm

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/g2g-agent/g2g-agent/internal/credential"
	"github.com/g2g-agent/g2g-agent/sim"
)

func startSimulated(t *testing.T, cfg sim.VLLMConfig) *sim.VLLM {
	t.Helper()
	cfg.Listen, cfg.ModelID = "127.0.0.1:0", testModel
	v, err := sim.StartVLLM(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	})
	return v
}

// eventually waits until ok, and fails after so long that only a fault can be the
// reason.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("in vain waited for %s", what)
		}
	}
}

func TestActuatorsOfSimulatedServers(t *testing.T) {
	for has, want := range map[sim.VLLMActuator]Actuator{
		sim.SetMaxNumSeqs: ActuatorSetMaxNumSeqs,
		sim.RuntimeConfig: ActuatorRuntimeConfig,
		sim.StockVLLM:     ActuatorConcurrency,
	} {
		v := startSimulated(t, sim.VLLMConfig{Actuator: has, Engines: 2, OldMetricNames: has == sim.StockVLLM, APIKey: "key"})
		s := newTestServer(t, Config{BaseURL: v.URL(), Credential: credential.Fixed("key")})
		if err := errors.Join(s.Health(t.Context()), s.CheckModel(t.Context())); err != nil {
			t.Error(err)
		}
		if m, err := s.Metrics(t.Context()); err != nil || m.Metrics != (Metrics{}) {
			t.Errorf("%s: the metrics are %+v (%v), want those of a server at rest", has, m, err)
		}
		got, err := s.ProbeActuator(t.Context())
		if err != nil || got != want {
			t.Errorf("%s: the actuator is %q (%v), want %s", has, got, err, want)
		}
		if truth := v.Truth(); len(truth.Commands) != 0 || truth.MaxNumSeqs != 256 {
			t.Errorf("%s: probing changed something: %+v", has, truth)
		}
		for _, actuator := range []Actuator{ActuatorSetMaxNumSeqs, ActuatorRuntimeConfig, ActuatorConcurrency} {
			err := s.SetBatchSize(t.Context(), actuator, 48, 0)
			if actuator == want || actuator == ActuatorConcurrency {
				if err != nil {
					t.Errorf("%s: %v", has, err)
				}
				continue
			}
			var failed *CommandError
			if !errors.As(err, &failed) || failed.Outcome != OutcomeRefused || failed.Status != http.StatusNotFound {
				t.Errorf("%s: %s: %v", has, actuator, err)
			}
		}
		commands, maxNumSeqs := 1, 48
		if want == ActuatorConcurrency {
			commands, maxNumSeqs = 0, 256
		}
		if truth := v.Truth(); len(truth.Commands) != commands || truth.MaxNumSeqs != maxNumSeqs {
			t.Errorf("%s: after a command: %+v", has, truth)
		}
		if want == ActuatorConcurrency {
			continue
		}
		var failed *CommandError
		if err := s.SetBatchSize(t.Context(), want, 1_000_000_000, 0); !errors.As(err, &failed) || failed.Outcome != OutcomeRefused || failed.Detail == "" {
			t.Errorf("%s: nonsense: %v", has, err)
		}
		stranger := newTestServer(t, Config{BaseURL: v.URL()})
		if err := stranger.CheckModel(t.Context()); err == nil || !strings.Contains(err.Error(), "401") {
			t.Errorf("%s: without a key: %v", has, err)
		}
	}
}

// A lower batch size is commanded at once and achieved as requests finish.
func TestCommandedAndAchieved(t *testing.T) {
	v := startSimulated(t, sim.VLLMConfig{MaxNumSeqs: 4, Engines: 2})
	s := newTestServer(t, Config{BaseURL: v.URL()})
	ctx, cancel := context.WithCancel(t.Context())
	client := &http.Client{Transport: &http.Transport{}}
	var load sync.WaitGroup
	defer load.Wait()
	defer client.CloseIdleConnections()
	defer cancel()
	for range 10 {
		load.Go(func() {
			body := `{"messages":[{"role":"user","content":"hello"}],"max_tokens":100000}`
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, v.URL()+"/v1/chat/completions", strings.NewReader(body))
			if err != nil {
				t.Error(err)
				return
			}
			if resp, err := client.Do(req); err == nil {
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
	}
	achieved := func(running, waiting float64) func() bool {
		return func() bool {
			m, err := s.Metrics(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return m.NumRequestsRunning == running && m.NumRequestsWaiting == waiting && m.KVCacheUsagePerc > 0
		}
	}
	eventually(t, "4 running and 6 waiting requests", achieved(4, 6))
	if err := s.SetBatchSize(t.Context(), ActuatorSetMaxNumSeqs, 2, 0); err != nil {
		t.Fatal(err)
	}
	if truth := v.Truth(); truth.MaxNumSeqs != 2 || !achieved(4, 6)() {
		t.Errorf("a lower batch size ended requests: %+v", truth)
	}
	if err := s.SetBatchSize(t.Context(), ActuatorSetMaxNumSeqs, 7, 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "7 running and 3 waiting requests", achieved(7, 3))
	if err := s.SetBatchSize(t.Context(), ActuatorSetMaxNumSeqs, 9, 1e-3); err != nil {
		t.Fatal(err)
	}
	if commands := v.Truth().Commands; len(commands) != 3 {
		t.Errorf("%d commands, want 3: %+v", len(commands), commands)
	}
}

func TestFaultsOfSimulatedServers(t *testing.T) {
	v := startSimulated(t, sim.VLLMConfig{})
	s := newTestServer(t, Config{BaseURL: v.URL()})
	quick := newTestServer(t, Config{BaseURL: v.URL(), Timeout: 100 * time.Millisecond})

	v.SetFaults(sim.VLLMFaults{MetricsGone: true})
	if _, err := s.Metrics(t.Context()); !errors.Is(err, ErrMissingMetric) {
		t.Errorf("without metrics: %v", err)
	}
	v.SetFaults(sim.VLLMFaults{MetricsStatus: 500})
	_, err := s.Metrics(t.Context())
	wantMessage(t, "a broken page", err, "500 Internal Server Error")
	if err := s.Health(t.Context()); err != nil {
		t.Error(err)
	}
	v.SetFaults(sim.VLLMFaults{Status: 503})
	for name, call := range calls() {
		wantMessage(t, name, call(t.Context(), s), "503 Service Unavailable")
	}
	v.SetFaults(sim.VLLMFaults{Freeze: true})
	for name, call := range calls() {
		wantMessage(t, name, call(t.Context(), quick), "no answer within 100ms")
	}
	v.SetFaults(sim.VLLMFaults{})
	if err := s.Health(t.Context()); err != nil {
		t.Errorf("after the faults: %v", err)
	}
	v.Kill()
	var failed *CommandError
	if err := s.SetBatchSize(t.Context(), ActuatorSetMaxNumSeqs, 8, 0); !errors.As(err, &failed) || failed.Outcome != OutcomeUnreachable {
		t.Errorf("a dead server: %v", err)
	}
	if err := v.Restart(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Health(t.Context()), s.SetBatchSize(t.Context(), ActuatorSetMaxNumSeqs, 8, 0)); err != nil {
		t.Errorf("a server that is back: %v", err)
	}
	// The command that the frozen server did not answer is one of unknown outcome:
	// it may have acted on it later.
	commands := v.Truth().Commands
	if n := len(commands); n < 1 || n > 2 || commands[n-1].MaxNumSeqs != 8 || commands[0].MaxNumSeqs != 64 && n == 2 {
		t.Errorf("the commands that had an effect: %+v", commands)
	}
}
