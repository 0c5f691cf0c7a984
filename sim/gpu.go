package sim

import (
	"math"
	"sync/atomic"
)

// GPU is a simulated GPU. A [VLLM] or a test sets its power, a [Zeusd] reads it.
// Its methods may be called from any goroutine.
type GPU struct {
	name  string // of the product, as a daemon lists it
	power atomic.Uint64
}

// NewGPU returns a GPU that draws powerW watts until told otherwise.
func NewGPU(name string, powerW float64) *GPU {
	g := &GPU{name: name}
	g.SetPowerW(powerW)
	return g
}

// SetPowerW changes the true power, in watts. What is no power (NaN, negative)
// becomes 0.
func (g *GPU) SetPowerW(powerW float64) {
	if !(powerW >= 0) {
		powerW = 0
	}
	g.power.Store(math.Float64bits(powerW))
}

// PowerW returns the true power, in watts.
func (g *GPU) PowerW() float64 { return math.Float64frombits(g.power.Load()) }
