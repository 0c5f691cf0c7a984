package api

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/api/problem"
)

// After a reset nothing is seen of the run before, but that events are numbered on.
func TestResetForgets(t *testing.T) {
	s := serveReplay(t, replayConfig(t))
	var before, answer, after infoBody
	s.get("/v1/info").want(t, http.StatusOK).into(t, &before)
	s.post("/v1/steps", `{"steps": 5}`).want(t, http.StatusOK)
	s.post("/v1/batch-sizes", `{"batch_size_by_model": {"Llama-3.1-8B": 8}, "lease_s": 60}`).want(t, http.StatusOK)
	s.post("/v1/replica-shifts", `{"model_label": "Llama-3.1-405B", "replica_delta": -5, "lease_s": 60}`).want(t, http.StatusOK)
	s.post("/v1/reset", `{"seed": 11, "duration_s": 7.25}`).want(t, http.StatusOK).into(t, &answer)
	s.get("/v1/info").want(t, http.StatusOK).into(t, &after)
	if diff := cmp.Diff(answer, after); diff != "" {
		t.Errorf("the run (-answer +info):\n%s", diff)
	}
	want := before
	durationS, totalSteps := 7.25, int64(73)
	want.RunID, want.Seed, want.DurationS, want.TotalSteps = after.RunID, 11, &durationS, &totalSteps
	if diff := cmp.Diff(want, after); diff != "" || after.RunID == before.RunID || after.RunID == "" {
		t.Errorf("the run (-before +after):\n%s", diff)
	}
	s.get("/v1/state").wantProblem(t, http.StatusServiceUnavailable, "")
	if got := strings.TrimSpace(string(s.get("/v1/history").want(t, http.StatusOK).body) + string(s.get("/v1/events").want(t, http.StatusOK).body)); got != "[]\n[]" {
		t.Errorf("states and events are left: %s", got)
	}
	var models []modelBody
	s.get("/v1/models").want(t, http.StatusOK).into(t, &models)
	if models[0].BatchSize != 128 || models[0].BatchSizeLeaseS != nil || models[2].ReplicaShift != 0 || models[2].ReplicaLeaseS != nil {
		t.Errorf("the models are %+v", models)
	}
	s.post("/v1/batch-sizes", `{"batch_size_by_model": {"Llama-3.1-8B": 16}}`).want(t, http.StatusOK)
	var events []struct {
		ID    int64   `json:"id"`
		TimeS float64 `json:"time_s"`
	}
	s.get("/v1/events").want(t, http.StatusOK).into(t, &events)
	if len(events) != 1 || events[0].ID != 2 || events[0].TimeS != 0 {
		t.Errorf("the events are %+v, want one, of id 2", events)
	}
	var states []struct{ Seq int64 }
	s.post("/v1/steps", `{"steps": 10000}`).want(t, http.StatusOK).into(t, &states)
	if len(states) != 73 || states[0].Seq != 0 {
		t.Errorf("%d states, the first %+v", len(states), states[0])
	}
	s.get("/v1/history?n=100").want(t, http.StatusOK).into(t, &states)
	if len(states) != 73 {
		t.Errorf("%d states are kept", len(states))
	}
}

// What a reset cannot be is told with its place and code, and nothing happens.
func TestResetRefusedWhole(t *testing.T) {
	s := serveReplay(t, replayConfig(t))
	s.post("/v1/steps", `{"steps": 5}`).want(t, http.StatusOK)
	for _, c := range []struct {
		body, location, code string
		status               int
	}{
		{`{"seed": 1.5}`, "body.seed", "invalid-request", 422},
		{`{"seed": 1, "sead": 1}`, "body.sead", "invalid-request", 422},
		{`{"duration_s": 0}`, "body.duration_s", "invalid-request", 422},
		{`{"duration_s": 1e300}`, "body.duration_s", "invalid-request", 422},
		{`{"duration_s": 1e7}`, "body.duration_s", "invalid-request", 422}, // the power templates would take gigabytes
		{`{"replicas": {"Llama-3.1-8B": {"initial": 1, "ramps": [{"target": 1, "t_start": 2, "t_end": 1}]}}}`, "body.replicas.Llama-3.1-8B.ramps[0]", "invalid-request", 422},
		{`{"replicas": {"Llama-3.1-8B": {"initial": 1, "ramps": [{"target": 1, "t_start": 2}]}}}`, "body.replicas.Llama-3.1-8B.ramps[0].t_end", "invalid-request", 422},
		{`{"replicas": {"GPT-2": {"initial": 1}}, "initial_batch_sizes": {"GPT-3": 8}}`, "body.initial_batch_sizes.GPT-3", "unknown-model", 404},
		{`{"replicas": {"Llama-3.1-8B": {"initial": 100000}}}`, "body", "no-capacity", 409},
		{`{"initial_batch_sizes": {"Llama-3.1-8B": 9}}`, "body.initial_batch_sizes.Llama-3.1-8B", "infeasible-batch-size", 422},
		{`{"initial_batch_sizes": {"Llama-3.1-8B": 9}, "duration_s": 1e9}`, "body.duration_s", "invalid-request", 422},
		{`{"training": [{"n_gpus": 1, "t_start": 0, "t_end": 1, "trace": "/etc/passwd"}]}`, "body.training[0].trace", "invalid-request", 422},
		{`{"training": {}}`, "body.training", "invalid-request", 422},
		{`[]`, "body", "malformed-body", 400},
	} {
		r := s.post("/v1/reset", c.body)
		r.wantProblem(t, c.status, c.location)
		var p problem.Problem
		r.into(t, &p)
		if p.Code != c.code || strings.Contains(p.Detail, "invalid input") {
			t.Errorf("%s has the code %q, want %q, and is told %s", c.body, p.Code, c.code, p.Detail)
		}
	}
	var info infoBody
	s.get("/v1/info").want(t, http.StatusOK).into(t, &info)
	if info.Steps != 5 {
		t.Errorf("after refused resets the run is at step %d", info.Steps)
	}
}

// A reset that is repeated with its key is carried out once.
func TestResetOnce(t *testing.T) {
	s := serveReplay(t, replayConfig(t))
	key := header{"Idempotency-Key", "one"}
	first := s.post("/v1/reset", `{"seed": 4}`, key).want(t, http.StatusOK)
	s.post("/v1/steps", `{"steps": 3}`).want(t, http.StatusOK)
	again := s.post("/v1/reset", `{"seed": 4}`, key).want(t, http.StatusOK)
	if string(first.body) != string(again.body) {
		t.Errorf("it is answered with %s, then with %s", first.body, again.body)
	}
	var info infoBody
	s.get("/v1/info").want(t, http.StatusOK).into(t, &info)
	if info.Steps != 3 {
		t.Errorf("the run is at step %d, want 3", info.Steps)
	}
}

// Those who follow the states go on with the new run's.
func TestStreamGoesOnAfterAReset(t *testing.T) {
	s := serveReplay(t, replayConfig(t))
	follow := s.dial(t, "v1/stream")
	s.post("/v1/steps", `{"steps": 3}`).want(t, http.StatusOK)
	s.post("/v1/reset", `{"seed": 4}`).want(t, http.StatusOK)
	want := statesIn(t, s.post("/v1/steps", `{"steps": 2}`).want(t, http.StatusOK).body)
	message := follow.receive(t)
	for string(message) != want[0] { // states of the run before, and notices
		message = follow.receive(t)
	}
	got := []string{string(message), string(follow.receive(t))}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the new run's states (-answer +stream):\n%s", diff)
	}
}
