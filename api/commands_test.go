package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/agent"
	"github.com/g2g-agent/g2g-agent/api/problem"
	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/logtest"
	"github.com/g2g-agent/g2g-agent/rig"
	"github.com/g2g-agent/g2g-agent/vllm"
)

func TestSetBatchSizes(t *testing.T) {
	s := serve(t, nil)
	var got batchSizesBody
	s.post("/v1/batch-sizes", `{"batch_size_by_model": {"large": 64.0, "small": 8}, "ramp_up_rate_by_model": {"small": 2.5}, "lease_s": 30}`).want(t, http.StatusOK).into(t, &got)
	thirty := 30.0
	want := batchSizesBody{
		TimeS: 1.5, FromSeq: 15, BatchSizes: datacenter.ByModel[int]{{ModelLabel: "small", Value: 8}, {ModelLabel: "large", Value: 64}},
		AchievedBatchSize: datacenter.ByModel[*float64]{{ModelLabel: "small"}, {ModelLabel: "large"}},
		LeaseS:            datacenter.ByModel[*float64]{{ModelLabel: "small", Value: &thirty}, {ModelLabel: "large", Value: &thirty}},
		Results:           []modelResult{{ModelLabel: "small", Outcome: "accepted"}, {ModelLabel: "large", Outcome: "accepted"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the answer to the batch sizes (-want +got):\n%s", diff)
	}
	commanded := []datacenter.Command{datacenter.SetBatchSize{
		BatchSizeByModel: map[string]int{"small": 8, "large": 64}, RampUpRateByModel: map[string]float64{"small": 2.5}, LeaseS: 30,
	}}
	if diff := cmp.Diff(commanded, s.site.given()); diff != "" {
		t.Errorf("the command carried out (-want +got):\n%s", diff)
	}
}

func TestShiftReplicas(t *testing.T) {
	s := serve(t, nil)
	var got replicaShiftBody
	s.post("/v1/replica-shifts", `{"model_label": "small", "replica_delta": -3}`).want(t, http.StatusOK)
	s.post("/v1/replica-shifts", `{"model_label": "small", "replica_delta": 1, "lease_s": 0.5}`).want(t, http.StatusOK).into(t, &got)
	want := replicaShiftBody{TimeS: 1.5, FromSeq: 15, ModelLabel: "small", ReplicaDelta: 1, ReplicaShift: -2, Replicas: 8, FreeReplicas: 3}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the answer to the second shift (-want +got):\n%s", diff)
	}
	commanded := []datacenter.Command{
		datacenter.ShiftReplicas{ModelLabel: "small", ReplicaDelta: -3}, datacenter.ShiftReplicas{ModelLabel: "small", ReplicaDelta: 1, LeaseS: 0.5},
	}
	if diff := cmp.Diff(commanded, s.site.given()); diff != "" {
		t.Errorf("the commands carried out (-want +got):\n%s", diff)
	}
}

func TestDefaultLease(t *testing.T) {
	s := serve(t, func(c *Config) { c.Control.DefaultLeaseS = 45 })
	s.post("/v1/batch-sizes", `{"batch_size_by_model": {"small": 8}}`).want(t, http.StatusOK)
	s.post("/v1/batch-sizes", `{"batch_size_by_model": {"small": 8}, "lease_s": 7}`).want(t, http.StatusOK)
	s.post("/v1/replica-shifts", `{"model_label": "small", "replica_delta": 0}`).want(t, http.StatusOK)
	if err := s.Reload(config.Control{DefaultLeaseS: 9}, "", ""); err != nil {
		t.Fatal(err)
	}
	s.post("/v1/batch-sizes", `{"batch_size_by_model": {"small": 8}}`).want(t, http.StatusOK)
	var leases []float64
	for _, c := range s.site.given() {
		switch c := c.(type) {
		case datacenter.SetBatchSize:
			leases = append(leases, c.LeaseS)
		case datacenter.ShiftReplicas:
			leases = append(leases, c.LeaseS)
		}
	}
	if diff := cmp.Diff([]float64{45, 7, 45, 9}, leases); diff != "" {
		t.Errorf("the leases commanded (-want +got):\n%s", diff)
	}
}

func TestRefusedCommands(t *testing.T) {
	s := serve(t, nil)
	var refusal error
	s.site.refuse = func(context.Context, datacenter.Command) error { return refusal }
	refuse := func(field string, reason error) error {
		return &datacenter.CommandError{Field: field, Reason: reason, Detail: "because"}
	}
	const batch, shift = `{"batch_size_by_model": {"small": 8}}`, `{"model_label": "small", "replica_delta": 3}`
	for _, c := range []struct {
		refusal  error
		status   int
		location string
		code     string
		partCode string // of the part at fault
	}{
		{refuse("batch_size_by_model.small", datacenter.ErrUnknownModel), http.StatusNotFound, "body.batch_size_by_model.small", "unknown-model", "unknown-model"},
		{refuse("batch_size_by_model.small", datacenter.ErrInfeasibleBatchSize), http.StatusUnprocessableEntity, "body.batch_size_by_model.small", "infeasible-batch-size", "infeasible-batch-size"},
		{refuse("batch_size_by_model.small", datacenter.ErrOutOfRange), http.StatusUnprocessableEntity, "body.batch_size_by_model.small", "invalid-request", ""},
		{refuse("replica_delta", datacenter.ErrNoCapacity), http.StatusConflict, "body.replica_delta", "no-capacity", ""},
		{refuse("command", datacenter.ErrNotStarted), http.StatusConflict, "body", "not-started", ""},
		{refuse("command", datacenter.ErrRunOver), http.StatusConflict, "body", "run-over", ""},
		{refuse("command", datacenter.ErrNotPossible), http.StatusConflict, "body", "not-possible", ""},
		{fmt.Errorf("wrapped: %w", refuse("lease_s", datacenter.ErrOutOfRange)), http.StatusUnprocessableEntity, "body.lease_s", "invalid-request", ""},
		{context.Canceled, http.StatusServiceUnavailable, "", "ending", ""},
		{errors.New("the unforeseen"), http.StatusInternalServerError, "", "agent-fault", ""},
	} {
		refusal = c.refusal
		for path, body := range map[string]string{"/v1/batch-sizes": batch, "/v1/replica-shifts": shift} {
			r := s.post(path, body)
			r.wantProblem(t, c.status, c.location)
			var p problem.Problem
			if r.into(t, &p); p.Code != c.code || c.location != "" && p.Errors[0].Code != c.partCode {
				t.Errorf("%v: the codes are wrong, want %q and %q: %s", c.refusal, c.code, c.partCode, r.body)
			}
		}
	}
	if n := len(s.site.given()); n > 0 {
		t.Errorf("%d commands were carried out", n)
	}
}

func TestServersThatDoNotObey(t *testing.T) {
	s := serve(t, nil)
	var byModel map[string]error
	s.site.refuse = func(context.Context, datacenter.Command) error { return &agent.ServersError{ByModel: byModel} }
	for outcome, err := range map[string]error{
		"refused":     fmt.Errorf("wrapped: %w", &vllm.CommandError{Outcome: vllm.OutcomeRefused, Detail: "no"}),
		"unreachable": &vllm.CommandError{Outcome: vllm.OutcomeUnreachable, Detail: "no"},
		"unknown":     &vllm.CommandError{Outcome: vllm.OutcomeUnknown, Detail: "no answer"},
	} {
		byModel = map[string]error{"large": err}
		r := s.post("/v1/batch-sizes", `{"batch_size_by_model": {"large": 64, "small": 8}}`)
		r.wantProblem(t, http.StatusBadGateway, "")
		var got struct {
			problem.Problem
			batchSizesBody
		}
		r.into(t, &got)
		want := []modelResult{{ModelLabel: "small", Outcome: "accepted"}, {ModelLabel: "large", Outcome: outcome, Detail: err.Error()}}
		if diff := cmp.Diff(want, got.Results); diff != "" {
			t.Errorf("%s: what became of the models (-want +got):\n%s", outcome, diff)
		}
		if diff := cmp.Diff(datacenter.ByModel[int]{{ModelLabel: "small", Value: 8}, {ModelLabel: "large", Value: 128}}, got.BatchSizes); diff != "" {
			t.Errorf("%s: the batch sizes (-want +got):\n%s", outcome, diff)
		}
		if got.Detail == "" || got.Status != http.StatusBadGateway {
			t.Errorf("%s", r.body)
		}
	}
}

// TestSeveralServersThatDoNotObey: each is reported.
func TestSeveralServersThatDoNotObey(t *testing.T) {
	s := serve(t, nil)
	s.site.status.Models[1].Servers = []rig.ServerStatus{{URL: "http://a"}, {URL: "http://b"}}
	no := &vllm.CommandError{Outcome: vllm.OutcomeUnknown, Detail: "no answer"}
	several := &rig.ServersError{Servers: 2, Failed: []rig.ServerError{{URL: "http://b", Err: no}}}
	notSent := errors.New("not sent")
	for name, c := range map[string]struct {
		err  error
		want modelResult
	}{
		"one":  {several, modelResult{"large", "unknown", several.Error(), []serverResult{{"http://a", "accepted", ""}, {"http://b", "unknown", no.Error()}}}},
		"all":  {notSent, modelResult{"large", "unreachable", "not sent", []serverResult{{"http://a", "unreachable", "not sent"}, {"http://b", "unreachable", "not sent"}}}},
		"none": {nil, modelResult{"large", "accepted", "", []serverResult{{"http://a", "accepted", ""}, {"http://b", "accepted", ""}}}},
	} {
		s.site.refuse = func(context.Context, datacenter.Command) error {
			if c.err == nil {
				return nil
			}
			return &agent.ServersError{ByModel: map[string]error{"large": c.err}}
		}
		var got batchSizesBody
		s.post("/v1/batch-sizes", `{"batch_size_by_model": {"large": 64}}`).into(t, &got)
		if diff := cmp.Diff([]modelResult{c.want}, got.Results); diff != "" {
			t.Errorf("%s: what became of the servers (-want +got):\n%s", name, diff)
		}
	}
}

func TestSteps(t *testing.T) {
	next := int64(0)
	var failure error
	s := serve(t, func(c *Config) {
		c.Lockstep = stepsFunc(func(_ context.Context, steps int) ([]*datacenter.State, error) {
			var states []*datacenter.State
			for ; steps > 0 && next < 500; steps-- {
				states = append(states, replayState(next))
				next++
			}
			return states, failure
		})
	})
	for _, c := range []struct{ steps, want int }{{1, 1}, {400, 400}, {10_000, 99}, {1, 0}} {
		var got []datacenter.State
		s.post("/v1/steps", fmt.Sprintf(`{"steps": %d}`, c.steps)).want(t, http.StatusOK).into(t, &got)
		if len(got) != c.want {
			t.Errorf("%d steps gave %d states, want %d", c.steps, len(got), c.want)
		}
	}
	failure = errors.New("disk full")
	s.post("/v1/steps", `{"steps": 1}`).wantProblem(t, http.StatusInternalServerError, "")
	failure = context.Canceled
	s.post("/v1/steps", `{"steps": 1}`).wantProblem(t, http.StatusServiceUnavailable, "")
	serve(t, nil).post("/v1/steps", `{"steps": 1}`).wantProblem(t, http.StatusConflict, "")
}

// What a body is sent as, and how large it is.
func TestBodiesThatAreNotTaken(t *testing.T) {
	s := serve(t, nil)
	const good = `{"batch_size_by_model": {"small": 8}}`
	for _, target := range []string{"/v1/batch-sizes", "/v1/replica-shifts", "/v1/steps"} {
		for _, contentType := range []string{"-", "", "text/plain", "application/x-www-form-urlencoded", "application/xml", "application/json; charset=latin1", "application/jsonp", "application/problem+json", "a/b;;"} {
			s.post(target, good, header{"Content-Type", contentType}).wantProblem(t, http.StatusUnsupportedMediaType, "header.Content-Type")
		}
		s.post(target, good, header{"Content-Encoding", "gzip"}).wantProblem(t, http.StatusUnsupportedMediaType, "header.Content-Encoding")
		s.post(target, `{"batch_size_by_model": {"`+strings.Repeat("x", 2<<20)+`": 1}}`).wantProblem(t, http.StatusRequestEntityTooLarge, "")
	}
	if n := len(s.site.given()); n > 0 {
		t.Errorf("%d commands were carried out", n)
	}
	for _, contentType := range []string{"application/json", "application/json; charset=utf-8", "Application/JSON;charset=UTF-8"} {
		s.post("/v1/batch-sizes", good, header{"Content-Type", contentType}).want(t, http.StatusOK)
	}
}

func TestTokens(t *testing.T) {
	control, read := strings.Repeat("c", 40), strings.Repeat("r", 40)
	s := serve(t, func(c *Config) { c.Token, c.ReadToken = control, read })
	s.Publish(replayState(0))
	bearer := func(token string) header { return header{"Authorization", "Bearer " + token} }
	const good = `{"batch_size_by_model": {"small": 8}}`
	s.get("/v1/state").want(t, http.StatusUnauthorized)
	s.get("/v1/stream").want(t, http.StatusUnauthorized)
	s.get("/metrics").want(t, http.StatusUnauthorized)
	s.get("/v1/state", bearer(read)).want(t, http.StatusOK)
	s.post("/v1/batch-sizes", good).want(t, http.StatusUnauthorized)
	s.post("/v1/batch-sizes", good, bearer(read)).want(t, http.StatusForbidden)
	s.post("/v1/batch-sizes", good, bearer(control)).want(t, http.StatusOK)
	s.get("/livez").want(t, http.StatusOK)
	if err := s.Reload(config.Control{}, read, ""); err != nil {
		t.Fatal(err)
	}
	s.get("/v1/state").want(t, http.StatusOK)
	s.post("/v1/batch-sizes", good, bearer(control)).want(t, http.StatusUnauthorized)
	s.post("/v1/batch-sizes", good, bearer(read)).want(t, http.StatusOK)
}

func TestCommandsAreAudited(t *testing.T) {
	log := &logtest.Buffer{}
	s := serve(t, func(c *Config) { c.Log = zerolog.New(log) })
	s.post("/v1/batch-sizes", `{"batch_size_by_model": {"small": 8}}`, header{"Idempotency-Key", "k-1"}).want(t, http.StatusOK)
	s.post("/v1/batch-sizes", `{"batch_size_by_model": {"small": 8}}`, header{"Idempotency-Key", "k-1"}).want(t, http.StatusOK)
	s.post("/v1/replica-shifts", `{"model_label": "none", "replica_delta": 1}`).want(t, http.StatusNotFound)
	s.post("/v1/steps", `not json`).want(t, http.StatusBadRequest)
	s.post("/v1/batch-sizes?dry_run", `{"batch_size_by_model": {"small": 8}}`).wantProblem(t, http.StatusUnprocessableEntity, "query.dry_run")
	type line struct {
		Audit          bool
		Command        string
		Status         int
		IdempotencyKey string `json:"idempotency_key"`
		Replayed       bool
	}
	var got []line
	for d := json.NewDecoder(strings.NewReader(log.String())); ; {
		var l line
		if err := d.Decode(&l); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if l.Audit {
			got = append(got, l)
		}
	}
	want := []line{{true, "batch-sizes", 200, "k-1", false}, {true, "batch-sizes", 200, "k-1", true}, {true, "replica-shifts", 404, "", false}, {true, "steps", 400, "", false}, {true, "batch-sizes", 422, "", false}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the audit lines (-want +got):\n%s", diff)
	}
}

func TestPanicsDoNotEndTheAgent(t *testing.T) {
	log := &logtest.Buffer{}
	s := serve(t, func(c *Config) { c.Log = zerolog.New(log) })
	s.site.refuse = func(context.Context, datacenter.Command) error { panic("a bug") }
	for range 3 {
		s.post("/v1/batch-sizes", `{"batch_size_by_model": {"small": 8}}`).wantProblem(t, http.StatusInternalServerError, "")
	}
	if !strings.Contains(log.String(), "a bug") || !strings.Contains(log.String(), `"audit":true`) {
		t.Errorf("the log does not tell: %s", log)
	}
	s.get("/livez").want(t, http.StatusOK)
}
