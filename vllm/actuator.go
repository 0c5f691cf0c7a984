package vllm

import (
	"fmt"
	"net/http"
)

// Actuator is a way to change how many sequences a server runs at once.
type Actuator string

// The actuators, best first.
const (
	// ActuatorSetMaxNumSeqs is POST /set_max_num_seqs, which servers patched for
	// OpenG2G have. Only it knows a ramp-up rate.
	ActuatorSetMaxNumSeqs Actuator = "set_max_num_seqs"
	// ActuatorRuntimeConfig is PATCH /v1/runtime_config, as proposed in vLLM's pull
	// request 54816; servers have it in development mode at best. They reject batch
	// sizes above the max_num_seqs that they were started with.
	ActuatorRuntimeConfig Actuator = "runtime_config"
	// ActuatorConcurrency leaves the server alone: the load generator holds at most
	// as many requests in flight. It works with every server.
	ActuatorConcurrency Actuator = "concurrency"
)

// MaxBatchSize bounds the batch sizes of servers under load, each of which has
// twice as many requests in flight.
const MaxBatchSize = 16_384

// Outcome is what became of a command that failed.
type Outcome string

// The outcomes.
const (
	// OutcomeRefused: the server said no, or the command was one that it cannot be
	// asked. Nothing changed.
	OutcomeRefused Outcome = "refused"
	// OutcomeUnreachable: there was no connection, so the command was not sent.
	// Nothing changed.
	OutcomeUnreachable Outcome = "unreachable"
	// OutcomeUnknown: the command was sent, or a part of it, and there was no answer
	// or a 5xx, with which a server says that it failed, not that nothing happened.
	// The batch size may have changed.
	OutcomeUnknown Outcome = "unknown"
)

// CommandError is the error of [Server.SetBatchSize].
type CommandError struct {
	// Actuator and BatchSize are the command.
	Actuator  Actuator
	BatchSize int
	// URL is the server's base URL.
	URL string
	// Status is the HTTP status, 0 without an answer.
	Status int
	// Detail is what the server said, shortened to 200 bytes; without an answer,
	// what went wrong.
	Detail string
	// Outcome says whether the batch size may have changed.
	Outcome Outcome
	// Err is the cause if there was no answer, else nil.
	Err error
}

// Error says what was commanded and what became of it.
func (e *CommandError) Error() string {
	text := fmt.Sprintf("batch size %d by %s on vLLM server %s: ", e.BatchSize, e.Actuator, e.URL)
	reason := e.Detail
	if e.Status != 0 {
		reason = "the server answered " + statusAndDetail(e.Status, e.Detail)
	}
	switch e.Outcome {
	case OutcomeRefused:
		return text + "refused: " + reason
	case OutcomeUnreachable:
		return text + "not sent: " + reason
	default:
		return text + "sent, but it may or may not have taken effect: " + reason
	}
}

// Unwrap returns the cause.
func (e *CommandError) Unwrap() error { return e.Err }

// NoSuchActuator reports whether the server refused because it does not have the
// actuator.
func (e *CommandError) NoSuchActuator() bool {
	return e.Outcome == OutcomeRefused && (saysGone(e.Status) || e.Status == http.StatusMethodNotAllowed)
}
