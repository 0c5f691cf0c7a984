package agent

import (
	"context"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/recording"
)

// Recorder keeps what a live run saw; a [*recording.Writer] is one. But for SyncCommand
// nothing in it waits. Start and what is told of steps comes from the goroutine that
// steps, the rest from any.
type Recorder interface {
	// Start is called once, before the first step.
	Start(recording.Header)
	// BeginStep begins what is told of a step, which was due at a time in Unix
	// milliseconds and began so many microseconds later. State ends it.
	BeginStep(seq, wallMs, lateUs int64)
	Power(gpu int, e recording.PowerEntry)
	ITL(*recording.ITL)
	Metrics(*recording.Metrics)
	State(*datacenter.State)
	// Command and Event tell of what happened before a step; after is what is in force
	// with it, nil if nothing has changed.
	Command(c recording.Command, after *recording.InForce)
	Event(e recording.Event, after *recording.InForce)
	// SyncCommand is Command, and waits until that is on the disk.
	SyncCommand(ctx context.Context, c recording.Command, after *recording.InForce) error
}

// Applied is the data of an event of [recording.TopicApplied]: one of a batch size that a model has from the
// step on, and replicas that are added to it.
type Applied struct {
	ModelLabel   string `json:"model_label"`
	BatchSize    *int   `json:"batch_size,omitempty"`
	ReplicaDelta *int   `json:"replica_delta,omitempty"`
}
