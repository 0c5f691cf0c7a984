package agent

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/g2g-agent/g2g-agent/vllm"
	"github.com/g2g-agent/g2g-agent/zeusd"
)

// ProbeResult is what one server answered.
type ProbeResult struct {
	// Server names it: a daemon's address, or a model and its vLLM server's URL.
	Server string
	// Findings are short statements, in the order they were found.
	Findings []string
	// Warnings are what is amiss and would not keep a run from starting.
	Warnings []string
	// Err is what would keep a run from starting, nil if nothing would.
	Err error
}

// Probe asks every zeusd daemon and every vLLM server what a run needs to know,
// changing nothing. The daemons come first, both in config order.
func (l *Live) Probe(ctx context.Context) []ProbeResult {
	var reports []zeusd.Report
	servers := make([]ProbeResult, len(l.backends))
	var group sync.WaitGroup
	group.Go(func() { reports = l.power.Probe(ctx) })
	for i, b := range l.backends {
		group.Go(func() { servers[i] = b.probe(ctx) })
	}
	group.Wait()
	var results []ProbeResult
	for i := range reports {
		results = append(results, l.daemonResult(&reports[i], reports))
	}
	return append(results, servers...)
}

// daemonResult is what was found at a daemon. A GPU that cannot be read keeps a
// run from starting if its model has none that can.
func (l *Live) daemonResult(r *zeusd.Report, all []zeusd.Report) ProbeResult {
	result := ProbeResult{Server: "zeusd " + r.Target.Endpoint.String(), Err: r.Err}
	if len(r.Discovery.GPUs) > 0 {
		result.add("%d GPUs, %d of them used", len(r.Discovery.GPUs), len(r.Target.GPUs))
	}
	if r.Identity != nil {
		result.add("token accepted")
	}
	if r.RoundTrip > 0 {
		result.add("clock %+.3f s from ours, round trip %.1f ms", -r.ClockOffset.Seconds(), 1e3*r.RoundTrip.Seconds())
	}
	var watts []string
	for i, powerW := range r.PowerW {
		gpu := r.Target.GPUs[i]
		why, unread := r.Unread[gpu]
		switch {
		case !unread:
			watts = append(watts, fmt.Sprintf("%.0f", powerW))
		case l.unreadModel(GPU{r.Target.Endpoint.Address(), gpu}, all):
			result.Err = errors.Join(result.Err, fmt.Errorf("GPU %d, and with it every GPU of its model: %w", gpu, why))
		default:
			result.warn("GPU %d cannot be read, and is left out of its model's mean until it can: %v", gpu, why)
		}
	}
	if watts != nil {
		result.add("power %s W", strings.Join(watts, ", "))
	}
	return result
}

// unreadModel tells whether a model with the GPU has no GPU that was read.
func (l *Live) unreadModel(g GPU, reports []zeusd.Report) bool {
	read := map[GPU]bool{}
	for i := range reports {
		for j, powerW := range reports[i].PowerW {
			target := &reports[i].Target
			read[GPU{target.Endpoint.Address(), target.GPUs[j]}] = !math.IsNaN(powerW)
		}
	}
	return slices.ContainsFunc(l.backends, func(b *backend) bool {
		return slices.Contains(b.gpus, g) && !slices.ContainsFunc(b.gpus, func(other GPU) bool { return read[other] })
	})
}

// probe asks the vLLM server.
func (b *backend) probe(ctx context.Context) ProbeResult {
	result := ProbeResult{Server: fmt.Sprintf("model %q, vLLM %s", b.label, b.server)}
	if result.Err = b.checkHealth(ctx); result.Err != nil {
		return result
	}
	result.add("serves the model")
	if result.Err = b.probeActuator(ctx, &result); result.Err != nil {
		return result
	}
	result.Err = b.probeMetrics(ctx, &result)
	return result
}

// probeActuator finds out how batch sizes would be set. Its error is one that a
// run would end with, too.
func (b *backend) probeActuator(ctx context.Context, result *ProbeResult) error {
	wanted := b.wantedActuator
	if wanted == "" {
		best, err := b.chooseActuator(ctx)
		if err == nil {
			result.add("batch sizes by %s", best)
		}
		return err
	}
	// A run does not ask first: it commands.
	switch evidence, err := b.server.EvidenceOf(ctx, wanted); {
	case err != nil:
		result.warn("%v (batch_size_actuator says so)", err)
	case evidence == vllm.EvidenceAbsent:
		return b.missesActuator(ctx)
	case evidence == vllm.EvidenceNone:
		result.warn("batch_size_actuator is %s, and the server answers as one might that does not have it", wanted)
	}
	result.add("batch sizes by %s", wanted)
	return nil
}

// missesActuator says that the server does not have the actuator that is wanted,
// and what it has.
func (b *backend) missesActuator(ctx context.Context) error {
	has := "and what it has cannot be told"
	if best, err := b.server.ProbeActuator(ctx, b.wantedActuator); err == nil {
		has = fmt.Sprintf("but %s", best)
	}
	return fmt.Errorf("batch_size_actuator is %s, which the server does not have, %s; auto takes the best there is", b.wantedActuator, has)
}

// probeMetrics reads the metrics page, where a run would.
func (b *backend) probeMetrics(ctx context.Context, result *ProbeResult) error {
	if !b.polled {
		result.add("metrics are not read, as live.prometheus_poll_interval_s is 0")
		return nil
	}
	began := time.Now()
	page, err := b.server.Metrics(ctx)
	status := (*vllm.StatusError)(nil)
	switch {
	case errors.As(err, &status) && status.Status >= http.StatusInternalServerError:
		result.warn("%v", err)
		result.warnOfMissingRunning()
		return nil
	case err != nil:
		return fmt.Errorf("%w; %s", err, withoutMetrics)
	}
	result.add("metrics in %.1f ms: %s running, %s waiting, KV cache %s %% used",
		1e3*time.Since(began).Seconds(), count(page.NumRequestsRunning), count(page.NumRequestsWaiting), count(100*page.KVCacheUsagePerc))
	if page.ModelName != "" && page.ModelName != b.modelID {
		result.add("they are of model_name %q", page.ModelName)
	}
	others := (*vllm.OtherModelsError)(nil)
	unknown := page.Err(vllm.MetricRunning)
	if unknown != nil && !errors.Is(unknown, vllm.ErrMissingMetric) && !errors.As(unknown, &others) {
		// What stands there makes no sense, and requests do not change that.
		return fmt.Errorf("%w; %s", unknown, withoutMetrics)
	}
	for _, err := range distinct(page.Unknown) {
		result.warn("%v", err)
	}
	if unknown != nil {
		result.warnOfMissingRunning()
	}
	return nil
}

// warnOfMissingRunning says that what runs may be told with the first request, as
// by a server with several API servers.
func (r *ProbeResult) warnOfMissingRunning() {
	r.warn("a run starts only if %s comes with the first requests; %s", vllm.MetricRunning, withoutMetrics)
}

func (r *ProbeResult) add(format string, args ...any) {
	r.Findings = append(r.Findings, fmt.Sprintf(format, args...))
}

func (r *ProbeResult) warn(format string, args ...any) {
	r.Warnings = append(r.Warnings, fmt.Sprintf(format, args...))
}
