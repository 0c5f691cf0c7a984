package guard

import (
	"encoding/json"
	"net/http"
)

// WriteProblem answers with an RFC 9457 problem: status, a short title that is the
// same whenever this goes wrong, and what was wrong this time and would be right.
// Headers set on w before are sent along.
func WriteProblem(w http.ResponseWriter, status int, title, detail string) {
	body, err := json.Marshal(struct {
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail,omitempty"`
	}{title, status, detail})
	if err != nil {
		body = []byte("{}") // strings and a number: cannot be
	}
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Del("Content-Length")
	h.Del("Content-Encoding")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // who does not read the answer cannot be told
}
