package metrics

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/g2g-agent/g2g-agent/agent"
	"github.com/g2g-agent/g2g-agent/api/guard"
	"github.com/g2g-agent/g2g-agent/api/stream"
	"github.com/g2g-agent/g2g-agent/datacenter"
)

// The real ones must do; the compiler says so.
var (
	_ watchedSite  = agent.Controllable(nil)
	_ watchedHub   = (*stream.Hub)(nil)
	_ watchedGuard = (*guard.Guard)(nil)
)

func parseFloat(t *testing.T, text string) float64 {
	t.Helper()
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestInstruments(t *testing.T) {
	m := liveRun(t).metrics(t)
	use(m)
	got := samples(scrape(t, m))
	for name, want := range map[string]float64{
		`g2g_step_lateness_seconds_bucket{le="0.00025"}`: 0,
		`g2g_step_lateness_seconds_bucket{le="0.0005"}`:  1,
		`g2g_step_lateness_seconds_bucket{le="0.01"}`:    1,
		`g2g_step_lateness_seconds_bucket{le="0.025"}`:   2,
		`g2g_step_lateness_seconds_bucket{le="+Inf"}`:    2,
		`g2g_step_lateness_seconds_count`:                2,
		`g2g_step_lateness_seconds_sum`:                  0.0203,
		`g2g_step_duration_seconds_bucket{le="0.001"}`:   0,
		`g2g_step_duration_seconds_bucket{le="0.0025"}`:  1,
		`g2g_step_duration_seconds_bucket{le="2.5"}`:     1,
		`g2g_step_duration_seconds_bucket{le="+Inf"}`:    2,

		`g2g_http_request_duration_seconds_bucket{le="0.0025",method="GET",route="/v1/state"}`:      1,
		`g2g_http_request_duration_seconds_bucket{le="0.001",method="GET",route="/v1/state"}`:       0,
		`g2g_http_request_duration_seconds_bucket{le="2.5",method="POST",route="/v1/batch-sizes"}`:  0,
		`g2g_http_request_duration_seconds_bucket{le="5",method="POST",route="/v1/batch-sizes"}`:    1,
		`g2g_http_request_duration_seconds_bucket{le="+Inf",method="POST",route="/v1/batch-sizes"}`: 1,
		`g2g_command_duration_seconds_bucket{command="batch-sizes",le="0.01"}`:                      0,
		`g2g_command_duration_seconds_bucket{command="batch-sizes",le="0.025"}`:                     1,
		`g2g_command_duration_seconds_count{command="replica-shifts"}`:                              1,
	} {
		if v, ok := got[name]; !ok || v-want > 1e-12 || want-v > 1e-12 {
			t.Errorf("%s is %v (there: %v), want %v", name, v, ok, want)
		}
	}
	for name := range got {
		if strings.HasPrefix(name, "g2g_http_request_duration") && strings.Contains(name, "/v1/stream") {
			t.Errorf("%s: how long a stream lasts is not how long an answer takes", name)
		}
	}
}

func TestObservingAStepDoesNotAllocate(t *testing.T) {
	m := liveRun(t).metrics(t)
	if n := testing.AllocsPerRun(1000, func() { m.ObserveStep(agent.StepTiming{Lateness: 7 * time.Millisecond, Took: time.Millisecond}) }); n != 0 {
		t.Errorf("%v allocations a step, want none", n)
	}
}

func TestAScrapeAsksOnce(t *testing.T) {
	r := liveRun(t)
	scrape(t, r.metrics(t))
	a := &r.asked
	if got := [...]int64{a.status.Load(), a.latest.Load(), a.stream.Load(), a.guard.Load(), a.live.Load()}; got != [...]int64{1, 1, 1, 1, 1} {
		t.Errorf("status, state, stream, guard and live statistics were asked for %v times, want once each", got)
	}
}

func TestScrapesAtTheSameTime(t *testing.T) {
	m := liveRun(t).metrics(t)
	server := httptest.NewServer(m.Handler())
	defer server.Close()
	stop := make(chan struct{})
	var stepping, scraping sync.WaitGroup
	stepping.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				use(m)
			}
		}
	})
	for range maxScrapes {
		scraping.Go(func() {
			for range 5 {
				families, err := scrapeFrom(t, server)
				if err != nil {
					t.Error(err)
					return
				}
				got := samples(families)
				if got[`g2g_power_watts{phase="a"}`] != 600_001 || got[`g2g_step_lateness_seconds_bucket{le="+Inf"}`] != got["g2g_step_lateness_seconds_count"] {
					t.Errorf("power %v, lateness %v of %v", got[`g2g_power_watts{phase="a"}`], got[`g2g_step_lateness_seconds_bucket{le="+Inf"}`], got["g2g_step_lateness_seconds_count"])
				}
			}
		})
	}
	scraping.Wait()
	close(stop)
	stepping.Wait()
}

func TestModelLabelsMayBeAnyText(t *testing.T) {
	for _, label := range []string{`quo"ted`, `back\slash`, "new\nline", "日本語 🦙", "{}=,", " ", `\n"`, "\x00"} {
		r := liveRun(t)
		r.status.Models[0].Spec.ModelLabel, r.state.Models[0].ModelLabel, r.live.Models[0].ModelLabel = label, label, label
		got := samples(scrape(t, r.metrics(t)))
		for _, name := range []string{"g2g_model_power_watts", "g2g_model_commanded_batch_size", "g2g_load_tokens_total"} {
			if key := fmt.Sprintf("%s{model_label=%q}", name, label); got[key] == 0 {
				t.Errorf("no %s", key)
			}
		}
	}
}

