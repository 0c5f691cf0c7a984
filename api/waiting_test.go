package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"
	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/agent"
	"github.com/g2g-agent/g2g-agent/api/problem"
	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/logtest"
	"github.com/g2g-agent/g2g-agent/vllm"
)

// later asks in a goroutine of its own.
func (s *testServer) later(target string) <-chan *reply {
	replies := make(chan *reply, 1)
	go func() { replies <- s.get(target) }()
	return replies
}

// waits waits until n requests wait.
func (s *testServer) waits(n int) {
	s.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for {
		s.waiting.mu.Lock()
		taken := s.waiting.taken
		s.waiting.mu.Unlock()
		if taken == n {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			s.t.Fatalf("%d requests wait, want %d", taken, n)
		}
	}
}

func wantSeq(t *testing.T, r *reply, seq int64) {
	t.Helper()
	var got datacenter.State
	if r.want(t, http.StatusOK).into(t, &got); got.Seq != seq {
		t.Errorf("the answer is state %d, want %d", got.Seq, seq)
	}
}

// TestNextState is over real sockets.
func TestNextState(t *testing.T) {
	s := serve(t, nil)
	first := s.later("/v1/state?after=0&wait_s=60")
	s.waits(1)
	s.Publish(replayState(0)) // no newer one
	s.Publish(replayState(1))
	wantSeq(t, <-first, 1)
	wantSeq(t, s.get("/v1/state?after=0"), 1)
	wantSeq(t, s.get("/v1/state?wait_s=0"), 1) // the default, spelled out
	wantSeq(t, s.get("/v1/state?after=0&wait_s=60"), 1)
	wantSeq(t, s.get("/v1/state?after=100&wait_s=60&run=another"), 1)
	for _, query := range []string{"after=1", "after=1&wait_s=0", "after=1&wait_s=0.05", "after=9&wait_s=1e-2", "after=1&run=" + s.hub.RunID()} {
		if r := s.get("/v1/state?"+query).want(t, http.StatusNoContent); len(r.body) > 0 {
			t.Errorf("%s has the body %s", query, r.body)
		}
	}
	s.waits(0)
	waiting := s.later("/v1/state?after=50&wait_s=60")
	s.waits(1)
	s.hub.NewRun("another")
	s.Publish(replayState(0))
	wantSeq(t, <-waiting, 0)
}

// TestNextEvents is over real sockets.
func TestNextEvents(t *testing.T) {
	s := serve(t, nil)
	ids := func(r *reply) string {
		t.Helper()
		var events []struct {
			ID int64 `json:"id"`
		}
		r.want(t, http.StatusOK).into(t, &events)
		return fmt.Sprint(events)
	}
	publish := func() { s.PublishEvent(datacenter.NewEvent(1, datacenter.DataFresh{ModelLabel: "small"})) }
	if got := ids(s.get("/v1/events?wait_s=0.05")); got != "[]" {
		t.Errorf("there are %s", got)
	}
	first := s.later("/v1/events?wait_s=60")
	s.waits(1)
	publish()
	if got := ids(<-first); got != "[{0}]" {
		t.Errorf("the first are %s", got)
	}
	second := s.later("/v1/events?after=0&wait_s=60")
	s.waits(1)
	publish()
	if got := ids(<-second); got != "[{1}]" {
		t.Errorf("the next are %s", got)
	}
	if got := ids(s.get("/v1/events?after=1&wait_s=0.01")); got != "[]" {
		t.Errorf("after the last there are %s", got)
	}
	if got := ids(s.get("/v1/events?wait_s=0")); got != "[{0} {1}]" {
		t.Errorf("at once there are %s", got)
	}
	if got := ids(s.get("/v1/events?wait_s=60&n=1")); got != "[{1}]" {
		t.Errorf("the latest is %s", got)
	}
	s.get("/v1/events?follow&wait_s=3").wantProblem(t, http.StatusUnprocessableEntity, "query.wait_s")
	s.get("/v1/state?wait_s=3").wantProblem(t, http.StatusUnprocessableEntity, "query.wait_s")
	s.get("/v1/stream?run=a").wantProblem(t, http.StatusUnprocessableEntity, "query.run")
}

// TestWaitingHasAnEnd: the agent does not wait for those who wait.
func TestWaitingHasAnEnd(t *testing.T) {
	cfg := Config{Site: newFakeSite(), Settings: config.Default().API, Log: zerolog.Nop()}
	cfg.Settings.Listen = "127.0.0.1:0"
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := s.Listen(ctx); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx) }()
	test := &testServer{Server: s, t: t}
	replies := make(chan *reply, 2)
	for _, target := range []string{"/v1/state?after=1&wait_s=60", "/v1/events?wait_s=60"} {
		go func() { replies <- test.raw(http.MethodGet, target, nil) }()
	}
	test.waits(2)
	began := time.Now()
	cancel()
	for range 2 {
		(<-replies).wantProblem(t, http.StatusServiceUnavailable, "")
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > shutdownTimeout {
		t.Errorf("the end took %v", took)
	}
	http.DefaultClient.CloseIdleConnections()
}

