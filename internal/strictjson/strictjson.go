// Package strictjson reads JSON objects that command something: what is unknown,
// given twice or of another kind is a fault rather than overlooked, and all faults
// are told at once, each with where it stands.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/g2g-agent/g2g-agent/internal/excerpt"
	"github.com/g2g-agent/g2g-agent/internal/textfile"
)

const (
	// MaxNesting bounds how deep a text may nest; nothing that is read needs more
	// than two.
	MaxNesting = 16
	// maxFaults bounds the faults that an [Error] names, maxEcho what it repeats of
	// a name or a value, in bytes.
	maxFaults = 20
	maxEcho   = 100
)

// Fault is one thing wrong with a text.
type Fault struct {
	// Path is where it stands, such as .batch_size_by_model.Llama-3.1-8B, each name
	// shortened; empty for the whole text.
	Path string
	// Message says what is wrong and what would be right.
	Message string
}

// Error is all that is wrong with a text.
type Error struct {
	// Malformed: it is not one well-formed object, and nothing in it was looked at.
	Malformed bool
	// Faults are the first ones, at least one; More is how many there are besides.
	Faults []Fault
	More   int
}

func (e *Error) Error() string {
	first := e.Faults[0]
	text := first.Message + e.Rest()
	if first.Path != "" {
		text = strings.TrimPrefix(first.Path, ".") + ": " + text
	}
	return text
}

// Rest says how many faults there are after the first, empty for none.
func (e *Error) Rest() string {
	if n := len(e.Faults) + e.More - 1; n > 0 {
		return fmt.Sprintf("; and %d more", n)
	}
	return ""
}

func malformed(path, format string, args ...any) *Error {
	return &Error{Malformed: true, Faults: []Fault{{path, fmt.Sprintf(format, args...)}}}
}

// Parse reads a text that must be one JSON object. It is stricter than
// encoding/json: valid UTF-8, no name twice, nothing after it, not deeply nested. A
// byte-order mark before it is passed over.
// Its error is an [*Error].
func Parse(text []byte) (*Object, error) {
	text, err := textfile.Strip(text)
	if err != nil {
		return nil, malformed("", "it %v", err)
	}
	if !utf8.Valid(text) {
		return nil, malformed("", "it is not valid UTF-8")
	}
	var whole json.RawMessage
	if err := json.Unmarshal(text, &whole); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return nil, malformed("", "malformed JSON at byte %d: %v", syntax.Offset, err)
		}
		return nil, malformed("", "malformed JSON: %v", err)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	v, err := parseValue(d, "", 0)
	if err != nil {
		var fault *Error
		if errors.As(err, &fault) {
			return nil, fault
		}
		return nil, malformed("", "malformed JSON: %v", err)
	}
	o, ok := v.(*Object)
	if !ok {
		return nil, malformed("", "want a JSON object, got %s", kindOf(v))
	}
	o.share(&Error{})
	return o, nil
}

// parseValue returns an *Object, []any, [json.Number], string, bool or nil.
func parseValue(d *json.Decoder, path string, depth int) (any, error) {
	if depth > MaxNesting {
		return nil, malformed(path, "it is nested more than %d deep", MaxNesting)
	}
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch token {
	case json.Delim('['):
		values := []any{}
		for d.More() {
			v, err := parseValue(d, path+"["+strconv.Itoa(len(values))+"]", depth+1)
			if err != nil {
				return nil, err
			}
			values = append(values, v)
		}
		_, err = d.Token()
		return values, err
	case json.Delim('{'):
		o := &Object{path: path, members: map[string]any{}}
		for d.More() {
			key, err := d.Token()
			if err != nil {
				return nil, err
			}
			name, _ := key.(string) // what stands before a colon is a string
			at := o.at(name)
			if _, twice := o.members[name]; twice {
				return nil, malformed(at, "it stands there twice")
			}
			if o.members[name], err = parseValue(d, at, depth+1); err != nil {
				return nil, err
			}
			o.names = append(o.names, name)
		}
		_, err = d.Token()
		return o, err
	}
	return token, nil
}

// kindOf says what a value is, for messages.
func kindOf(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case *Object:
		return "an object"
	case []any:
		return "an array"
	case string:
		return "the string " + strconv.Quote(excerpt.Of(v, maxEcho))
	case json.Number:
		return excerpt.Of(v.String(), maxEcho)
	default:
		return fmt.Sprint(v)
	}
}
