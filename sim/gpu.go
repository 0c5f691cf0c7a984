package sim

import (
	"sync"
	"time"
)

// GPU is a simulated GPU. A [VLLM] or a test sets its power, a [Zeusd] reads it.
// Its methods may be called from any goroutine.
type GPU struct {
	name string // of the product, as a daemon lists it

	mu      sync.Mutex
	powerW  float64
	since   time.Time // when it was set
	energyJ float64   // until then
	// What the counter shows, since shownAt.
	shownJ  float64
	shownAt time.Time
}

// counterRenewal is how often the energy counter shows a new value. Users saw 10 to 20 ms
// on some GPUs, and up to 100 ms on others.
const counterRenewal = 20 * time.Millisecond

// NewGPU returns a GPU that draws powerW watts until told otherwise, and has since
// 1970.
func NewGPU(name string, powerW float64) *GPU {
	g := &GPU{name: name, since: time.Now()}
	g.SetPowerW(powerW)
	g.energyJ = g.powerW * float64(g.since.UnixMilli()) / 1e3
	g.shownJ, g.shownAt = g.energyJ, g.since
	return g
}

// SetPowerW changes the true power, in watts. What is no power (NaN, negative)
// becomes 0.
func (g *GPU) SetPowerW(powerW float64) {
	if !(powerW >= 0) {
		powerW = 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	g.renew(now)
	g.energyJ += g.powerW * now.Sub(g.since).Seconds()
	g.powerW, g.since = powerW, now
}

// PowerW returns the true power, in watts.
func (g *GPU) PowerW() float64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.powerW
}

// EnergyJ returns what the energy counter shows, in joules: the energy taken until it
// was last renewed.
func (g *GPU) EnergyJ() float64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.renew(time.Now())
	return g.shownJ
}

// renew has the counter show what it shows now.
func (g *GPU) renew(now time.Time) {
	at := g.shownAt.Add(now.Sub(g.shownAt).Truncate(counterRenewal))
	if at.After(g.shownAt) && !at.Before(g.since) {
		g.shownJ, g.shownAt = g.energyJ+g.powerW*at.Sub(g.since).Seconds(), at
	}
}