// TestTooManyWait: a client has its share, and who is gone leaves its place.
func TestTooManyWait(t *testing.T) {
	s := serve(t, func(c *Config) { c.Settings.MaxConnections, c.Settings.MaxConnectionsPerAddress = 40, 32 })
	if s.waiting.most != 10 || s.waiting.perClient != 5 {
		t.Fatalf("%d may wait, %d of a client", s.waiting.most, s.waiting.perClient)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	for range 5 {
		asking.Go(func() {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(s.URL(), "/")+"/v1/state?after=1&wait_s=60", nil)
			if err != nil {
				t.Error(err)
				return
			}
			if resp, err := http.DefaultClient.Do(req); !errors.Is(err, context.Canceled) {
				resp.Body.Close()
				t.Errorf("it was answered: %v", err)
			}
		})
	}
	s.waits(5)
	r := s.get("/v1/state?after=1&wait_s=60")
	if r.wantProblem(t, http.StatusTooManyRequests, ""); r.header.Get("Retry-After") == "" {
		t.Error("it does not say when to come back")
	}
	s.get("/v1/state?after=1").want(t, http.StatusNoContent) // who does not wait needs no place
	cancel()
	asking.Wait()
	s.waits(0) // their connections are closed
	s.get("/v1/state?after=1&wait_s=0.01").want(t, http.StatusNoContent)
}

func TestPlaces(t *testing.T) {
	p := newPlaces(config.API{})
	var leave []func()
	for i := 0; ; i++ {
		l, ok := p.take(fmt.Sprint(i % 5))
		if !ok {
			break
		}
		leave = append(leave, l)
	}
	if len(leave) != maxWaiting {
		t.Errorf("%d of 5 clients may wait, want %d", len(leave), maxWaiting)
	}
	for _, l := range leave {
		l()
	}
	if p.taken != 0 || len(p.taking) != 0 {
		t.Errorf("in the end %d places are taken, by %v", p.taken, p.taking)
	}
}

// deadlines is a connection's, as a handler sets them.
type deadlines struct {
	http.ResponseWriter
	read, write time.Time
}

func (d *deadlines) SetReadDeadline(t time.Time) error  { d.read = t; return nil }
func (d *deadlines) SetWriteDeadline(t time.Time) error { d.write = t; return nil }

// TestWaitingOutlastsDeadlines: those of the server are for clients that send or read
// too slowly.
func TestWaitingOutlastsDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := New(Config{Site: newFakeSite(), Settings: config.API{Listen: "127.0.0.1:0"}, Log: zerolog.Nop()})
		if err != nil {
			t.Fatal(err)
		}
		answer := httptest.NewRecorder()
		w := &deadlines{ResponseWriter: answer}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/state?after=1&wait_s=60", nil)
		r.Host = "127.0.0.1"
		began := time.Now()
		s.handler.ServeHTTP(w, r)
		if took := time.Since(began); answer.Code != http.StatusNoContent || took != time.Minute {
			t.Errorf("status %d after %v", answer.Code, took)
		}
		if w.read.Before(time.Now()) || w.write.Before(time.Now()) {
			t.Errorf("the deadlines %v and %v are over before the wait is", w.read, w.write)
		}
		s.end()
		s.stopWait()
		s.sockets.Close()
	})
}

