package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/g2g-agent/g2g-agent/api/problem"
)

// maxNesting bounds how deep a request body may nest; no command needs more
// than two.
const maxNesting = 16

// maxFieldErrors bounds the faults of a body that an answer names.
const maxFieldErrors = 20

// maxExponent bounds a number's decimal exponent, far beyond any that is whole.
const maxExponent = 100

// object is a JSON object whose members keep their order.
type object struct {
	names   []string
	members map[string]any
}

// parseObject reads a request body that must be one JSON object. It is stricter
// than encoding/json: valid UTF-8, no name twice, nothing after it, not deeply
// nested. Values are *object, []any, [json.Number], string, bool or nil.
func parseObject(raw []byte) (*object, *problem.Problem) {
	malformed := func(location, format string, args ...any) (*object, *problem.Problem) {
		message := fmt.Sprintf(format, args...)
		return nil, problem.New(http.StatusBadRequest, "the body is not what it should be: %s", message).At(problem.Shorten(location), message)
	}
	if !utf8.Valid(raw) {
		return malformed("body", "it is not valid UTF-8")
	}
	var whole json.RawMessage
	if err := json.Unmarshal(raw, &whole); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return malformed("body", "malformed JSON at byte %d: %v", syntax.Offset, err)
		}
		return malformed("body", "malformed JSON: %v", err)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	v, err := parseValue(d, "body", 0)
	if err != nil {
		var at *parseError
		if errors.As(err, &at) {
			return malformed(at.location, "%s", at.message)
		}
		return malformed("body", "malformed JSON: %v", err)
	}
	o, ok := v.(*object)
	if !ok {
		return malformed("body", "want a JSON object, got %s", kindOf(v))
	}
	return o, nil
}

// parseError is what is wrong with a body that is well-formed JSON.
type parseError struct{ location, message string }

func (e *parseError) Error() string { return e.location + ": " + e.message }

func parseValue(d *json.Decoder, location string, depth int) (any, error) {
	if depth > maxNesting {
		return nil, &parseError{location, fmt.Sprintf("it is nested more than %d deep", maxNesting)}
	}
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch token {
	case json.Delim('['):
		values := []any{}
		for d.More() {
			v, err := parseValue(d, location, depth+1)
			if err != nil {
				return nil, err
			}
			values = append(values, v)
		}
		_, err = d.Token()
		return values, err
	case json.Delim('{'):
		o := &object{members: map[string]any{}}
		for d.More() {
			key, err := d.Token()
			if err != nil {
				return nil, err
			}
			name, _ := key.(string) // what stands before a colon is a string
			at := location + "." + problem.Shorten(name)
			if _, twice := o.members[name]; twice {
				return nil, &parseError{at, "it stands there twice"}
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
	case *object:
		return "an object"
	case []any:
		return "an array"
	case string:
		return "the string " + strconv.Quote(problem.Shorten(v))
	case json.Number:
		return problem.Shorten(v.String())
	default:
		return fmt.Sprint(v)
	}
}

// checker collects what is wrong with the members of a body.
type checker struct {
	errors []problem.Field
	more   int // errors that are not in errors
}

func (c *checker) add(location, format string, args ...any) {
	if len(c.errors) == maxFieldErrors {
		c.more++
		return
	}
	c.errors = append(c.errors, problem.Field{Message: fmt.Sprintf(format, args...), Location: location})
}

// problem is the answer to a body with something wrong, nil if all is well.
func (c *checker) problem() *problem.Problem {
	if len(c.errors) == 0 {
		return nil
	}
	first := c.errors[0]
	p := problem.New(http.StatusUnprocessableEntity, "%s: %s", first.Location, first.Message)
	if n := len(c.errors) + c.more - 1; n > 0 {
		p.Detail += fmt.Sprintf("; and %d more", n)
	}
	p.Errors = c.errors
	return p
}

// members checks that o has all that it needs and nothing unknown.
func (c *checker) members(o *object, required, optional []string) {
	for _, name := range required {
		if _, ok := o.members[name]; !ok {
			c.add("body."+name, "is missing")
		}
	}
	known := slices.Concat(required, optional)
	for _, name := range o.names {
		if !slices.Contains(known, name) {
			hint := ""
			for _, k := range known {
				if strings.EqualFold(k, name) {
					hint = fmt.Sprintf("; did you mean %q?", k)
				}
			}
			c.add("body."+problem.Shorten(name), "unknown member; there are %q%s", known, hint)
		}
	}
}

// byModel returns the member called name, whose values are by model label, nil
// if it is not there.
func (c *checker) byModel(o *object, name string) *object {
	v, ok := o.members[name]
	if !ok {
		return nil
	}
	values, ok := v.(*object)
	if !ok {
		c.add("body."+name, "must be an object of values by model label, got %s", kindOf(v))
		return nil
	}
	if len(values.names) == 0 {
		c.add("body."+name, "must name a model at least")
	}
	return values
}

// text reads a string that is not empty.
func (c *checker) text(o *object, name string) string {
	v, ok := o.members[name]
	if !ok {
		return ""
	}
	s, ok := v.(string)
	if !ok || s == "" {
		c.add("body."+name, "must be a string that is not empty, got %s", kindOf(v))
	}
	return s
}

// whole reads an integer from least to most.
func (c *checker) whole(location string, v any, least, most int64) int {
	number, ok := v.(json.Number)
	if !ok {
		c.add(location, "must be a whole number from %d to %d, got %s", least, most, kindOf(v))
		return 0
	}
	n, ok := wholeNumber(number.String())
	if !ok || n < least || n > most {
		c.add(location, "must be a whole number from %d to %d, got %s", least, most, kindOf(v))
		return 0
	}
	return int(n)
}

// wholeNumber returns the integer that a JSON number is, exactly: 64, 64.0 and
// 6.4e1 are, 64.5, -0 and what has more than 18 digits are not.
func wholeNumber(text string) (n int64, ok bool) {
	digits, negative := strings.CutPrefix(text, "-")
	exponent := 0
	if i := strings.IndexAny(digits, "eE"); i >= 0 {
		var err error
		if exponent, err = strconv.Atoi(digits[i+1:]); err != nil || exponent < -maxExponent || exponent > maxExponent {
			return 0, false
		}
		digits = digits[:i]
	}
	before, after, _ := strings.Cut(digits, ".")
	digits = before + after
	point := len(before) + exponent // where it stands in digits
	if point < 0 {
		digits, point = strings.Repeat("0", -point)+digits, 0
	}
	if point > len(digits) {
		digits += strings.Repeat("0", point-len(digits))
	}
	if strings.Trim(digits[point:], "0") != "" {
		return 0, false
	}
	digits = strings.TrimLeft(digits[:point], "0")
	if digits == "" {
		return 0, !negative
	}
	if len(digits) > 18 {
		return 0, false
	}
	if n, err := strconv.ParseInt(digits, 10, 64); err == nil {
		if negative {
			n = -n
		}
		return n, true
	}
	return 0, false
}

// number reads a finite number, ok only if accept says so; want completes "must
// be".
func (c *checker) number(location string, v any, want string, accept func(float64) bool) float64 {
	if number, ok := v.(json.Number); ok {
		f, err := strconv.ParseFloat(number.String(), 64)
		if err == nil && !(f == 0 && math.Signbit(f)) && accept(f) {
			return f
		}
	}
	c.add(location, "must be %s, got %s", want, kindOf(v))
	return 0
}
