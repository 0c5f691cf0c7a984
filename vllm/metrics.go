package vllm

import (
	"errors"
	"fmt"
	"io"
	"math"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Metrics is what a server's /metrics page says of its load, over all engines of
// a data-parallel server.
type Metrics struct {
	// NumRequestsRunning and NumRequestsWaiting are sums over the engines.
	NumRequestsRunning, NumRequestsWaiting float64
	// KVCacheUsagePerc is the mean over the engines, a fraction in [0, 1].
	KVCacheUsagePerc float64
	// NumPreemptionsTotal is the sum over the engines since the server started.
	NumPreemptionsTotal float64
}

// maxMetricsBytes bounds a metrics page; vLLM's have some tens of kilobytes.
const maxMetricsBytes = 16 << 20

// ErrMissingMetric is wrapped by the error of [ParseMetrics] for a page that
// lacks a metric. A missing metric is never read as 0.
var ErrMissingMetric = errors.New("metric is missing")

// ParseMetrics reads a page in Prometheus' text format. It fails for a page that
// is malformed, longer than 16 MiB, lacks one of the metrics, or has one that is
// negative or not a finite number.
func ParseMetrics(r io.Reader) (Metrics, error) {
	limited := &io.LimitedReader{R: r, N: maxMetricsBytes + 1}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(limited)
	if limited.N <= 0 {
		return Metrics{}, fmt.Errorf("vLLM metrics are longer than %d bytes", maxMetricsBytes)
	}
	if err != nil {
		return Metrics{}, fmt.Errorf("vLLM metrics: %w", err)
	}
	var m Metrics
	for _, want := range []struct {
		to    *float64
		mean  bool
		names []string // the current name first, then older ones
	}{
		{&m.NumRequestsRunning, false, []string{"vllm:num_requests_running"}},
		{&m.NumRequestsWaiting, false, []string{"vllm:num_requests_waiting"}},
		{&m.NumPreemptionsTotal, false, []string{"vllm:num_preemptions_total", "vllm:num_preemptions"}},
		{&m.KVCacheUsagePerc, true, []string{"vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"}},
	} {
		sum, n := sumSeries(families, want.names)
		if n == 0 {
			return Metrics{}, fmt.Errorf("vLLM metrics: %s: %w", want.names[0], ErrMissingMetric)
		}
		if want.mean {
			sum /= float64(n)
		}
		if !(sum >= 0) || math.IsInf(sum, 1) {
			return Metrics{}, fmt.Errorf("vLLM metrics: %s is %v in all, want a finite number from 0 on", want.names[0], sum)
		}
		*want.to = sum
	}
	return m, nil
}

// sumSeries adds up the series of the first of names that is there and counts
// them.
func sumSeries(families map[string]*dto.MetricFamily, names []string) (sum float64, n int) {
	for _, name := range names {
		for _, series := range families[name].GetMetric() {
			switch {
			case series.Gauge != nil:
				sum += series.Gauge.GetValue()
			case series.Counter != nil:
				sum += series.Counter.GetValue()
			case series.Untyped != nil:
				sum += series.Untyped.GetValue()
			default:
				continue
			}
			n++
		}
		if n > 0 {
			break
		}
	}
	return sum, n
}
