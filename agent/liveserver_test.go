package agent

import (
	"context"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/credential"
	"github.com/g2g-agent/g2g-agent/internal/logtest"
	"github.com/g2g-agent/g2g-agent/rig"
	"github.com/g2g-agent/g2g-agent/vllm"
)

// gateway stands before a simulated server; what own does not answer goes there.
func gateway(t *testing.T, server string, own func(http.ResponseWriter, *http.Request) bool) string {
	t.Helper()
	target, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.FlushInterval = -1
	proxy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	transport := &http.Transport{}
	proxy.Transport = transport
	g := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !own(w, r) {
			defer func() { _ = recover() }() // a stream that its client gave up
			proxy.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(func() {
		g.CloseClientConnections()
		g.Close()
		transport.CloseIdleConnections()
	})
	return g.URL
}

// metricsPage is the page of the server behind a gateway.
func metricsPage(ctx context.Context, server string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server+"/metrics", nil)
	if err != nil {
		return "", err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	return string(page), err
}

// changedMetrics is a gateway's answer to GET /metrics: the server's page, changed.
func changedMetrics(server string, change func(string) string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/metrics" {
			return false
		}
		page, err := metricsPage(r.Context(), server)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return true
		}
		io.WriteString(w, change(page))
		return true
	}
}

// withoutLines leaves out the lines that match.
func withoutLines(page, pattern string) string {
	return regexp.MustCompile(`(?m)^`+pattern+`.*\n`).ReplaceAllString(page, "")
}

// newGatewaySite is a site whose model "patched" is reached through a gateway.
func newGatewaySite(t *testing.T, own func(server string) func(http.ResponseWriter, *http.Request) bool, change func(*siteConfig)) *liveSite {
	t.Helper()
	return newFaultSite(t, func(cfg *siteConfig) {
		server := cfg.Hardware[0].Servers[0].VLLMBaseURL
		cfg.Hardware[0].Servers[0].VLLMBaseURL = gateway(t, server, own(server))
		if change != nil {
			change(cfg)
		}
	})
}

// TestLiveStartsOnOddMetrics: a run starts if the page tells what runs, whatever
// else is wrong with it, and what it does not tell is null.
func TestLiveStartsOnOddMetrics(t *testing.T) {
	t.Parallel()
	nan := math.NaN()
	value := func(page, metric, v string) string {
		return regexp.MustCompile(`(?m)^(`+metric+`\{.*\}) .*$`).ReplaceAllString(page, "$1 "+v)
	}
	var tests []faultTest
	for name, c := range map[string]struct {
		change func(string) string
		want   datacenter.ServerLoad // NaN: null; else 1 for known
	}{
		"a foreign value":   {func(p string) string { return p + "gpu_power_watts N/A\n" }, datacenter.ServerLoad{NumRequestsRunning: 1, NumRequestsWaiting: 1, KVCacheUsagePerc: 1, NumPreemptionsTotal: 1}},
		"no preemptions":    {func(p string) string { return withoutLines(p, "vllm:num_preemptions") }, datacenter.ServerLoad{NumRequestsRunning: 1, NumRequestsWaiting: 1, KVCacheUsagePerc: 1, NumPreemptionsTotal: nan}},
		"a KV cache of NaN": {func(p string) string { return value(p, "vllm:kv_cache_usage_perc", "NaN") }, datacenter.ServerLoad{NumRequestsRunning: 1, NumRequestsWaiting: 1, KVCacheUsagePerc: nan, NumPreemptionsTotal: 1}},
		"only what runs":    {func(p string) string { return regexp.MustCompile(`(?m)^vllm:num_requests_running.*$`).FindString(p) }, datacenter.ServerLoad{NumRequestsRunning: 1, NumRequestsWaiting: nan, KVCacheUsagePerc: nan, NumPreemptionsTotal: nan}},
		"another model beside": {func(p string) string {
			return p + strings.ReplaceAll(value(value(p, "vllm:num_requests_running", "99"), "vllm:num_requests_waiting", "99"), `model_name="org/patched"`, `model_name="org/other"`)
		}, datacenter.ServerLoad{NumRequestsRunning: 1, NumRequestsWaiting: 1, KVCacheUsagePerc: 1, NumPreemptionsTotal: 1}},
		"by another name": {func(p string) string { return strings.ReplaceAll(p, "org/patched", "/models/patched") }, datacenter.ServerLoad{NumRequestsRunning: 1, NumRequestsWaiting: 1, KVCacheUsagePerc: 1, NumPreemptionsTotal: 1}},
	} {
		tests = append(tests, faultTest{name, func(t *testing.T) {
			s := newGatewaySite(t, func(server string) func(http.ResponseWriter, *http.Request) bool {
				return changedMetrics(server, c.change)
			}, patiently)
			s.start(t)
			known := func(got, want float64) bool { return math.IsNaN(got) == math.IsNaN(want) }
			s.await(t, "the metrics that there are", func(state *datacenter.State) bool {
				l := state.Models[0].Live.Server
				return l != nil && l.NumRequestsRunning == 4 && known(l.NumRequestsWaiting, c.want.NumRequestsWaiting) &&
					known(l.KVCacheUsagePerc, c.want.KVCacheUsagePerc) && known(l.NumPreemptionsTotal, c.want.NumPreemptionsTotal) && !(l.NumRequestsWaiting > 50)
			})
			if got := s.live.Status().Models[0].AchievedBatchSize; got != 4 {
				t.Errorf("the batch size achieved is %v", got)
			}
			s.stop(t)
		}})
	}
	together(t, tests)
}

