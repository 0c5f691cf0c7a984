package api

import (
	"encoding/json"
	"errors"
	"io"

	"github.com/danielgtaylor/huma/v2"

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

// oneState is a state as the body of an answer, manyStates several.
type (
	oneState   struct{ state *datacenter.State }
	manyStates []*datacenter.State
)

// formats are how bodies are written. What is read is not read by package huma,
// see decode.go.
func formats() map[string]huma.Format {
	format := huma.Format{
		Marshal:   marshal,
		Unmarshal: func([]byte, any) error { return errors.New("bodies are read in decode.go") },
	}
	return map[string]huma.Format{contentTypeJSON: format, problem.ContentType: format}
}

// marshal writes v as JSON. States are written by their own encoder: package
// encoding/json would read and compact every one of them again. An error of w is
// not returned: the client is gone, and nobody is left to be told.
func marshal(w io.Writer, v any) error {
	switch v := v.(type) {
	case oneState:
		_, _ = w.Write(append(v.state.AppendJSON(make([]byte, 0, stateBytes)), '\n'))
		return nil
	case manyStates:
		writeStates(w, v)
		return nil
	}
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, _ = w.Write(append(body, '\n'))
	return nil
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
