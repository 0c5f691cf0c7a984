package recording

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/g2g-agent/g2g-agent/internal/excerpt"
)

// Format is the version of the format that this package writes.
const Format = 1

// MaxInteger is the largest integer, by its absolute value, that a line may have: other
// readers turn larger ones into floats.
const MaxInteger = 1 << 53

// Kind is what a line is about; it stands first in the line.
type Kind string

// The kinds of line.
const (
	KindHeader    Kind = "header"
	KindPower     Kind = "power"
	KindITL       Kind = "itl"
	KindMetrics   Kind = "metrics"
	KindCommand   Kind = "command"
	KindEvent     Kind = "event"
	KindState     Kind = "state"
	KindStateHash Kind = "state_hash"
	KindEnd       Kind = "end"
)

// Line is one line of a recording: [*Header], [*Power], [*ITL], [*Metrics], [*Command],
// [*Event], [*State], [*StateHash], [*End] or, read from a later version, [*Other].
type Line interface {
	Kind() Kind
	// AppendJSON appends the line without the newline that ends it.
	AppendJSON(b []byte) []byte
}

// Other is a line of a kind that this version does not know. It is kept as it is.
type Other struct {
	OtherKind Kind
	Raw       json.RawMessage
}

// Kind is the kind that the line names.
func (l *Other) Kind() Kind { return l.OtherKind }

// AppendJSON appends the line as it was read.
func (l *Other) AppendJSON(b []byte) []byte { return append(b, l.Raw...) }

// parsed is a line that can be read: parse fills it from its JSON object and says what
// is missing or makes no sense.
type parsed interface {
	Line
	parse(raw []byte) error
}

// newLine is an empty line of a kind, nil for one that is not known.
func newLine(kind Kind) parsed {
	switch kind {
	case KindHeader:
		return &Header{}
	case KindPower:
		return &Power{}
	case KindITL:
		return &ITL{}
	case KindMetrics:
		return &Metrics{}
	case KindCommand:
		return &Command{}
	case KindEvent:
		return &Event{}
	case KindState:
		return &State{}
	case KindStateHash:
		return &StateHash{}
	case KindEnd:
		return &End{}
	default:
		return nil
	}
}

// KindOf returns the kind of a line that AppendJSON wrote, which stands first, without
// parsing the rest; false if it does not stand there.
func KindOf(raw []byte) (Kind, bool) {
	rest, found := bytes.CutPrefix(raw, []byte(`{"kind":"`))
	if !found {
		return "", false
	}
	end := bytes.IndexByte(rest, '"')
	if end < 0 {
		return "", false
	}
	return Kind(rest[:end]), true
}

// ParseLine reads one line, with or without the newline at its end. Members that are not
// known are ignored, and so are kinds, as an [*Other]. What is not JSON, or lacks what
// its kind needs, is an error. The line keeps nothing of raw.
func ParseLine(raw []byte) (Line, error) {
	raw = bytes.TrimSuffix(raw, []byte("\n"))
	kind, first := KindOf(raw)
	if !first {
		var head struct {
			Kind *Kind `json:"kind"`
		}
		if err := json.Unmarshal(raw, &head); err != nil {
			return nil, fmt.Errorf("want a JSON object: %s", excerpt.Printable(err.Error(), 200))
		}
		if head.Kind == nil || *head.Kind == "" {
			return nil, fmt.Errorf("kind is missing")
		}
		kind = *head.Kind
	}
	line := newLine(kind)
	if line == nil {
		if !json.Valid(raw) {
			return nil, fmt.Errorf("a line of kind %s is not JSON", excerpt.Quote(string(kind), 40))
		}
		return &Other{kind, bytes.Clone(raw)}, nil
	}
	if err := line.parse(raw); err != nil {
		return nil, fmt.Errorf("%s: %w", kind, err)
	}
	return line, nil
}
