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
}

// NewGPU returns a GPU that draws powerW watts until told otherwise, and has since
// 1970.
func NewGPU(name string, powerW float64) *GPU {
	g := &GPU{name: name, since: time.Now()}
	g.SetPowerW(powerW)
	g.energyJ = g.powerW * float64(g.since.UnixMilli()) / 1e3
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
	g.energyJ += g.powerW * now.Sub(g.since).Seconds()
	g.powerW, g.since = powerW, now
}

// PowerW returns the true power, in watts.
func (g *GPU) PowerW() float64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.powerW
}

// EnergyJ returns the energy taken so far, in joules.
func (g *GPU) EnergyJ() float64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.energyJ + g.powerW*time.Since(g.since).Seconds()
}
