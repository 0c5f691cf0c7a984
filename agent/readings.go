package agent

import (
	"time"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// readings is where a pipeline's numbers come from: traces or real hardware.
// Models are indexed in config order. A pipeline calls it from one goroutine, in
// each step in the order of the methods.
type readings interface {
	Kind() datacenter.SourceKind
	// Assign tells which servers serve a model from this step on. It must not keep
	// or change the slice.
	Assign(model int, servers []int32)
	// Begin fixes the step, from 0, that what follows is for, and when it is due
	// (zero where no clock is followed).
	Begin(step int64, due time.Time)
	// PerGPUPower sets perGPUW[i] to the power, in watts, of one GPU of the i-th
	// server assigned to the model. The values are finite.
	PerGPUPower(model int, perGPUW []float64)
	// Observe is what is seen of the model beside its power with activeReplicas
	// active. It is called once a step for each model, in order.
	Observe(model, activeReplicas int) observation
}

// observation is what is seen of one model at one step.
type observation struct {
	itlS       float64 // average inter-token latency in seconds, NaN for none
	throughput datacenter.Throughput
	// achieved is the number of requests that run, NaN when it is not known.
	achieved float64
	live     datacenter.LiveModelState
}
