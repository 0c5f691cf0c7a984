package recording

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/excerpt"
)

// start begins a line of a kind.
func start(b []byte, kind Kind) []byte {
	return append(append(append(b, `{"kind":"`...), kind...), '"')
}

// member appends the name of the next member.
func member(b []byte, name string) []byte {
	return append(append(append(b, `,"`...), name...), `":`...)
}

func appendInt(b []byte, name string, v int64) []byte {
	return strconv.AppendInt(member(b, name), v, 10)
}

// appendFloat appends a member that is null where JSON has no number for it.
func appendFloat(b []byte, name string, v float64) []byte {
	b = member(b, name)
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return append(b, "null"...)
	}
	return datacenter.AppendFloat(b, v)
}

func appendText(b []byte, name, v string) []byte { return appendString(member(b, name), v) }

// appendString appends v in quotes.
func appendString(b []byte, v string) []byte {
	for i := range len(v) {
		if c := v[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			quoted, _ := json.Marshal(v) // a string always marshals
			return append(b, quoted...)
		}
	}
	return append(append(append(b, '"'), v...), '"')
}

// appendWallTime appends a time in UTC, null for the zero one.
func appendWallTime(b []byte, name string, v time.Time) []byte {
	b = member(b, name)
	if v.IsZero() {
		return append(b, "null"...)
	}
	return append(v.UTC().AppendFormat(append(b, '"'), time.RFC3339Nano), '"')
}

// appendRaw appends JSON of others on one line, null for none. What is no JSON becomes
// a string: a recording loses nothing, and stays readable.
func appendRaw(b []byte, name string, v json.RawMessage) []byte {
	b = member(b, name)
	if len(v) == 0 {
		return append(b, "null"...)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, v); err != nil {
		return appendString(b, string(v))
	}
	return append(b, compact.Bytes()...)
}

// appendColumn appends a column of plain values.
func appendColumn(b []byte, name string, column []int64) []byte {
	b = append(member(b, name), '[')
	for i, v := range column {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, v, 10)
	}
	return append(b, ']')
}

// appendDifferences appends a column as its first value and then differences.
func appendDifferences(b []byte, name string, column []int64) []byte {
	b = append(member(b, name), '[')
	var before int64
	for i, v := range column {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, v-before, 10)
		before = v
	}
	return append(b, ']')
}

// fault is the first thing that is wrong with a line; its methods check one member each.
type fault struct{ err error }

func (f *fault) say(format string, args ...any) {
	if f.err == nil {
		f.err = fmt.Errorf(format, args...)
	}
}

// integer is a member that must be there, from least to [MaxInteger].
func (f *fault) integer(name string, v *int64, least int64) int64 {
	switch {
	case v == nil:
		f.say("%s is missing", name)
		return 0
	case *v < least || *v > MaxInteger:
		f.say("%s is %d, want a number from %d to 2^53", name, *v, least)
	}
	return *v
}

func (f *fault) text(name string, v *string) string {
	if v == nil {
		f.say("%s is missing", name)
		return ""
	}
	return *v
}

// column is a column that must be there, of values from least to [MaxInteger].
func (f *fault) column(name string, v []int64, least int64) []int64 {
	if v == nil {
		f.say("%s is missing", name)
	}
	for i, x := range v {
		if x < least || x > MaxInteger {
			f.say("%s[%d] is %d, want a number from %d to 2^53", name, i, x, least)
		}
	}
	return v
}

// differences turns what appendDifferences wrote into plain values, in place.
func (f *fault) differences(name string, v []int64, least int64) []int64 {
	if v == nil {
		f.say("%s is missing", name)
	}
	var value int64
	for i, d := range v {
		if d < -2*MaxInteger || d > 2*MaxInteger {
			f.say("%s[%d] is %d, no difference of two numbers up to 2^53", name, i, d)
			return v
		}
		value += d
		if value < least || value > MaxInteger {
			f.say("%s adds up to %d at [%d], want a number from %d to 2^53", name, value, i, least)
			return v
		}
		v[i] = value
	}
	return v
}

// sameLength says that a column has another length than that of the first.
func (f *fault) sameLength(first string, n int, name string, length int) {
	if n != length {
		f.say("%s has %d entries and %s %d: want the same number", first, n, name, length)
	}
}

// raw is JSON that must be there, be it null, which is none.
func (f *fault) raw(name string, v json.RawMessage) json.RawMessage {
	if v == nil {
		f.say("%s is missing", name)
	}
	if string(v) == "null" {
		return nil
	}
	return v
}

// number is a number that must be there; null is NaN.
type number struct {
	value float64
	there bool
}

func (n *number) UnmarshalJSON(raw []byte) error {
	n.value, n.there = math.NaN(), true
	if string(raw) == "null" {
		return nil
	}
	return json.Unmarshal(raw, &n.value)
}

func (f *fault) number(name string, v number) float64 {
	if !v.there {
		f.say("%s is missing", name)
	}
	return v.value
}

// decode reads a line's object into its members.
func decode(raw []byte, members any) error {
	if err := json.Unmarshal(raw, members); err != nil {
		return fmt.Errorf("want a JSON object of this kind's members: %s", excerpt.Printable(err.Error(), 200))
	}
	return nil
}
