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

// Counters are renewed now and then: every 10 to 20 ms on some GPUs, every 100 ms on others,
// and what one shows is the energy until it was renewed. So each reading waits until the
// counter changes: then it is known until when it counts. One that does not within
// renewedWithin is taken as it is.
const (
	lookEvery     = 10 * time.Millisecond
	renewedWithin = 250 * time.Millisecond
)

// read reads the counters of a source, for those places, until ctx is done. What fails
// is tried again: the counts are the better for what comes, and not needed.
func (m *meters) read(ctx context.Context, meter power.EnergyMeter, gpus []rig.GPU, places []int) {
	indices := make([]int, len(places))
	for k, i := range places {
		indices[k] = gpus[i].Index
	}
	ticker := time.NewTicker(m.every)
	defer ticker.Stop()
	for {
		m.readOnce(ctx, meter, indices, places)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// readOnce takes one count of each GPU, as it changes.
func (m *meters) readOnce(ctx context.Context, meter power.EnergyMeter, indices, places []int) {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	ends := time.Now().Add(min(renewedWithin, m.every/2))
	last := make([]count, len(places)) // at zero: not known
	found := make([]bool, len(places))
	for left := len(places); ; {
		at, energyJ := m.look(ctx, meter, indices)
		isLast := !time.Now().Before(ends)
		for k, gpu := range indices {
			v, ok := energyJ[gpu]
			if found[k] || !ok || v-v != 0 {
				continue
			}
			before := last[k]
			last[k] = count{at, v}
			if between := at.Sub(before.at); !before.at.IsZero() && v != before.energyJ && between <= m.sure {
				m.add(places[k], count{before.at.Add(between / 2), v})
				found[k] = true
				left--
			}
		}
		for k := range last {
			if isLast && !found[k] && !last[k].at.IsZero() {
				m.add(places[k], last[k])
			}
		}
		if isLast || left == 0 {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// look is what the counters show and when; nothing if they do not tell in time.
func (m *meters) look(ctx context.Context, meter power.EnergyMeter, indices []int) (time.Time, map[int]float64) {
	asked := time.Now()
	ctx, cancel := context.WithTimeout(ctx, meterTimeout)
	defer cancel()
	energyJ, err := meter.EnergyJ(ctx, indices)
	took := time.Since(asked)
	if err != nil || took > m.sure {
		return time.Time{}, nil
	}
	return asked.Add(took / 2), energyJ
}

func (m *meters) add(place int, c count) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.counts[place] = append(m.counts[place], c)
}
