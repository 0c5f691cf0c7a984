// Package pyjson writes JSON as Python's json.dumps does, byte by byte: ", " and ": "
// between values or a line for each, ASCII alone, numbers by repr.
package pyjson

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/big"
	"slices"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// Object is a JSON object whose members keep their order, as a dict of Python does.
type Object []Member

// Member is a name and its value, which is of one of the types that [Append] takes.
type Member struct {
	Name  string
	Value any
}

// Set gives a member a value, in its place if it is there already and at the end
// otherwise.
func (o *Object) Set(name string, value any) {
	if i := slices.IndexFunc(*o, func(m Member) bool { return m.Name == name }); i >= 0 {
		(*o)[i].Value = value
		return
	}
	*o = append(*o, Member{name, value})
}

// Get returns a member's value.
func (o Object) Get(name string) (value any, found bool) {
	for _, m := range o {
		if m.Name == name {
			return m.Value, true
		}
	}
	return nil, false
}

// Append appends a value to dst: nil, bool, string, int, int64, uint64, float64,
// [*big.Int], []any, []int, [Object], a map with its members by name, or
// [json.RawMessage], which is taken as it is. It fails for numbers that are not finite,
// which are no JSON (Python writes NaN), and for other types.
func Append(dst []byte, value any) ([]byte, error) { return layout{}.append(dst, value) }

// AppendIndented is [Append] with indent=2: each element and member on a line of its own.
func AppendIndented(dst []byte, value any) ([]byte, error) {
	return layout{indented: true}.append(dst, value)
}

// layout is where a value stands.
type layout struct {
	indented bool
	depth    int
}

// within appends what stands before an element or a member, or before the end of them.
func (l layout) within(dst []byte, first, end bool) []byte {
	switch {
	case l.indented:
		if !first && !end {
			dst = append(dst, ',')
		}
		dst = append(dst, '\n')
		for range l.depth {
			dst = append(dst, "  "...)
		}
		return dst
	case first || end:
		return dst
	default:
		return append(dst, ", "...)
	}
}

func (l layout) append(dst []byte, value any) ([]byte, error) {
	switch v := value.(type) {
	case nil:
		return append(dst, "null"...), nil
	case bool:
		return strconv.AppendBool(dst, v), nil
	case string:
		return AppendString(dst, v), nil
	case int:
		return strconv.AppendInt(dst, int64(v), 10), nil
	case int64:
		return strconv.AppendInt(dst, v, 10), nil
	case uint64:
		return strconv.AppendUint(dst, v, 10), nil
	case *big.Int:
		return v.Append(dst, 10), nil
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return dst, fmt.Errorf("%v is no finite number", v)
		}
		return AppendFloat(dst, v), nil
	case json.RawMessage:
		return append(dst, v...), nil
	case []int:
		elements := make([]any, len(v))
		for i, n := range v {
			elements[i] = n
		}
		return l.appendArray(dst, elements)
	case []any:
		return l.appendArray(dst, v)
	case map[string]any:
		// Strings in order of bytes are in Python's order, of code points.
		var members Object
		for _, name := range slices.Sorted(maps.Keys(v)) {
			members = append(members, Member{name, v[name]})
		}
		return l.appendObject(dst, members)
	case Object:
		return l.appendObject(dst, v)
	default:
		return dst, fmt.Errorf("a %T has no place in JSON", v)
	}
}

func (l layout) appendArray(dst []byte, elements []any) ([]byte, error) {
	if len(elements) == 0 {
		return append(dst, "[]"...), nil
	}
	inner := layout{l.indented, l.depth + 1}
	dst = append(dst, '[')
	for i, element := range elements {
		var err error
		if dst, err = inner.append(inner.within(dst, i == 0, false), element); err != nil {
			return dst, fmt.Errorf("[%d]: %w", i, err)
		}
	}
	return append(l.within(dst, false, true), ']'), nil
}

func (l layout) appendObject(dst []byte, o Object) ([]byte, error) {
	if len(o) == 0 {
		return append(dst, "{}"...), nil
	}
	inner := layout{l.indented, l.depth + 1}
	dst = append(dst, '{')
	for i, m := range o {
		var err error
		dst = append(AppendString(inner.within(dst, i == 0, false), m.Name), ": "...)
		if dst, err = inner.append(dst, m.Value); err != nil {
			return dst, fmt.Errorf("%s: %w", m.Name, err)
		}
	}
	return append(l.within(dst, false, true), '}'), nil
}

// AppendString appends s in quotes: all but the printable characters of ASCII are
// escaped, those beyond 16 bits as a pair of surrogates. What is no UTF-8 becomes
// U+FFFD.
func AppendString(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	escape := func(dst []byte, unit rune) []byte {
		return append(dst, '\\', 'u', hex[unit>>12&0xf], hex[unit>>8&0xf], hex[unit>>4&0xf], hex[unit&0xf])
	}
	dst = append(dst, '"')
	begun := 0 // of what is copied as it is
	for i := 0; i < len(s); {
		b := s[i]
		if b >= ' ' && b <= '~' && b != '"' && b != '\\' {
			i++
			continue
		}
		dst = append(dst, s[begun:i]...)
		r, size := utf8.DecodeRuneInString(s[i:])
		i += size
		begun = i
		switch r {
		case '"', '\\':
			dst = append(dst, '\\', b)
		case '\n':
			dst = append(dst, `\n`...)
		case '\r':
			dst = append(dst, `\r`...)
		case '\t':
			dst = append(dst, `\t`...)
		case '\b':
			dst = append(dst, `\b`...)
		case '\f':
			dst = append(dst, `\f`...)
		default:
			if high, low := utf16.EncodeRune(r); r > 0xffff {
				dst = escape(escape(dst, high), low)
			} else {
				dst = escape(dst, r)
			}
		}
	}
	return append(append(dst, s[begun:]...), '"')
}

// AppendFloat appends a finite number as repr gives it: in the shortest form that
// reads back the same, with an exponent below 1e-4 and from 1e16 on.
func AppendFloat(dst []byte, f float64) []byte {
	if size := math.Abs(f); size != 0 && (size < 1e-4 || size >= 1e16) {
		return strconv.AppendFloat(dst, f, 'e', -1, 64)
	}
	begun := len(dst)
	dst = strconv.AppendFloat(dst, f, 'f', -1, 64)
	if slices.Contains(dst[begun:], '.') {
		return dst
	}
	return append(dst, ".0"...)
}
