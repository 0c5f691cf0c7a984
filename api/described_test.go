package api

import (
	"context"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/gorilla/websocket"

	"github.com/g2g-agent/g2g-agent/agent"
	"github.com/g2g-agent/g2g-agent/api/problem"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/rig"
	"github.com/g2g-agent/g2g-agent/vllm"
)

// operations calls f for each operation described.
func (c *contract) operations(f func(method, path string, op map[string]any)) {
	for path, item := range c.at("paths").(map[string]any) {
		for verb, op := range item.(map[string]any) {
			f(strings.ToUpper(verb), path, op.(map[string]any))
		}
	}
}

// goodBody is a body that an operation takes; empty for one that takes none.
func (c *contract) goodBody(op map[string]any) string {
	if op["requestBody"] == nil {
		return ""
	}
	content := op["requestBody"].(map[string]any)["content"].(map[string]any)
	return c.goodJSON(c.schemaOf(content["application/json"].(map[string]any)["schema"]))
}

// asker gets answers of every status out of the handlers, without a socket.
type asker struct {
	t            *testing.T
	method, path string
	body         string
}

// serve is a server with a state and a replica schedule, that can be advanced.
func (a asker) serve(change func(*Config)) *testServer {
	s := serve(a.t, func(c *Config) {
		c.Lockstep = stepsFunc(func(context.Context, int) ([]*datacenter.State, error) {
			return []*datacenter.State{replayState(1)}, nil
		})
		c.RecordingDir = goldenRecording
		if change != nil {
			change(c)
		}
	})
	schedule, err := datacenter.NewReplicaSchedule(90, datacenter.Ramp{Target: 60, TStartS: 10, TEndS: 20})
	if err != nil {
		a.t.Fatal(err)
	}
	s.site.status.Models[0].Spec.Replicas = schedule
	s.Publish(replayState(0))
	return s
}

// ask asks s for the operation; change may alter the request.
func (a asker) ask(s *testServer, change func(*http.Request)) *reply {
	r := httptest.NewRequestWithContext(a.t.Context(), a.method, a.path, strings.NewReader(a.body))
	r.Host = "localhost"
	if a.method == http.MethodPost {
		r.Header.Set("Content-Type", contentTypeJSON)
	}
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	return &reply{w.Code, w.Header(), w.Body.Bytes()}
}

// refusing asks a server whose site, or replay, refuses with err.
func (a asker) refusing(err error) *reply {
	s := a.serve(func(c *Config) {
		c.Lockstep = stepsFunc(func(context.Context, int) ([]*datacenter.State, error) { return nil, err })
	})
	s.site.refuse = func(context.Context, datacenter.Command) error { return err }
	return a.ask(s, nil)
}

// followQuery asks for a path's WebSocket.
func followQuery(path string) string {
	if path == "/v1/events" {
		return "?follow"
	}
	return ""
}

// upgrading asks for a WebSocket, without the key that a handshake needs.
func upgrading(r *http.Request) {
	r.URL.RawQuery = strings.TrimPrefix(followQuery(r.URL.Path), "?")
	for name, value := range map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"} {
		r.Header.Set(name, value)
	}
}

// late is a body that does not come in time.
type late struct{}

func (late) Read([]byte) (int, error) { return 0, os.ErrDeadlineExceeded }
func (late) Close() error             { return nil }

