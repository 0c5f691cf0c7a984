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
func commandProblem(err error) *problem.Problem {
	var refused *datacenter.CommandError
	if !errors.As(err, &refused) {
		return nil
	}
	status := http.StatusConflict
	switch {
	case errors.Is(refused.Reason, datacenter.ErrUnknownModel):
		status = http.StatusNotFound
	case errors.Is(refused.Reason, datacenter.ErrOutOfRange):
		status = http.StatusUnprocessableEntity
	}
	location := "body." + refused.Field
	if refused.Field == "" || refused.Field == "command" {
		location = "body"
	}
	return problem.New(status, "%s: %s", problem.Shorten(refused.Field), refused.Detail).At(problem.Shorten(location), refused.Detail)
}
