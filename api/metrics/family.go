package metrics

import (
	"math"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/g2g-agent/g2g-agent/loadgen"
)

// kind is a metric's type, as Prometheus names it.
type kind string

const (
	gauge     kind = "gauge"
	counter   kind = "counter"
	histogram kind = "histogram"
	summary   kind = "summary"
)

// family is what the series of one name have in common.
type family struct {
	section    string
	name, help string
	kind       kind
	labels     []string
	// liveOnly: a replay has no such series.
	liveOnly bool

	desc *prometheus.Desc
	// read hands on the family's values; nil for one that counts by itself.
	read func(*snapshot, series)
}

// onlyLive marks the family as one that a replay lacks.
func (f *family) onlyLive() { f.liveOnly = true }

// catalog is all families, in the order of the reference.
type catalog struct {
	section  string
	families []*family
}

// add declares a family whose values read takes from a snapshot. Labels are
// separated by blanks.
func (c *catalog) add(k kind, name, labels, help string, read func(*snapshot, series)) *family {
	f := &family{section: c.section, name: name, help: help, kind: k, labels: strings.Fields(labels), read: read}
	f.desc = prometheus.NewDesc(name, help, f.labels, nil)
	c.families = append(c.families, f)
	return f
}

func (c *catalog) gauge(name, labels, help string, read func(*snapshot, series)) *family {
	return c.add(gauge, name, labels, help, read)
}

func (c *catalog) counter(name, labels, help string, read func(*snapshot, series)) *family {
	return c.add(counter, name, labels, help, read)
}

// series takes the values of one family during one scrape. Label values come in
// the order of the family's labels.
type series struct {
	family *family
	to     chan<- prometheus.Metric
}

// value adds a gauge or a counter, unless v is not known.
func (s series) value(v float64, labels ...string) {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return
	}
	valueType := prometheus.GaugeValue
	if s.family.kind == counter {
		valueType = prometheus.CounterValue
	}
	s.send(prometheus.NewConstMetric(s.family.desc, valueType, v, clean(labels)...))
}

// count is value for what is a whole number.
func (s series) count(n uint64, labels ...string) { s.value(float64(n), labels...) }

// flag is value for what is so (1) or not (0).
func (s series) flag(is bool, labels ...string) {
	if is {
		s.value(1, labels...)
	} else {
		s.value(0, labels...)
	}
}

// histogram adds what d counts up to each of the bounds, which are among
// [loadgen.BucketBoundsS].
func (s series) histogram(d *loadgen.Distribution, boundsS map[float64]bool, labels ...string) {
	buckets := make(map[float64]uint64, len(boundsS))
	for i, boundS := range loadgen.BucketBoundsS() {
		if boundsS[boundS] {
			buckets[boundS] = d.Cumulative[i]
		}
	}
	s.send(prometheus.NewConstHistogram(s.family.desc, d.Count, d.SumS, buckets, clean(labels)...))
}

// summary adds the percentiles of d, those that are known.
func (s series) summary(d *loadgen.Distribution, labels ...string) {
	quantiles := map[float64]float64{}
	if d.Count > 0 {
		quantiles = map[float64]float64{0.5: d.P50S, 0.9: d.P90S, 0.95: d.P95S, 0.99: d.P99S}
	}
	s.send(prometheus.NewConstSummary(s.family.desc, d.Count, d.SumS, quantiles, clean(labels)...))
}

func (s series) send(m prometheus.Metric, err error) {
	if err != nil { // a mistake here, which the scrape then reports
		m = prometheus.NewInvalidMetric(s.family.desc, err)
	}
	s.to <- m
}

// clean makes label values valid: any text is, if it is UTF-8.
func clean(labels []string) []string {
	for i := range labels {
		labels[i] = strings.ToValidUTF8(labels[i], "\uFFFD")
	}
	return labels
}
