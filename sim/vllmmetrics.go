package sim

import (
	"bytes"
	"fmt"
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

func (h *histogram) write(b *bytes.Buffer, name, labels string) {
	var total int64
	for i, n := range h.counts {
		total += n
		bound := "+Inf"
		if i < len(h.bounds) {
			bound = promFloat(h.bounds[i])
		}
		fmt.Fprintf(b, "%s_bucket{%s,le=\"%s\"} %s\n", name, labels, bound, promFloat(float64(total)))
	}
	fmt.Fprintf(b, "%s_count{%s} %s\n%s_sum{%s} %s\n", name, labels, promFloat(float64(total)), name, labels, promFloat(h.sum))
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
	family := func(name, kind, help string) {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
	}
	family("python_info", "gauge", "Python platform information")
	b.WriteString("python_info{implementation=\"CPython\",major=\"3\",minor=\"12\",patchlevel=\"11\",version=\"3.12.11\"} 1.0\n")
	family("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.")
	b.WriteString("process_resident_memory_bytes 5.873254e+09\n")
	if !faults.MetricsGone {
		v.writeMetrics(&b, e, family)
	}
	c.answer(http.StatusOK, "text/plain; version=0.0.4; charset=utf-8", b.Bytes())
}

func (v *VLLM) writeMetrics(b *bytes.Buffer, e *engine, family func(name, kind, help string)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	load := e.snapshot()
	life := v.total
	life.subtract(v.atBirth)
	model := string(e.model)
	labels := make([]string, v.cfg.Engines)
	for i := range labels {
		labels[i] = fmt.Sprintf("engine=\"%d\",model_name=%s", i, model)
	}
	gauge := func(name, kind, help string, value func(engine int) float64) {
		family(name, kind, help)
		for i, l := range labels {
			fmt.Fprintf(b, "%s{%s} %s\n", name, l, promFloat(value(i)))
		}
	}
	// A sum over all engines, split so that the parts add up to it.
	share := func(n int64) func(int) float64 {
		return func(i int) float64 {
			k := int64(len(labels))
			part := n / k
			if int64(i) < n%k {
				part++
			}
			return float64(part)
		}
	}
	gauge("vllm:num_requests_running", "gauge", "Number of requests in model execution batches.",
		func(i int) float64 { return float64(load.running[i]) })
	gauge("vllm:num_requests_waiting", "gauge", "Number of requests waiting to be processed.",
		func(i int) float64 { return float64(load.waiting[i]) })
	kv := "vllm:kv_cache_usage_perc"
	if v.cfg.OldMetricNames {
		kv = "vllm:gpu_cache_usage_perc"
	}
	usage := min(float64(load.kvTokens)/float64(v.cfg.KVCacheTokens), 1)
	gauge(kv, "gauge", "KV-cache usage. 1 means 100 percent usage.", func(int) float64 { return usage })
	gauge("vllm:num_preemptions_total", "counter", "Cumulative number of preemption from the engine.",
		func(int) float64 { return 0 })
	gauge("vllm:num_preemptions_created", "gauge", "Cumulative number of preemption from the engine.",
		func(int) float64 { return float64(v.base.UnixMilli()) / 1e3 })
	gauge("vllm:prompt_tokens_total", "counter", "Number of prefill tokens processed.", share(life.prompt))
	gauge("vllm:generation_tokens_total", "counter", "Number of generation tokens processed.", share(life.tokens))
	family("vllm:request_success_total", "counter", "Count of successfully processed requests.")
	for i, l := range labels {
		for _, reason := range []string{"abort", "length", "stop"} {
			var n float64
			switch reason {
			case "length":
				n = share(life.finished - life.stopped)(i)
			case "stop":
				n = share(life.stopped)(i)
			}
			fmt.Fprintf(b, "vllm:request_success_total{%s,finished_reason=\"%s\"} %s\n", l, reason, promFloat(n))
		}
	}
	family("vllm:time_to_first_token_seconds", "histogram", "Histogram of time to first token in seconds.")
	v.ttft.write(b, "vllm:time_to_first_token_seconds", labels[0])
	family("vllm:time_per_output_token_seconds", "histogram", "Histogram of time per output token in seconds.")
	v.tpot.write(b, "vllm:time_per_output_token_seconds", labels[0])
	family("vllm:cache_config_info", "gauge", "Information of the LLMEngine CacheConfig")
	fmt.Fprintf(b, "vllm:cache_config_info{block_size=\"16\",cache_dtype=\"auto\",engine=\"0\",num_gpu_blocks=\"%d\"} 1.0\n",
		v.cfg.KVCacheTokens/16)
}
