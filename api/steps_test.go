package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/g2g-agent/g2g-agent/agent"
	"github.com/g2g-agent/g2g-agent/api/problem"
	"github.com/g2g-agent/g2g-agent/datacenter"
)

// rawStates asks for states that are no whole ones, so that the description does not
// tell how they look.
func (s *testServer) rawStates(t *testing.T, body string, headers ...header) []json.RawMessage {
	t.Helper()
	var states []json.RawMessage
	s.raw(http.MethodPost, "/v1/steps", strings.NewReader(body), headers...).want(t, http.StatusOK).into(t, &states)
	return states
}

func TestStepsChooseMembers(t *testing.T) {
	s := serveReplay(t, replayConfig(t))
	if got := string(s.rawStates(t, `{"steps": 1, "fields": ["active_replicas_by_model", "seq"]}`)[0]); got != `{"seq":0,"time_s":0.0,"active_replicas_by_model":{"Llama-3.1-8B":720,"Llama-3.1-70B":180,"Llama-3.1-405B":90}}` {
		t.Errorf("with fields it is %s", got)
	}
	if got := string(s.rawStates(t, `{"steps": 1, "fields": []}`)[0]); got != `{"seq":1,"time_s":0.1}` {
		t.Errorf("with no fields it is %s", got)
	}
	var many []json.RawMessage
	if many = s.rawStates(t, `{"until_s": 10, "fields": ["wall_time"]}`); len(many) != 99 || string(many[98]) != `{"seq":100,"time_s":10.0,"wall_time":null}` {
		t.Errorf("until 10 s there are %d, the last is %s", len(many), many[len(many)-1])
	}
	if got := s.rawStates(t, `{"until_s": 10}`); len(got) != 0 {
		t.Errorf("until 10 s again there are %d", len(got))
	}
	s.post("/v1/steps", `{"steps": 1, "fields": ["power_w", "powers"]}`).wantProblem(t, http.StatusUnprocessableEntity, "body.fields[1]")
	s.post("/v1/steps", `{"steps": 1, "layout": "rows"}`).wantProblem(t, http.StatusUnprocessableEntity, "body.layout")
	s.post("/v1/steps", `{"steps": 0}`).wantProblem(t, http.StatusUnprocessableEntity, "body.steps")
	s.post("/v1/steps", `{"steps": 1, "until_s": 3}`).wantProblem(t, http.StatusUnprocessableEntity, "body.until_s")
	s.post("/v1/steps", `{"fields": []}`).wantProblem(t, http.StatusUnprocessableEntity, "body.steps")
	s.post("/v1/steps", `{"steps": 1, "lease_s": 3}`).wantProblem(t, http.StatusUnprocessableEntity, "body.lease_s")
}

// In columns there are the same numbers.
func TestStepsInColumns(t *testing.T) {
	asStates, asColumns := serveReplay(t, replayConfig(t)), serveReplay(t, replayConfig(t))
	const members = `"fields": ["power_w", "observed_itl_s_by_model", "phase_share_by_model"]`
	var columns struct {
		Seq    []int64              `json:"seq"`
		PowerW map[string][]float64 `json:"power_w"`
		ITL    map[string][]float64 `json:"observed_itl_s_by_model"`
		Shares map[string][][]any   `json:"phase_share_by_model"`
		Other  any                  `json:"batch_size_by_model"`
	}
	asColumns.raw(http.MethodPost, "/v1/steps", strings.NewReader(`{"steps": 150, "layout": "columns", `+members+`}`)).want(t, http.StatusOK).into(t, &columns)
	states := asStates.rawStates(t, `{"steps": 150, `+members+`}`)
	for i, text := range states {
		var state datacenterState
		(&reply{body: text}).into(t, &state)
		for _, phase := range []string{"a", "b", "c"} {
			if columns.PowerW[phase][i] != state.PowerW[phase] {
				t.Fatalf("power of phase %s at %d: %v, want %v", phase, i, columns.PowerW[phase][i], state.PowerW[phase])
			}
		}
		for label, itl := range state.ITL {
			if columns.ITL[label][i] != itl || columns.Seq[i] != int64(i) || len(columns.Shares[label][i]) != 3 {
				t.Fatalf("%s at %d: %v, want %v", label, i, columns.ITL[label][i], itl)
			}
		}
	}
	if len(columns.Seq) != 150 || columns.Other != nil {
		t.Errorf("%d steps, and beside what was asked for %v", len(columns.Seq), columns.Other)
	}
}

type datacenterState struct {
	PowerW map[string]float64 `json:"power_w"`
	ITL    map[string]float64 `json:"observed_itl_s_by_model"`
}

