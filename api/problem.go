package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"unicode/utf8"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

const (
	contentTypeJSON    = "application/json"
	contentTypeProblem = "application/problem+json"
	// maxFieldErrors and maxEcho bound what an answer says about a bad request:
	// faults named, and bytes of the request repeated.
	maxFieldErrors = 20
	maxEcho        = 100
)

// problem is an answer that says what went wrong (RFC 9457).
type problem struct {
	Title  string       `json:"title" doc:"The status in words."`
	Status int          `json:"status" doc:"The HTTP status."`
	Detail string       `json:"detail" doc:"What was wrong and what would be right."`
	Errors []fieldError `json:"errors,omitempty" doc:"The parts of the request at fault."`

	headers http.Header
}

// fieldError is one part of a request at fault.
type fieldError struct {
	Message  string `json:"message" doc:"What was wrong with it and what would be right."`
	Location string `json:"location" doc:"Where it stands, such as body.batch_size_by_model.Llama-3.1-8B, query.n or header.Idempotency-Key."`
	Value    any    `json:"value,omitempty" doc:"What stood there, shortened."`
}

// newProblem returns a problem with a detail in the manner of [fmt.Sprintf].
func newProblem(status int, format string, args ...any) *problem {
	return &problem{Title: http.StatusText(status), Status: status, Detail: fmt.Sprintf(format, args...)}
}

// at adds a part at fault.
func (p *problem) at(location, message string) *problem {
	p.Errors = append(p.Errors, fieldError{Message: message, Location: location})
	return p
}

// with adds a header to the answer.
func (p *problem) with(name, value string) *problem {
	if p.headers == nil {
		p.headers = http.Header{}
	}
	p.headers.Set(name, value)
	return p
}

func (p *problem) Error() string { return p.Detail }

// GetStatus, GetHeaders and ContentType are how package huma learns of them.
func (p *problem) GetStatus() int { return p.Status }

func (p *problem) GetHeaders() http.Header { return p.headers }

func (p *problem) ContentType(string) string { return contentTypeProblem }

// write answers a request with the problem.
func (p *problem) write(w http.ResponseWriter) {
	body, _ := json.Marshal(p) // strings and numbers always marshal
	h := w.Header()
	for name, values := range p.headers {
		h[name] = values
	}
	h.Set("Content-Type", contentTypeProblem)
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(p.Status)
	_, _ = w.Write(append(body, '\n')) // a client that is gone cannot be told
}

// commandProblem returns the answer to a command that was refused as a whole.
// Other errors give nil.
func commandProblem(err error) *problem {
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
	return newProblem(status, "%v", refused).at(shorten(location), refused.Detail)
}

// shorten cuts text from a request down to what an answer repeats of it.
func shorten(s string) string {
	if len(s) <= maxEcho {
		return s
	}
	cut := maxEcho
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}