// TestStreamResumes is over a real socket, through all that is around it.
func TestStreamResumes(t *testing.T) {
	s := serve(t, nil)
	for seq := range int64(1500) {
		s.Publish(replayState(seq))
	}
	url := "ws" + strings.TrimPrefix(s.URL(), "http") + "v1/stream?after=10&run=" + s.hub.RunID()
	conn, resp, err := websocket.DefaultDialer.DialContext(t.Context(), url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	defer conn.Close()
	s.Publish(replayState(1500))
	for seq := int64(11); seq <= 1500; seq++ {
		var state datacenter.State
		_, data, err := conn.ReadMessage()
		if err != nil || json.Unmarshal(data, &state) != nil || state.Seq != seq {
			t.Fatalf("got %.60s, %v, want state %d", data, err, seq)
		}
	}
}

func TestRestore(t *testing.T) {
	log := &logtest.Buffer{}
	s := serve(t, func(c *Config) { c.Control.DefaultLeaseS, c.Log = 45, zerolog.New(log) })
	s.post("/v1/batch-sizes", `{"batch_size_by_model": {"large": 64}}`).want(t, http.StatusOK)
	s.post("/v1/replica-shifts", `{"model_label": "small", "replica_delta": -3}`).want(t, http.StatusOK)
	key := header{"Idempotency-Key", "once"}
	var got restoreBody
	first := s.post("/v1/restore", `{}`, key).want(t, http.StatusOK)
	first.into(t, &got)
	want := restoreBody{
		batchSizesBody: batchSizesBody{
			TimeS: 1.5, FromSeq: 15, BatchSizes: datacenter.ByModel[int]{{ModelLabel: "small", Value: 128}, {ModelLabel: "large", Value: 128}},
			AchievedBatchSize: datacenter.ByModel[*float64]{{ModelLabel: "small"}, {ModelLabel: "large"}},
			LeaseS:            datacenter.ByModel[*float64]{{ModelLabel: "small"}, {ModelLabel: "large"}},
			Results:           []modelResult{{ModelLabel: "small", Outcome: "accepted"}, {ModelLabel: "large", Outcome: "accepted"}},
		},
		ReplicaShift: datacenter.ByModel[int]{{ModelLabel: "small"}, {ModelLabel: "large"}},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(restoreBody{})); diff != "" {
		t.Errorf("the answer (-want +got):\n%s", diff)
	}
	again := s.post("/v1/restore", `{}`, key).want(t, http.StatusOK)
	if string(again.body) != string(first.body) || again.header.Get("Idempotency-Replayed") != "true" || len(s.site.given()) != 3 {
		t.Errorf("the second answer is %s, of %d commands", again.body, len(s.site.given()))
	}
	if given := s.site.given(); given[2] != datacenter.Command(datacenter.Restore{}) {
		t.Errorf("the command is %+v", given[2])
	}
	if text := log.String(); strings.Count(text, `"command":"restore"`) != 2 || !strings.Contains(text, `"idempotency_key":"once"`) {
		t.Errorf("the log is %s", text)
	}
	s.post("/v1/restore", `{"lease_s": 3}`).wantProblem(t, http.StatusUnprocessableEntity, "body.lease_s")
	s.post("/v1/restore", `[]`).wantProblem(t, http.StatusBadRequest, "body")
}

func TestRestoreFails(t *testing.T) {
	s := serve(t, nil)
	s.post("/v1/replica-shifts", `{"model_label": "small", "replica_delta": -3}`).want(t, http.StatusOK)
	no := &vllm.CommandError{Outcome: vllm.OutcomeRefused, Detail: "no"}
	s.site.refuse = func(context.Context, datacenter.Command) error {
		return &agent.ServersError{ByModel: map[string]error{"large": no}}
	}
	r := s.post("/v1/restore", `{}`)
	r.wantProblem(t, http.StatusBadGateway, "")
	var got struct {
		problem.Problem
		restoreBody
	}
	r.into(t, &got)
	if diff := cmp.Diff(datacenter.ByModel[int]{{ModelLabel: "small"}, {ModelLabel: "large"}}, got.ReplicaShift); diff != "" || got.Results[1].Outcome != "refused" || got.Results[0].Outcome != "accepted" {
		t.Errorf("the answer is %s", r.body)
	}
	s.site.refuse = func(context.Context, datacenter.Command) error {
		return &datacenter.CommandError{Field: "command", Reason: datacenter.ErrNotPossible, Detail: "no room"}
	}
	s.post("/v1/restore", `{}`).wantProblem(t, http.StatusConflict, "body")
}

// BenchmarkLatency is how long a state takes to a client that waits for it, by
// WebSocket and by long poll.
func BenchmarkLatency(b *testing.B) {
	server := func(b *testing.B) *testServer { return serve(b, nil) }
	b.Run("stream", func(b *testing.B) {
		s := server(b)
		conn, resp, err := websocket.DefaultDialer.DialContext(b.Context(), "ws"+strings.TrimPrefix(s.URL(), "http")+"v1/stream?after=0", nil)
		if err != nil {
			b.Fatal(err)
		}
		resp.Body.Close()
		defer conn.Close()
		for seq := int64(1); b.Loop(); seq++ {
			s.Publish(replayState(seq))
			if _, _, err := conn.ReadMessage(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("poll", func(b *testing.B) {
		s := server(b)
		s.Publish(replayState(0))
		replies := make(chan *reply)
		for seq := int64(0); b.Loop(); seq++ {
			go func() { replies <- s.raw(http.MethodGet, fmt.Sprintf("/v1/state?after=%d&wait_s=60", seq), nil) }()
			b.StopTimer()
			s.waits(1)
			b.StartTimer()
			s.Publish(replayState(seq + 1))
			<-replies
		}
	})
}
