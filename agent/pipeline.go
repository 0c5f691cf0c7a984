package agent

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/g2g-agent/g2g-agent/augment"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/excerpt"
	"github.com/g2g-agent/g2g-agent/workload"
)

// noiseSeedOffset is added to a run's seed for the noise draws, as OpenG2G does.
const noiseSeedOffset = 12345

// Config is what every pipeline needs, wherever its readings come from.
type Config struct {
	Seed         uint64
	DT           datacenter.Seconds
	Facility     datacenter.Facility
	Augmentation datacenter.Augmentation
	Models       []datacenter.ModelSpec
	Training     datacenter.TrainingSchedule
	// AllowInfeasibleBatchSizes lets commands set batch sizes outside a model's
	// feasible ones.
	AllowInfeasibleBatchSizes bool
	// AllowShiftsPastCapacity lets replicas take more GPUs than the facility's
	// capacity as long as its servers, which it fills but for the last, suffice.
	AllowShiftsPastCapacity bool
	// OnEvent, if set, is called with each event, from the goroutine that
	// applies the command.
	OnEvent func(datacenter.Event)
}

func (c *Config) labels() []string {
	labels := make([]string, len(c.Models))
	for i := range c.Models {
		labels[i] = c.Models[i].ModelLabel
	}
	return labels
}

// newPool lays out the datacenter's servers.
func (c *Config) newPool(stagger augment.Stagger) *augment.Pool {
	return augment.NewPool(augment.PoolConfig{
		Seed: c.Seed, NumServers: c.Facility.NumServers(), GPUsPerServer: c.Facility.GPUsPerServer,
		Stagger: stagger, Augmentation: c.Augmentation, ModelLabels: c.labels(),
	})
}

// Pipeline computes the datacenter's states step by step. It is not safe for use
// by several goroutines at once; the states it returns are immutable.
type Pipeline struct {
	cfg       Config
	readings  readings
	augmenter *augment.Augmenter
	training  *workload.TrainingOverlay
	demand    demand
	// firstOverload is the first step in [from, to) at which there is not enough
	// for what is asked for, as far as that is known now; nil if there is none.
	firstOverload func(from, to int64) *overload

	// runID tells this run from all others; each has a pipeline of its own.
	runID string

	step       int64
	horizon    int64 // steps of the run, as far as they are known
	batchSizes []int
	replicas   []int   // scratch: wanted at the step at hand
	leases     []lease // per model
	// changed is, per model, the first step of what it was commanded last.
	changed []changed
	// onApplied, if set, is told what takes effect from the next step on.
	onApplied func(Applied)
}

// changed is the numbers of the first steps at which a model's batch size and its
// shift are what they are.
type changed struct{ batchSize, shift int64 }

func newPipeline(cfg Config, pool *augment.Pool, readings readings) (*Pipeline, error) {
	training, err := workload.NewTrainingOverlay(cfg.Training)
	if err != nil {
		return nil, err
	}
	gpusPerReplica := make([]int, len(cfg.Models))
	for i := range cfg.Models {
		gpusPerReplica[i] = cfg.Models[i].GPUsPerReplica
	}
	p := &Pipeline{
		cfg: cfg, readings: readings, training: training, horizon: math.MaxInt64, runID: uuid.NewString(),
		augmenter:  augment.NewAugmenter(pool, gpusPerReplica, cfg.Seed+noiseSeedOffset),
		demand:     newDemand(&cfg),
		batchSizes: make([]int, len(cfg.Models)),
		replicas:   make([]int, len(cfg.Models)),
		leases:     make([]lease, len(cfg.Models)),
		changed:    make([]changed, len(cfg.Models)),
	}
	p.firstOverload = p.demand.firstOverload
	p.reset()
	return p, nil
}

// reset returns the pipeline to its first step, initial batch sizes and no
// shifts.
func (p *Pipeline) reset() {
	p.step = 0
	clear(p.demand.shift)
	clear(p.changed)
	p.augmenter.Reset()
	for m := range p.cfg.Models {
		p.leases[m] = noLease()
		p.batchSizes[m] = p.cfg.Models[m].InitialBatchSize
	}
}

