package api

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"

	"github.com/g2g-agent/g2g-agent/agent"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/rig"
)

func TestState(t *testing.T) {
	s := serve(t, nil)
	s.get("/v1/state").wantProblem(t, http.StatusServiceUnavailable, "")
	for _, state := range []*datacenter.State{replayState(0), liveState(1)} {
		s.Publish(state)
		var got datacenter.State
		r := s.get("/v1/state").want(t, http.StatusOK)
		r.into(t, &got)
		if got.Seq != state.Seq || got.Source != state.Source || len(got.Models) != len(state.Models) {
			t.Errorf("got %s", r.body)
		}
		if want := string(state.AppendJSON(nil)) + "\n"; string(r.body) != want {
			t.Errorf("got %s, want %s", r.body, want)
		}
	}
}

func TestStateWithoutModelsIsAsDescribed(t *testing.T) {
	s := serve(t, nil)
	bare := liveState(1)
	bare.Models = nil
	s.Publish(bare)
	s.get("/v1/state").want(t, http.StatusOK)
}

// The description, as the tests here read it, notices when a state gets a member that
// is not in it.
func TestDescriptionOfStatesIsClosed(t *testing.T) {
	s := serve(t, nil)
	required := anys(s.doc.at("components", "schemas", "State", "required"))
	for _, state := range []*datacenter.State{replayState(0), liveState(0)} {
		var members map[string]any
		if err := json.Unmarshal(state.AppendJSON(nil), &members); err != nil {
			t.Fatal(err)
		}
		if err := s.doc.validate([]byte(jsonOf(members)), "components", "schemas", "State"); err != nil {
			t.Fatal(err)
		}
		for name := range members {
			without := map[string]any{"added": 1}
			for other, v := range members {
				if other != name {
					without[other] = v
				}
			}
			if s.doc.validate([]byte(jsonOf(without)), "components", "schemas", "State") == nil {
				t.Errorf("a state without %s is as described", name)
			}
			delete(without, "added")
			mayLack := !slices.Contains(required, any(name)) // TestEveryStateIsDescribed says when
			if got := s.doc.validate([]byte(jsonOf(without)), "components", "schemas", "State") == nil; got != mayLack {
				t.Errorf("a state without %s is as described: %v, want %v", name, got, mayLack)
			}
		}
		members["added"] = 1
		if s.doc.validate([]byte(jsonOf(members)), "components", "schemas", "State") == nil {
			t.Error("a state with a member more is as described")
		}
	}
}

func TestHistory(t *testing.T) {
	s := serve(t, func(c *Config) { c.Settings.HistoryStates = 150 })
	if got := string(s.get("/v1/history").want(t, http.StatusOK).body); got != "[]\n" {
		t.Errorf("before the first state: %q", got)
	}
	for seq := range int64(200) {
		s.Publish(replayState(seq))
	}
	for query, want := range map[string][2]int64{"": {100, 199}, "?n=1": {199, 199}, "?n=3": {197, 199}, "?n=150": {50, 199}, "?n=007": {193, 199}} {
		var got []datacenter.State
		s.get("/v1/history"+query).want(t, http.StatusOK).into(t, &got)
		if len(got) != int(want[1]-want[0]+1) || got[0].Seq != want[0] || got[len(got)-1].Seq != want[1] {
			t.Errorf("%s: %d states", query, len(got))
		}
	}
	s.get("/v1/history?n=151").wantProblem(t, http.StatusUnprocessableEntity, "query.n")
}

// allEvents is one event of every kind there is.
func allEvents() []datacenter.Event {
	return []datacenter.Event{
		datacenter.NewEvent(0, datacenter.BatchSizesUpdated{BatchSizeByModel: datacenter.ByModel[int]{{ModelLabel: "small", Value: 8}}}),
		datacenter.NewEvent(1, datacenter.ReplicasShifted{ModelLabel: "small", ReplicaDelta: -2, EffectiveReplicas: 8}),
		datacenter.NewEvent(2, datacenter.BatchSizeLeaseExpired{ModelLabel: "small", FailsafeBatchSize: 8}),
		datacenter.NewEvent(3, datacenter.ReplicaLeaseExpired{ModelLabel: "small", ReplicaDelta: 3}),
		datacenter.NewEvent(4, datacenter.DataStale{ModelLabel: "small", AgeS: 2.5, Cause: "no connection"}),
		datacenter.NewEvent(5, datacenter.DataFresh{ModelLabel: "small"}),
		datacenter.NewEvent(6, datacenter.RecordingStopped{Cause: "no space left on device"}),
		datacenter.NewEvent(7, datacenter.RecordingGap{FirstSecond: 4, LastSecond: 6, Cause: "no space left on device"}),
	}
}

