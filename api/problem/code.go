package problem

import (
	"net/http"
	"strings"
)

// The codes of problems, for programs to tell them apart by; [Codes] says what each
// means.
const (
	CodeMalformedBody        = "malformed-body"
	CodeMalformedHandshake   = "malformed-handshake"
	CodeUnauthorized         = "unauthorized"
	CodeForbidden            = "forbidden"
	CodeNotFound             = "not-found"
	CodeUnknownModel         = "unknown-model"
	CodeNoRecording          = "no-recording"
	CodeMethodNotAllowed     = "method-not-allowed"
	CodeRequestTimeout       = "request-timeout"
	CodeNotStarted           = "not-started"
	CodeRunOver              = "run-over"
	CodeNoCapacity           = "no-capacity"
	CodeNotLockstep          = "not-lockstep"
	CodeWritingOutput        = "writing-output"
	CodeInProgress           = "in-progress"
	CodeNotPossible          = "not-possible"
	CodeTooLarge             = "too-large"
	CodeUnsupportedMediaType = "unsupported-media-type"
	CodeInvalidRequest       = "invalid-request"
	CodeInfeasibleBatchSize  = "infeasible-batch-size"
	CodeKeyReused            = "key-reused"
	CodeUpgradeRequired      = "upgrade-required"
	CodeRateLimited          = "rate-limited"
	CodeAgentFault           = "agent-fault"
	CodeServersFailed        = "servers-failed"
	CodeNoState              = "no-state"
	CodeEnding               = "ending"
)

// Code is what is known of all problems of one code.
type Code struct {
	Code   string
	Status int
	// Usual: it is the code of a problem of the status that names no other.
	Usual bool
	// Description says in one line what went wrong, in Markdown.
	Description string
}

// Codes is the one list of codes. The API's guide and its description are held to
// it by tests. It is long because it is a table.
func Codes() []Code {
	return []Code{
		{CodeMalformedBody, http.StatusBadRequest, true, "The body is not one JSON object, or did not come whole."},
		{CodeMalformedHandshake, http.StatusBadRequest, false, "The handshake of a WebSocket is malformed."},
		{CodeUnauthorized, http.StatusUnauthorized, true, "A token is needed, and there is none or a wrong one."},
		{CodeForbidden, http.StatusForbidden, true, "The token, origin or host name does not permit this."},
		{CodeNotFound, http.StatusNotFound, true, "There is no such path."},
		{CodeUnknownModel, http.StatusNotFound, false, "There is no model of that label."},
		{CodeNoRecording, http.StatusNotFound, false, "Nothing is recorded, or nothing of that run or time."},
		{CodeMethodNotAllowed, http.StatusMethodNotAllowed, true, "The path does not take this method."},
		{CodeRequestTimeout, http.StatusRequestTimeout, true, "The body did not arrive in time."},
		{CodeNotStarted, http.StatusConflict, false, "The run has not begun: hardware is being warmed up."},
		{CodeRunOver, http.StatusConflict, false, "The run is over."},
		{CodeNoCapacity, http.StatusConflict, false, "The capacity does not suffice, now or with the schedules to come."},
		{CodeNotLockstep, http.StatusConflict, false, "Only a replay in lockstep (`--pace step`) can do this."},
		{CodeWritingOutput, http.StatusConflict, false, "The run's output is being written (`--out`): it cannot begin anew."},
		{CodeInProgress, http.StatusConflict, false, "The first request with this `Idempotency-Key` is under way."},
		{CodeNotPossible, http.StatusConflict, true, "It is not possible now, for another reason."},
		{CodeTooLarge, http.StatusRequestEntityTooLarge, true, "The body is too large."},
		{CodeUnsupportedMediaType, http.StatusUnsupportedMediaType, true, "The body is not sent as `application/json`."},
		{CodeInvalidRequest, http.StatusUnprocessableEntity, true, "A value is missing, unknown, of the wrong type or out of range."},
		{CodeInfeasibleBatchSize, http.StatusUnprocessableEntity, false, "The model cannot run at that batch size."},
		{CodeKeyReused, http.StatusUnprocessableEntity, false, "The `Idempotency-Key` was used before for another body."},
		{CodeUpgradeRequired, http.StatusUpgradeRequired, true, "It is a WebSocket, and the request does not ask for one."},
		{CodeRateLimited, http.StatusTooManyRequests, true, "Too many requests, wrong tokens, connections or long answers."},
		{CodeAgentFault, http.StatusInternalServerError, true, "A fault of the agent; its log has more."},
		{CodeServersFailed, http.StatusBadGateway, true, "Some vLLM servers did not do as they were told."},
		{CodeNoState, http.StatusServiceUnavailable, false, "There is no state before the first step."},
		{CodeEnding, http.StatusServiceUnavailable, true, "The agent, or the request, ended before it was answered."},
	}
}

// usualCode is the code of a problem of the status that names no other.
func usualCode(status int) string {
	for _, c := range Codes() {
		if c.Usual && c.Status == status {
			return c.Code
		}
	}
	return strings.ToLower(strings.ReplaceAll(http.StatusText(status), " ", "-"))
}

// Coded gives the problem another code than its status has by itself.
func (p *Problem) Coded(code string) *Problem {
	p.Code = code
	return p
}

// AtCoded adds a part at fault that has a code of its own. Where all parts have the
// same one, it is the problem's too.
func (p *Problem) AtCoded(location, message, code string) *Problem {
	p.Errors = append(p.Errors, Field{Message: message, Location: location, Code: code})
	for _, e := range p.Errors {
		if e.Code != code {
			return p.Coded(usualCode(p.Status))
		}
	}
	return p.Coded(code)
}
