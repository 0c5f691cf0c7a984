package api

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/datacenter"
)

// discard is an answer that nobody reads.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(p []byte) (int, error) { return io.Discard.Write(p) }
func (d *discard) WriteHeader(int)             {}

// benchServer has a state and 1,000 states to give for a step.
func benchServer(b *testing.B) (*Server, []*datacenter.State) {
	b.Helper()
	states := make([]*datacenter.State, 1000)
	for i := range states {
		states[i] = replayState(int64(i))
		third := states[i].Models[0]
		third.ModelLabel = "third"
		states[i].Models = append(states[i].Models, third)
	}
	s, err := New(Config{
		Site: newFakeSite(), Settings: config.API{Listen: "127.0.0.1:0", HistoryStates: 1000}, Log: zerolog.Nop(),
		Lockstep: stepsFunc(func(_ context.Context, n int) ([]*datacenter.State, error) { return states[:n], nil }),
	})
	if err != nil {
		b.Fatal(err)
	}
	return s, states
}

// BenchmarkSteps answers POST /v1/steps, without computing the steps: what the
// API adds to a replay in lockstep.
func BenchmarkSteps(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s, _ := benchServer(b)
			body := fmt.Sprintf(`{"steps": %d}`, n)
			b.ReportAllocs()
			for b.Loop() {
				r := httptest.NewRequestWithContext(b.Context(), http.MethodPost, "/v1/steps", strings.NewReader(body))
				r.Host = "127.0.0.1"
				r.Header.Set("Content-Type", "application/json")
				s.handler.ServeHTTP(&discard{http.Header{}}, r)
			}
			b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "states/s")
		})
	}
}

// BenchmarkState answers GET /v1/state.
func BenchmarkState(b *testing.B) {
	s, states := benchServer(b)
	s.Publish(states[0])
	b.ReportAllocs()
	for b.Loop() {
		r := httptest.NewRequestWithContext(b.Context(), http.MethodGet, "/v1/state", nil)
		r.Host = "127.0.0.1"
		s.handler.ServeHTTP(&discard{http.Header{}}, r)
	}
}

// BenchmarkLockstep drives the shipped replay (288 servers) over a socket, 100
// steps a request, as a controller would that acts every 10 s.
func BenchmarkLockstep(b *testing.B) {
	const steps = 100
	c := replayConfig(b)
	var err error
	if c.Replay.Duration, err = datacenter.SecondsOf(864_000); err != nil {
		b.Fatal(err)
	}
	s := serveReplay(b, c)
	body := fmt.Sprintf(`{"steps": %d}`, steps)
	for b.Loop() {
		s.raw(http.MethodPost, "/v1/steps", strings.NewReader(body)).want(b, http.StatusOK)
	}
	b.ReportMetric(steps*float64(b.N)/b.Elapsed().Seconds(), "steps/s")
}

// BenchmarkReadSteps is what a request for some members costs before the step, the first
// time and again.
func BenchmarkReadSteps(b *testing.B) {
	s := serve(b, nil)
	bodies := [2][]byte{}
	for i := range bodies {
		bodies[i] = fmt.Appendf(nil, `{"steps":%d,"layout":"columns","fields":["power_w","power_by_model_w","batch_size_by_model","active_replicas_by_model","observed_itl_s_by_model"]}`, i+1)
	}
	for name, different := range map[string]int{"again": 1, "other": 2} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, refused := s.decodeSteps(bodies[i%different]); refused != nil {
					b.Fatal(refused)
				}
			}
		})
	}
}