// with makes the operation be answered with the status.
// It is long because each status has a way of its own.
func (a asker) with(status int) *reply {
	isSocket := a.path == "/v1/stream" || a.path == "/v1/events" || a.path == "/v1/lockstep"
	commandError := func(reason error) error {
		return &datacenter.CommandError{Field: "command", Reason: reason, Detail: "because"}
	}
	switch status {
	case http.StatusSwitchingProtocols:
		s := a.serve(nil)
		conn, resp, err := websocket.DefaultDialer.DialContext(a.t.Context(), "ws"+strings.TrimPrefix(s.URL(), "http")+a.path[1:]+followQuery(a.path), nil)
		if err != nil {
			a.t.Fatal(err)
		}
		conn.Close()
		resp.Body.Close()
		return &reply{resp.StatusCode, resp.Header, nil}
	case http.StatusOK:
		return a.ask(a.serve(nil), nil)
	case http.StatusNoContent:
		return a.ask(a.serve(nil), func(r *http.Request) { r.URL.RawQuery = "after=1000" })
	case http.StatusNotModified:
		s := a.serve(nil)
		tag := a.ask(s, nil).header.Get("ETag")
		return a.ask(s, func(r *http.Request) { r.Header.Set("If-None-Match", tag) })
	case http.StatusBadRequest:
		a.body = "{"
		if isSocket {
			return a.ask(a.serve(nil), upgrading)
		}
	case http.StatusUnauthorized:
		return a.ask(a.serve(func(c *Config) { c.Token, c.ReadToken = strings.Repeat("c", 40), strings.Repeat("r", 40) }), nil)
	case http.StatusForbidden:
		return a.ask(a.serve(nil), func(r *http.Request) { r.Host = "evil.example" })
	case http.StatusNotFound:
		if strings.HasPrefix(a.path, "/v1/recording") {
			return a.ask(serve(a.t, nil), nil)
		}
		return a.refusing(commandError(datacenter.ErrUnknownModel))
	case http.StatusRequestTimeout:
		return a.ask(a.serve(nil), func(r *http.Request) { r.Body = late{} })
	case http.StatusConflict:
		if a.path == "/v1/steps" || a.path == "/v1/reset" || a.path == "/v1/lockstep" {
			return a.ask(a.serve(func(c *Config) { c.Lockstep = nil }), nil)
		}
		return a.refusing(commandError(datacenter.ErrNotPossible))
	case http.StatusRequestEntityTooLarge:
		a.body = strings.Repeat(" ", 1<<20)
	case http.StatusUnsupportedMediaType:
		return a.ask(a.serve(nil), func(r *http.Request) { r.Header.Del("Content-Type") })
	case http.StatusUnprocessableEntity:
		return a.ask(a.serve(nil), func(r *http.Request) { r.URL.RawQuery = "nonsense" })
	case http.StatusUpgradeRequired:
		return a.ask(a.serve(nil), func(r *http.Request) {
			upgrading(r)
			r.Header.Del("Upgrade")
		})
	case http.StatusTooManyRequests:
		s := a.serve(func(c *Config) { c.Settings.MaxRequestsPerS = 0.001 })
		a.ask(s, nil)
		return a.ask(s, nil)
	case http.StatusInternalServerError:
		w := httptest.NewRecorder()
		a.serve(nil).protect(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("a bug") })).
			ServeHTTP(w, httptest.NewRequestWithContext(a.t.Context(), a.method, a.path, nil))
		return &reply{w.Code, w.Header(), w.Body.Bytes()}
	case http.StatusBadGateway:
		return a.refusing(&agent.ServersError{ByModel: map[string]error{"small": &vllm.CommandError{Outcome: vllm.OutcomeRefused, Detail: "no"}}})
	case http.StatusServiceUnavailable:
		return a.unavailable(isSocket)
	}
	return a.ask(a.serve(nil), nil)
}

// unavailable makes the operation be answered with status 503.
func (a asker) unavailable(isSocket bool) *reply {
	switch {
	case a.method == http.MethodPost:
		return a.refusing(context.Canceled)
	case isSocket:
		s := a.serve(nil)
		s.sockets.Close()
		s.talks.Close()
		return a.ask(s, upgrading)
	case a.path == "/v1/state":
		return a.ask(serve(a.t, nil), nil)
	case a.path == "/metrics":
		scraped, goOn := make(chan struct{}), make(chan struct{})
		s := a.serve(func(c *Config) {
			c.LiveStats = func() rig.Stats {
				scraped <- struct{}{}
				<-goOn
				return rig.Stats{}
			}
		})
		answered := make(chan struct{})
		const most = 8
		for range most {
			go func() {
				a.ask(s, nil)
				answered <- struct{}{}
			}()
		}
		for range most {
			<-scraped
		}
		r := a.ask(s, nil)
		close(goOn)
		for range most {
			<-answered
		}
		return r
	}
	s := a.serve(nil)
	s.site.status.LastStepAt = time.Now().Add(-time.Hour)
	return a.ask(s, nil)
}

// Every status that is described is answered, as described.
func TestEveryStatusIsAnswered(t *testing.T) {
	doc := serve(t, nil).doc
	doc.operations(func(method, path string, op map[string]any) {
		for code := range op["responses"].(map[string]any) {
			t.Run(method+" "+path+" "+code, func(t *testing.T) {
				want, err := strconv.Atoi(code)
				if err != nil {
					t.Fatal(err)
				}
				r := asker{t, method, path, doc.goodBody(op)}.with(want)
				if r.status != want {
					t.Fatalf("status %d, want %d: %.300s", r.status, want, r.body)
				}
				if kind := r.header.Get("Content-Type"); kind == "application/problem+json" {
					var p problem.Problem
					r.into(t, &p)
					if !slices.ContainsFunc(problem.Codes(), func(c problem.Code) bool { return c.Code == p.Code && c.Status == want }) {
						t.Errorf("the code %q is none of status %d", p.Code, want)
					}
				}
				if want != http.StatusSwitchingProtocols && want != http.StatusNotModified && want != http.StatusNoContent { // they have no body
					doc.check(t, method, path, r)
				}
			})
		}
	})
}

