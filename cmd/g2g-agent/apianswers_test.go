package main

import (
	"bytes"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestRetriesAreSafe: a command that is sent again with its key is carried out once.
func TestRetriesAreSafe(t *testing.T) {
	t.Parallel()
	a := startAPI(t, []string{"G2G_AGENT_REPLAY__COMMANDS=[]"}, "replay", "--config", shippedReplay(t), "--pace", "step")
	const shift = `{"model_label": "Llama-3.1-405B", "replica_delta": -5}`
	first, err := a.send(t, http.MethodPost, "/v1/replica-shifts", shift, "Idempotency-Key", "one")
	if err != nil || first.status != http.StatusOK || first.header.Get("Idempotency-Replayed") != "" {
		t.Fatalf("%v, %v", first, err)
	}
	a.advance(t, 10)
	again, err := a.send(t, http.MethodPost, "/v1/replica-shifts", shift, "Idempotency-Key", "one")
	if err != nil || again.status != http.StatusOK || again.header.Get("Idempotency-Replayed") != "true" || !bytes.Equal(first.body, again.body) {
		t.Errorf("again: %v, %v; first: %v", again, err, first)
	}
	if m := a.models(t)[2]; m.ReplicaShift != -5 || m.Replicas != 85 {
		t.Errorf("the shift was carried out twice: %+v", m)
	}
	a.post(t, http.StatusUnprocessableEntity, "/v1/replica-shifts", `{"model_label": "Llama-3.1-405B", "replica_delta": -6}`, "Idempotency-Key", "one")
	a.post(t, http.StatusOK, "/v1/replica-shifts", shift, "Idempotency-Key", "two")
	if m := a.models(t)[2]; m.ReplicaShift != -10 {
		t.Errorf("another key is another command: %+v", m)
	}
	a.post(t, http.StatusUnprocessableEntity, "/v1/replica-shifts", shift, "Idempotency-Key", strings.Repeat("x", 129))
}

// TestTooManyRequests: who asks too often is told when to ask again.
func TestTooManyRequests(t *testing.T) {
	t.Parallel()
	a := startAPI(t, []string{"G2G_AGENT_API__MAX_REQUESTS_PER_S=5"}, "replay", "--config", shippedReplay(t), "--pace", "1")
	var refused answer
	for range 50 {
		got, err := a.send(t, http.MethodGet, "/v1/info", "")
		if err != nil {
			t.Fatal(err)
		}
		if got.status == http.StatusTooManyRequests {
			refused = got
			break
		}
	}
	if seconds, err := strconv.Atoi(refused.header.Get("Retry-After")); err != nil || seconds < 1 {
		t.Errorf("50 requests at once, of 5 a second that are allowed: %v, Retry-After %q", refused, refused.header.Get("Retry-After"))
	}
	for range 20 { // supervisors are never refused
		if status, _ := a.probe(t, "/livez"); status != http.StatusOK {
			t.Fatalf("/livez: %d", status)
		}
	}
}

// TestNotFoundSaysWhatThereIs, as a first-time user needs it.
func TestNotFoundSaysWhatThereIs(t *testing.T) {
	t.Parallel()
	a := startAPI(t, nil, "replay", "--config", shippedReplay(t), "--pace", "step")
	if problem := a.get(t, http.StatusNotFound, "/v1/states"); !strings.Contains(string(problem), "/v1/state") {
		t.Errorf("%s", problem)
	}
	got, err := a.send(t, http.MethodGet, "/v1/batch-sizes", "")
	if err != nil || got.status != http.StatusMethodNotAllowed || !strings.Contains(got.header.Get("Allow"), http.MethodPost) {
		t.Errorf("%v, %v, Allow %q", got, err, got.header.Get("Allow"))
	}
	problem := decode[struct{ Errors []struct{ Location string } }](t, a.post(t, http.StatusUnprocessableEntity, "/v1/batch-sizes", `{"batch_size_by_model": {"Llama-3.1-8B": 7}}`))
	if len(problem.Errors) != 1 || problem.Errors[0].Location != "body.batch_size_by_model.Llama-3.1-8B" {
		t.Errorf("%+v", problem)
	}
	paths := []string{}
	for path := range decode[struct{ Paths map[string]any }](t, a.get(t, http.StatusOK, "/openapi.json")).Paths {
		paths = append(paths, path)
	}
	for _, path := range []string{"/v1/state", "/v1/history", "/v1/stream", "/v1/events", "/v1/models", "/v1/info", "/v1/batch-sizes", "/v1/replica-shifts", "/v1/steps", "/livez", "/healthz", "/readyz", "/metrics", "/openapi.yaml", "/"} {
		if !slices.Contains(paths, path) {
			t.Errorf("the API's description lacks %s", path)
		}
	}
}
