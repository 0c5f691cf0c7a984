package augment

import (
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/npmath"
	"github.com/g2g-agent/g2g-agent/internal/nprand"
)

// noiseFloorW is the least server power, in watts, that noise is a fraction of.
const noiseFloorW = 1.0

// ModelPower is one model's share of a [Power].
type ModelPower struct {
	// PowerW is the power of all its servers, in watts.
	PowerW float64
	// ActiveReplicas is the number of replicas its whole servers can hold, which
	// may be more than were asked for.
	ActiveReplicas int
	// PhaseShare is the part of its servers on each phase, 1/3 each without servers.
	PhaseShare datacenter.ThreePhase
	// Servers are its servers. They belong to the augmenter.
	Servers []int32
}

// Power is the outcome of one step of augmentation.
type Power struct {
	// PhaseW is the power of all served models on each phase, in watts, without
	// the facility's base load.
	PhaseW datacenter.ThreePhase
	// Models are the models in config order.
	Models []ModelPower
}

// Augmenter turns per-GPU power into datacenter power, step by step: each step is
// one [Augmenter.Allocate], then one [Augmenter.Add] for each model in config
// order, then [Augmenter.Power].
//
// Model m takes ceil(replicas * gpus_per_replica / gpus_per_server) servers of
// the pool. With p_s the reading for server s in W per GPU, G the GPUs per
// server, a_s the server's amplitude scale, f the noise fraction and z_s a
// standard normal draw (one for every server of the pool at every step, so that
// the draws do not depend on who is active), server s draws
//
//	P_s = max(0, w_s + z_s * f * max(w_s, 1 W)),   w_s = p_s * G * a_s    [W]
//
// and a phase draws the sum of P_s over its servers, model by model in config
// order and within a model in the order of allocation. The formula is that of
// OpenG2G's InferencePowerAugmenter; so is every rounding on the way.
//
// It is not safe for use by several goroutines at once.
type Augmenter struct {
	pool           *Pool
	seed           uint64
	gpusPerReplica []int
	rng            *nprand.Generator
	alloc          *allocation
	wanted         []int
	noise          []float64 // per server: this step's standard normal draw
	placed         []placement
	perGPUW        []float64 // scratch
	out            Power
}

// placement holds, for one model, what its servers bring along, in the order
// they were allocated.
type placement struct {
	amplitudeScales []float64
	phases          []datacenter.Phase
}

// NewAugmenter returns an augmenter over pool for models that need the given
// numbers of GPUs per replica (in the pool's order), its noise drawn from
// default_rng(seed).
func NewAugmenter(pool *Pool, gpusPerReplica []int, seed uint64) *Augmenter {
	n := len(gpusPerReplica)
	a := &Augmenter{
		pool:           pool,
		seed:           seed,
		gpusPerReplica: gpusPerReplica,
		wanted:         make([]int, n),
		placed:         make([]placement, n),
		perGPUW:        make([]float64, pool.NumServers()),
		out:            Power{Models: make([]ModelPower, n)},
	}
	if pool.cfg.Augmentation.NoiseFraction > 0 {
		a.noise = make([]float64, pool.NumServers())
	}
	a.Reset()
	return a
}

// Reset returns the augmenter to where it started: the next steps give the
// numbers the first ones gave.
func (a *Augmenter) Reset() {
	a.rng = nprand.New(a.seed)
	a.alloc = newAllocation(a.pool)
}

// Skip leaves out the noise of so many steps, as if they had been computed. It can take
// long, and ends with the error that stop, asked before each, returns.
func (a *Augmenter) Skip(steps int64, stop func() error) error {
	if a.noise == nil {
		return nil
	}
	for range steps {
		if err := stop(); err != nil {
			return err
		}
		a.rng.FillStandardNormal(a.noise)
	}
	return nil
}