// cover notes in seen which of the members that a schema describes a value has. A
// member is called by the named schema that describes it.
func (c *contract) cover(seen map[string]bool, name string, schema, value any) {
	s, _ := schema.(map[string]any)
	if ref, ok := s["$ref"].(string); ok {
		way := strings.Split(strings.TrimPrefix(ref, "#/"), "/")
		c.cover(seen, way[len(way)-1], c.at(way...), value)
		return
	}
	for _, branch := range anys(s["anyOf"]) {
		ref, _ := branch.(map[string]any)["$ref"].(string)
		if ref != "" && c.validate([]byte(jsonOf(value)), strings.Split(strings.TrimPrefix(ref, "#/"), "/")...) == nil {
			c.cover(seen, name, branch, value)
		}
	}
	properties, _ := s["properties"].(map[string]any)
	values, _ := value.(map[string]any)
	for member, v := range values {
		if p, ok := properties[member]; ok {
			seen[name+"."+member] = true
			c.cover(seen, name+"."+member, p, v)
		} else if more, ok := s["additionalProperties"].(map[string]any); ok {
			c.cover(seen, name, more, v)
		}
	}
	for _, v := range anys(value) {
		c.cover(seen, name, s["items"], v)
	}
}

// members are what a schema itself describes, by the names that cover gives them;
// true: must be there.
func (c *contract) members(into map[string]bool, name string, schema any) {
	s, _ := schema.(map[string]any)
	properties, _ := s["properties"].(map[string]any)
	for member := range properties {
		into[name+"."+member] = slices.Contains(anys(s["required"]), any(member))
	}
}

// Every member that is described is sent or taken, and every one that is sent or
// taken is described: the schemas are asked for both ways, closed for this.
func TestEveryMemberIsDescribed(t *testing.T) {
	s := asker{t: t}.serve(nil)
	described := map[string]bool{}
	for name, schema := range s.doc.at("components", "schemas").(map[string]any) {
		s.doc.members(described, name, schema)
	}
	seen := map[string]bool{}
	cover := func(raw []byte, names ...string) {
		t.Helper()
		if err := s.doc.validate(raw, names...); err != nil {
			t.Errorf("%v: %v", names, err)
		}
		var value any
		(&reply{body: raw}).into(t, &value)
		schema, direct := s.doc.follow(names)
		s.doc.cover(seen, direct[len(direct)-1], schema, value)
	}
	s.Publish(replayState(1))
	s.Publish(liveState(2))
	for _, kind := range datacenter.EventKinds() {
		s.PublishEvent(datacenter.NewEvent(1, filled(kind.Zero)))
	}
	answered := func(r *reply, path, verb string) {
		t.Helper()
		kind, _, _ := strings.Cut(r.header.Get("Content-Type"), ";")
		cover(r.body, "paths", path, verb, "responses", strconv.Itoa(r.status), "content", kind, "schema")
	}
	for _, path := range []string{"/v1/history", "/v1/events", "/v1/models", "/v1/info", "/readyz", "/v1/recording", "/v1/recording/states"} {
		answered(s.get(path).want(t, http.StatusOK), path, "get")
	}
	s.doc.operations(func(method, path string, op map[string]any) {
		if method != http.MethodPost {
			return
		}
		body := s.doc.goodBody(op)
		cover([]byte(body), "paths", path, "post", "requestBody", "content", "application/json", "schema")
		answered(s.post(path, body).want(t, http.StatusOK), path, "post")
		answered(s.post(path, `{"none": 1}`).want(t, http.StatusUnprocessableEntity), path, "post")
	})
	cover([]byte(`{"until_s": 8, "fields": ["power_w"]}`), "components", "schemas", "StepsCommand")
	cover([]byte(`{"reset": {"seed": 8}}`), "components", "schemas", "ResetMessageCommand")
	failing := asker{t, http.MethodPost, "/v1/batch-sizes", `{"batch_size_by_model": {"small": 8}}`}
	answered(failing.with(http.StatusBadGateway), "/v1/batch-sizes", "post")
	s.site.status.Models[0].Servers = []rig.ServerStatus{{URL: "http://a"}, {URL: "http://b"}}
	answered(s.get("/v1/models").want(t, http.StatusOK), "/v1/models", "get")
	no := &vllm.CommandError{Outcome: vllm.OutcomeRefused, Detail: "no"}
	s.site.refuse = func(context.Context, datacenter.Command) error {
		several := &rig.ServersError{Servers: 2, Failed: []rig.ServerError{{URL: "http://b", Err: no}}}
		return &agent.ServersError{ByModel: map[string]error{"small": several}}
	}
	answered(s.post(failing.path, failing.body).want(t, http.StatusBadGateway), "/v1/batch-sizes", "post")
	answered(s.post("/v1/restore", `{}`).want(t, http.StatusBadGateway), "/v1/restore", "post")
	s.site.refuse = func(context.Context, datacenter.Command) error {
		return &datacenter.CommandError{Field: "batch_size_by_model.small", Reason: datacenter.ErrInfeasibleBatchSize, Detail: "no"}
	}
	answered(s.post(failing.path, failing.body).want(t, http.StatusUnprocessableEntity), "/v1/batch-sizes", "post")
	seen["Skipped.skipped"] = true // api/stream's tests have slow clients
	seen["RunBegan.run_id"] = true // and runs that begin
	wantCovered(t, described, seen)
}

