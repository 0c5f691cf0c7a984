package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/g2g-agent/g2g-agent/agent"
	"github.com/g2g-agent/g2g-agent/api/problem"
	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/datacenter"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeSite is a site of two models that keeps the commands it was given.
type fakeSite struct {
	mu       sync.Mutex
	status   agent.Status
	commands []datacenter.Command
	// refuse, if not nil, decides what becomes of a command; an error that is no
	// ServersError means that nothing of it was carried out.
	refuse func(context.Context, datacenter.Command) error
}

func newFakeSite() *fakeSite {
	model := func(label string, gpus int) agent.ModelStatus {
		return agent.ModelStatus{
			Spec: datacenter.ModelSpec{
				ModelLabel: label, ModelID: "org/" + label, GPUsPerReplica: gpus, ITLDeadlineS: 0.08,
				FeasibleBatchSizes: []int{8, 64, 128}, InitialBatchSize: 128, FailsafeBatchSize: 8,
			},
			BatchSize: 128, AchievedBatchSize: math.NaN(), Replicas: 10, FreeReplicas: 3,
			BatchSizeLeaseS: math.NaN(), ReplicaLeaseS: math.NaN(),
		}
	}
	dt, _ := datacenter.SecondsOf(0.1)
	return &fakeSite{status: agent.Status{
		Phase: agent.PhaseStepping, RunID: "6b0c", Seed: 3, AtEnd: "stop", DurationS: 60, TotalSteps: 600, TimeS: 1.5, Steps: 15, DT: dt,
		Facility: datacenter.Facility{Name: "dc", GPUsPerServer: 8, BaseKWPerPhase: 500, PowerFactor: 0.95, TotalGPUCapacity: 64},
		FreeGPUs: 14, AvailableGPUCapacity: 21, Models: []agent.ModelStatus{model("small", 1), model("large", 4)},
	}}
}

func (f *fakeSite) Apply(ctx context.Context, command datacenter.Command) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	failed := map[string]error{}
	if f.refuse != nil {
		err := f.refuse(ctx, command)
		var servers *agent.ServersError
		if err != nil && !errors.As(err, &servers) {
			return err
		}
		if servers != nil {
			failed = servers.ByModel
		}
	}
	index := func(field, label string) (int, error) {
		i := slices.IndexFunc(f.status.Models, func(m agent.ModelStatus) bool { return m.Spec.ModelLabel == label })
		if i < 0 {
			return 0, &datacenter.CommandError{Field: field, Reason: datacenter.ErrUnknownModel, Detail: "unknown model"}
		}
		return i, nil
	}
	switch c := command.(type) {
	case datacenter.SetBatchSize:
		for _, label := range slices.Sorted(maps.Keys(c.BatchSizeByModel)) {
			if _, err := index("batch_size_by_model."+label, label); err != nil {
				return err
			}
		}
		for label, size := range c.BatchSizeByModel {
			i, _ := index("", label)
			if failed[label] == nil {
				f.status.Models[i].BatchSize = size
				f.status.Models[i].BatchSizeSeq = f.status.Steps
				f.status.Models[i].BatchSizeLeaseS = math.NaN()
				if c.LeaseS > 0 {
					f.status.Models[i].BatchSizeLeaseS = c.LeaseS
				}
			}
		}
	case datacenter.ShiftReplicas:
		i, err := index("model_label", c.ModelLabel)
		if err != nil {
			return err
		}
		f.status.Models[i].ReplicaShift += c.ReplicaDelta
		f.status.Models[i].ShiftSeq = f.status.Steps
		f.status.Models[i].Replicas += c.ReplicaDelta
	case datacenter.Restore:
		f.restore(failed)
	}
	f.commands = append(f.commands, command)
	if len(failed) > 0 {
		return &agent.ServersError{ByModel: failed}
	}
	return nil
}

// restore restores all but the batch sizes of models whose servers fail; mu is held.
func (f *fakeSite) restore(failed map[string]error) {
	for i := range f.status.Models {
		m := &f.status.Models[i]
		m.ShiftSeq, m.Replicas, m.ReplicaShift, m.ReplicaLeaseS = f.status.Steps, m.Replicas-m.ReplicaShift, 0, math.NaN()
		if failed[m.Spec.ModelLabel] == nil {
			m.BatchSizeSeq, m.BatchSize, m.BatchSizeLeaseS = f.status.Steps, m.Spec.InitialBatchSize, math.NaN()
		}
	}
}

func (f *fakeSite) Status() agent.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.status
	s.Models = slices.Clone(s.Models)
	if s.LastStepAt.IsZero() { // it steps, unless the test says when it last did
		s.LastStepAt = time.Now()
	}
	return s
}

// given are the commands carried out so far.
func (f *fakeSite) given() []datacenter.Command {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.commands)
}

// stepsFunc is a replay in lockstep that gives the next states. What begins it anew fails as it does.
type stepsFunc func(ctx context.Context, steps int) ([]*datacenter.State, error)

func (f stepsFunc) Advance(ctx context.Context, a agent.Advance, each func(*datacenter.State) error) (int, error) {
	states, err := f(ctx, a.Steps)
	for i, state := range states {
		if err := each(state); err != nil {
			return i, err
		}
	}
	return len(states), err
}

func (f stepsFunc) Reset(ctx context.Context, _ *config.Override) error {
	_, err := f(ctx, 0)
	return err
}

