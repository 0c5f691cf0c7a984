// Package problem writes the answers that say what was wrong with a request, and
// what would be right (RFC 9457).
package problem

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/g2g-agent/g2g-agent/internal/excerpt"
)

// ContentType is the media type of a problem.
const ContentType = "application/problem+json"

// maxEcho bounds what of a request an answer repeats, in bytes.
const maxEcho = 100

// Problem is an answer that says what went wrong (RFC 9457).
type Problem struct {
	Title  string  `json:"title" doc:"The status in words."`
	Status int     `json:"status" doc:"The HTTP status."`
	Detail string  `json:"detail" doc:"What was wrong and what would be right."`
	Errors []Field `json:"errors,omitempty" doc:"The parts of the request at fault."`

	headers http.Header
}

// Field is one part of a request at fault.
type Field struct {
	Message  string `json:"message" doc:"What was wrong with it and what would be right."`
	Location string `json:"location" doc:"Where it stands, such as body.batch_size_by_model.Llama-3.1-8B, query.n or header.Idempotency-Key."`
	Value    any    `json:"value,omitempty" doc:"What stood there, shortened."`
}

// New returns a problem with a detail in the manner of [fmt.Sprintf].
func New(status int, format string, args ...any) *Problem {
	return &Problem{Title: http.StatusText(status), Status: status, Detail: fmt.Sprintf(format, args...)}
}

// At adds a part at fault.
func (p *Problem) At(location, message string) *Problem {
	p.Errors = append(p.Errors, Field{Message: message, Location: location})
	return p
}

// With adds a header to the answer.
func (p *Problem) With(name, value string) *Problem {
	if p.headers == nil {
		p.headers = http.Header{}
	}
	p.headers.Set(name, value)
	return p
}

func (p *Problem) Error() string { return p.Detail }

// GetStatus is how package huma learns of the status.
func (p *Problem) GetStatus() int { return p.Status }

// GetHeaders is how package huma learns of the headers beside its own.
func (p *Problem) GetHeaders() http.Header { return p.headers }

// ContentType is how package huma learns of the media type.
func (p *Problem) ContentType(string) string { return ContentType }

// Write answers a request with the problem.
func (p *Problem) Write(w http.ResponseWriter) {
	body, _ := json.Marshal(p) // strings and numbers always marshal
	h := w.Header()
	for name, values := range p.headers {
		h[name] = values
	}
	h.Set("Content-Type", ContentType)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	// What had been meant for another body.
	h.Del("Content-Length")
	h.Del("Content-Encoding")
	w.WriteHeader(p.Status)
	_, _ = w.Write(append(body, '\n')) // a client that is gone cannot be told
}

// Shorten cuts text from a request down to what an answer repeats of it.
func Shorten(s string) string { return excerpt.Of(s, maxEcho) }
