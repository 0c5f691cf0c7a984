package characterize

import (
	"context"
	"sync"
	"time"

	"github.com/g2g-agent/g2g-agent/power"
	"github.com/g2g-agent/g2g-agent/rig"
)

// meterTimeout is for a reading of energy counters to be answered.
const meterTimeout = 900 * time.Millisecond

// meterSure is how long the answer may take: when the counter showed what it says is
// known to half of that. It is little against the time that is measured.
func meterSure(measure time.Duration) time.Duration { return min(100*time.Millisecond, measure/200) }

// count is what an energy counter showed at a time.
type count struct {
	at      time.Time
	energyJ float64
}

// meters read the energy counters of a model's GPUs again and again, as far as their
// sources have some.
type meters struct {
	every  time.Duration // between two readings
	sure   time.Duration // that an answer may take
	stop   context.CancelFunc
	group  sync.WaitGroup
	mu     sync.Mutex
	counts [][]count // by the GPU's place
}

// startMeters begins to read, until end.
func startMeters(ctx context.Context, cfg *Config, gpus []rig.GPU) *meters {
	ctx, stop := context.WithCancel(ctx)
	m := &meters{every: cfg.stepEvery, sure: meterSure(cfg.Measure), stop: stop, counts: make([][]count, len(gpus))}
	places := map[power.Source][]int{}
	for i, g := range gpus {
		if _, ok := g.Source.(power.EnergyMeter); ok {
			places[g.Source] = append(places[g.Source], i)
		}
	}
	for source, at := range places {
		m.group.Go(func() { m.read(ctx, source.(power.EnergyMeter), gpus, at) })
	}
	return m
}

// end ends the reading and returns all counts.
func (m *meters) end() [][]count {
	m.stop()
	m.group.Wait()
	return m.counts
}

// read reads the counters of a source, for those places, until ctx is done. What fails
// is tried again: the counts are the better for what comes, and not needed.
func (m *meters) read(ctx context.Context, meter power.EnergyMeter, gpus []rig.GPU, places []int) {
	var indices []int
	for _, i := range places {
		indices = append(indices, gpus[i].Index)
	}
	ticker := time.NewTicker(m.every)
	defer ticker.Stop()
	for {
		asked := time.Now()
		asking, cancel := context.WithTimeout(ctx, meterTimeout)
		energyJ, err := meter.EnergyJ(asking, indices)
		cancel()
		if took := time.Since(asked); err == nil && took <= m.sure {
			m.mu.Lock()
			for _, i := range places {
				if v, ok := energyJ[gpus[i].Index]; ok && v-v == 0 {
					m.counts[i] = append(m.counts[i], count{asked.Add(took / 2), v})
				}
			}
			m.mu.Unlock()
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