// Step computes the next state. due is when the step is, with its monotonic
// reading, zero when it follows no clock. An error (an [*augment.OversubscribedError], or
// one wrapping [datacenter.ErrInvalidInput] for numbers that overflow) leaves the
// pipeline at the step that failed.
func (p *Pipeline) Step(due time.Time) (*datacenter.State, error) {
	t := p.nextStepS()
	p.demand.replicasAt(t, p.replicas)
	power, err := p.power(due)
	if err != nil {
		return nil, fmt.Errorf("at t=%v s: %w", t, err)
	}
	base := float64(p.cfg.Facility.BaseKWPerPhase * 1e3)
	state := &datacenter.State{
		Seq: p.step, TimeS: t, WallTime: due.Round(0), Source: p.readings.Kind(),
		PowerW: datacenter.ThreePhase{A: base + power.PhaseW.A, B: base + power.PhaseW.B, C: base + power.PhaseW.C},
		Models: make([]datacenter.ModelState, len(p.cfg.Models)),
	}
	p.training.AddTo(&state.PowerW, t)
	measuredW := 0.0
	for m := range state.Models {
		model := &power.Models[m]
		observed := p.readings.Observe(m, model.ActiveReplicas)
		state.Models[m] = datacenter.ModelState{
			ModelLabel: p.cfg.Models[m].ModelLabel, PowerW: model.PowerW, ActiveReplicas: model.ActiveReplicas,
			BatchSize: p.batchSizes[m], AchievedBatchSize: observed.achieved, ObservedITLS: observed.itlS, Throughput: observed.throughput, PhaseShare: model.PhaseShare,
			Live: observed.live,
		}
		measuredW += state.Models[m].Live.MeasuredPowerW
	}
	if state.Source == datacenter.SourceLive {
		// Nobody knows which phases the real GPUs hang on: OpenG2G spreads them evenly.
		perPhase := measuredW/datacenter.NumPhases + base
		state.MeasuredPowerW = datacenter.ThreePhase{A: perPhase, B: perPhase, C: perPhase}
	}
	if err := checkFinite(state); err != nil {
		return nil, err
	}
	p.step++
	state.FreeGPUs = datacenter.FreeGPUs{N: p.freeGPUs(), Known: true}
	return state, nil
}

// freeGPUs is the part of the capacity that no model asks for at the next step.
func (p *Pipeline) freeGPUs() int {
	p.demand.replicasAt(p.nextStepS(), p.replicas)
	free := p.cfg.Facility.TotalGPUCapacity
	for m, n := range p.replicas {
		free -= n * p.cfg.Models[m].GPUsPerReplica
	}
	return max(free, 0)
}

// setBatchSize notes that a model has the batch size from the next step on.
func (p *Pipeline) setBatchSize(m, batchSize int) {
	p.batchSizes[m], p.changed[m].batchSize = batchSize, p.step
	if p.onApplied != nil {
		p.onApplied(Applied{ModelLabel: p.cfg.Models[m].ModelLabel, BatchSize: &batchSize})
	}
}

// power allocates servers, reads their power and augments it.
func (p *Pipeline) power(due time.Time) (*augment.Power, error) {
	changed, err := p.augmenter.Allocate(p.replicas)
	if err != nil {
		return nil, err
	}
	for _, m := range changed {
		p.readings.Assign(m, p.augmenter.Servers(m))
	}
	p.readings.Begin(p.step, due)
	for m := range p.cfg.Models {
		perGPUW := p.augmenter.PerGPU(m)
		p.readings.PerGPUPower(m, perGPUW)
		p.augmenter.Add(m, perGPUW)
	}
	return p.augmenter.Power(), nil
}