// unknownRunning are gateways through which a server does not say how many requests
// it runs, and what an error about that has to name.
func unknownRunning() map[string]unknownCase {
	return map[string]unknownCase{
		"missing": {func(server string) func(http.ResponseWriter, *http.Request) bool {
			return changedMetrics(server, func(p string) string { return withoutLines(p, "vllm:num_requests_running") })
		}, []string{"vllm:num_requests_running: metric is missing"}, false},
		"others alone": {func(server string) func(http.ResponseWriter, *http.Request) bool {
			return changedMetrics(server, func(p string) string {
				return strings.ReplaceAll(p, "org/patched", "a") + strings.ReplaceAll(p, "org/patched", "b")
			})
		}, []string{`"org/patched"`, `"a", "b"`}, false},
		"empty": {func(server string) func(http.ResponseWriter, *http.Request) bool {
			return changedMetrics(server, func(string) string { return "" })
		}, []string{"vllm:num_requests_running: metric is missing"}, true},
		"of something else": {func(server string) func(http.ResponseWriter, *http.Request) bool {
			return changedMetrics(server, func(string) string { return "go_goroutines 5\n" })
		}, []string{"vllm:num_requests_running: metric is missing"}, true},
		"malformed": {func(server string) func(http.ResponseWriter, *http.Request) bool {
			return changedMetrics(server, func(p string) string {
				return strings.ReplaceAll(p, "\nvllm:num_requests_running{", "\nvllm:num_requests_running{,")
			})
		}, []string{"vllm:num_requests_running"}, true},
		"unavailable": {func(string) func(http.ResponseWriter, *http.Request) bool {
			return func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path == "/metrics" {
					w.WriteHeader(http.StatusServiceUnavailable)
					return true
				}
				return false
			}
		}, []string{"/metrics: the server answered 503"}, false},
		"not found": {func(string) func(http.ResponseWriter, *http.Request) bool {
			return func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path == "/metrics" {
					http.NotFound(w, r)
					return true
				}
				return false
			}
		}, []string{"/metrics: the server answered 404"}, true},
		"elsewhere": {func(string) func(http.ResponseWriter, *http.Request) bool {
			return func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path == "/metrics" {
					http.Redirect(w, r, "http://127.0.0.1:1/metrics", http.StatusTemporaryRedirect)
					return true
				}
				return false
			}
		}, []string{"redirect to http://127.0.0.1:1/metrics"}, true},
	}
}

type unknownCase struct {
	own   func(server string) func(http.ResponseWriter, *http.Request) bool
	wants []string
	fails bool // the probe, which else warns
}

