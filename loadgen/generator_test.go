package loadgen

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/g2g-agent/g2g-agent/completion"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/credential"
	"github.com/g2g-agent/g2g-agent/internal/logtest"
	"github.com/g2g-agent/g2g-agent/sim"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const model = "test/model"

// steady is a model that takes itl per token, whatever the batch.
func steady(itl time.Duration) sim.Profile {
	return sim.Profile{Levels: []sim.Level{{BatchSize: 1, PowerWPerGPU: 1, ITLS: itl.Seconds()}}}
}

func startServer(t *testing.T, cfg sim.VLLMConfig) *sim.VLLM {
	t.Helper()
	cfg.Listen, cfg.ModelID = "127.0.0.1:0", model
	server, err := sim.StartVLLM(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return server
}

// startLoad runs a generator until the test ends.
func startLoad(t *testing.T, cfg Config) *Generator {
	t.Helper()
	cfg.ModelID, cfg.ModelLabel = model, "model"
	g, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if s := g.Stats(); s.InFlight != 0 || s.Workers != 0 || s.Started != s.Completed+s.Failed()+s.Cancelled {
			t.Errorf("after the end: %+v", s)
		}
	})
	return g
}

// eventually waits until condition holds.
func eventually(t *testing.T, limit time.Duration, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// wait lets time pass, where that is what must happen.
func wait(t *testing.T, d time.Duration) {
	t.Helper()
	start := time.Now()
	eventually(t, d+10*time.Second, "time passes", func() bool { return time.Since(start) >= d })
}

func TestITLIsTheTruth(t *testing.T) {
	stalls := sim.Profile{
		Levels: []sim.Level{{BatchSize: 64, PowerWPerGPU: 1, ITLS: 0.05}, {BatchSize: 512, PowerWPerGPU: 1, ITLS: 0.2}, {BatchSize: 2048, PowerWPerGPU: 1, ITLS: 0.3}},
		// New requests stall the others now and then: the p99 is not the median.
		PrefillS: 0.0002, PrefillsPerIteration: 256, ITLSigma: 0.1,
	}
	for _, test := range []struct {
		streams        int
		tokensPerChunk []float64
		noUsage        bool
	}{
		{streams: 64},
		{streams: 64, tokensPerChunk: []float64{5, 3, 1}},
		{streams: 64, noUsage: true},
		{streams: 512},
		{streams: 2048},
	} {
		t.Run(fmt.Sprintf("%d streams, %v tokens a chunk, without usage %v", test.streams, test.tokensPerChunk, test.noUsage), func(t *testing.T) {
			if test.streams > 512 && (testing.Short() || raceDetector) {
				t.Skip("too heavy: neither side would keep up")
			}
			server := startServer(t, sim.VLLMConfig{
				Profile: stalls, MaxNumSeqs: test.streams, OutputTokens: 40, Seed: 1, Spread: true,
				TokensPerChunk: test.tokensPerChunk, IgnoreContinuousUsage: test.noUsage,
			})
			g := startLoad(t, Config{BaseURL: server.URL(), Concurrency: test.streams + test.streams/4, MaxOutputTokens: 40, ITLWindow: time.Second})
			eventually(t, 20*time.Second, "the batch is full", func() bool { return server.Truth().Running == test.streams })
			// A window in which the reader did not keep up says so; on a busy machine
			// it may take a while until one is good.
			eventually(t, time.Minute, "a window as the truth is", func() bool {
				now := time.Now()
				w := g.ITL(now)
				part := g.meter.part(meanSlots)
				from := now.Add(-(now.Sub(g.client.Epoch()) % part)).Add(-meanSlots * part)
				wait(t, 400*time.Millisecond) // the server writes down an iteration at its end
				truth := server.ITLBetween(from, now)
				if w.Tokens < int64(2*test.streams) || w.MultiEventShare > 0.001 {
					return false
				}
				if method := map[bool]string{false: MethodUsage, true: MethodPerChunk}[test.noUsage]; w.Method != method {
					t.Fatalf("method %q, want %q", w.Method, method)
				}
				if !near(w.MeanS, truth.MeanS, 0.01) || !near(w.P99S, truth.P99S, 0.05) || !near(w.P50S, truth.P50S, 0.05) {
					t.Logf("window %+v, truth %+v", w, truth)
					return false
				}
				return true
			})
			s := g.Stats()
			if s.Failed() != 0 {
				t.Errorf("failures by kind: %v", s.FailedByKind)
			}
			t.Logf("lag %+v, share of reads with several events %v, missing stamps %d of %d", s.Lag, s.MultiEventShare, s.MissingStamps, s.Reads)
		})
	}
}

func TestConcurrencyFollowsWhatIsSet(t *testing.T) {
	t.Parallel()
	server := startServer(t, sim.VLLMConfig{Profile: steady(2 * time.Millisecond), OutputTokens: 20})
	g := startLoad(t, Config{BaseURL: server.URL(), MaxOutputTokens: 20})
	for _, n := range []int{5, 40, 3, 0, 10, -1} {
		g.SetConcurrency(n)
		n = max(n, 0)
		eventually(t, 10*time.Second, fmt.Sprintf("%d in flight", n), func() bool {
			s, truth := g.Stats(), server.Truth()
			return s.Workers == n && s.InFlight <= n && s.Concurrency == n && truth.Running+truth.Waiting <= n
		})
		if n > 0 {
			completed := g.Stats().Completed
			eventually(t, 10*time.Second, "requests complete", func() bool { return g.Stats().Completed > completed+uint64(n) })
		}
	}
	if s := g.Stats(); s.Failed() != 0 || s.Cancelled != 0 {
		t.Errorf("requests were cut: %+v", s)
	}
}

// failed is the number of failures of a kind so far.
func failed(g *Generator, kind completion.ErrorKind) uint64 { return g.Stats().FailedByKind[kind] }

func TestFailuresAreCountedByKindAndOvercome(t *testing.T) {
	t.Parallel()
	for i, test := range []struct {
		kind   completion.ErrorKind
		faults sim.VLLMFaults
	}{
		{completion.KindStatus5xx, sim.VLLMFaults{Status: 500}},
		{completion.KindStatus4xx, sim.VLLMFaults{Status: 404}},
		{completion.KindErrorEvent, sim.VLLMFaults{ErrorEvents: 8}},
		{completion.KindAborted, sim.VLLMFaults{Aborts: 8}},
		{completion.KindNoDone, sim.VLLMFaults{NoDone: 8}},
		{completion.KindMalformed, sim.VLLMFaults{MalformedEvents: 8}},
		{completion.KindCut, sim.VLLMFaults{DropStreams: true}},
		{completion.KindIdleTimeout, sim.VLLMFaults{Freeze: true}},
		{completion.KindIdleTimeout, sim.VLLMFaults{FreezeStreams: true}},
		{completion.KindTotalTimeout, sim.VLLMFaults{SlowDown: 100}},
	} {
		t.Run(fmt.Sprintf("%v %d", test.kind, i), func(t *testing.T) {
			t.Parallel()
			server := startServer(t, sim.VLLMConfig{Profile: steady(2 * time.Millisecond), OutputTokens: 10})
			cfg := Config{BaseURL: server.URL(), Concurrency: 8, MaxOutputTokens: 10, idleTimeout: 300 * time.Millisecond, requestTimeout: time.Minute}
			if test.kind == completion.KindTotalTimeout {
				cfg.idleTimeout, cfg.requestTimeout = time.Minute, 500*time.Millisecond
			}
			g := startLoad(t, cfg)
			eventually(t, 10*time.Second, "requests complete", func() bool { return g.Stats().Completed >= 16 })
			server.SetFaults(test.faults)
			eventually(t, 10*time.Second, "a failure", func() bool { return failed(g, test.kind) > 0 })
			server.SetFaults(sim.VLLMFaults{})
			// The good answer to a slow machine is a generous limit; the goal is 2 s.
			completed := g.Stats().Completed
			eventually(t, 10*time.Second, "requests complete again", func() bool { return g.Stats().Completed >= completed+16 })
		})
	}
}

func TestServerKilledAndBack(t *testing.T) {
	t.Parallel()
	server := startServer(t, sim.VLLMConfig{Profile: steady(5 * time.Millisecond), OutputTokens: 20})
	var log logtest.Buffer
	g := startLoad(t, Config{BaseURL: server.URL(), Concurrency: 100, MaxOutputTokens: 20, Log: zerolog.New(&log)})
	eventually(t, 10*time.Second, "requests complete", func() bool { return g.Stats().Completed >= 200 })
	server.Kill()
	eventually(t, 10*time.Second, "all workers know", func() bool { return failed(g, completion.KindConnect) >= 300 })
	s := g.Stats()
	if s.FailedByKind[completion.KindCut] == 0 || s.FailedByKind[completion.KindCut] > 200 {
		t.Errorf("%d streams were cut, want those in flight, 100", s.FailedByKind[completion.KindCut])
	}
	if w := g.ITL(time.Now().Add(2 * time.Second)); !math.IsNaN(w.MeanS) {
		t.Errorf("ITL without a server is %v, want NaN", w.MeanS)
	}
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	back := time.Now()
	completed := g.Stats().Completed
	eventually(t, 10*time.Second, "requests complete again", func() bool { return g.Stats().Completed >= completed+100 })
	t.Logf("recovered after %v", time.Since(back))
	if s := g.Stats(); s.Reconnects < 50 || s.Connects < s.Reconnects+100 {
		t.Errorf("%d connections, %d of them reconnects, want at least 100 of each worker's first and 50 reconnects", s.Connects, s.Reconnects)
	}
	lines := log.Lines(t)
	byKind := map[string]int{}
	for _, line := range lines {
		byKind[fmt.Sprint(line["kind"])]++
	}
	if byKind["cut"] > 1 || byKind["connect"] != 1 || len(lines) > 3 {
		t.Errorf("an outage is logged as %v, want one line of each kind", lines)
	}
}

// While the server is away, each worker tries about once a second.
func TestNoBusyLoopWhileTheServerIsAway(t *testing.T) {
	t.Parallel()
	server := startServer(t, sim.VLLMConfig{Profile: steady(time.Millisecond)})
	server.Kill()
	g := startLoad(t, Config{BaseURL: server.URL(), Concurrency: 10})
	eventually(t, 10*time.Second, "the back-off has grown", func() bool { return failed(g, completion.KindConnect) >= 50 })
	before, start := failed(g, completion.KindConnect), time.Now()
	wait(t, 2*time.Second)
	// At most one in half a second each, and the one under way.
	if tries, most := failed(g, completion.KindConnect)-before, uint64(10*(time.Since(start).Seconds()*2+1)); tries < 10 || tries > most {
		t.Errorf("%d attempts of 10 workers in 2 s, want 10 to %d", tries, most)
	}
}

func TestOutagesAreLoggedOnce(t *testing.T) {
	var log logtest.Buffer
	o := outages{log: zerolog.New(&log)}
	now := time.Unix(1_700_000_000, 0)
	cut := &completion.Error{Kind: completion.KindCut, Detail: "gone"}
	away := &completion.Error{Kind: completion.KindConnect, Err: errors.New("refused")}
	for second := range 60 {
		at := now.Add(time.Duration(second) * time.Second)
		switch {
		case second == 5:
			o.failed(at, cut)
		case second > 5 && second < 20:
			o.failed(at, away)
			if second == 8 { // one stream got through
				o.completed(at)
			}
		default:
			o.completed(at)
		}
	}
	o.failed(now.Add(time.Minute), cut)
	var got []string
	for _, line := range log.Lines(t) {
		got = append(got, fmt.Sprint(line["level"], " ", line["kind"], " ", line["failures"]))
	}
	want := "warn cut <nil>; warn connect <nil>; info connect 14; info cut 1; warn cut <nil>"
	wantOrder := strings.ReplaceAll(want, "info connect 14; info cut 1", "info cut 1; info connect 14")
	if text := strings.Join(got, "; "); text != want && text != wantOrder {
		t.Errorf("log is %s\nwant %s", text, wantOrder)
	}
}

func TestRequestsAreCycled(t *testing.T) {
	t.Parallel()
	server := startServer(t, sim.VLLMConfig{Profile: steady(4 * time.Millisecond)})
	var lines strings.Builder
	for _, n := range []int{1, 2, 9} {
		fmt.Fprintf(&lines, `{"messages":[{"role":"user","content":"a"}],"max_tokens":%d}`+"\n", n)
	}
	requests, err := readRequests(strings.NewReader(lines.String()), "test")
	if err != nil {
		t.Fatal(err)
	}
	g := startLoad(t, Config{BaseURL: server.URL(), Requests: requests, Concurrency: 2})
	eventually(t, 10*time.Second, "30 requests complete", func() bool { return g.Stats().Completed >= 30 })
	g.SetConcurrency(0)
	eventually(t, 10*time.Second, "the rest completes", func() bool { return g.Stats().Workers == 0 })
	s := g.Stats()
	whole, left := s.Completed/3, s.Completed%3
	if want := 12*whole + []uint64{0, 1, 3}[left]; s.Tokens != want {
		t.Errorf("%d tokens of %d requests, want %d", s.Tokens, s.Completed, want)
	}
	// On a busy machine tokens come together with the first one, which are no latencies.
	if s.TTFT.Count != s.Completed || s.ITL.Count > s.Tokens-s.Completed || s.MultiEventShare == 0 && s.ITL.Count != s.Tokens-s.Completed {
		t.Errorf("TTFT of %d, ITL of %d of %d tokens, share of reads with several events %v", s.TTFT.Count, s.ITL.Count, s.Tokens, s.MultiEventShare)
	}
}

func TestAPIKeyIsSent(t *testing.T) {
	t.Parallel()
	server := startServer(t, sim.VLLMConfig{Profile: steady(time.Millisecond), APIKey: "secret"})
	g := startLoad(t, Config{BaseURL: server.URL(), Credential: credential.Fixed("secret"), Concurrency: 1, MaxOutputTokens: 2})
	eventually(t, 10*time.Second, "a request completes", func() bool { return g.Stats().Completed > 0 })
	wrong := startLoad(t, Config{BaseURL: server.URL(), Concurrency: 1})
	eventually(t, 10*time.Second, "a refusal", func() bool { return failed(wrong, completion.KindStatus4xx) > 0 })
}

func TestConfigsRefused(t *testing.T) {
	for _, test := range []struct {
		cfg  Config
		want string
	}{
		{Config{BaseURL: "http://a"}, "the load generator has no model id"},
		{Config{BaseURL: "a", ModelID: "m"}, `the base URL of a vLLM server is "a", without a scheme; is it http://a?`},
		{Config{BaseURL: "http://a", ModelID: "m", Concurrency: -1}, "concurrency is -1, want 0 or more"},
		{Config{BaseURL: "http://a", ModelID: "m", MaxOutputTokens: -1}, "the maximum of output tokens is -1, want 1 or more"},
		{Config{BaseURL: "http://a", ModelID: "m", ITLWindow: time.Microsecond}, "the ITL window is 1µs, want 10ms or more"},
		{Config{BaseURL: "http://a", ModelID: "m", ExtraBody: map[string]any{"n": 3}}, "request 1: n is 3, want 1: the tokens of several choices cannot be told apart"},
		{Config{BaseURL: "http://a", ModelID: "m", ExtraBody: map[string]any{"x": math.NaN()}}, "extra body of requests: x: json: unsupported value: NaN"},
	} {
		if _, err := New(test.cfg); !errors.Is(err, datacenter.ErrInvalidInput) || !strings.HasSuffix(err.Error(), test.want) {
			t.Errorf("error is %v, want %q", err, test.want)
		}
	}
}

func TestRunsOnceAtATime(t *testing.T) {
	g, err := New(Config{BaseURL: "http://127.0.0.1:1", ModelID: model})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	started, done := make(chan struct{}), make(chan error, 1)
	go func() {
		close(started)
		done <- g.Run(ctx)
	}()
	<-started
	eventually(t, 5*time.Second, "it runs", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.running
	})
	if err := g.Run(ctx); err == nil {
		t.Error("a second run is not refused")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := g.Run(ctx); err != nil {
		t.Errorf("a run after the first: %v", err)
	}
}

// TestAnswersWithoutTokensAreFailures: they would make a busy loop, measuring
// nothing.
func TestAnswersWithoutTokensAreFailures(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: [DONE]\n\n")
	}))
	defer server.Close()
	g := startLoad(t, Config{BaseURL: server.URL, Concurrency: 2})
	eventually(t, 10*time.Second, "failures", func() bool { return failed(g, completion.KindNoTokens) >= 8 })
	start, before := time.Now(), failed(g, completion.KindNoTokens)
	wait(t, time.Second)
	if tries, most := failed(g, completion.KindNoTokens)-before, uint64(2*(time.Since(start).Seconds()*2+1)); tries > most {
		t.Errorf("%d requests of 2 workers in 1 s, want at most %d", tries, most)
	}
	if s := g.Stats(); s.Completed != 0 {
		t.Errorf("%d requests count as completed", s.Completed)
	}
}