func TestEvents(t *testing.T) {
	s := serve(t, nil)
	if got := string(s.get("/v1/events").want(t, http.StatusOK).body); got != "[]\n" {
		t.Errorf("before the first event: %q", got)
	}
	for _, e := range allEvents() {
		s.PublishEvent(e)
	}
	for query, want := range map[string]string{
		"": "[0 1 2 3 4 5 6 7]", "?n=2": "[6 7]", "?after=5": "[6 7]", "?after=7": "[]", "?after=77": "[0 1 2 3 4 5 6 7]", "?n=1&after=2": "[7]",
		"?follow=false": "[0 1 2 3 4 5 6 7]",
	} {
		var got []struct {
			ID    int64
			TimeS float64 `json:"time_s"`
			Topic string
		}
		s.get("/v1/events"+query).want(t, http.StatusOK).into(t, &got)
		ids := []int64{}
		for _, e := range got {
			ids = append(ids, e.ID)
			if want := allEvents()[e.ID]; e.TimeS != want.TimeS || e.Topic != want.Topic {
				t.Errorf("%s: got %+v", query, e)
			}
		}
		if fmt.Sprint(ids) != want {
			t.Errorf("%s: got %v, want %s", query, ids, want)
		}
	}
}

func TestWebSockets(t *testing.T) {
	s := serve(t, nil)
	for _, e := range allEvents() {
		s.PublishEvent(e)
	}
	s.Publish(liveState(7))
	for _, target := range []string{"/v1/stream", "/v1/events?follow", "/v1/events?follow=true&after=1"} {
		conn, resp, err := websocket.DefaultDialer.DialContext(t.Context(), "ws"+strings.TrimSuffix(strings.TrimPrefix(s.URL(), "http"), "/")+target, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		resp.Body.Close()
		path, _, _ := strings.Cut(target, "?")
		if s.doc.at("paths", path, "get", "responses", fmt.Sprint(resp.StatusCode)) == nil {
			t.Errorf("%s: status %d is not declared", target, resp.StatusCode)
		}
		_, message, err := conn.ReadMessage()
		if err != nil {
			t.Fatal(err)
		}
		s.doc.checkMessage(t, path, message)
	}
	for _, target := range []string{"/v1/stream", "/v1/events?follow", "/v1/events?follow=1"} {
		r := s.get(target)
		r.wantProblem(t, http.StatusUpgradeRequired, "")
		if r.header.Get("Upgrade") != "websocket" || r.header.Get("Sec-WebSocket-Version") != "13" {
			t.Errorf("%s: headers %v do not say what to upgrade to", target, r.header)
		}
		s.call(http.MethodHead, target, "").want(t, http.StatusUpgradeRequired)
		// A handshake that lacks its key.
		s.get(target, header{"Connection", "Upgrade"}, header{"Upgrade", "websocket"}, header{"Sec-Websocket-Version", "13"}).wantProblem(t, http.StatusBadRequest, "")
	}
}

func TestModels(t *testing.T) {
	s := serve(t, nil)
	s.site.status.Models[1].Actuator, s.site.status.Models[1].AchievedBatchSize, s.site.status.Models[1].BatchSizeLeaseS = "runtime_config", 61, 12.5
	s.site.status.Models[1].Spec.FailsafeBatchSize, s.site.status.Models[0].Stale = 0, true
	s.site.status.Models[1].Servers = []rig.ServerStatus{
		{URL: "http://a", Actuator: "runtime_config", Answers: true, AchievedBatchSize: 61}, {URL: "http://b", AchievedBatchSize: math.NaN(), NoTokenS: 12.5},
	}
	schedule, err := datacenter.NewReplicaSchedule(90, datacenter.Ramp{Target: 60, TStartS: 10, TEndS: 20.5}, datacenter.Ramp{Target: 70, TStartS: 5, TEndS: 5})
	if err != nil {
		t.Fatal(err)
	}
	s.site.status.Models[1].Spec.Replicas = schedule
	s.site.status.Models[1].Spec.Measurement = datacenter.Measurement{
		SpecHash: "2234120f055ca377", GPUModel: "H100", Task: "lm-arena-chat", Precision: "bfloat16", TensorParallel: 4, BatchSizes: []int{8, 16, 64},
	}
	var got []modelBody
	s.get("/v1/models").want(t, http.StatusOK).into(t, &got)
	actuator, achieved, lease := "runtime_config", 61.0, 12.5
	common := modelBody{
		ITLDeadlineS: 0.08, FeasibleBatchSizes: []int{8, 64, 128}, InitialBatchSize: 128, BatchSize: 128, Replicas: 10, FreeReplicas: 3, FreeGPUs: 14, AvailableGPUCapacity: 21,
		Servers: []serverBody{}, specBody: specBody{BatchSizes: []int{8, 64, 128}},
	}
	small, large := common, common
	small.ModelLabel, small.ModelID, small.GPUsPerReplica, small.FailsafeBatchSize, small.Stale = "small", "org/small", 1, 8, true
	large.ModelLabel, large.ModelID, large.GPUsPerReplica, large.FailsafeBatchSize = "large", "org/large", 4, 128
	large.AchievedBatchSize, large.BatchSizeActuator, large.BatchSizeLeaseS = &achieved, &actuator, &lease
	large.Servers = []serverBody{
		{VLLMBaseURL: "http://a", Answers: true, AchievedBatchSize: &achieved, BatchSizeActuator: &actuator}, {VLLMBaseURL: "http://b", NoTokenS: 12.5},
	}
	hash, gpu, task, precision, tensorParallel := "2234120f055ca377", "H100", "lm-arena-chat", "bfloat16", 4
	large.specBody = specBody{
		&gpu, &task, &precision, &tensorParallel, []int{8, 16, 64}, &hash, &scheduleBody{90, []rampBody{{70, 5, 5}, {60, 10, 20.5}}},
	}
	if diff := cmp.Diff([]modelBody{small, large}, got, cmp.AllowUnexported(modelBody{})); diff != "" {
		t.Errorf("the models (-want +got):\n%s", diff)
	}
}

func TestInfo(t *testing.T) {
	durationS, totalSteps, atEnd := 60.0, int64(600), "stop"
	want := infoBody{
		Name: "dc", Version: "test", Source: "replay", Phase: "stepping", Pace: "real_time", RunID: "6b0c", Seed: 3, ConfigDigest: "sha256:12",
		DT: "1/10", DTS: 0.1, TimeS: 1.5, Steps: 15, DurationS: &durationS, TotalSteps: &totalSteps, AtEnd: &atEnd, TotalGPUCapacity: 64, FreeGPUs: 14, AvailableGPUCapacity: 21,
		BaseKWPerPhase: 500, PowerFactor: 0.95, GPUsPerServer: 8, HistoryStates: 3000,
	}
	var got infoBody
	before := time.Now()
	serve(t, func(c *Config) { c.ConfigDigest = want.ConfigDigest }).get("/v1/info").want(t, http.StatusOK).into(t, &got)
	if at, err := time.Parse(time.RFC3339Nano, got.StartedAt); err != nil || at.Before(before.Truncate(0)) || at.After(time.Now()) {
		t.Errorf("it was started at %q (%v), want a time from %v on", got.StartedAt, err, before)
	}
	want.StartedAt = got.StartedAt
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what a replay says of itself (-want +got):\n%s", diff)
	}

	s := serve(t, func(c *Config) {
		c.Token = strings.Repeat("x", 40)
		c.LiveStats = func() rig.Stats { return rig.Stats{} }
		c.Lockstep = stepsFunc(func(context.Context, int) ([]*datacenter.State, error) { return nil, nil })
	})
	s.site.status.DurationS, s.site.status.TotalSteps, s.site.status.AtEnd = math.NaN(), 0, ""
	got = infoBody{}
	s.get("/v1/info").want(t, http.StatusOK).into(t, &got)
	want.StartedAt, want.ConfigDigest, want.DurationS, want.TotalSteps, want.AtEnd = got.StartedAt, "", nil, nil, nil
	want.Source, want.Pace, want.NeedsToken = "live", "lockstep", true
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what a live run in lockstep says of itself (-want +got):\n%s", diff)
	}
}

