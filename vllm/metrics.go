package vllm

import (
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
)

// Metrics is what a server's /metrics page says of its load, over all engines of
// a data-parallel server. A number that the page does not tell is NaN, never 0.
type Metrics struct {
	// NumRequestsRunning and NumRequestsWaiting are sums over the engines.
	NumRequestsRunning, NumRequestsWaiting float64
	// KVCacheUsagePerc is the mean over the engines, a fraction in [0, 1].
	KVCacheUsagePerc float64
	// NumPreemptionsTotal is the sum over the engines since the server started.
	NumPreemptionsTotal float64
}

// MetricsPage is a metrics page as parseMetrics reads it.
type MetricsPage struct {
	Metrics
	// Unknown says why, of each number that is NaN, in the order of the metrics.
	Unknown []*MetricError
	// ModelName is the label model_name of the series that were taken, empty if
	// they have none. It is the model asked for unless the server calls that by
	// another name.
	ModelName string
}

// Names of metrics, as a [MetricError] gives them.
const (
	MetricRunning     = "vllm:num_requests_running"
	MetricWaiting     = "vllm:num_requests_waiting"
	MetricPreemptions = "vllm:num_preemptions_total"
	MetricKVCache     = "vllm:kv_cache_usage_perc"
)

// MetricError says why a page does not tell a number.
type MetricError struct {
	// Metric is its name, the current one where older servers have another.
	Metric string
	// Err is the cause. It wraps [ErrMissingMetric] if there is no such series, and
	// is an [*OtherModelsError] if there are only those of others.
	Err error
}

// Error says which number is unknown and why.
func (e *MetricError) Error() string { return e.Metric + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *MetricError) Unwrap() error { return e.Err }

// ErrMissingMetric is wrapped by the error for a metric that a page lacks. A
// missing metric is never read as 0.
var ErrMissingMetric = errors.New("metric is missing")

// OtherModelsError says that a page has the series of several models, and the one
// asked for is not among them.
type OtherModelsError struct {
	// ModelID is the model asked for, and Names are the labels model_name there.
	ModelID string
	Names   []string
}

// Error names the model and those that are there.
func (e *OtherModelsError) Error() string {
	return fmt.Sprintf("there are series of several models, and none has model_name %q: %s", shorten(e.ModelID), quoteSome(e.Names))
}

// Err is why the number of that name is unknown, nil if it is known.
func (p *MetricsPage) Err(metric string) error {
	for _, e := range p.Unknown {
		if e.Metric == metric {
			return e
		}
	}
	return nil
}

// Limits of what is read of a metrics page. vLLM's pages have some tens of
// kilobytes, their lines some hundred bytes with two labels, and there is a series
// for each engine.
const (
	maxMetricsBytes = 16 << 20
	maxSampleBytes  = 16 << 10 // of a line that is wanted
	maxLabels       = 32       // of a series: the parser takes their square
	maxSeries       = 1024     // of a metric, and as many of other models
)

// parseMetrics reads a page in Prometheus' text format, or OpenMetrics', as that
// of a server of the model. It looks at the lines of the metrics that it wants and
// at no others, each by itself: what is wrong with one number, a missing or
// malformed line or a value that is negative or not a finite number, makes that
// number unknown and no other. A number over several engines is unknown if that of
// one of them is.
//
// Of a page with series of several models (label model_name) those count that have
// the model's ID, and what is wrong with others' does not matter. Where none has, it
// may be that the server calls the model by another name: all count if they have one
// name, or none.
//
// It fails for a page that cannot be read to its end, is longer than 16 MiB, or
// has nothing of vLLM at all, the latter with [ErrMissingMetric].
func parseMetrics(r io.Reader, modelID string) (MetricsPage, error) {
	scan := metricsScan{modelID: modelID, label: labelValue(modelID), seed: maphash.MakeSeed()}
	limited := &io.LimitedReader{R: r, N: maxMetricsBytes + 1}
	err := scan.read(limited)
	switch {
	case limited.N <= 0:
		return MetricsPage{}, fmt.Errorf("vLLM metrics are longer than %d bytes", maxMetricsBytes)
	case err != nil:
		return MetricsPage{}, fmt.Errorf("vLLM metrics: %w", err)
	case !scan.ofVLLM:
		return MetricsPage{}, fmt.Errorf("vLLM metrics: %s: %w, and so are all others of vLLM; the page begins with %q",
			MetricRunning, ErrMissingMetric, scan.start)
	}
	return scan.page(), nil
}

