package agent

import (
	"fmt"
	"math"
	"time"

	"github.com/g2g-agent/g2g-agent/augment"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/nprand"
	"github.com/g2g-agent/g2g-agent/workload"
)

// readings is where a pipeline's numbers come from: traces or real hardware.
// Models are indexed in config order. A pipeline calls it from one goroutine, in
// each step in the order of the methods.
type readings interface {
	Kind() datacenter.SourceKind
	// Assign tells which servers serve a model from this step on. It must not keep
	// or change the slice.
	Assign(model int, servers []int32)
	// Begin fixes the step, from 0, that what follows is for, and when it is due
	// (zero where no clock is followed).
	Begin(step int64, due time.Time)
	// PerGPUPower sets perGPUW[i] to the power, in watts, of one GPU of the i-th
	// server assigned to the model. The values are finite.
	PerGPUPower(model int, perGPUW []float64)
	// Observe is what is seen of the model beside its power with activeReplicas
	// active. It is called once a step for each model, in order.
	Observe(model, activeReplicas int) observation
}

// observation is what is seen of one model at one step.
type observation struct {
	itlS float64 // average inter-token latency in seconds, NaN for none
	live datacenter.LiveModelState
}

// latencySeedOffset is added to a run's seed for the latency draws, as OpenG2G
// does.
const latencySeedOffset = 54321

// replaySource reads power templates and draws latencies from fits.
type replaySource struct {
	models    []datacenter.ModelSpec
	seed      uint64
	store     *workload.TemplateStore
	itl       bool
	stagger   []int32   // per server
	offsets   [][]int32 // per model: the stagger of its servers
	step      int32
	templates [][]float64            // per model: the current batch size's
	samplers  []*workload.ITLSampler // likewise; nil without fits
	rng       *nprand.Generator
}

func newReplaySource(cfg *Config, store *workload.TemplateStore, itl bool, pool *augment.Pool) *replaySource {
	return &replaySource{
		models: cfg.Models, seed: cfg.Seed, store: store, itl: itl, stagger: pool.StaggerSteps(),
		offsets:   make([][]int32, len(cfg.Models)),
		templates: make([][]float64, len(cfg.Models)),
		samplers:  make([]*workload.ITLSampler, len(cfg.Models)),
	}
}

func (s *replaySource) Kind() datacenter.SourceKind { return datacenter.SourceReplay }

func (s *replaySource) Begin(step int64, _ time.Time) {
	s.step = int32(step % int64(s.store.Len()))
}

func (s *replaySource) Assign(model int, servers []int32) {
	s.offsets[model] = s.offsets[model][:0]
	for _, server := range servers {
		s.offsets[model] = append(s.offsets[model], s.stagger[server])
	}
}

// PerGPUPower reads the model's template at the step, for each server shifted by
// its stagger offset and wrapped round.
func (s *replaySource) PerGPUPower(model int, perGPUW []float64) {
	template, offsets := s.templates[model], s.offsets[model]
	n := int32(len(template))
	perGPUW = perGPUW[:len(offsets)]
	for i, offset := range offsets {
		// Whether to wrap is a coin toss, which a processor cannot predict: the
		// mask spares it the branch.
		at := s.step + offset - n
		at += n & (at >> 31)
		perGPUW[i] = template[at]
	}
}

// checkBatchSize returns why the model cannot be set to the batch size with the
// given ramp-up rate (requests per second, 0: at once), nil if it can.
func (s *replaySource) checkBatchSize(model, batchSize int, rampUpRate float64) error {
	if rampUpRate != 0 {
		return fmt.Errorf("a replay changes batch sizes at once and knows no ramp_up_rate, got %v", rampUpRate)
	}
	if s.models[model].InitialReplicas() == 0 {
		return nil // it has no servers, so nothing is read for it
	}
	if _, err := s.store.Template(model, batchSize); err != nil {
		return err
	}
	if s.itl {
		if _, err := s.store.ITL(model, batchSize); err != nil {
			return err
		}
	}
	return nil
}

// setBatchSize sets it, as of the next step.
func (s *replaySource) setBatchSize(model, batchSize int, rampUpRate float64) error {
	if err := s.checkBatchSize(model, batchSize, rampUpRate); err != nil {
		return err
	}
	if s.models[model].InitialReplicas() == 0 {
		return nil
	}
	template, err := s.store.Template(model, batchSize)
	if err != nil {
		return err
	}
	s.templates[model] = template
	if s.itl {
		fit, err := s.store.ITL(model, batchSize)
		if err != nil {
			return err
		}
		s.samplers[model] = workload.NewITLSampler(fit)
	}
	return nil
}

func (s *replaySource) Observe(model, activeReplicas int) observation {
	if !s.itl || activeReplicas == 0 {
		return observation{itlS: math.NaN()}
	}
	return observation{itlS: s.samplers[model].Avg(s.rng, activeReplicas)}
}

// reset returns the source to where it started; batch sizes are set anew after it.
func (s *replaySource) reset() {
	s.rng = nprand.New(s.seed + latencySeedOffset)
	s.step = 0
}
