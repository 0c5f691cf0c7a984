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

// latencySeedOffset is added to a run's seed for the latency draws, as OpenG2G
// does.
const latencySeedOffset = 54321

// replayReadings reads power templates and draws latencies from fits.
type replayReadings struct {
	models    []datacenter.ModelSpec
	seed      uint64
	store     *workload.TemplateStore
	data      []workload.ModelData // per model
	itl       bool
	stagger   []int32   // per server
	offsets   [][]int32 // per model: the stagger of its servers
	step      int32
	templates [][]float64            // per model: the current batch size's
	samplers  []*workload.ITLSampler // likewise; nil without fits
	// tokensPerS is likewise what one replica makes, unknown without a fit of it.
	tokensPerS []datacenter.Throughput
	batchSizes []float64 // likewise
	rng        *nprand.Generator
}

func newReplayReadings(cfg *ReplayConfig, store *workload.TemplateStore, pool *augment.Pool) *replayReadings {
	return &replayReadings{
		models: cfg.Models, seed: cfg.Seed, store: store, data: cfg.Data, itl: cfg.ITL, stagger: pool.StaggerSteps(),
		offsets:   make([][]int32, len(cfg.Models)),
		templates: make([][]float64, len(cfg.Models)),
		samplers:  make([]*workload.ITLSampler, len(cfg.Models)),

		tokensPerS: make([]datacenter.Throughput, len(cfg.Models)),
		batchSizes: make([]float64, len(cfg.Models)),
	}
}

func (r *replayReadings) Kind() datacenter.SourceKind { return datacenter.SourceReplay }

func (r *replayReadings) Begin(step int64, _ time.Time) {
	r.step = int32(step % int64(r.store.Len()))
}

func (r *replayReadings) Assign(model int, servers []int32) {
	r.offsets[model] = r.offsets[model][:0]
	for _, server := range servers {
		r.offsets[model] = append(r.offsets[model], r.stagger[server])
	}
}

// PerGPUPower reads the model's template at the step, for each server shifted by
// its stagger offset and wrapped round.
func (r *replayReadings) PerGPUPower(model int, perGPUW []float64) {
	template, offsets := r.templates[model], r.offsets[model]
	n := int32(len(template))
	perGPUW = perGPUW[:len(offsets)]
	for i, offset := range offsets {
		// Whether to wrap is a coin toss, which a processor cannot predict: the
		// mask spares it the branch.
		at := r.step + offset - n
		at += n & (at >> 31)
		perGPUW[i] = template[at]
	}
}

// checkBatchSize returns why the model cannot be set to the batch size with the
// given ramp-up rate (requests per second, 0: at once), nil if it can.
func (r *replayReadings) checkBatchSize(model, batchSize int, rampUpRate float64) error {
	if rampUpRate != 0 {
		return fmt.Errorf("a replay changes batch sizes at once and knows no ramp_up_rate, got %v", rampUpRate)
	}
	if r.models[model].InitialReplicas() == 0 {
		return nil // it has no servers, so nothing is read for it
	}
	if _, err := r.store.Template(model, batchSize); err != nil {
		return err
	}
	if r.itl {
		if _, err := r.store.ITL(model, batchSize); err != nil {
			return err
		}
	}
	return nil
}

// setBatchSize sets it, as of the next step.
func (r *replayReadings) setBatchSize(model, batchSize int, rampUpRate float64) error {
	if err := r.checkBatchSize(model, batchSize, rampUpRate); err != nil {
		return err
	}
	r.batchSizes[model] = float64(batchSize)
	if fits := r.data[model].Logistic; fits != nil {
		// Where there are few points, the curve may be below 0 beyond them.
		r.tokensPerS[model] = datacenter.ThroughputOf(max(fits.ThroughputTokensPerS.At(batchSize), 0))
	}
	if r.models[model].InitialReplicas() == 0 {
		return nil
	}
	template, err := r.store.Template(model, batchSize)
	if err != nil {
		return err
	}
	r.templates[model] = template
	if r.itl {
		fit, err := r.store.ITL(model, batchSize)
		if err != nil {
			return err
		}
		r.samplers[model] = workload.NewITLSampler(fit)
	}
	return nil
}

func (r *replayReadings) Observe(model, activeReplicas int) observation {
	o := observation{itlS: math.NaN(), throughput: r.tokensPerS[model], achieved: r.batchSizes[model]}
	o.throughput.TokensPerS *= float64(activeReplicas)
	if r.itl && activeReplicas != 0 {
		o.itlS = r.samplers[model].Avg(r.rng, activeReplicas)
	}
	return o
}

// reset returns to where it started; batch sizes are set anew after it.
func (r *replayReadings) reset() {
	r.rng = nprand.New(r.seed + latencySeedOffset)
	r.step = 0
}