// labelValue is a text as it stands in a label's quotes.
func labelValue(text string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(text)
}

// page makes the numbers of what was read.
func (s *metricsScan) page() MetricsPage {
	name, others := s.chooseModel()
	p := MetricsPage{ModelName: name}
	for _, want := range []struct {
		metric string
		to     *float64
		mean   bool
		from   []wantedName // the current name first, then older ones
	}{
		{MetricRunning, &p.NumRequestsRunning, false, []wantedName{running}},
		{MetricWaiting, &p.NumRequestsWaiting, false, []wantedName{waiting}},
		{MetricKVCache, &p.KVCacheUsagePerc, true, []wantedName{kvCache, kvCacheBefore}},
		{MetricPreemptions, &p.NumPreemptionsTotal, false, []wantedName{preemptions, preemptionsBefore}},
	} {
		*want.to = math.NaN()
		var cause error
		for _, from := range want.from {
			series, err := s.families[from].of(name, s.modelID, others)
			sum := 0.0
			for i := range series {
				sum += series[i].value
			}
			if want.mean {
				sum /= float64(len(series))
			}
			if err == nil && math.IsInf(sum, 0) {
				err = errors.New("the sum over the engines is beyond all numbers")
			}
			if err == nil {
				*want.to, cause = sum, nil
				break
			}
			// What is wrong with a metric that is there says more than that others are
			// missing.
			if cause == nil || errors.Is(cause, ErrMissingMetric) {
				cause = err
			}
		}
		if cause != nil {
			p.Unknown = append(p.Unknown, &MetricError{want.metric, cause})
		}
	}
	return p
}

// chooseModel says the series of which model_name count, and of which there are
// none that do.
func (s *metricsScan) chooseModel() (name string, others []string) {
	found := map[string]bool{}
	for i := range s.families {
		for _, series := range s.families[i].series {
			if series.modelName != "" {
				found[series.modelName] = true
			}
		}
	}
	names := slices.Sorted(maps.Keys(found))
	switch {
	case s.ours || found[s.modelID]:
		return s.modelID, nil
	case len(names) == 1:
		return names[0], nil
	case len(names) == 0:
		return "", nil
	default:
		return "", names
	}
}

// of returns the series that count, at least one, or why the number is unknown:
// there are none, or something is wrong with one of them. name is the model_name
// chosen; others are those of a page where none could be.
func (f *metricFamily) of(name, modelID string, others []string) ([]metricSeries, error) {
	switch {
	case f.err != nil:
		return nil, f.err
	case len(f.series) == 0 && f.othersErr == nil:
		return nil, ErrMissingMetric
	case others != nil:
		return nil, &OtherModelsError{modelID, others}
	case name != modelID && f.othersErr != nil:
		return nil, f.othersErr
	case len(f.series) == 0:
		return nil, ErrMissingMetric
	}
	var ours []metricSeries
	nameless := 0
	for _, series := range f.series {
		switch series.modelName {
		case name:
			ours = append(ours, series)
		case "":
			nameless++
		}
	}
	switch {
	case len(ours) == 0 && nameless == len(f.series):
		ours = f.series // as a server has it that labels some of its metrics only
	case len(ours) == 0:
		return nil, fmt.Errorf("%w for model_name %q", ErrMissingMetric, shorten(name))
	case nameless > 0 && name != modelID:
		return nil, fmt.Errorf("some of its series have model_name %q, which is not %q, and some have none", shorten(name), shorten(modelID))
	}
	for _, series := range ours {
		if series.err != nil {
			return nil, series.err
		}
	}
	return ours, nil
}

// quoteSome quotes the first of some names that a server gives.
func quoteSome(names []string) string {
	quoted, more := make([]string, 0, maxServedQuoted), ""
	for i, name := range names {
		if i == maxServedQuoted {
			more = fmt.Sprintf(" and %d more", len(names)-i)
			break
		}
		quoted = append(quoted, fmt.Sprintf("%q", shorten(name)))
	}
	return strings.Join(quoted, ", ") + more
}