// TestLiveSaysWhyWhatRunsIsUnknown: the warm-up ends, says what is missing, and
// the way out.
func TestLiveSaysWhyWhatRunsIsUnknown(t *testing.T) {
	t.Parallel()
	const wayOut = "live.prometheus_poll_interval_s is 0"
	var tests []faultTest
	for name, c := range unknownRunning() {
		tests = append(tests, faultTest{name, func(t *testing.T) {
			s := newGatewaySite(t, c.own, func(cfg *siteConfig) { cfg.WarmupTimeout = 2 * time.Second })
			s.run(t.Context(), t)
			if s.err == nil || s.timing.Steps > 0 {
				t.Fatalf("the run began: %d steps, error %v", s.timing.Steps, s.err)
			}
			for _, want := range append(c.wants, "patched: wants 4 running, has unknown (", wayOut) {
				if !contains(s.err, want) {
					t.Errorf("the error lacks %q: %v", want, s.err)
				}
			}

			c.wantProbed(t, s.live.Probe(t.Context())[1], wayOut)

			// The way out leads out.
			s.cfg.PrometheusPollInterval = 0
			live, err := NewLive(s.cfg.LiveConfig)
			if err != nil {
				t.Fatal(err)
			}
			s.live, s.done = live, make(chan struct{})
			if result := s.live.Probe(t.Context())[1]; result.Err != nil || result.Warnings != nil || !strings.Contains(strings.Join(result.Findings, ""), wayOut) {
				t.Errorf("without metrics the probe finds %+v", result)
			}
			s.start(t)
			if state := s.await(t, "a state", func(*datacenter.State) bool { return true }); state.Models[0].Live.Server != nil {
				t.Errorf("the state has metrics: %s", state.AppendJSON(nil))
			}
			s.stop(t)
		}})
	}
	together(t, tests)
}

// wantProbed: the probe fails or warns, with the words of the run's error and the way
// out.
func (c unknownCase) wantProbed(t *testing.T, result rig.ProbeResult, wayOut string) {
	t.Helper()
	text := strings.Join(append(result.Findings, result.Warnings...), "; ")
	if result.Err != nil {
		text += result.Err.Error()
	}
	if c.fails != (result.Err != nil) || c.fails == (result.Warnings != nil) {
		t.Errorf("the probe finds %+v", result)
	}
	for _, want := range append(c.wants, wayOut) {
		if !strings.Contains(text, want) {
			t.Errorf("the probe lacks %q: %s", want, text)
		}
	}
}

// TestLiveFallsBackToTheNextActuator: a server seems to have an actuator and does
// not know the command.
func TestLiveFallsBackToTheNextActuator(t *testing.T) {
	t.Parallel()
	seems := func(get, post int, allow string, everywhere bool) func(string) func(http.ResponseWriter, *http.Request) bool {
		return func(string) func(http.ResponseWriter, *http.Request) bool {
			return func(w http.ResponseWriter, r *http.Request) bool {
				ours := r.URL.Path == "/set_max_num_seqs" || everywhere && r.URL.Path == "/v1/runtime_config" || strings.HasPrefix(r.URL.Path, "/set_max_num_seqs_") && everywhere
				switch {
				case !ours:
					return false
				case r.Method == http.MethodGet:
					if allow != "" {
						w.Header().Set("Allow", allow)
					}
					w.WriteHeader(get)
				default:
					w.WriteHeader(post)
				}
				return true
			}
		}
	}
	var tests []faultTest
	for name, c := range map[string]struct {
		own       func(string) func(http.ResponseWriter, *http.Request) bool
		fallsBack bool
	}{
		"405 there, 404 to the command":  {seems(405, 404, "", false), true},
		"405 with Allow, 405 to it":      {seems(405, 405, "POST", false), true},
		"405 there, 410 to it":           {seems(405, 410, "", false), true},
		"405 there, 501 to it":           {seems(405, 501, "", false), true},
		"405 for all, 404 to it":         {seems(405, 404, "", true), false},
		"405 for all, 200 to whatever":   {seems(405, 200, "", true), false},
		"200 for all, 200 to whatever":   {seems(200, 200, "", true), false},
		"405 for all, POST allowed, 404": {seems(405, 404, "POST", true), false},
	} {
		tests = append(tests, faultTest{name, func(t *testing.T) {
			log := &logtest.Buffer{}
			s := newGatewaySite(t, c.own, func(cfg *siteConfig) { patiently(cfg); cfg.Log = zerolog.New(log) })
			result := s.live.Probe(t.Context())[1]
			if result.Err != nil || !c.fallsBack && !slices.Contains(result.Findings, "batch sizes by concurrency") {
				t.Errorf("the probe finds %+v", result)
			}
			s.start(t)
			s.await(t, "the batch", func(state *datacenter.State) bool { return runsBatch(4)(state) })
			if got := s.live.Status().Models[0].Actuator; got != string(vllm.ActuatorConcurrency) {
				t.Errorf("the actuator is %s", got)
			}
			if n := strings.Count(log.String(), "the next best is taken"); n != map[bool]int{true: 1}[c.fallsBack] {
				t.Errorf("%d lines of a way that was refused:\n%s", n, log)
			}
			s.stop(t)
		}})
	}
	together(t, tests)
}

