package characterize

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/excerpt"
	"github.com/g2g-agent/g2g-agent/loadgen"
	"github.com/g2g-agent/g2g-agent/rig"
	"github.com/g2g-agent/g2g-agent/workload"
)

// Config says what to measure, and where to put it.
type Config struct {
	// Dir is the data directory to be written, in the layout. What is measured is kept
	// below it, and a later call with the same Dir goes on from there.
	Dir    string
	Layout workload.Layout
	// AgentVersion is this program's in the manifests.
	AgentVersion string
	// Rig is the servers. Its models are those of Models, in the same order; what sets
	// its size and hooks is filled in.
	Rig rig.Config
	// Models say what is measured: their BatchSizes, ascending.
	Models []workload.DataSpec
	// Measure is how long each point is measured, Steady over how long power and latency
	// must be steady before.
	Measure, Steady time.Duration
	// SettleTimeout is for a batch size to be achieved and steady.
	SettleTimeout time.Duration
	// Repeats is how often each batch size is measured.
	Repeats int
	// OnProgress, if set, is told how far it is, by one goroutine at a time. It must not
	// wait.
	OnProgress func(Progress)
	// OnData, if set, is called when the data directory is written, such as to plot it.
	OnData func(*Data) error
	Log    zerolog.Logger

	stepEvery time.Duration // 0: stepEvery
	// bench, if set, stands for the servers of a model, and no rig is run.
	bench func(model int) bench
}

// The least and the most that times and numbers may be.
const (
	// leastSteady is how many looks it takes to tell a drift.
	leastSteady  = 4
	mostMeasureS = 7 * 24 * 3600
	mostRepeats  = 1000
)

// check returns all that is wrong with the config. The error wraps
// [datacenter.ErrInvalidInput].
func (c *Config) check() error {
	var errs []error
	add := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("%w: "+format, append([]any{datacenter.ErrInvalidInput}, args...)...))
		}
	}
	add(c.Measure >= leastSteady*c.stepEvery && c.Measure.Seconds() <= mostMeasureS,
		"the time to measure is %v, want %v or more, for a drift to be told, and at most a week", c.Measure, leastSteady*c.stepEvery)
	add(c.Steady >= leastSteady*c.stepEvery, "the time to be steady is %v, want %v or more", c.Steady, leastSteady*c.stepEvery)
	add(c.SettleTimeout > c.Steady, "the time to settle is %v, want more than the %v to be steady", c.SettleTimeout, c.Steady)
	add(c.Layout == workload.Layout01 || c.Layout == workload.Layout02, "the layout is %q, want %s or %s", c.Layout, workload.Layout02, workload.Layout01)
	add(c.Repeats >= 1 && c.Repeats <= mostRepeats, "the number of repeats is %d, want 1 to %d", c.Repeats, mostRepeats)
	add(len(c.Models) == len(c.Rig.Models), "%d models have servers, want all %d", len(c.Rig.Models), len(c.Models))
	if errs != nil {
		return errors.Join(errs...)
	}
	for i := range c.Models {
		m := &c.Models[i]
		add(len(m.BatchSizes) > 0, "model %q has no batch size to be measured", m.ModelLabel)
		add(slices.IsSorted(m.BatchSizes) && len(slices.Compact(slices.Clone(m.BatchSizes))) == len(m.BatchSizes),
			"the batch sizes of model %q are %v, want each once, ascending", m.ModelLabel, m.BatchSizes)
		add(c.numGPUs(i) > 0, "model %q has no gpu_endpoints: its power cannot be measured", m.ModelLabel)
	}
	return errors.Join(errs...)
}

func (c *Config) numGPUs(model int) int {
	n := 0
	for _, s := range c.Rig.Models[model].Servers {
		n += len(s.GPUs)
	}
	return n
}

// window is the number of looks in the steady time.
func (c *Config) window() int { return int(math.Ceil(float64(c.Steady) / float64(c.stepEvery))) }

// specs are the points of a model, in the order in which they are measured: all batch
// sizes, ascending since what is lowered is achieved only as requests end, and that
// again.
func (c *Config) specs(model int) ([]Spec, error) {
	m := &c.Models[model]
	requests, err := c.requestsSHA256(model)
	if err != nil {
		return nil, err
	}
	servers := c.servers(model)
	var specs []Spec
	for repeat := range c.Repeats {
		for _, batchSize := range m.BatchSizes {
			specs = append(specs, Spec{
				ModelLabel: m.ModelLabel, ModelID: m.ModelID, GPUModel: m.GPUModel, Task: m.Task, Precision: m.Precision,
				TensorParallel: m.TensorParallel, ExpertParallel: m.ExpertParallel, GPUsPerReplica: m.GPUsPerReplica,
				NumGPUs: c.numGPUs(model), NumServers: len(c.Rig.Models[model].Servers), Servers: servers,
				MaxOutputTokens: c.Rig.MaxOutputTokens, RequestsSHA256: requests,
				BatchSize: batchSize, Repeat: repeat, MeasureS: c.Measure.Seconds(), SteadyS: c.Steady.Seconds(),
			})
		}
	}
	return specs, nil
}

// servers name a model's servers, each with its GPUs.
func (c *Config) servers(model int) string {
	var all []string
	for _, s := range c.Rig.Models[model].Servers {
		var gpus []string
		for _, g := range s.GPUs {
			if g.Source == nil { // of a bench without any
				continue
			}
			gpus = append(gpus, g.String())
		}
		all = append(all, fmt.Sprintf("%s (%s)", s.VLLMBaseURL, strings.Join(gpus, ", ")))
	}
	return strings.Join(all, ", ")
}

// requestsSHA256 tells apart what a model's servers are asked.
func (c *Config) requestsSHA256(model int) (string, error) {
	m := &c.Rig.Models[model]
	text := fmt.Appendf(nil, "%q\n", c.Rig.MinimalRequestText)
	for _, s := range m.Servers {
		one, err := loadgen.HashRequests(m.Requests, s.RequestExtraBody)
		if err != nil {
			return "", fmt.Errorf("model %s: the requests: %w", excerpt.Quote(m.Label, maxQuoted), err)
		}
		text = append(append(text, one...), '\n')
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}
