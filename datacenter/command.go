package datacenter

import (
	"errors"
	"fmt"
)

// Command is an order to the datacenter: [SetBatchSize], [ShiftReplicas] or
// [Restore]. It takes effect at the next step.
type Command interface {
	// Name is what the command is called on the wire, such as batch-sizes.
	Name() string
	isCommand()
}

// SetBatchSize sets the batch sizes of one or more models.
type SetBatchSize struct {
	BatchSizeByModel map[string]int `json:"batch_size_by_model"`
	// RampUpRateByModel limits, in requests per second, how fast a live server
	// grows into a larger batch. Models left out change at once.
	RampUpRateByModel map[string]float64 `json:"ramp_up_rate_by_model,omitempty"`
	// LeaseS is for how many seconds of the run the batch sizes hold unless they
	// are commanded anew; the models then return to their failsafe ones. 0 is for
	// ever.
	LeaseS float64 `json:"lease_s,omitempty"`
}

// ShiftReplicas adds replicas to a model (ReplicaDelta above 0) or takes some
// away, on top of its schedule.
type ShiftReplicas struct {
	ModelLabel   string `json:"model_label"`
	ReplicaDelta int    `json:"replica_delta"`
	// LeaseS is for how many seconds of the run the model's leased shifts hold
	// unless they are renewed, by another leased shift, be it of 0; they are then
	// undone. 0 is for ever.
	LeaseS float64 `json:"lease_s,omitempty"`
}

// Restore sets all models to their initial batch sizes, undoes all shifts and ends
// all leases.
type Restore struct{}

// MaxLeaseS bounds leases, in seconds.
const MaxLeaseS = 86_400

// Name is batch-sizes.
func (SetBatchSize) Name() string { return "batch-sizes" }

// Name is replica-shifts.
func (ShiftReplicas) Name() string { return "replica-shifts" }

// Name is restore.
func (Restore) Name() string { return "restore" }

func (SetBatchSize) isCommand()  {}
func (ShiftReplicas) isCommand() {}
func (Restore) isCommand()       {}

// ScriptedCommand is a command known before the run. It is applied before the
// first step at or after T.
type ScriptedCommand struct {
	T       Seconds
	Command Command
}

// The reasons a command is refused for; test with errors.Is.
var (
	ErrUnknownModel = errors.New("unknown model")
	ErrOutOfRange   = errors.New("out of range")
	ErrNotPossible  = errors.New("not possible now")
)

// The reasons that say more: each is, for errors.Is, also the one that it wraps.
var (
	// ErrInfeasibleBatchSize: the model cannot run at the batch size.
	ErrInfeasibleBatchSize = fmt.Errorf("%w: infeasible batch size", ErrOutOfRange)
	// ErrNoCapacity: the GPUs do not suffice, now or with the schedules to come.
	ErrNoCapacity = fmt.Errorf("%w: no capacity", ErrNotPossible)
	// ErrNotStarted and ErrRunOver: there are no steps, yet or any more.
	ErrNotStarted = fmt.Errorf("%w: the run has not begun", ErrNotPossible)
	ErrRunOver    = fmt.Errorf("%w: the run is over", ErrNotPossible)
	// ErrWritingOutput: states of the run are in a file already, so that it cannot begin anew.
	ErrWritingOutput = fmt.Errorf("%w: the output is being written", ErrNotPossible)
)

// CommandError is a command refused as a whole: nothing of it took effect.
type CommandError struct {
	// Field is the part at fault, such as batch_size_by_model.Llama-3.1-8B.
	Field string
	// Reason is ErrUnknownModel, ErrOutOfRange or ErrNotPossible, or one that wraps
	// one of these.
	Reason error
	// Detail says what was wrong and what would be accepted.
	Detail string
}

func (e *CommandError) Error() string { return e.Field + ": " + e.Detail }

func (e *CommandError) Unwrap() error { return e.Reason }
