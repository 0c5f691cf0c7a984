// Package augment scales readings of single GPUs to the three-phase power of a
// whole datacenter.
//
// A [Pool] is the datacenter's servers: each has a phase, a stagger offset and
// an amplitude scale, all drawn from a seed. At every step an [Augmenter] hands
// the models as many servers as their replicas need and turns watts per GPU
// into watts per phase; the formula stands at [Augmenter.Augment].
//
// The package is pure: no I/O, no clock, no goroutines. Where the per-GPU power
// comes from (a trace, a live host) is the business of a [PowerSource].
package augment

import (
	"fmt"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/nprand"
)

// Stagger says from where a server's offset into the recorded power is drawn,
// so that servers showing one recording do not all peak together.
type Stagger struct {
	inSeconds  bool
	belowSteps int64
	belowS     float64
}

// StaggerSteps draws whole steps in [0, below), as a replay does.
func StaggerSteps(below int64) Stagger { return Stagger{belowSteps: below} }

// StaggerSeconds draws seconds in [0, below), as a live run does.
func StaggerSeconds(below float64) Stagger { return Stagger{inSeconds: true, belowS: below} }

// PoolConfig is what a pool is laid out from.
type PoolConfig struct {
	Seed         uint64
	NumServers   int // at least 1
	Stagger      Stagger
	Augmentation datacenter.Augmentation
	// ModelLabels are the models in config order, which is the order of every
	// per-model slice of this package.
	ModelLabels   []string
	GPUsPerServer int // at least 1
}

// Pool is the servers of a datacenter. It is immutable.
type Pool struct {
	cfg PoolConfig
	// Per server.
	phases          []datacenter.Phase
	amplitudeScales []float64
	staggerSteps    []int32
	staggerS        []float64
	// Per model: its order of preference over all servers, kept as one list a
	// phase, which is how allocation walks it.
	preferences [][datacenter.NumPhases][]int32
}

// NewPool lays a pool out as OpenG2G does: from default_rng(seed) the phases
// (as even a split as can be, shuffled), the stagger offsets, the amplitude
// scales and, model by model, a shuffled order of preference over the servers.
func NewPool(cfg PoolConfig) *Pool {
	n := cfg.NumServers
	p := &Pool{
		cfg:             cfg,
		phases:          evenPhases(n),
		amplitudeScales: make([]float64, n),
		preferences:     make([][datacenter.NumPhases][]int32, len(cfg.ModelLabels)),
	}
	rng := nprand.New(cfg.Seed)
	nprand.Shuffle(rng, p.phases)
	if cfg.Stagger.inSeconds {
		p.staggerS = make([]float64, n)
		for i := range p.staggerS {
			p.staggerS[i] = rng.Uniform(0, cfg.Stagger.belowS)
		}
	} else {
		p.staggerSteps = make([]int32, n)
		for i := range p.staggerSteps {
			p.staggerSteps[i] = int32(rng.Integers(0, max(cfg.Stagger.belowSteps, 1)))
		}
	}
	low, high := cfg.Augmentation.AmplitudeScaleRange[0], cfg.Augmentation.AmplitudeScaleRange[1]
	for i := range p.amplitudeScales {
		p.amplitudeScales[i] = rng.Uniform(low, high)
	}
	order := make([]int32, n)
	for m := range p.preferences {
		for i := range order {
			order[i] = int32(i)
		}
		nprand.Shuffle(rng, order)
		p.preferences[m] = byPhase(order, p.phases)
	}
	return p
}

// evenPhases splits n servers over the phases in blocks that differ by at most
// one, the larger first.
func evenPhases(n int) []datacenter.Phase {
	phases := make([]datacenter.Phase, 0, n)
	for p := range datacenter.NumPhases {
		size := n / datacenter.NumPhases
		if p < n%datacenter.NumPhases {
			size++
		}
		for range size {
			phases = append(phases, datacenter.Phase(p))
		}
	}
	return phases
}

func byPhase(order []int32, phases []datacenter.Phase) [datacenter.NumPhases][]int32 {
	var lists [datacenter.NumPhases][]int32
	for _, server := range order {
		p := phases[server]
		lists[p] = append(lists[p], server)
	}
	return lists
}

// NumServers is the number of servers in the pool.
func (p *Pool) NumServers() int { return p.cfg.NumServers }

// StaggerSteps returns each server's offset in steps, nil for a pool staggered
// in seconds. The caller must not change it.
func (p *Pool) StaggerSteps() []int32 { return p.staggerSteps }

// StaggerSeconds returns each server's offset in seconds, nil for a pool
// staggered in steps. The caller must not change it.
func (p *Pool) StaggerSeconds() []float64 { return p.staggerS }

// OversubscribedError reports a model that asked for more servers than the
// models before it, in order of label, left over.
type OversubscribedError struct {
	ModelLabel   string
	Wanted, Free int // servers
}

func (e *OversubscribedError) Error() string {
	return fmt.Sprintf("model %q needs %d servers, but only %d of the pool are free", e.ModelLabel, e.Wanted, e.Free)
}
