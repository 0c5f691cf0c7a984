// Package problem writes the answers that say what was wrong with a request, and
// what would be right (RFC 9457).
package problem

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/g2g-agent/g2g-agent/internal/excerpt"
)

// contentType is the media type of a problem.
const contentType = "application/problem+json"

// maxEcho bounds what of a request an answer repeats, in bytes.
const maxEcho = 100

// Problem is an answer that says what went wrong (RFC 9457).
type Problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	// Code tells programs what went wrong, see [Codes].
	Code   string  `json:"code"`
	Detail string  `json:"detail"`
	Errors []Field `json:"errors,omitempty"`

	headers http.Header
}

// Field is one part of a request at fault.
type Field struct {
	Message  string `json:"message"`
	Location string `json:"location"`
	// Code is not empty where it tells more than the message alone.
	Code string `json:"code,omitempty"`
}

// New returns a problem with a detail in the manner of [fmt.Sprintf], and the usual
// code of its status.
func New(status int, format string, args ...any) *Problem {
	return &Problem{Title: http.StatusText(status), Status: status, Code: usualCode(status), Detail: fmt.Sprintf(format, args...)}
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

// AppendJSON appends the problem's JSON, for where it is no answer of its own.
func (p *Problem) AppendJSON(b []byte) []byte {
	content, _ := json.Marshal(p) // strings and finite numbers always marshal
	return append(b, content...)
}

// Write answers a request with the problem.
func (p *Problem) Write(w http.ResponseWriter) { p.WriteAs(w, p) }

// WriteAs answers a request with body, which has the problem's members and more.
func (p *Problem) WriteAs(w http.ResponseWriter, body any) {
	content, _ := json.Marshal(body) // strings and finite numbers always marshal
	h := w.Header()
	for name, values := range p.headers {
		h[name] = values
	}
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	// What had been meant for another body.
	h.Del("Content-Length")
	h.Del("Content-Encoding")
	w.WriteHeader(p.Status)
	_, _ = w.Write(append(content, '\n')) // a client that is gone cannot be told
}

// Shorten cuts text from a request down to what an answer repeats of it.
func Shorten(s string) string { return excerpt.Of(s, maxEcho) }
