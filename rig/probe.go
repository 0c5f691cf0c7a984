package rig

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/g2g-agent/g2g-agent/power"
	"github.com/g2g-agent/g2g-agent/vllm"
)

// ProbeResult is what one server answered.
type ProbeResult struct {
	// Server names it: a power source's kind and address, or a model and its vLLM
	// server's URL.
	Server string
	// Findings are short statements, in the order they were found.
	Findings []string
	// Warnings are what is amiss and would not keep a run from starting.
	Warnings []string
	// Err is what would keep a run from starting, nil if nothing would.
	Err error
}

// Probe asks every power source and every vLLM server what a run needs to know,
// changing nothing. The sources come first, both in config order.
func (r *Rig) Probe(ctx context.Context) []ProbeResult {
	reports := make([]power.Report, len(r.sources))
	all := slices.Collect(r.servers())
	servers := make([]ProbeResult, len(all))
	var group sync.WaitGroup
	for i, source := range r.sources {
		group.Go(func() { reports[i] = source.Probe(ctx) })
	}
	for i, s := range all {
		group.Go(func() { servers[i] = s.probe(ctx) })
	}
	group.Wait()
	read := map[GPU]bool{}
	for i, source := range r.sources {
		for index := range reports[i].PowerW {
			read[GPU{source, index}] = true
		}
	}
	var results []ProbeResult
	for i, source := range r.sources {
		results = append(results, r.sourceResult(source, &reports[i], read))
	}
	return append(results, servers...)
}

// sourceResult is what was found at a power source. A GPU that cannot be read
// keeps a run from starting if its model has none that can.
func (r *Rig) sourceResult(source power.Source, report *power.Report, read map[GPU]bool) ProbeResult {
	result := ProbeResult{Server: source.Kind() + " " + source.String(), Findings: report.Findings, Err: report.Err}
	var watts []string
	for _, index := range slices.Sorted(maps.Keys(report.Unread)) {
		why := report.Unread[index]
		if r.unreadModel(GPU{source, index}, read) {
			result.Err = errors.Join(result.Err, fmt.Errorf("GPU %d, and with it every GPU of its model: %w", index, why))
			continue
		}
		result.warn("GPU %d cannot be read, and is left out of its model's mean until it can: %v", index, why)
	}
	for _, index := range slices.Sorted(maps.Keys(report.PowerW)) {
		watts = append(watts, fmt.Sprintf("%.0f", report.PowerW[index]))
	}
	if watts != nil {
		result.add("power %s W", strings.Join(watts, ", "))
	}
	return result
}

// unreadModel tells whether a model with the GPU has no GPU that was read.
func (r *Rig) unreadModel(g GPU, read map[GPU]bool) bool {
	return slices.ContainsFunc(r.models, func(m *Model) bool {
		return slices.Contains(m.gpus, g) && !slices.ContainsFunc(m.gpus, func(other GPU) bool { return read[other] })
	})
}

// probe asks the vLLM server.
func (s *Server) probe(ctx context.Context) ProbeResult {
	result := ProbeResult{Server: fmt.Sprintf("model %q, vLLM %s", s.model.label, s.server)}
	if result.Err = s.checkHealth(ctx); result.Err != nil {
		return result
	}
	result.add("serves the model")
	if result.Err = s.probeActuator(ctx, &result); result.Err != nil {
		return result
	}
	result.Err = s.probeMetrics(ctx, &result)
	return result
}

// probeActuator finds out how batch sizes would be set. Its error is one that a
// run would end with, too.
func (s *Server) probeActuator(ctx context.Context, result *ProbeResult) error {
	wanted := s.wanted
	if wanted == "" {
		best, err := s.chooseActuator(ctx)
		if err == nil {
			result.add("batch sizes by %s", best)
		}
		return err
	}
	// A run does not ask first: it commands.
	switch evidence, err := s.server.EvidenceOf(ctx, wanted); {
	case err != nil:
		result.warn("%v (batch_size_actuator says so)", err)
	case evidence == vllm.EvidenceAbsent:
		return s.missesActuator(ctx)
	case evidence == vllm.EvidenceNone:
		result.warn("batch_size_actuator is %s, and the server answers as one might that does not have it", wanted)
	}
	result.add("batch sizes by %s", wanted)
	return nil
}

// missesActuator says that the server does not have the actuator that is wanted,
// and what it has.
func (s *Server) missesActuator(ctx context.Context) error {
	has := "and what it has cannot be told"
	if best, err := s.server.ProbeActuator(ctx, s.wanted); err == nil {
		has = fmt.Sprintf("but %s", best)
	}
	return fmt.Errorf("batch_size_actuator is %s, which the server does not have, %s; auto takes the best there is", s.wanted, has)
}

// probeMetrics reads the metrics page, where a run would.
func (s *Server) probeMetrics(ctx context.Context, result *ProbeResult) error {
	if !s.polled() {
		result.add("metrics are not read, as live.prometheus_poll_interval_s is 0")
		return nil
	}
	began := time.Now()
	page, err := s.server.Metrics(ctx)
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
	if page.ModelName != "" && page.ModelName != s.rig.cfg.Models[s.model.index].ModelID {
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
