package datacenter

// ModelSpec says what one served LLM is, not how much of it runs.
type ModelSpec struct {
	// ModelLabel names the model everywhere in config, states and files.
	ModelLabel string
	// ModelID is the Hugging Face id, which vLLM serves the model under.
	ModelID string
	// GPUsPerReplica is the number of GPUs one replica occupies, at least 1.
	GPUsPerReplica int
	// ITLDeadlineS is the inter-token latency controllers hold the model to, in
	// seconds, above 0.
	ITLDeadlineS float64
	// FeasibleBatchSizes are the batch sizes (vLLM's max_num_seqs) the model may
	// be commanded to run, at least one, each above 0.
	FeasibleBatchSizes []int
	// InitialBatchSize is the batch size a run starts with.
	InitialBatchSize int
	// FailsafeBatchSize is the batch size the model returns to when a lease runs
	// out; 0 stands for InitialBatchSize.
	FailsafeBatchSize int
	// Replicas is the replica count over time; nil gives the model no servers.
	Replicas *ReplicaSchedule
	// Measurement says where what is known of the model comes from.
	Measurement Measurement
}

// InitialReplicas is the replica count before any ramp, 0 without a schedule.
func (m *ModelSpec) InitialReplicas() int {
	if m.Replicas == nil {
		return 0
	}
	return m.Replicas.Initial()
}

// Failsafe is the batch size the model returns to when a lease runs out.
func (m *ModelSpec) Failsafe() int {
	if m.FailsafeBatchSize == 0 {
		return m.InitialBatchSize
	}
	return m.FailsafeBatchSize
}

// Facility is the physical datacenter.
type Facility struct {
	Name string
	// GPUsPerServer is the number of GPUs in one server, at least 1.
	GPUsPerServer int
	// BaseKWPerPhase is the constant load beside the servers, in kilowatts on
	// each phase.
	BaseKWPerPhase float64
	// PowerFactor is the lagging power factor of the whole load, in (0, 1]. It
	// is for the grid side to use; no power here depends on it.
	PowerFactor float64
	// TotalGPUCapacity is the number of GPUs the datacenter can host.
	TotalGPUCapacity int
}

// NumServers is the number of servers that TotalGPUCapacity GPUs fill, and 1 for a
// live run that simulates none, as in OpenG2G.
func (f *Facility) NumServers() int {
	return max(1, ceilDiv(f.TotalGPUCapacity, f.GPUsPerServer))
}

// ServersFor is the number of whole servers that replicas replicas of m need.
func (f *Facility) ServersFor(m *ModelSpec, replicas int) int {
	return ceilDiv(replicas*m.GPUsPerReplica, f.GPUsPerServer)
}

func ceilDiv(n, d int) int { return (n + d - 1) / d }

// Augmentation says how a reading of one GPU is varied over many servers.
type Augmentation struct {
	// AmplitudeScaleRange is the range [low, high) of the uniform factor that
	// each server multiplies its power with, 0 < low <= high.
	AmplitudeScaleRange [2]float64
	// NoiseFraction is the standard deviation of the Gaussian noise added to a
	// server's power at each step, as a fraction of that power.
	NoiseFraction float64
}