// replayState and liveState are states with everything a state can have.
func replayState(seq int64) *datacenter.State {
	return &datacenter.State{
		Seq: seq, TimeS: float64(seq) / 10, Source: datacenter.SourceReplay, PowerW: datacenter.ThreePhase{A: 500123.25, B: 500124.5, C: 500125.75},
		FreeGPUs: datacenter.FreeGPUs{N: 14, Known: true},
		Models: []datacenter.ModelState{
			{ModelLabel: "small", PowerW: 4321.123456789, ActiveReplicas: 10, BatchSize: 128, AchievedBatchSize: math.NaN(), ObservedITLS: 0.0213, PhaseShare: datacenter.ThreePhase{A: 0.3, B: 0.3, C: 0.4}},
			{ModelLabel: "large", PowerW: 14321.123456789, ActiveReplicas: 10, BatchSize: 64, AchievedBatchSize: 60.5, ObservedITLS: math.NaN(), PhaseShare: datacenter.ThreePhase{A: 1. / 3, B: 1. / 3, C: 1. / 3}},
		},
	}
}

func liveState(seq int64) *datacenter.State {
	s := replayState(seq)
	s.Source, s.WallTime, s.MeasuredPowerW = datacenter.SourceLive, time.Unix(1_800_000_000, 5), datacenter.ThreePhase{A: 1, B: 2, C: math.NaN()}
	s.Models[0].Throughput = datacenter.ThroughputOf(5000.5)
	s.Models[0].Live = datacenter.LiveModelState{
		MeasuredTokensPerS: 1000.25, MeasuredPowerW: 700, AugmentationFactor: 5, Server: &datacenter.ServerLoad{NumRequestsRunning: 60, NumRequestsWaiting: math.NaN(), KVCacheUsagePerc: 0.4},
		ITLPercentilesS: datacenter.ITLPercentiles{P50: 0.02, P90: 0.03, P95: math.NaN(), P99: math.NaN()},
	}
	s.Models[1].Live = datacenter.LiveModelState{MeasuredPowerW: math.NaN(), Stale: true, StaleAgeS: 3.5}
	return s
}

// testServer is a server on a real socket.
type testServer struct {
	*Server
	t    testing.TB
	site *fakeSite
	doc  *contract
}

// serve starts a server that ends with the test. change may alter its config.
func serve(t testing.TB, change func(*Config)) *testServer {
	t.Helper()
	site := newFakeSite()
	settings := config.Default().API
	settings.Listen, settings.MaxRequestsPerS = "127.0.0.1:0", 0
	cfg := Config{Site: site, Version: "test", Settings: settings, Log: zerolog.Nop()}
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	if err := s.Listen(ctx); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx) }()
	server := &testServer{Server: s, t: t, site: site}
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	server.doc = newContract(t, server)
	return server
}

// reply is an answer, read to its end.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// header is a header to send, as a name and a value.
type header [2]string

// raw sends a request and reads the answer.
func (s *testServer) raw(method, target string, body io.Reader, headers ...header) *reply {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, strings.TrimSuffix(s.URL(), "/")+target, body)
	if err != nil {
		s.t.Fatal(err)
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		if h[1] == "-" {
			req.Header.Del(h[0])
			continue
		}
		req.Header[h[0]] = append([]string(nil), h[1:]...)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return &reply{resp.StatusCode, resp.Header, answer}
}

// call is raw, and fails the test unless the answer is as the API's description
// says.
func (s *testServer) call(method, target, body string, headers ...header) *reply {
	s.t.Helper()
	r := s.raw(method, target, strings.NewReader(body), headers...)
	s.doc.check(s.t, method, target, r)
	return r
}

func (s *testServer) get(target string, headers ...header) *reply {
	s.t.Helper()
	return s.call(http.MethodGet, target, "", headers...)
}

func (s *testServer) post(target, body string, headers ...header) *reply {
	s.t.Helper()
	return s.call(http.MethodPost, target, body, headers...)
}

// want fails the test unless the answer has the status; it returns the reply.
func (r *reply) want(t testing.TB, status int) *reply {
	t.Helper()
	if r.status != status {
		t.Fatalf("status %d, want %d: %.500s", r.status, status, r.body)
	}
	return r
}

// into reads the answer's JSON.
func (r *reply) into(t testing.TB, v any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(r.body))
	if err := d.Decode(v); err != nil {
		t.Fatalf("%v: %.500s", err, r.body)
	}
}

// locations are the parts of the request that the answer names as at fault.
func (r *reply) locations(t testing.TB) []string {
	t.Helper()
	var p problem.Problem
	r.into(t, &p)
	var at []string
	for _, e := range p.Errors {
		if e.Message == "" {
			t.Errorf("%s is named without a message", e.Location)
		}
		at = append(at, e.Location)
	}
	return at
}

// wantProblem fails the test unless the answer is a problem that names location
// (empty: it need not name any).
func (r *reply) wantProblem(t testing.TB, status int, location string) {
	t.Helper()
	r.want(t, status)
	if ct := r.header.Get("Content-Type"); ct != "application/problem+json" {
		t.Errorf("content type %q", ct)
	}
	if at := r.locations(t); location != "" && !slices.Contains(at, location) {
		t.Errorf("it names %q, want %q: %s", at, location, r.body)
	}
}

func jsonOf(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprint(err))
	}
	return string(b)
}
