package completion

import (
	"bytes"
	"encoding/json"
)

// Events are read piece by piece where they lie, without copying anything: the
// JSON library takes microseconds for each, and memory.

// span is a part of an event, data[from:to].
type span struct{ from, to int }

func (s span) in(data []byte) []byte { return data[s.from:s.to] }

// maxNesting is how deep values may lie in each other; no answer's do.
const maxNesting = 100

// jsonItems walks over the members of a JSON object or the elements of a list.
type jsonItems struct {
	data    []byte
	at      int  // behind what was read; in the end behind the object or list
	closing byte // '}' or ']'
	begun   bool
	bad     bool // what was read is no JSON
	nesting int

	// The item that next has found. The key, of a member only, has its quotes.
	key, value span
}

// itemsOf begins with the object or list at data[at].
func itemsOf(data []byte, at int) jsonItems {
	closing := byte('}')
	if data[at] == '[' {
		closing = ']'
	}
	return jsonItems{data: data, at: at + 1, closing: closing}
}

// next goes to the next item. There is none after the last one, nor after what is
// no JSON.
func (j *jsonItems) next() bool {
	at := skipBlanks(j.data, j.at)
	switch {
	case j.bad || at == len(j.data):
		return j.fail()
	case j.data[at] == j.closing:
		j.at = at + 1
		return false
	case j.begun && j.data[at] != ',':
		return j.fail()
	case j.begun:
		at = skipBlanks(j.data, at+1)
	}
	j.begun = true
	if j.closing == '}' {
		end := skipString(j.data, at)
		if end < 0 {
			return j.fail()
		}
		j.key = span{at, end}
		if at = skipBlanks(j.data, end); at == len(j.data) || j.data[at] != ':' {
			return j.fail()
		}
		at = skipBlanks(j.data, at+1)
	}
	end := skipValue(j.data, at, j.nesting+1)
	if end < 0 {
		return j.fail()
	}
	j.value, j.at = span{at, end}, end
	return true
}

func (j *jsonItems) fail() bool {
	j.bad = true
	return false
}

// name is the key, without quotes and escapes.
func (j *jsonItems) name() []byte { return textOf(j.key.in(j.data)) }

// textOf is the text of a JSON string, nil for any other value.
func textOf(value []byte) []byte {
	switch {
	case len(value) < 2 || value[0] != '"':
		return nil
	case bytes.IndexByte(value, '\\') < 0:
		return value[1 : len(value)-1]
	}
	var text string
	if json.Unmarshal(value, &text) != nil {
		return nil
	}
	return []byte(text)
}

func skipBlanks(data []byte, at int) int {
	for at < len(data) && (data[at] == ' ' || data[at] == '\t' || data[at] == '\n' || data[at] == '\r') {
		at++
	}
	return at
}

// skipValue is the index behind the value at data[at], -1 if that is no JSON.
func skipValue(data []byte, at, nesting int) int {
	if at >= len(data) || nesting > maxNesting {
		return -1
	}
	switch data[at] {
	case '"':
		return skipString(data, at)
	case '{', '[':
		items := itemsOf(data, at)
		items.nesting = nesting
		for items.next() {
			continue
		}
		if items.bad {
			return -1
		}
		return items.at
	case 'n':
		return skipWord(data, at, "null")
	case 't':
		return skipWord(data, at, "true")
	case 'f':
		return skipWord(data, at, "false")
	}
	return skipNumber(data, at)
}

func skipWord(data []byte, at int, word string) int {
	if end := at + len(word); end <= len(data) && string(data[at:end]) == word {
		return end
	}
	return -1
}

func skipString(data []byte, at int) int {
	if at >= len(data) || data[at] != '"' {
		return -1
	}
	if at = textEnd(data, at+1); at < 0 {
		return -1
	}
	return at + 1
}

// textEnd is the index of the quote that ends the string which data[at] is inside
// of, -1 if that is no JSON.
func textEnd(data []byte, at int) int {
	for at < len(data) {
		switch c := data[at]; {
		case c == '"':
			return at
		case c < ' ':
			return -1
		case c == '\\':
			if at = skipEscape(data, at); at < 0 {
				return -1
			}
		default:
			at++
		}
	}
	return -1
}

func skipEscape(data []byte, at int) int {
	if at+1 >= len(data) {
		return -1
	}
	switch data[at+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return at + 2
	case 'u':
		if at+6 > len(data) {
			return -1
		}
		for _, c := range data[at+2 : at+6] {
			if _, isHex := hexDigit(c); !isHex {
				return -1
			}
		}
		return at + 6
	}
	return -1
}

func skipDigits(data []byte, at int) int {
	for at < len(data) && data[at] >= '0' && data[at] <= '9' {
		at++
	}
	return at
}

// skipNumber is as skipValue, for numbers (RFC 8259, section 6).
func skipNumber(data []byte, at int) int {
	if at < len(data) && data[at] == '-' {
		at++
	}
	start := at
	at = skipDigits(data, at)
	if at == start || data[start] == '0' && at > start+1 {
		return -1
	}
	if at < len(data) && data[at] == '.' {
		start = at + 1
		if at = skipDigits(data, start); at == start {
			return -1
		}
	}
	if at < len(data) && (data[at] == 'e' || data[at] == 'E') {
		at++
		if at < len(data) && (data[at] == '+' || data[at] == '-') {
			at++
		}
		start = at
		if at = skipDigits(data, at); at == start {
			return -1
		}
	}
	return at
}

// wholeNumber is the number that a JSON number is, however it is written: 12,
// 12.0 and 1.2e1 are the same. It is not ok for fractions, numbers below 0 or
// above most, and what is no number.
func wholeNumber(value []byte, most int) (n int, ok bool) {
	if len(value) == 0 || skipNumber(value, 0) != len(value) {
		return 0, false
	}
	negative := value[0] == '-'
	if negative {
		value = value[1:]
	}
	// point is the number of digits before the decimal point.
	end := bytes.IndexAny(value, "eE")
	if end < 0 {
		end = len(value)
	}
	point := bytes.IndexByte(value[:end], '.')
	if point < 0 {
		point = end
	}
	seen := 0 // digits
	exponent := exponentOf(value[end:])
	for _, c := range value[:end] {
		if c == '.' {
			continue
		}
		switch seen++; {
		case seen <= point+exponent:
			if n = n*10 + int(c-'0'); n > most {
				return 0, false
			}
		case c != '0': // behind the point
			return 0, false
		}
	}
	for ; n > 0 && seen < point+exponent; seen++ {
		if n *= 10; n > most {
			return 0, false
		}
	}
	return n, !negative || n == 0
}

// exponentOf is the number behind the e of a JSON number, cut to what is
// certainly too large or too small.
func exponentOf(value []byte) int {
	if len(value) < 2 {
		return 0
	}
	const most = 1 << 30
	n := 0
	for _, c := range value[1:] {
		if c >= '0' && c <= '9' {
			n = min(n*10+int(c-'0'), most)
		}
	}
	if value[1] == '-' {
		return -n
	}
	return n
}

// carries tells whether a JSON value holds something: null, false, 0, "", [] and
// {} do not.
func carries(value []byte) bool {
	if len(value) == 0 {
		return false
	}
	switch value[0] {
	case '{', '[':
		at := skipBlanks(value, 1)
		return at < len(value)-1
	case 'n', 'f':
		return false
	case '"':
		return len(value) > 2
	case 't':
		return true
	}
	n, whole := wholeNumber(value, 0)
	return !whole || n != 0
}
