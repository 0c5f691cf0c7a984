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
		_, _ = writeStates(w, v, datacenter.StateFields{}, func(work func()) error { work(); return nil })
		return
	}
	body, err := json.Marshal(v)
	writeEncoded(w, status, body, err)
}

// writeEncoded answers with JSON, unless there was none.
func writeEncoded(w http.ResponseWriter, status int, body []byte, err error) {
	if err != nil {
		problem.New(http.StatusInternalServerError, "the answer cannot be written as JSON: %v", err).Write(w)
		return
	}
	w.Header().Set("Content-Type", contentTypeJSON)
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n'))
}

// writeStates writes an array of states, in chunks, so that a long one takes
// little memory; each is encoded in a turn. It stops when the client is gone. The
// error is that of a turn; begun says that a part of the array was written by then.
func writeStates(w io.Writer, states []*datacenter.State, fields datacenter.StateFields, turn func(work func()) error) (begun bool, err error) {
	b := make([]byte, 0, min(stateBytes*(len(states)+1), writeChunk+2*stateBytes))
	b = append(b, '[')
	for next := 0; ; b = b[:0] {
		err := turn(func() {
			for ; next < len(states) && len(b) < writeChunk; next++ {
				if next > 0 {
					b = append(b, ',')
				}
				b = states[next].AppendFields(b, fields)
			}
		})
		if err != nil {
			return begun, err
		}
		if next == len(states) {
			break
		}
		begun = true
		if _, err := w.Write(b); err != nil {
			return begun, nil //nolint:nilerr // the client is gone
		}
	}
	_, _ = w.Write(append(b, ']', '\n'))
	return true, nil
}

// mustJSON is the JSON of a body that has one.
func mustJSON(body any) []byte {
	text, _ := json.Marshal(body) // strings and finite numbers always marshal
	return text
}