// Lines come while others are computed, and are the states.
func TestStepsAsLines(t *testing.T) {
	want := serveReplay(t, replayConfig(t)).rawStates(t, `{"steps": 200}`)
	s := serveReplay(t, replayConfig(t))
	r := s.raw(http.MethodPost, "/v1/steps", strings.NewReader(`{"steps": 200}`), header{"Accept", "application/x-ndjson"}).want(t, http.StatusOK)
	if kind := r.header.Get("Content-Type"); kind != "application/x-ndjson" {
		t.Errorf("they come as %q", kind)
	}
	i := 0
	for lines := bufio.NewScanner(bytes.NewReader(r.body)); lines.Scan(); i++ {
		if i >= len(want) || lines.Text() != string(want[i]) {
			t.Fatalf("line %d is %s", i, lines.Text())
		}
	}
	if i != 200 {
		t.Errorf("%d lines", i)
	}
	r = s.raw(http.MethodPost, "/v1/steps", strings.NewReader(`{"steps": 200}`), header{"Accept", "application/x-ndjson"}).want(t, http.StatusOK)
	if len(bytes.TrimSpace(r.body)) != 0 {
		t.Errorf("after the end there is %s", r.body)
	}
}

// What goes wrong after the first line is told in the last one; before it, as ever.
func TestLinesTellWhatGoesWrong(t *testing.T) {
	broken := errors.New("a broken disk")
	for good, status := range map[int]int{0: http.StatusInternalServerError, 3: http.StatusOK} {
		s := serve(t, func(c *Config) {
			c.Lockstep = stepsFunc(func(context.Context, int) ([]*datacenter.State, error) {
				return slices.Repeat([]*datacenter.State{replayState(1)}, good), broken
			})
		})
		r := s.raw(http.MethodPost, "/v1/steps", strings.NewReader(`{"steps": 9}`), header{"Accept", "application/x-ndjson"}).want(t, status)
		lines := strings.Split(strings.TrimSpace(string(r.body)), "\n")
		var p problem.Problem
		(&reply{body: []byte(lines[len(lines)-1])}).into(t, &p)
		if len(lines) != good+1 || p.Status != http.StatusInternalServerError || p.Code != problem.CodeAgentFault || !strings.Contains(p.Detail, fmt.Sprintf("after %d steps", good)) {
			t.Errorf("after %d steps there are %d lines, the last %+v", good, len(lines), p)
		}
	}
	s := serve(t, func(c *Config) {
		c.Lockstep = stepsFunc(func(context.Context, int) ([]*datacenter.State, error) { panic("a bug") })
	})
	s.raw(http.MethodPost, "/v1/steps", strings.NewReader(`{"steps": 9}`), header{"Accept", "application/x-ndjson"}).want(t, http.StatusInternalServerError)
}

// Commands in a request for steps are those of their own paths, in order, and with what
// is wrong with them in its place.
func TestStepsCarryCommands(t *testing.T) {
	apart, together := serveReplay(t, replayConfig(t)), serveReplay(t, replayConfig(t))
	apart.rawStates(t, `{"steps": 3}`)
	apart.post("/v1/batch-sizes", `{"batch_size_by_model": {"Llama-3.1-8B": 64}, "lease_s": 1}`).want(t, http.StatusOK)
	apart.post("/v1/replica-shifts", `{"model_label": "Llama-3.1-405B", "replica_delta": -20, "lease_s": 0.5}`).want(t, http.StatusOK)
	apart.post("/v1/replica-shifts", `{"model_label": "Llama-3.1-70B", "replica_delta": 30}`).want(t, http.StatusOK)
	want := apart.rawStates(t, `{"steps": 30}`)
	together.rawStates(t, `{"steps": 3}`)
	together.post("/v1/steps", `{"steps": 5, "batch_size_by_model": {"Llama-3.1-8B": 8}, "replica_shifts": [{"model_label": "Llama-3.1-405B", "replica_delta": -20}, {"model_label": "Llama-3.1-70B", "replica_delta": 5000}]}`).
		wantProblem(t, http.StatusConflict, "body.replica_shifts[1].replica_delta")
	together.post("/v1/steps", `{"steps": 5, "replica_shifts": [{"model_label": "GPT-2", "replica_delta": -20}]}`).
		wantProblem(t, http.StatusNotFound, "body.replica_shifts[0].model_label")
	together.post("/v1/steps", `{"steps": 5, "batch_size_by_model": {"Llama-3.1-8B": 9}}`).
		wantProblem(t, http.StatusUnprocessableEntity, "body.batch_size_by_model.Llama-3.1-8B")
	together.post("/v1/steps", `{"steps": 5, "replica_shifts": [{"model_label": "Llama-3.1-70B"}, 7]}`).
		wantProblem(t, http.StatusUnprocessableEntity, "body.replica_shifts[0].replica_delta")
	got := together.rawStates(t, `{"steps": 0, "batch_size_by_model": {"Llama-3.1-8B": 64}, "lease_s": 1}`)
	if len(got) != 0 {
		t.Errorf("no steps are %d", len(got))
	}
	got = together.rawStates(t, `{"steps": 30, "replica_shifts": [{"model_label": "Llama-3.1-405B", "replica_delta": -20, "lease_s": 0.5}, {"model_label": "Llama-3.1-70B", "replica_delta": 30}]}`)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("commands with steps (-apart +together):\n%.2000s", diff)
	}
	var events []json.RawMessage
	together.get("/v1/events").want(t, http.StatusOK).into(t, &events)
	if len(events) != 7 { // three commands, two leases that end, each with what it does
		t.Errorf("%d events", len(events))
	}
}

