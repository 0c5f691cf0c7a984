package api

import (
	"errors"
	"net/http"

	"github.com/g2g-agent/g2g-agent/api/problem"
	"github.com/g2g-agent/g2g-agent/datacenter"
)

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
	return problem.New(status, "%v", refused).At(problem.Shorten(location), refused.Detail)
}