func TestHealth(t *testing.T) {
	s := serve(t, nil)
	check := func(target string, status int, reasons int) {
		t.Helper()
		var got healthBody
		s.get(target).want(t, status).into(t, &got)
		if want := map[int]string{200: "ok", 503: "failing"}[status]; got.Status != want || len(got.Reasons) != reasons {
			t.Errorf("%s: %+v", target, got)
		}
	}
	set := func(change func(*agent.Status)) {
		s.site.mu.Lock()
		defer s.site.mu.Unlock()
		change(&s.site.status)
	}
	for _, target := range []string{"/livez", "/healthz", "/readyz"} {
		check(target, http.StatusOK, 0)
	}
	set(func(st *agent.Status) { st.Models[0].Stale = true })
	check("/livez", http.StatusOK, 0)
	check("/readyz", http.StatusServiceUnavailable, 1)
	set(func(st *agent.Status) { st.LastStepAt = time.Now().Add(-time.Minute) })
	check("/livez", http.StatusServiceUnavailable, 1)
	check("/healthz", http.StatusServiceUnavailable, 1)
	check("/readyz", http.StatusServiceUnavailable, 2)
	set(func(st *agent.Status) { st.Phase = agent.PhaseStarting })
	check("/livez", http.StatusOK, 0)
	check("/readyz", http.StatusServiceUnavailable, 1)
}