// checkFinite refuses a state whose numbers have outgrown a double, which only
// absurd input can bring about. A latency that is NaN is none.
func checkFinite(s *datacenter.State) error {
	outgrown := func(what string) error {
		return fmt.Errorf("%w: %s at t=%v s is not a finite number: check the magnitudes in the config and the data",
			datacenter.ErrInvalidInput, what, s.TimeS)
	}
	if total := s.PowerW.Total(); math.IsNaN(total) || math.IsInf(total, 0) {
		return outgrown("the power")
	}
	for i := range s.Models {
		if math.IsInf(s.Models[i].ObservedITLS, 0) {
			return outgrown("the inter-token latency of " + s.Models[i].ModelLabel)
		}
		if math.IsInf(s.Models[i].Throughput.TokensPerS, 0) {
			return outgrown("the throughput of " + s.Models[i].ModelLabel)
		}
	}
	return nil
}

// maxQuoted bounds what an error repeats of a command, in bytes.
const maxQuoted = 100

// refuse is what is wrong with a command. The field may end with what the command
// calls a model.
func refuse(field string, reason error, format string, args ...any) error {
	return &datacenter.CommandError{Field: excerpt.Of(field, 2*maxQuoted), Reason: reason, Detail: fmt.Sprintf(format, args...)}
}

func (p *Pipeline) modelIndex(label string) int {
	return slices.IndexFunc(p.cfg.Models, func(m datacenter.ModelSpec) bool { return m.ModelLabel == label })
}

// inConfigOrder are the labels of values by model: those of the config in its order,
// then any others.
func inConfigOrder[T any](p *Pipeline, byModel map[string]T) []string {
	labels := slices.Sorted(maps.Keys(byModel))
	place := func(label string) int {
		if m := p.modelIndex(label); m >= 0 {
			return m
		}
		return len(p.cfg.Models)
	}
	slices.SortStableFunc(labels, func(a, b string) int { return cmp.Compare(place(a), place(b)) })
	return labels
}

// The fields of a [datacenter.SetBatchSize], for errors.
const batchSizeField, rampField = "batch_size_by_model", "ramp_up_rate_by_model"

// checkBatchSizes returns what is wrong with the command, nil if nothing is; can
// tells why a model cannot be set to a batch size at a ramp-up rate.
func (p *Pipeline) checkBatchSizes(c datacenter.SetBatchSize, can func(model, batchSize int, rampUpRate float64) error) error {
	if len(c.BatchSizeByModel) == 0 {
		return refuse(batchSizeField, datacenter.ErrOutOfRange, "names no model")
	}
	for _, label := range inConfigOrder(p, c.RampUpRateByModel) {
		if _, ok := c.BatchSizeByModel[label]; !ok {
			return refuse(rampField+"."+label, datacenter.ErrOutOfRange, "the model is not in %s", batchSizeField)
		}
		if rate := c.RampUpRateByModel[label]; !(rate >= 0) || math.IsInf(rate, 0) {
			return refuse(rampField+"."+label, datacenter.ErrOutOfRange, "must be a finite number >= 0, got %v", rate)
		}
	}
	for _, label := range inConfigOrder(p, c.BatchSizeByModel) {
		field, size := batchSizeField+"."+label, c.BatchSizeByModel[label]
		m := p.modelIndex(label)
		if m < 0 {
			return refuse(field, datacenter.ErrUnknownModel, "unknown model; the models are %q", p.cfg.labels())
		}
		feasible := p.cfg.Models[m].FeasibleBatchSizes
		if size <= 0 || !p.cfg.AllowInfeasibleBatchSizes && !slices.Contains(feasible, size) {
			return refuse(field, datacenter.ErrInfeasibleBatchSize, "%d is not one of the feasible batch sizes %v", size, feasible)
		}
		if err := can(m, size, 0); err != nil {
			return refuse(field, datacenter.ErrInfeasibleBatchSize, "%v", err)
		}
		if err := can(m, size, c.RampUpRateByModel[label]); err != nil {
			return refuse(rampField+"."+label, datacenter.ErrOutOfRange, "%v", err)
		}
	}
	return refuseLease(c.LeaseS)
}

