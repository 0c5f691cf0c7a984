package api

import (
	"encoding/json"
	"io"
	"net/http"

	"github.com/g2g-agent/g2g-agent/api/problem"
	"github.com/g2g-agent/g2g-agent/datacenter"
)

const (
	contentTypeJSON = "application/json"
	// writeChunk is how much of a long answer is encoded at a time, in bytes.
	writeChunk = 64 << 10
	// stateBytes is about the size of a state.
	stateBytes = 4 << 10
)

// writeJSON answers with v. States are written by their own encoder: package
// encoding/json would read and compact every one of them again. A client that is
// gone cannot be told.
func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", contentTypeJSON)
	switch v := v.(type) {
	case *datacenter.State:
		w.WriteHeader(status)
		_, _ = w.Write(append(v.AppendJSON(make([]byte, 0, stateBytes)), '\n'))
		return
	case []*datacenter.State:
		w.WriteHeader(status)
		writeStates(w, v)
		return
	}
	body, err := json.Marshal(v)
	if err != nil {
		problem.New(http.StatusInternalServerError, "the answer cannot be written as JSON: %v", err).Write(w)
		return
	}
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n'))
}

// writeStates writes an array of states, in chunks, so that a long one takes
// little memory. It stops when the client is gone.
func writeStates(w io.Writer, states []*datacenter.State) {
	b := make([]byte, 0, min(stateBytes*(len(states)+1), writeChunk+2*stateBytes))
	b = append(b, '[')
	for i, state := range states {
		if i > 0 {
			b = append(b, ',')
		}
		b = state.AppendJSON(b)
		if len(b) >= writeChunk {
			if _, err := w.Write(b); err != nil {
				return
			}
			b = b[:0]
		}
	}
	_, _ = w.Write(append(b, ']', '\n'))
}
