package strictjson

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/g2g-agent/g2g-agent/internal/excerpt"
)

// maxExponent bounds a number's decimal exponent, far beyond any that is whole.
const maxExponent = 100

// Object is a JSON object that is being read. Its methods read one member each,
// give the zero value for one that is missing, and note what is wrong: [Object.Err]
// tells all of it.
type Object struct {
	path    string
	names   []string // in the order they came
	members map[string]any
	faults  *Error // shared with the objects within
}

// share lets the objects within note their faults in the same place.
func (o *Object) share(faults *Error) {
	o.faults = faults
	for _, v := range o.members {
		shareWithin(v, faults)
	}
}

func shareWithin(v any, faults *Error) {
	switch v := v.(type) {
	case *Object:
		v.share(faults)
	case []any:
		for _, element := range v {
			shareWithin(element, faults)
		}
	}
}

// at is the path of a member.
func (o *Object) at(name string) string { return o.path + "." + excerpt.Of(name, maxEcho) }

// Err returns an [*Error] with all that was found wrong, nil if nothing was.
func (o *Object) Err() error {
	if len(o.faults.Faults) == 0 {
		return nil
	}
	return o.faults
}

// Fault notes what is wrong with a member, in the manner of [fmt.Sprintf].
func (o *Object) Fault(name, format string, args ...any) {
	if len(o.faults.Faults) == maxFaults {
		o.faults.More++
		return
	}
	o.faults.Faults = append(o.faults.Faults, Fault{o.at(name), fmt.Sprintf(format, args...)})
}

// Names are the names of the members, in the order they came.
func (o *Object) Names() []string { return o.names }

// Has reports whether there is a member of the name.
func (o *Object) Has(name string) bool {
	_, ok := o.members[name]
	return ok
}

// Take is [Object.Text]; the member is gone after it.
func (o *Object) Take(name string) string {
	text := o.Text(name)
	delete(o.members, name)
	o.names = slices.DeleteFunc(o.names, func(n string) bool { return n == name })
	return text
}

// Members checks that there is all that is required, and nothing unknown.
func (o *Object) Members(required []string, optional ...string) {
	for _, name := range required {
		if !o.Has(name) {
			o.Fault(name, "is missing")
		}
	}
	known := slices.Concat(required, optional)
	for _, name := range o.names {
		if slices.Contains(known, name) {
			continue
		}
		hint := ""
		for _, k := range known {
			if strings.EqualFold(k, name) {
				hint = fmt.Sprintf("; did you mean %q?", k)
			}
		}
		o.Fault(name, "unknown member; there are %q%s", known, hint)
	}
}

// ByModel reads an object of values by model label, nil if it is missing or none.
func (o *Object) ByModel(name string) *Object {
	v, ok := o.members[name]
	if !ok {
		return nil
	}
	values, ok := v.(*Object)
	if !ok {
		o.Fault(name, "must be an object of values by model label, got %s", kindOf(v))
		return nil
	}
	if len(values.names) == 0 {
		o.Fault(name, "must name a model at least")
	}
	return values
}

// Text reads a string that is not empty.
func (o *Object) Text(name string) string {
	v, ok := o.members[name]
	if !ok {
		return ""
	}
	s, ok := v.(string)
	if !ok || s == "" {
		o.Fault(name, "must be a string that is not empty, got %s", kindOf(v))
	}
	return s
}

// Whole reads an integer from least to most.
func (o *Object) Whole(name string, least, most int64) int {
	v, ok := o.members[name]
	if !ok {
		return 0
	}
	if number, ok := v.(json.Number); ok {
		if n, ok := wholeNumber(number.String()); ok && n >= least && n <= most {
			return int(n)
		}
	}
	o.Fault(name, "must be a whole number from %d to %d, got %s", least, most, kindOf(v))
	return 0
}

// Number reads a number that accept takes; want completes "must be". Neither -0
// nor what is too large for a double is one.
func (o *Object) Number(name, want string, accept func(float64) bool) float64 {
	v, ok := o.members[name]
	if !ok {
		return 0
	}
	if number, ok := v.(json.Number); ok {
		f, err := strconv.ParseFloat(number.String(), 64)
		if err == nil && !(f == 0 && math.Signbit(f)) && accept(f) {
			return f
		}
	}
	o.Fault(name, "must be %s, got %s", want, kindOf(v))
	return 0
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
