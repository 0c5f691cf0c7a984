package sim

import (
	"bytes"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// histogram is one of Prometheus' kind.
type histogram struct {
	bounds []float64
	counts []int64 // by bucket, the last one without a bound
	sum    float64
}

func newHistogram(bounds ...float64) histogram {
	return histogram{bounds: bounds, counts: make([]int64, len(bounds)+1)}
}

func (h *histogram) observe(x float64, n int64) {
	i, _ := slices.BinarySearch(h.bounds, x)
	h.counts[i] += n
	h.sum += x * float64(n)
}

func (h *histogram) reset() {
	clear(h.counts)
	h.sum = 0
}

// value is what a line of the histogram says: one of its buckets, the count or the
// sum.
func (h *histogram) value(l pageLine) string {
	if strings.HasSuffix(l.name, "_sum") {
		return promFloat(h.sum)
	}
	var total int64
	for i, n := range h.counts {
		total += n
		if i < len(h.bounds) && strings.Contains(l.labels, `le="`+promFloat(h.bounds[i])+`"`) {
			break
		}
	}
	return promFloat(float64(total))
}

// promFloat writes a number as Python's client does: always with a point.
func promFloat(x float64) string {
	s := strconv.FormatFloat(x, 'g', -1, 64)
	if !strings.ContainsAny(s, ".eIN") {
		s += ".0"
	}
	return s
}

func (v *VLLM) serveMetrics(c *conn, e *engine, faults VLLMFaults) {
	if faults.MetricsStatus != 0 {
		c.answer(faults.MetricsStatus, "text/plain; charset=utf-8", []byte("simulated fault\n"))
		return
	}
	var b bytes.Buffer
	v.writeMetrics(&b, e, !faults.MetricsGone)
	c.answer(http.StatusOK, "text/plain; version=1.0.0; charset=utf-8", b.Bytes())
}

// writeMetrics writes the page; vLLM's own metrics may be left out.
func (v *VLLM) writeMetrics(b *bytes.Buffer, e *engine, own bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	values := v.liveValues(e)
	life := v.total
	life.subtract(v.atBirth)
	for i := range v.page {
		f := &v.page[i]
		if !own && strings.HasPrefix(f.name, "vllm:") {
			continue
		}
		value, changes := values[f.name]
		switch {
		case !changes:
			b.Write(f.plain)
		case v.cfg.APIServers > 1 && f.kind == "gauge" && life.started == 0:
			// Such a server has these from its first request on.
			f.write(b, 0, nil)
		default:
			f.write(b, v.cfg.Engines, value)
		}
	}
}

// liveValues are the values of the metrics that change; v.mu is held.
func (v *VLLM) liveValues(e *engine) map[string]func(pageLine, int) string {
	load := e.snapshot()
	life := v.total
	life.subtract(v.atBirth)
	// A sum over all engines, split so that the parts add up to it.
	share := func(n int64, engine int) string {
		k := int64(v.cfg.Engines)
		part := n / k
		if int64(engine) < n%k {
			part++
		}
		return promFloat(float64(part))
	}
	// only is for the line with the label, of several that have others.
	only := func(label string, value func(int) string) func(pageLine, int) string {
		return func(l pageLine, engine int) string {
			if !strings.Contains(l.labels, label) {
				return promFloat(0)
			}
			return value(engine)
		}
	}
	waiting := func(engine int) string { return promFloat(float64(load.waiting[engine])) }
	usage := promFloat(min(float64(load.kvTokens)/float64(v.cfg.KVCacheTokens), 1))
	kv := func(pageLine, int) string { return usage }
	histograms := func(h *histogram) func(pageLine, int) string {
		return func(l pageLine, engine int) string {
			if engine > 0 { // it is not kept by engine
				return promFloat(0)
			}
			return h.value(l)
		}
	}
	return map[string]func(pageLine, int) string{
		"vllm:num_requests_running":           func(_ pageLine, engine int) string { return promFloat(float64(load.running[engine])) },
		"vllm:num_requests_waiting":           func(_ pageLine, engine int) string { return waiting(engine) },
		"vllm:num_requests_waiting_by_reason": only(`reason="capacity"`, waiting),
		"vllm:kv_cache_usage_perc":            kv,
		"vllm:gpu_cache_usage_perc":           kv,
		"vllm:prompt_tokens_total":            func(_ pageLine, engine int) string { return share(life.prompt, engine) },
		"vllm:prompt_tokens_by_source_total":  only(`source="local_compute"`, func(engine int) string { return share(life.prompt, engine) }),
		"vllm:generation_tokens_total":        func(_ pageLine, engine int) string { return share(life.tokens, engine) },
		"vllm:request_success_total": func(l pageLine, engine int) string {
			switch {
			case strings.Contains(l.labels, `finished_reason="length"`):
				return share(life.finished-life.stopped, engine)
			case strings.Contains(l.labels, `finished_reason="stop"`):
				return share(life.stopped, engine)
			default:
				return promFloat(0)
			}
		},
		"vllm:time_to_first_token_seconds": histograms(&v.ttft),
		"vllm:inter_token_latency_seconds": histograms(&v.tpot),
	}
}
