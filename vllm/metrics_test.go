package vllm

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMetricsMatchGolden(t *testing.T) {
	raw, err := os.ReadFile("../testdata/golden/components/vllm_metrics.json")
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Text     string             `json:"text"`
		Snapshot map[string]float64 `json:"snapshot"`
	}
	if err := json.Unmarshal(raw, &golden); err != nil {
		t.Fatal(err)
	}
	m, err := ParseMetrics(strings.NewReader(golden.Text))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{
		"num_requests_running": m.NumRequestsRunning, "num_requests_waiting": m.NumRequestsWaiting,
		"num_preemptions_total": m.NumPreemptionsTotal, "kv_cache_usage_perc": m.KVCacheUsagePerc,
	}
	if len(golden.Snapshot) != len(got) {
		t.Fatalf("the golden snapshot has %v", golden.Snapshot)
	}
	for name, want := range golden.Snapshot {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
}

const twoEngines = `vllm:num_requests_running{engine="0"} 61
vllm:num_requests_running{engine="1"} 64
vllm:num_requests_waiting{engine="0"} 3
vllm:num_requests_waiting{engine="1"} 1
vllm:num_preemptions_total{engine="0"} 12
vllm:num_preemptions_total{engine="1"} 0
vllm:gpu_cache_usage_perc{engine="0"} 0.5
vllm:gpu_cache_usage_perc{engine="1"} 0.25
`

func TestCountsAreSummedAndFractionsAveraged(t *testing.T) {
	m, err := ParseMetrics(strings.NewReader(twoEngines))
	if want := (Metrics{125, 4, 0.375, 12}); err != nil || m != want {
		t.Errorf("metrics %+v (%v), want %+v", m, err, want)
	}
}

func TestMissingMetricIsAnError(t *testing.T) {
	for _, name := range []string{"vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:num_preemptions_total", "vllm:gpu_cache_usage_perc"} {
		var rest []string
		for line := range strings.Lines(twoEngines) {
			if !strings.HasPrefix(line, name) {
				rest = append(rest, line)
			}
		}
		if _, err := ParseMetrics(strings.NewReader(strings.Join(rest, ""))); !errors.Is(err, ErrMissingMetric) {
			t.Errorf("without %s: error %v", name, err)
		}
	}
	if _, err := ParseMetrics(strings.NewReader("vllm:num_requests_running{ 1\n")); err == nil || errors.Is(err, ErrMissingMetric) {
		t.Errorf("a malformed page: error %v", err)
	}
}

func TestMetricThatIsNoNumberIsAnError(t *testing.T) {
	for _, value := range []string{"NaN", "+Inf", "-200"} {
		page := strings.Replace(twoEngines, "{engine=\"1\"} 64", "{engine=\"1\"} "+value, 1)
		if m, err := ParseMetrics(strings.NewReader(page)); err == nil || !strings.Contains(err.Error(), "vllm:num_requests_running") {
			t.Errorf("%s was read as %+v (%v)", value, m, err)
		}
	}
}

func FuzzParseMetrics(f *testing.F) {
	f.Add(twoEngines)
	f.Add("# TYPE vllm:num_requests_running histogram\nvllm:num_requests_running_bucket{le=\"+Inf\"} 1\n")
	f.Fuzz(func(t *testing.T, page string) {
		if _, err := ParseMetrics(strings.NewReader(page)); err == nil && !strings.Contains(page, "num_requests_running") {
			t.Error("a page without the metric was read")
		}
	})
}
