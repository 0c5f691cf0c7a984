package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/agent"
	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/datacenter"
)

// replayConfig is the shipped replay, shortened to 20 s and without its script.
func replayConfig(t testing.TB) *config.Config {
	t.Helper()
	c, err := config.Load("../configs/replay.yaml", nil, config.ForReplay)
	if err != nil {
		t.Fatal(err)
	}
	if c.Replay.Duration, err = datacenter.SecondsOf(20); err != nil {
		t.Fatal(err)
	}
	c.Replay.Commands = nil
	return c
}

// serveReplay serves the replay in lockstep.
func serveReplay(t testing.TB, c *config.Config, adapt ...func(*Config)) *testServer {
	t.Helper()
	var s *testServer
	setup, err := agent.SetUpReplay(c, func(e datacenter.Event) { s.PublishEvent(e) })
	if err != nil {
		t.Fatal(err)
	}
	site := agent.NewLockstepReplay(setup, agent.LockstepHooks{
		Emit: func(state *datacenter.State) error {
			s.Publish(state)
			return nil
		},
		Began: func(status agent.Status) { s.BeginRun(status.RunID) },
	})
	s = serve(t, func(cfg *Config) {
		cfg.Site, cfg.Lockstep, cfg.Control, cfg.Log = site, site, c.Control, zerolog.Nop()
		for _, a := range adapt {
			a(cfg)
		}
	})
	return s
}

// A replay driven over HTTP, with commands between steps, gives bit for bit the
// states of the same commands in its script; and every answer on the way is as
// described.
func TestLockstepReplay(t *testing.T) {
	s := serveReplay(t, replayConfig(t))
	s.get("/v1/state").wantProblem(t, http.StatusServiceUnavailable, "")
	s.get("/v1/models").want(t, http.StatusOK)
	s.get("/readyz").want(t, http.StatusOK)
	var states []json.RawMessage
	advance := func(n int) (got int) {
		t.Helper()
		var more []json.RawMessage
		s.post("/v1/steps", fmt.Sprintf(`{"steps": %d}`, n)).want(t, http.StatusOK).into(t, &more)
		states = append(states, more...)
		return len(more)
	}
	advance(30)
	s.post("/v1/batch-sizes", `{"batch_size_by_model": {"Llama-3.1-8B": 64, "Llama-3.1-70B": 256}}`).want(t, http.StatusOK)
	s.post("/v1/batch-sizes", `{"batch_size_by_model": {"Llama-3.1-8B": 65}}`).wantProblem(t, http.StatusUnprocessableEntity, "body.batch_size_by_model.Llama-3.1-8B")
	s.post("/v1/batch-sizes", `{"batch_size_by_model": {"Llama-3.1-8B": 8, "GPT-2": 8}}`).wantProblem(t, http.StatusNotFound, "body.batch_size_by_model.GPT-2")
	s.post("/v1/batch-sizes", `{"batch_size_by_model": {"Llama-3.1-8B": 8}, "ramp_up_rate_by_model": {"Llama-3.1-70B": 1}}`).wantProblem(t, http.StatusUnprocessableEntity, "body.ramp_up_rate_by_model.Llama-3.1-70B")
	advance(1)
	s.post("/v1/replica-shifts", `{"model_label": "Llama-3.1-405B", "replica_delta": -20}`).want(t, http.StatusOK)
	s.post("/v1/replica-shifts", `{"model_label": "Llama-3.1-405B", "replica_delta": 100000}`).wantProblem(t, http.StatusConflict, "body.replica_delta")
	s.post("/v1/replica-shifts", `{"model_label": "GPT-2", "replica_delta": 1}`).wantProblem(t, http.StatusNotFound, "body.model_label")
	s.get("/v1/models").want(t, http.StatusOK)
	if got := advance(10_000); got != 169 {
		t.Errorf("%d steps to the end", got)
	}
	if got := advance(1); got != 0 {
		t.Errorf("%d steps after the end", got)
	}
	s.post("/v1/batch-sizes", `{"batch_size_by_model": {"Llama-3.1-8B": 8}}`).want(t, http.StatusOK)
	s.get("/readyz").want(t, http.StatusServiceUnavailable)
	s.get("/v1/history?n=50").want(t, http.StatusOK)
	s.get("/v1/events").want(t, http.StatusOK)

	setup := scriptedReplay(t)
	i := 0
	_, err := agent.RunFast(t.Context(), setup.Replay, func(want *datacenter.State) error {
		if i >= len(states) || string(states[i]) != string(want.AppendJSON(nil)) {
			return fmt.Errorf("step %d is not the scripted replay's", i)
		}
		i++
		return nil
	})
	if err != nil || i != len(states) {
		t.Errorf("%d of %d states are the scripted replay's: %v", i, len(states), err)
	}
}

// scriptedReplay has in its script what [TestLockstepReplay] commands.
func scriptedReplay(t *testing.T) *agent.Setup {
	t.Helper()
	scripted := replayConfig(t)
	at := func(text string) *datacenter.Seconds {
		t.Helper()
		at, err := datacenter.ParseSeconds(text)
		if err != nil {
			t.Fatal(err)
		}
		return &at
	}
	delta := -20
	scripted.Replay.Commands = []config.Command{
		{T: at("3"), SetBatchSize: map[string]int{"Llama-3.1-8B": 64, "Llama-3.1-70B": 256}},
		{T: at("3.1"), ShiftReplicas: &config.ShiftReplicas{ModelLabel: "Llama-3.1-405B", ReplicaDelta: &delta}},
	}
	setup, err := agent.SetUpReplay(scripted, func(datacenter.Event) {})
	if err != nil {
		t.Fatal(err)
	}
	return setup
}
