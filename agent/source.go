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

// Source is where a pipeline's readings come from. Models are indexed in config
// order. A pipeline calls it from one goroutine.
type Source interface {
	// PerGPUPower reads the power of the servers as of the step begun last.
	augment.PowerSource

	Kind() datacenter.SourceKind
	// BeginStep fixes the step, from 0, that the next readings are for, and when it
	// is due (zero where no clock is followed).
	BeginStep(step int64, due time.Time)
	// CheckBatchSize returns why the model cannot be set to the batch size with
	// the given ramp-up rate (requests per second, 0: at once), nil if it can.
	CheckBatchSize(model, batchSize int, rampUpRate float64) error
	// SetBatchSize sets it, as of the next step.
	SetBatchSize(model, batchSize int, rampUpRate float64) error
	// ObservedITLS is the model's average inter-token latency, in seconds, with
	// activeReplicas active; NaN when there is none. It is called once a step for
	// each model, in order.
	ObservedITLS(model, activeReplicas int) float64
	// Live is what the hardware behind the model shows, zero without hardware.
	Live(model int) datacenter.LiveModelState
	// Reset returns the source to where it started; batch sizes are set anew
	// after it.
	Reset()
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

func (s *replaySource) BeginStep(step int64, _ time.Time) {
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

func (s *replaySource) CheckBatchSize(model, batchSize int, rampUpRate float64) error {
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

func (s *replaySource) SetBatchSize(model, batchSize int, rampUpRate float64) error {
	if err := s.CheckBatchSize(model, batchSize, rampUpRate); err != nil {
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

func (s *replaySource) ObservedITLS(model, activeReplicas int) float64 {
	if !s.itl || activeReplicas == 0 {
		return math.NaN()
	}
	return s.samplers[model].Avg(s.rng, activeReplicas)
}

func (s *replaySource) Live(int) datacenter.LiveModelState { return datacenter.LiveModelState{} }

func (s *replaySource) Reset() {
	s.rng = nprand.New(s.seed + latencySeedOffset)
	s.step = 0
}
