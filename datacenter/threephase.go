package datacenter

// Phase names one of the three phases.
type Phase uint8

// The phases, in the order of every per-phase array.
const (
	PhaseA Phase = iota
	PhaseB
	PhaseC
	NumPhases = 3
)

// ThreePhase is a quantity per phase.
type ThreePhase struct {
	A float64 `json:"a"`
	B float64 `json:"b"`
	C float64 `json:"c"`
}

// UniformShare is the phase share of a model that has no servers.
func UniformShare() ThreePhase { return ThreePhase{1.0 / 3, 1.0 / 3, 1.0 / 3} }

// Total is the sum over the phases.
func (p ThreePhase) Total() float64 { return p.A + p.B + p.C }

// Array returns the phases in order.
func (p ThreePhase) Array() [NumPhases]float64 { return [NumPhases]float64{p.A, p.B, p.C} }