// emitBatchSizes tells the watchers what all models now run.
func (p *Pipeline) emitBatchSizes() {
	now := make(datacenter.ByModel[int], len(p.cfg.Models))
	for m := range now {
		now[m].ModelLabel, now[m].Value = p.cfg.Models[m].ModelLabel, p.batchSizes[m]
	}
	p.emit(datacenter.BatchSizesUpdated{BatchSizeByModel: now})
}

// shiftReplicas checks a shift and applies it, as of the next step.
func (p *Pipeline) shiftReplicas(c datacenter.ShiftReplicas) error {
	m := p.modelIndex(c.ModelLabel)
	if m < 0 {
		return refuse("model_label", datacenter.ErrUnknownModel, "unknown model %s; the models are %q", excerpt.Quote(c.ModelLabel, maxQuoted), p.cfg.labels())
	}
	if c.ReplicaDelta < -math.MaxInt32 || c.ReplicaDelta > math.MaxInt32 {
		return refuse("replica_delta", datacenter.ErrOutOfRange, "%d is too large", c.ReplicaDelta)
	}
	if total := p.demand.shift[m] + c.ReplicaDelta; total < -math.MaxInt32 || total > math.MaxInt32 {
		return refuse("replica_delta", datacenter.ErrOutOfRange, "%d is too large: with the shifts before, %d replicas are shifted",
			c.ReplicaDelta, p.demand.shift[m])
	}
	if err := refuseLease(c.LeaseS); err != nil {
		return err
	}
	if c.ReplicaDelta > 0 {
		if err := p.checkRoom(m, c); err != nil {
			return err
		}
	}
	p.leaseShift(m, c)
	p.changed[m].shift = p.step
	if c.ReplicaDelta != 0 || c.LeaseS == 0 { // else it only renews a lease
		p.shift(m, c)
	}
	return nil
}

// checkRoom refuses a shift that the capacity does not allow, now or, with the
// schedules to come, later.
func (p *Pipeline) checkRoom(m int, c datacenter.ShiftReplicas) error {
	t := p.nextStepS()
	capacity := p.cfg.Facility.TotalGPUCapacity
	free := capacity - p.demand.gpusAt(t)
	p.demand.shift[m] += c.ReplicaDelta
	defer func() { p.demand.shift[m] -= c.ReplicaDelta }()
	over := p.firstOverload(p.step, p.horizon)
	if over == nil {
		return nil
	}
	if over.unsure {
		return refuse("replica_delta", datacenter.ErrNoCapacity,
			"with %+d replicas of %q, of %d GPUs %d are free now, but from t=%v s on ramps come so close to the capacity that it is not "+
				"certain they suffice",
			c.ReplicaDelta, c.ModelLabel, capacity, max(free, 0), over.timeS)
	}
	return refuse("replica_delta", datacenter.ErrNoCapacity,
		"%+d replicas of %q need %d GPUs; of %d GPUs %d are free now, and at t=%v s they would not suffice%s",
		c.ReplicaDelta, c.ModelLabel, c.ReplicaDelta*p.cfg.Models[m].GPUsPerReplica, capacity, max(free, 0), over.timeS, p.demand.wayOut(over))
}

// shift applies a shift of model m.
func (p *Pipeline) shift(m int, c datacenter.ShiftReplicas) {
	p.demand.shift[m] += c.ReplicaDelta
	p.changed[m].shift = p.step
	if p.onApplied != nil {
		p.onApplied(Applied{ModelLabel: c.ModelLabel, ReplicaDelta: &c.ReplicaDelta})
	}
	p.demand.replicasAt(p.nextStepS(), p.replicas)
	p.emit(datacenter.ReplicasShifted{ModelLabel: c.ModelLabel, ReplicaDelta: c.ReplicaDelta, EffectiveReplicas: p.replicas[m]})
}

func (p *Pipeline) emit(data datacenter.EventData) {
	if p.cfg.OnEvent != nil {
		p.cfg.OnEvent(datacenter.NewEvent(p.nextStepS(), data))
	}
}