// A lease that is not given is the configured one, as in the commands' own paths.
func TestStepsHaveTheDefaultLease(t *testing.T) {
	c := replayConfig(t)
	c.Control.DefaultLeaseS = 7
	s := serveReplay(t, c)
	s.rawStates(t, `{"steps": 1, "batch_size_by_model": {"Llama-3.1-8B": 8}, "replica_shifts": [{"model_label": "Llama-3.1-405B", "replica_delta": -1}]}`)
	var models []modelBody
	s.get("/v1/models").want(t, http.StatusOK).into(t, &models)
	if l := models[0].BatchSizeLeaseS; l == nil || *l != 6.9 {
		t.Errorf("the batch size has the lease %v", l)
	}
	if l := models[2].ReplicaLeaseS; l == nil || *l != 6.9 {
		t.Errorf("the shift has the lease %v", l)
	}
}

// What is read without ado is read as all else is.
func TestPlainSteps(t *testing.T) {
	s := serve(t, nil)
	rapid.Check(t, func(r *rapid.T) {
		text := rapid.OneOf(
			rapid.StringMatching(`\{"steps": ?[0-9]{0,6}\}`), rapid.StringMatching(`\{ ?"steps" ?: {0,2}-?[0-9]{1,5}(\.0)? ?\}?`),
			rapid.SampledFrom([]string{`{"steps":1}`, `{"steps": 10000}`, `{"steps": 10001}`, `{"steps":}`, `{"steps":01}`, `{"steps": 1}}`, `{"steps": 1, "steps": 1}`}),
		).Draw(r, "body")
		n, ok := plainSteps([]byte(text))
		got, refused := s.decodeSteps([]byte(text))
		if ok && (refused != nil || got.Steps != n) {
			r.Errorf("%s is %d, and else %d (%v)", text, n, got.Steps, refused)
		}
		if slices.Contains([]string{`{"steps":1}`, `{"steps": 10000}`}, text) && !ok {
			r.Errorf("%s is not read without ado", text)
		}
	})
}

// A client that goes away in the middle of a batch leaves the replay at a step that is
// told, and usable.
func TestClientGoesAwayInABatch(t *testing.T) {
	c := replayConfig(t)
	c.Replay.AtEnd = "continue"
	s := serveReplay(t, c)
	ctx, cancel := context.WithCancel(t.Context())
	answered := make(chan error)
	go func() {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL()+"v1/steps", strings.NewReader(`{"steps": 10000}`))
		if err == nil {
			req.Header.Set("Content-Type", "application/json")
			var resp *http.Response
			if resp, err = http.DefaultClient.Do(req); err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		}
		answered <- err
	}()
	info := func() (info infoBody) {
		s.get("/v1/info").want(t, http.StatusOK).into(t, &info)
		return info
	}
	for info().Steps == 0 {
		runtime.Gosched()
	}
	cancel()
	if err := <-answered; err == nil {
		t.Log("the answer was faster")
	}
	var states []struct{ Seq int64 }
	s.post("/v1/steps", `{"steps": 1}`).want(t, http.StatusOK).into(t, &states)
	if after := info(); len(states) != 1 || after.Steps != states[0].Seq+1 || after.Steps > 10_001 || after.Phase != string(agent.PhaseWaiting) {
		t.Errorf("then a step gives %+v, and the run is at %d, %s", states, after.Steps, after.Phase)
	}
}

// A request that was read before is read as it was, whatever came between; one with
// commands is always read anew.
func TestSameStepsAgain(t *testing.T) {
	s := serve(t, nil)
	bodies := []string{
		`{"steps": 3, "fields": ["power_w"]}`, `{"steps": 3, "fields": ["power_w"], "layout": "columns"}`, `{"until_s": 2.5}`,
		`{"steps": 3, "batch_size_by_model": {"small": 8}}`, `{"steps": 3, "fields": ["power_w"]} `,
	}
	for _, body := range bodies {
		first, refused := s.decodeSteps([]byte(body))
		if refused != nil {
			t.Fatal(refused)
		}
		for range 2 {
			again, refused := s.decodeSteps([]byte(body))
			if refused != nil || !reflect.DeepEqual(first, again) {
				t.Errorf("%s was read as %+v, and then as %+v (%v)", body, first, again, refused)
			}
		}
		if known, ok := s.knownSteps([]byte(body)); ok != (len(first.Commands) == 0) {
			t.Errorf("%s is kept: %v, as %+v", body, ok, known)
		}
	}
}