// TestForcedActuatorThatIsMissing: what the config says is done, or the run ends
// and says what there is.
func TestForcedActuatorThatIsMissing(t *testing.T) {
	t.Parallel()
	s := newFaultSite(t, func(cfg *siteConfig) {
		cfg.Hardware[0].Servers[0].Actuator = vllm.ActuatorRuntimeConfig
		cfg.Hardware[1].Servers[0].Actuator = vllm.ActuatorSetMaxNumSeqs
	})
	results := s.live.Probe(t.Context())[1:]
	s.run(t.Context(), t)
	for i, wants := range [][]string{
		{"batch_size_actuator is runtime_config, which the server does not have, but set_max_num_seqs", `"patched"`},
		{"batch_size_actuator is set_max_num_seqs, which the server does not have, but concurrency", `"stock"`},
	} {
		for _, want := range wants {
			if s.err == nil || !contains(s.err, want) {
				t.Errorf("the run's error lacks %q: %v", want, s.err)
			}
		}
		if err := results[i].Err; err == nil || !contains(err, wants[0]) {
			t.Errorf("the probe finds %v", err)
		}
	}

	// A gateway may hide what is there: the run is right to try.
	s = newGatewaySite(t, func(string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/set_max_num_seqs") {
				w.WriteHeader(http.StatusMethodNotAllowed)
				return true
			}
			return false
		}
	}, func(cfg *siteConfig) {
		patiently(cfg)
		cfg.Hardware[0].Servers[0].Actuator = vllm.ActuatorSetMaxNumSeqs
	})
	if result := s.live.Probe(t.Context())[1]; result.Err != nil || len(result.Warnings) != 1 || !slices.Contains(result.Findings, "batch sizes by set_max_num_seqs") {
		t.Errorf("the probe finds %+v", result)
	}
	s.start(t)
	s.await(t, "the batch", func(state *datacenter.State) bool { return runsBatch(4)(state) })
	s.stop(t)
}

// TestLiveFollowsRedirectsOfMetrics: the page is mounted elsewhere on the server.
func TestLiveFollowsRedirectsOfMetrics(t *testing.T) {
	t.Parallel()
	s := newGatewaySite(t, func(server string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			switch r.URL.Path {
			case "/metrics":
				http.Redirect(w, r, "/metrics/", http.StatusTemporaryRedirect)
			case "/metrics/":
				page, err := metricsPage(r.Context(), server)
				if err != nil {
					w.WriteHeader(http.StatusBadGateway)
				}
				io.WriteString(w, page)
			default:
				return false
			}
			return true
		}
	}, patiently)
	s.start(t)
	s.await(t, "the batch", runsBatch(4))
	s.stop(t)
}

// TestLiveTakesANewKey: the server's key is replaced while the run is on.
func TestLiveTakesANewKey(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	right, inFile := "one", "one"
	read := func() (string, error) {
		mu.Lock()
		defer mu.Unlock()
		return inFile, nil
	}
	log := &logtest.Buffer{}
	s := newGatewaySite(t, func(string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			mu.Lock()
			defer mu.Unlock()
			if r.Header.Get("Authorization") == "Bearer "+right {
				return false
			}
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
	}, func(cfg *siteConfig) {
		patiently(cfg)
		cfg.Log = zerolog.New(log)
		var err error
		if cfg.Hardware[0].Servers[0].Credential, err = credential.Renewable(read, time.Second, cfg.Log); err != nil {
			t.Fatal(err)
		}
	})
	w := watch(t, s)
	w.floorW[0] = 0.99 * idleW // the truth, while all load is refused
	mu.Lock()
	right = "two"
	mu.Unlock()
	w.until(t, "no metrics", w.cfg.StaleAfter+slack, func(state *datacenter.State) bool { return state.Models[0].Live.Server == nil })
	if err := s.live.Apply(t.Context(), datacenter.SetBatchSize{BatchSizeByModel: map[string]int{"patched": 8}}); err == nil || !contains(err, "401") {
		t.Errorf("a command with the old key: %v", err)
	}
	mu.Lock()
	inFile = "two"
	mu.Unlock()
	w.until(t, "metrics", recoveryTime, func(state *datacenter.State) bool { return state.Models[0].Live.Server != nil })
	w.setBatchSize(t, "patched", 8)
	w.until(t, "a batch of 8", recoveryTime, runsBatch(8))
	w.finish(t)
	w.wantEvents(t, nil)
	if n := strings.Count(log.String(), "a new one was found"); n != 1 {
		t.Errorf("%d lines of a new key, want 1", n)
	}
}
