package api

import (
	"errors"
	"net/http"

	"github.com/g2g-agent/g2g-agent/api/problem"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/strictjson"
)

// bodyProblem is the answer to a body that could not be read: it names all that is
// wrong.
func bodyProblem(err error) *problem.Problem {
	var wrong *strictjson.Error
	if !errors.As(err, &wrong) {
		return problem.New(http.StatusInternalServerError, "the body could not be read: %v", err)
	}
	first := wrong.Faults[0]
	if wrong.Malformed {
		return problem.New(http.StatusBadRequest, "the body is not what it should be: %s", first.Message).
			At(problem.Shorten("body"+first.Path), first.Message)
	}
	p := problem.New(http.StatusUnprocessableEntity, "body%s: %s%s", first.Path, first.Message, wrong.Rest())
	for _, fault := range wrong.Faults {
		p = p.At("body"+fault.Path, fault.Message)
	}
	return p
}

// commandProblem returns the answer to a command that was refused as a whole.
// Other errors give nil.
func commandProblem(err error) *problem.Problem { return commandProblemIn("body", err) }

// commandProblemIn is [commandProblem] for a command that stands at body.
func commandProblemIn(body string, err error) *problem.Problem {
	var refused *datacenter.CommandError
	if !errors.As(err, &refused) {
		return nil
	}
	location := body + "." + refused.Field
	if refused.Field == "" || refused.Field == "command" {
		location = body
	}
	location = problem.Shorten(location)
	status, code, ofPart := reasonOf(refused.Reason)
	p := problem.New(status, "%s: %s", problem.Shorten(refused.Field), refused.Detail)
	if ofPart {
		return p.AtCoded(location, refused.Detail, code)
	}
	return p.At(location, refused.Detail).Coded(code)
}

// reasonOf is the answer to a command refused for a reason. ofPart says that the part
// at fault has the code as well: there could be others beside it, with other codes.
func reasonOf(reason error) (status int, code string, ofPart bool) {
	for _, known := range []struct {
		reason error
		status int
		code   string
		ofPart bool
	}{
		{datacenter.ErrUnknownModel, http.StatusNotFound, problem.CodeUnknownModel, true},
		{datacenter.ErrInfeasibleBatchSize, http.StatusUnprocessableEntity, problem.CodeInfeasibleBatchSize, true},
		{datacenter.ErrOutOfRange, http.StatusUnprocessableEntity, problem.CodeInvalidRequest, false},
		{datacenter.ErrNoCapacity, http.StatusConflict, problem.CodeNoCapacity, false},
		{datacenter.ErrNotStarted, http.StatusConflict, problem.CodeNotStarted, false},
		{datacenter.ErrRunOver, http.StatusConflict, problem.CodeRunOver, false},
		{datacenter.ErrWritingOutput, http.StatusConflict, problem.CodeWritingOutput, false},
	} {
		if errors.Is(reason, known.reason) {
			return known.status, known.code, known.ofPart
		}
	}
	return http.StatusConflict, problem.CodeNotPossible, false
}