// wantCovered: all that is described was seen, and what need not be there is known.
func wantCovered(t *testing.T, described, seen map[string]bool) {
	t.Helper()
	var notSeen []string
	optional := []string{"BatchSizesCommand.lease_s", "BatchSizesCommand.ramp_up_rate_by_model", "Fault.code", "ModelResult.detail", "ModelResult.servers", "Problem.errors",
		"ReplicaShiftCommand.lease_s", "ResetCommand.duration_s", "ResetCommand.initial_batch_sizes", "ResetCommand.replicas", "ResetCommand.seed", "ResetCommand.training",
		"ResetReplicasCommand.ramps", "ResetTrainingCommand.target_peak_w_per_gpu", "ResetTrainingCommand.trace", "ServerResult.detail",
		"StepsCommand.batch_size_by_model", "StepsCommand.fields", "StepsCommand.layout", "StepsCommand.lease_s", "StepsCommand.ramp_up_rate_by_model", "StepsCommand.replica_shifts", "StepsCommand.steps", "StepsCommand.until_s"}
	var mayLack []string
	for name, required := range described {
		if !seen[name] {
			notSeen = append(notSeen, name)
		}
		// Those of states and events have tests of their own.
		if !required && !strings.HasPrefix(name, "State.") && !strings.HasPrefix(name, "EventData.") {
			mayLack = append(mayLack, name)
		}
	}
	if len(notSeen) > 0 {
		t.Errorf("these members are described and are not there: %q", notSeen)
	}
	slices.Sort(mayLack)
	if diff := cmp.Diff(optional, mayLack); diff != "" {
		t.Errorf("the members that may be missing (-want +described):\n%s", diff)
	}
}

// Every member of a command that is described is taken, and no other.
func TestEveryCommandIsDescribed(t *testing.T) {
	s := asker{t: t}.serve(nil)
	s.doc.operations(func(method, path string, _ map[string]any) {
		if method != http.MethodPost {
			return
		}
		schema := s.doc.schemaOf(s.doc.at("paths", path, "post", "requestBody", "content", "application/json", "schema"))
		want := slices.Sorted(maps.Keys(schema["properties"].(map[string]any)))
		refused := s.post(path, `{"none": 1}`).want(t, http.StatusUnprocessableEntity)
		if diff := cmp.Diff(want, namesKnown(t, refused), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("the members of %s (-described +taken):\n%s", path, diff)
		}
	})
}

// namesKnown are the names that the refusal of an unknown one lists, sorted.
func namesKnown(t *testing.T, refused *reply) []string {
	t.Helper()
	list := regexp.MustCompile(`there are \[(.*?)\]|known are \[(.*?)\]`).FindStringSubmatch(strings.ReplaceAll(string(refused.body), `\"`, ""))
	if list == nil {
		t.Fatalf("no names are listed: %s", refused.body)
	}
	names := strings.Fields(list[1] + list[2])
	slices.Sort(names)
	return names
}

// Every query parameter that is described is taken, and no other.
func TestEveryParameterIsDescribed(t *testing.T) {
	s := serve(t, nil)
	s.doc.operations(func(method, path string, op map[string]any) {
		if !strings.HasPrefix(path, "/v1/") {
			return
		}
		var want []string
		for _, p := range anys(op["parameters"]) {
			if p := s.doc.schemaOf(p); p["in"] == "query" {
				want = append(want, p["name"].(string))
			}
		}
		slices.Sort(want)
		refused := s.call(method, path+"?none=1", s.doc.goodBody(op)).want(t, http.StatusUnprocessableEntity)
		if diff := cmp.Diff(want, namesKnown(t, refused), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("the query parameters of %s (-described +taken):\n%s", path, diff)
		}
	})
}