// Allocate begins a step in which model m runs replicas[m] replicas (below 0
// counts as none), and draws the step's noise. It returns the models whose servers
// are others than before, all of them at first. An error, an
// [*OversubscribedError], means that the pool has too few servers; noise was not
// drawn then.
func (a *Augmenter) Allocate(replicas []int) (changed []int, err error) {
	gpusPerServer := a.pool.cfg.GPUsPerServer
	for m, n := range replicas {
		a.wanted[m] = (max(n, 0)*a.gpusPerReplica[m] + gpusPerServer - 1) / gpusPerServer
	}
	first, err := a.alloc.update(a.wanted)
	if err != nil {
		return nil, err
	}
	changed = a.alloc.byLabel[first:]
	for _, m := range changed {
		servers := a.alloc.servers[m]
		a.out.Models[m] = ModelPower{
			ActiveReplicas: len(servers) * gpusPerServer / a.gpusPerReplica[m],
			PhaseShare:     a.placed[m].place(a.pool, servers),
			Servers:        servers,
		}
	}
	if a.noise != nil {
		a.rng.FillStandardNormal(a.noise)
	}
	a.out.PhaseW = datacenter.ThreePhase{}
	return changed, nil
}

// Servers are the servers that a model, an index into the pool's models, has at
// this step. They belong to the augmenter.
func (a *Augmenter) Servers(model int) []int32 { return a.out.Models[model].Servers }

// PerGPU is room for the power of one GPU of each of the model's servers, for
// [Augmenter.Add]. The models share it.
func (a *Augmenter) PerGPU(model int) []float64 { return a.perGPUW[:len(a.Servers(model))] }

// Add adds a model's power to the step. perGPUW[i] is the power, in watts, of one
// GPU of the i-th of [Augmenter.Servers]; it must be finite, and becomes the power
// of the whole server.
func (a *Augmenter) Add(model int, perGPUW []float64) {
	m := &a.out.Models[model]
	if len(m.Servers) == 0 {
		m.PowerW = 0
		return
	}
	phaseW := a.servers(perGPUW, m.Servers, &a.placed[model])
	m.PowerW = npmath.Sum(perGPUW)
	a.out.PhaseW.A += phaseW[datacenter.PhaseA]
	a.out.PhaseW.B += phaseW[datacenter.PhaseB]
	a.out.PhaseW.C += phaseW[datacenter.PhaseC]
}

// Power is the outcome of the step. It belongs to the augmenter and holds until
// the next step.
func (a *Augmenter) Power() *Power { return &a.out }

// servers turns w from watts per GPU into watts per server, in place, and
// returns the sums per phase.
func (a *Augmenter) servers(w []float64, servers []int32, placed *placement) [4]float64 {
	gpus := float64(a.pool.cfg.GPUsPerServer)
	scales, phases := placed.amplitudeScales[:len(w)], placed.phases[:len(w)]
	var phaseW [4]float64 // of which 3 are used: indexing by phase&3 needs no bounds check
	if a.noise == nil {
		for i, p := range w {
			v := max(float64(float64(p*gpus)*scales[i]), 0)
			w[i] = v
			phaseW[phases[i]&3] += v
		}
		return phaseW
	}
	fraction := a.pool.cfg.Augmentation.NoiseFraction
	servers = servers[:len(w)]
	for i, p := range w {
		v := float64(float64(p*gpus) * scales[i])
		level := v
		if level < noiseFloorW {
			level = noiseFloorW
		}
		v += float64(float64(a.noise[servers[i]]*fraction) * level)
		if v < 0 {
			v = 0
		}
		w[i] = v
		phaseW[phases[i]&3] += v
	}
	return phaseW
}

// place takes over the servers' constants and returns their share on each phase.
func (p *placement) place(pool *Pool, servers []int32) datacenter.ThreePhase {
	p.amplitudeScales = p.amplitudeScales[:0]
	p.phases = p.phases[:0]
	var count [datacenter.NumPhases]float64
	for _, s := range servers {
		phase := pool.phases[s]
		p.amplitudeScales = append(p.amplitudeScales, pool.amplitudeScales[s])
		p.phases = append(p.phases, phase)
		count[phase]++
	}
	if len(servers) == 0 {
		return datacenter.UniformShare()
	}
	n := float64(len(servers))
	return datacenter.ThreePhase{A: count[0] / n, B: count[1] / n, C: count[2] / n}
}