// Text that is not UTF-8 cannot stand in a label; it must not cost the scrape.
func TestBrokenTextIsMended(t *testing.T) {
	r := liveRun(t)
	r.state.Models[0].ModelLabel = "a\xffb"
	m := r.metrics(t)
	m.ObserveRequest("/\xfe", http.MethodGet, http.StatusOK, 0)
	m.ObserveCommand("\xfd", "accepted", 0)
	got := samples(scrape(t, m))
	for _, name := range []string{
		`g2g_model_power_watts{model_label="a�b"}`, `g2g_http_requests_total{method="GET",route="/�",status="200"}`,
		`g2g_commands_total{command="�",outcome="accepted"}`,
	} {
		if _, ok := got[name]; !ok {
			t.Errorf("no %s", name)
		}
	}
}

func TestOneFamilyThatFailsLeavesTheOthers(t *testing.T) {
	r := liveRun(t)
	r.state.Models = append(r.state.Models, r.state.Models[0]) // the same label twice
	m := r.metrics(t)
	got := samples(scrape(t, m))
	if got["g2g_steps_total"] != 123 || got[`g2g_power_watts{phase="a"}`] != 600_001 {
		t.Errorf("%v steps, %v W on phase a, want 123 and 600001", got["g2g_steps_total"], got[`g2g_power_watts{phase="a"}`])
	}
	if got := samples(scrape(t, m))[`promhttp_metric_handler_errors_total{cause="gathering"}`]; got == 0 {
		t.Error("the failure was not counted")
	}
}

func TestLabelValuesAreBounded(t *testing.T) {
	m := liveRun(t).metrics(t)
	for i := range 10_000 {
		text := strconv.Itoa(i)
		m.ObserveRequest("/"+text, "M"+text, i, 0)
		m.ObserveCommand("c"+text, "o"+text, 0)
		m.ObserveEvent(datacenter.Event{Topic: text})
	}
	values := map[string]map[string]bool{}
	for _, name := range []string{"g2g_http_requests_total", "g2g_commands_total", "g2g_events_total"} {
		var sum float64
		for _, metric := range scrape(t, m)[name].GetMetric() {
			sum += metric.GetCounter().GetValue()
			for _, l := range metric.GetLabel() {
				if values[l.GetName()] == nil {
					values[l.GetName()] = map[string]bool{}
				}
				values[l.GetName()][l.GetValue()] = true
			}
		}
		if sum != 10_000 {
			t.Errorf("%s counts %v, want all 10000", name, sum)
		}
	}
	for label, most := range map[string]int{"route": 65, "method": 13, "status": 501, "command": 17, "outcome": 17, "topic": 9} {
		if n := len(values[label]); n == 0 || n > most {
			t.Errorf("label %s has %d values, want 1 to %d", label, n, most)
		}
	}
}

// The collector says of itself what it collects; the registry checks it.
func TestCollectorKeepsToItsDescription(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(liveRun(t).metrics(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := registry.Gather(); err != nil {
		t.Error(err)
	}
}

func TestOpenMetrics(t *testing.T) {
	m := liveRun(t).metrics(t)
	use(m)
	req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil)
	req.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
	rec := httptest.NewRecorder()
	m.Handler().ServeHTTP(rec, req)
	if rec.Code != http.StatusOK || !strings.HasPrefix(rec.Header().Get("Content-Type"), "application/openmetrics-text") || !strings.HasSuffix(rec.Body.String(), "# EOF\n") {
		t.Errorf("status %d, %s, ends with %q", rec.Code, rec.Header().Get("Content-Type"), rec.Body.String()[max(0, rec.Body.Len()-20):])
	}
	if !strings.Contains(rec.Body.String(), "# TYPE g2g_steps counter\n") {
		t.Error("g2g_steps is no counter of OpenMetrics")
	}
}

// held is a site that answers when it is let go.
type held struct {
	site
	asked, letGo chan struct{}
}

func (h held) Status() agent.Status {
	h.run.asked.status.Add(1)
	h.asked <- struct{}{}
	<-h.letGo
	return h.status
}

func TestTooManyScrapesAtOnceAreRefused(t *testing.T) {
	r := liveRun(t)
	h := held{site{r}, make(chan struct{}), make(chan struct{})}
	m, err := New(Config{Site: h, Hub: hub{r}, Guard: sentry{r}})
	if err != nil {
		t.Fatal(err)
	}
	handler := m.Handler()
	ask := func() int {
		rec := httptest.NewRecorder()
		handler.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
		return rec.Code
	}
	var scraping sync.WaitGroup
	for range maxScrapes {
		scraping.Go(func() {
			if code := ask(); code != http.StatusOK {
				t.Errorf("status %d of a scrape that was let in", code)
			}
		})
	}
	for range maxScrapes {
		<-h.asked
	}
	if code := ask(); code != http.StatusServiceUnavailable {
		t.Errorf("status %d of one scrape too many, want 503", code)
	}
	close(h.letGo)
	scraping.Wait()
}
