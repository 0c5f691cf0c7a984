package datacenter

import "errors"

// Command is an order to the datacenter: [SetBatchSize] or [ShiftReplicas]. It
// takes effect at the next step.
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

// MaxLeaseS bounds leases, in seconds.
const MaxLeaseS = 86_400

// Name is batch-sizes.
func (SetBatchSize) Name() string { return "batch-sizes" }

// Name is replica-shifts.
func (ShiftReplicas) Name() string { return "replica-shifts" }

func (SetBatchSize) isCommand()  {}
func (ShiftReplicas) isCommand() {}

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

// CommandError is a command refused as a whole: nothing of it took effect.
type CommandError struct {
	// Field is the part at fault, such as batch_size_by_model.Llama-3.1-8B.
	Field string
	// Reason is ErrUnknownModel, ErrOutOfRange or ErrNotPossible.
	Reason error
	// Detail says what was wrong and what would be accepted.
	Detail string
}

func (e *CommandError) Error() string { return e.Field + ": " + e.Detail }

func (e *CommandError) Unwrap() error { return e.Reason }
