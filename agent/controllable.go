package agent

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/rig"
)

// Controllable is a run that may be watched and commanded from any goroutine while
// it steps: a [*Live] or a [*ServedReplay].
type Controllable interface {
	// Apply checks a command whole and, only if nothing is wrong with it, carries
	// it out, as of the next step. A command that is refused as a whole gives a
	// [*datacenter.CommandError]; where only some vLLM servers would not do as
	// they were told, the others have, and the error is a [*ServersError].
	Apply(ctx context.Context, command datacenter.Command) error
	// Status is the run as it is now.
	Status() Status
}

// Phase is how far a run has come.
type Phase string

// The phases of a run.
const (
	// PhaseStarting: no step has been computed, hardware is checked and warmed up.
	PhaseStarting Phase = "starting"
	// PhaseStepping: steps are computed in real time.
	PhaseStepping Phase = "stepping"
	// PhaseWaiting: steps are computed when they are asked for.
	PhaseWaiting Phase = "waiting"
	// PhaseEnded: no more steps are computed.
	PhaseEnded Phase = "ended"
)

// Status is a run between two steps.
type Status struct {
	Phase Phase
	// RunID is a UUID, another one for each start and each reset.
	RunID string
	Seed  uint64
	// AtEnd is what comes after the last step: stop or continue, empty in a live run.
	AtEnd string
	// DurationS is the length of the run in seconds, TotalSteps the number of its steps;
	// NaN and 0 for a run without end.
	DurationS  float64
	TotalSteps int64
	// TimeS is the time of the next step, in seconds since the first.
	TimeS float64
	// Steps is the number of steps computed, LastStepAt when the last one was.
	Steps      int64
	LastStepAt time.Time
	DT         datacenter.Seconds
	Facility   datacenter.Facility
	// FreeGPUs is the part of the facility's capacity that no model asks for at
	// the next step.
	FreeGPUs int
	// AvailableGPUCapacity is what OpenG2G calls so: the part of the capacity that is
	// left by the models' initial replicas and their shifts, whatever the schedules.
	AvailableGPUCapacity int
	// Models are in config order.
	Models []ModelStatus
}

// ModelStatus is the part of a [Status] of one model.
type ModelStatus struct {
	Spec datacenter.ModelSpec
	// BatchSize is the batch size commanded: what the server accepted last.
	BatchSize int
	// BatchSizeSeq and ShiftSeq are the numbers of the first states with the effect of
	// what the model's batch size and its shift were commanded to be last.
	BatchSizeSeq, ShiftSeq int64
	// AchievedBatchSize is the number of requests that run, NaN when that is not
	// known; in a replay it is the batch size.
	AchievedBatchSize float64
	// Actuator is how a real server's batch size is set, empty in a replay and
	// before the start has found out.
	Actuator string
	// Replicas is what the model asks for at the next step, ReplicaShift the part
	// of it that commands have added.
	Replicas, ReplicaShift int
	// FreeReplicas is how many more the free servers hold at the next step.
	FreeReplicas int
	// BatchSizeLeaseS and ReplicaLeaseS are for how much longer, in seconds of the
	// run, a leased batch size and a leased shift hold, NaN without a lease.
	BatchSizeLeaseS, ReplicaLeaseS float64
	// Stale says that the model's power readings have been missing for longer than
	// is allowed.
	Stale bool
	// NoTokenS is for how long, in seconds, a vLLM server that answers has made no
	// token although requests are in flight; 0 while it makes some, and until that
	// has lasted for 10 s. Of several servers it is the longest.
	NoTokenS float64
	// Servers are the model's real servers, in config order; nil in a replay.
	Servers []rig.ServerStatus
}

// showServers takes in how a model's real servers are.
func (m *ModelStatus) showServers(servers []rig.ServerStatus) {
	m.Servers = servers
	m.AchievedBatchSize = rig.AchievedBatchSize(servers)
	m.Actuator = rig.ActuatorOf(servers)
	m.NoTokenS = 0
	for i := range servers {
		m.NoTokenS = max(m.NoTokenS, servers[i].NoTokenS)
	}
}

// stalledAfterSteps is how many steps may be overdue before a run is taken to
// hang, and leastStall how long that is at least.
const (
	stalledAfterSteps = 10
	leastStall        = 2 * time.Second
)

// Stalled returns what is wrong if the run should be computing steps and does
// not, empty if all is well.
func (s *Status) Stalled(now time.Time) string {
	if s.Phase != PhaseStepping {
		return ""
	}
	limit := max(leastStall, time.Duration(stalledAfterSteps*s.DT.Float64()*float64(time.Second)))
	if age := now.Sub(s.LastStepAt); age > limit {
		return fmt.Sprintf("the last step was computed %.1f s ago, a step is due every %v s", age.Seconds(), s.DT.Float64())
	}
	return ""
}

// Unready returns why the run's states are not to be relied on now, nothing if
// they are: it steps in time, every model's power is fresh, and no vLLM server
// stands still.
func (s *Status) Unready(now time.Time) []string {
	switch s.Phase {
	case PhaseStarting:
		return []string{"the run has not begun: hardware is being checked and warmed up"}
	case PhaseEnded:
		return []string{"the run is over"}
	}
	var reasons []string
	if s.Phase == PhaseStepping && s.Steps == 0 {
		reasons = append(reasons, "no step has been computed yet")
	}
	if stalled := s.Stalled(now); stalled != "" {
		reasons = append(reasons, stalled)
	}
	for i := range s.Models {
		if m := &s.Models[i]; m.Stale {
			reasons = append(reasons, fmt.Sprintf("the power of model %q is stale", m.Spec.ModelLabel))
		}
		if m := &s.Models[i]; m.NoTokenS > 0 {
			reasons = append(reasons, fmt.Sprintf("the vLLM server of model %q answers and has made no token for %.0f s",
				m.Spec.ModelLabel, m.NoTokenS))
		}
	}
	return reasons
}

// status is the part of a [Status] that a pipeline knows.
func (p *Pipeline) status() Status {
	t := p.nextStepS()
	f := &p.cfg.Facility
	free := p.freeGPUs()
	taken := p.demand.measure(t, p.replicas)
	s := Status{
		RunID: p.runID, Seed: p.cfg.Seed, DurationS: math.NaN(), TimeS: t, Steps: p.step, DT: p.cfg.DT, Facility: *f,
		FreeGPUs: free, Models: make([]ModelStatus, len(p.cfg.Models)),
	}
	s.AvailableGPUCapacity = p.demand.availableGPUCapacity()
	for m := range s.Models {
		spec := &p.cfg.Models[m]
		s.Models[m] = ModelStatus{
			Spec: *spec, BatchSize: p.batchSizes[m], AchievedBatchSize: float64(p.batchSizes[m]),
			BatchSizeSeq: p.changed[m].batchSize, ShiftSeq: p.changed[m].shift,
			Replicas: p.replicas[m], ReplicaShift: p.demand.shift[m],
			BatchSizeLeaseS: max(0, p.leases[m].batchSizeUntilS-t), ReplicaLeaseS: max(0, p.leases[m].shiftUntilS-t),
		}
		// A model's last server may have room of its own.
		freeServers := f.NumServers() - taken.servers + f.ServersFor(spec, p.replicas[m])
		free := freeServers*f.GPUsPerServer/spec.GPUsPerReplica - p.replicas[m]
		if !p.cfg.AllowShiftsPastCapacity {
			free = min(free, s.FreeGPUs/spec.GPUsPerReplica)
		}
		s.Models[m].FreeReplicas = max(0, free)
	}
	return s
}