func TestPageAndMetrics(t *testing.T) {
	s := serve(t, nil)
	if r := s.get("/").want(t, http.StatusOK); !strings.Contains(string(r.body), "<html") {
		t.Errorf("the page is %.100s", r.body)
	}
	s.raw(http.MethodGet, "/assets/app.js", nil).want(t, http.StatusOK)
	if r := s.get("/metrics").want(t, http.StatusOK); !strings.Contains(string(r.body), "g2g_") {
		t.Errorf("the metrics are %.100s", r.body)
	}
}

func TestPathsAndMethods(t *testing.T) {
	s := serve(t, nil)
	s.Publish(replayState(0))
	for _, target := range []string{"/v1/nothing", "/v1", "/v2/state", "/v1/state/", "/openapi", "/docs", "/schemas/State.json", "/openapi-3.0.json"} {
		r := s.get(target)
		r.wantProblem(t, http.StatusNotFound, "")
		if !strings.Contains(string(r.body), "/v1/batch-sizes") {
			t.Errorf("%s: it does not say which paths there are: %s", target, r.body)
		}
	}
	for target, allow := range map[string]string{
		"/v1/state": "GET, HEAD, OPTIONS", "/v1/batch-sizes": "POST, OPTIONS", "/": "GET, HEAD, OPTIONS", "/metrics": "GET, HEAD, OPTIONS", "/openapi.yaml": "GET, HEAD, OPTIONS",
	} {
		for _, method := range []string{http.MethodPut, http.MethodDelete, http.MethodPatch, "BREW"} {
			r := s.call(method, target, "")
			r.wantProblem(t, http.StatusMethodNotAllowed, "")
			if got := r.header.Get("Allow"); got != allow {
				t.Errorf("%s %s: Allow %q", method, target, got)
			}
		}
		if r := s.call(http.MethodOptions, target, "").want(t, http.StatusNoContent); r.header.Get("Allow") != allow {
			t.Errorf("OPTIONS %s: Allow %q", target, r.header.Get("Allow"))
		}
	}
	for _, target := range []string{"/v1/state", "/v1/history", "/v1/models", "/v1/info", "/v1/events", "/livez", "/metrics", "/openapi.yaml", "/"} {
		if r := s.call(http.MethodHead, target, "").want(t, http.StatusOK); len(r.body) > 0 {
			t.Errorf("HEAD %s has a body", target)
		}
	}
	s.get("/v1/batch-sizes").wantProblem(t, http.StatusMethodNotAllowed, "")
	s.get("/v1/state", header{"Accept", "text/html"}).want(t, http.StatusOK)
	s.get("/v1/state", header{"Accept", "application/problem+json"}).want(t, http.StatusOK)
	s.get("/v1/history?n=x", header{"Accept", "application/json"}).wantProblem(t, http.StatusUnprocessableEntity, "query.n")
}

func TestNaNIsNull(t *testing.T) {
	if known(math.NaN()) != nil || *known(2) != 2 {
		t.Error("NaN must be null, and numbers numbers")
	}
}

// What there is not, below the page's folder too, is told by a problem.
func TestNotFound(t *testing.T) {
	s := serve(t, nil)
	for _, target := range []string{"/nope", "/v1/", "/v1/state/", "/assets/", "/assets/nope.js"} {
		s.raw(http.MethodGet, target, nil).wantProblem(t, http.StatusNotFound, "")
	}
}
