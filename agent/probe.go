package agent

import (
	"cmp"
	"context"
	"fmt"
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
	// Err is what would keep a run from starting, nil if nothing would.
	Err error
}

// Probe asks every zeusd daemon and every vLLM server what a run needs to know,
// changing nothing. The daemons come first, both in config order.
func (l *Live) Probe(ctx context.Context) []ProbeResult {
	targets := l.power.Targets()
	results := make([]ProbeResult, len(targets)+len(l.backends))
	var group sync.WaitGroup
	for i, t := range targets {
		group.Go(func() { results[i] = probeDaemon(ctx, t) })
	}
	for i, b := range l.backends {
		group.Go(func() { results[len(targets)+i] = b.probe(ctx) })
	}
	group.Wait()
	return results
}

func probeDaemon(ctx context.Context, target zeusd.Target) ProbeResult {
	report, err := zeusd.Probe(ctx, target)
	result := ProbeResult{Server: "zeusd " + target.Endpoint.String(), Err: err}
	if len(report.Discovery.GPUs) > 0 {
		result.add("%d GPUs, %d of them used", len(report.Discovery.GPUs), len(target.GPUs))
	}
	if report.Identity != nil {
		result.add("token accepted")
	}
	if report.RoundTrip > 0 {
		result.add("clock %+.3f s from ours, round trip %.1f ms", -report.ClockOffset.Seconds(), 1e3*report.RoundTrip.Seconds())
	}
	if len(report.PowerW) > 0 {
		watts := make([]string, len(report.PowerW))
		for i, w := range report.PowerW {
			watts[i] = fmt.Sprintf("%.0f", w)
		}
		result.add("power %s W", strings.Join(watts, ", "))
	}
	return result
}

// probe asks the vLLM server.
func (b *backend) probe(ctx context.Context) ProbeResult {
	result := ProbeResult{Server: fmt.Sprintf("model %q, vLLM %s", b.label, b.server)}
	if result.Err = b.checkHealth(ctx); result.Err != nil {
		return result
	}
	result.add("serves the model")
	best, err := b.server.ProbeActuator(ctx)
	if result.Err = err; err != nil {
		return result
	}
	switch wanted := b.wantedActuator; {
	case wanted == "" || wanted == best || wanted == vllm.ActuatorConcurrency:
		result.add("batch sizes by %s", cmp.Or(wanted, best))
	default:
		result.Err = fmt.Errorf("batch_size_actuator is %s, but the best the server has is %s", wanted, best)
		return result
	}
	began := time.Now()
	m, err := b.server.Metrics(ctx)
	if result.Err = err; err != nil {
		return result
	}
	result.add("metrics in %.1f ms: %.0f running, %.0f waiting, KV cache %.0f %% used",
		1e3*time.Since(began).Seconds(), m.NumRequestsRunning, m.NumRequestsWaiting, 100*m.KVCacheUsagePerc)
	return result
}

func (r *ProbeResult) add(format string, args ...any) {
	r.Findings = append(r.Findings, fmt.Sprintf(format, args...))
}
