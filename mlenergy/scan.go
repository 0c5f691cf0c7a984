package mlenergy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"unsafe"
)

// Bounds of a results file.
const (
	scanBuffer = 128 << 10
	// maxNesting is how deep values may nest.
	maxNesting = 200
	// maxToken bounds numbers and the names of members, in bytes.
	maxToken = 4 << 10
)

// scanner goes through JSON as it is read, holding a buffer of it. It takes what
// Python's json takes, which wrote the files: NaN, Infinity and -Infinity are numbers,
// and of two members of one name the last counts.
//
// The library's decoder would make a value of every number on the way; here, numbers
// that nobody asked for are only passed over.
type scanner struct {
	r        io.Reader
	buffer   []byte
	pos, end int
	before   int64 // bytes before the buffer
	depth    int
	member   []byte // the name of the last one
	err      error  // of reading, once all of the buffer is used up
}

func newScanner(r io.Reader) *scanner { return &scanner{r: r, buffer: make([]byte, scanBuffer)} }

// errorf is an error at the next byte.
func (s *scanner) errorf(format string, args ...any) error {
	return fmt.Errorf("byte %d: %w", s.before+int64(s.pos)+1, fmt.Errorf(format, args...))
}

// fill reads on, keeping what is not used up. It fails at the end of the file.
func (s *scanner) fill() error {
	if s.err != nil {
		return s.cut()
	}
	copy(s.buffer, s.buffer[s.pos:s.end])
	s.before += int64(s.pos)
	s.end -= s.pos
	s.pos = 0
	if s.end == len(s.buffer) {
		return s.errorf("a number or name of more than %d bytes", maxToken)
	}
	const maxEmptyReads = 100
	for range maxEmptyReads {
		n, err := s.r.Read(s.buffer[s.end:])
		s.end += n
		s.err = err
		switch {
		case n > 0:
			return nil
		case err != nil:
			return s.cut()
		}
	}
	s.err = io.ErrNoProgress
	return s.cut()
}

// cut is why there is no next byte.
func (s *scanner) cut() error {
	if errors.Is(s.err, io.EOF) {
		return s.errorf("the file ends in the middle: it is cut short (%w)", io.ErrUnexpectedEOF)
	}
	return s.errorf("%w", s.err)
}

// peek returns the next byte that is no white space.
func (s *scanner) peek() (byte, error) {
	for {
		for s.pos < s.end {
			switch c := s.buffer[s.pos]; c {
			case ' ', '\n', '\t', '\r':
				s.pos++
			default:
				return c, nil
			}
		}
		if err := s.fill(); err != nil {
			return 0, err
		}
	}
}

func (s *scanner) enter() error {
	s.pos++
	if s.depth++; s.depth > maxNesting {
		return s.errorf("values nest more than %d deep", maxNesting)
	}
	return nil
}

// object calls member for each member of the object that comes next; it must use up
// the value. The name holds only until then.
func (s *scanner) object(member func(name []byte) error) error {
	if err := s.expect('{', "an object"); err != nil {
		return err
	}
	return s.elements('}', func() error {
		name, err := s.name()
		if err != nil {
			return err
		}
		return member(name)
	})
}

// array calls element for each element of the array that comes next.
func (s *scanner) array(element func() error) error {
	if err := s.expect('[', "an array"); err != nil {
		return err
	}
	return s.elements(']', element)
}

func (s *scanner) expect(c byte, what string) error {
	got, err := s.peek()
	if err != nil {
		return err
	}
	if got != c {
		return s.errorf("want %s, got %s", what, s.what(got))
	}
	return s.enter()
}

// elements goes through what an opened object or array holds, and past its end.
func (s *scanner) elements(end byte, element func() error) error {
	c, err := s.peek()
	for first := true; err == nil && (c != end || !first); first = false {
		if !first {
			if c != ',' {
				return s.errorf("want , or %c, got %q", end, c)
			}
			s.pos++
		}
		if err = element(); err == nil {
			if c, err = s.peek(); err == nil && c == end {
				break
			}
		}
	}
	if err != nil {
		return err
	}
	s.pos++
	s.depth--
	return nil
}

// what names the value that begins with c.
func (s *scanner) what(c byte) string {
	switch c {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '"':
		return "a text"
	case 't', 'f':
		return "true or false"
	case 'n':
		return "null"
	}
	if c == '-' || c >= '0' && c <= '9' || c == 'N' || c == 'I' {
		return "a number"
	}
	return strconv.QuoteToASCII(string(rune(c)))
}

// name returns a member's name, and goes past the colon behind it.
func (s *scanner) name() ([]byte, error) {
	c, err := s.peek()
	if err != nil {
		return nil, err
	}
	if c != '"' {
		return nil, s.errorf("want the name of a member, got %s", s.what(c))
	}
	length, escaped := 1, false
	for {
		for s.pos+length >= s.end {
			if length > maxToken {
				return nil, s.errorf("a name of more than %d bytes", maxToken)
			}
			if err := s.fill(); err != nil {
				return nil, err
			}
		}
		c := s.buffer[s.pos+length]
		length++
		if c == '"' {
			break
		}
		if c == '\\' {
			escaped = true
			length++ // what is escaped ends nothing
		}
	}
	s.member = append(s.member[:0], s.buffer[s.pos:s.pos+length]...) // the buffer moves below
	s.pos += length
	name := s.member[1 : length-1]
	if escaped {
		var text string
		if err := json.Unmarshal(s.member, &text); err != nil {
			return nil, s.errorf("the name of a member: %w", err)
		}
		name = []byte(text)
	}
	if c, err = s.peek(); err != nil {
		return nil, err
	}
	if c != ':' {
		return nil, s.errorf("want : behind the name, got %q", c)
	}
	s.pos++
	return name, nil
}

// number returns the number that comes next.
func (s *scanner) number() (float64, error) {
	c, err := s.peek()
	if err != nil {
		return 0, err
	}
	text, err := s.word()
	if err != nil {
		return 0, err
	}
	if v, ok := parseNumber(text); ok {
		s.pos += len(text)
		return v, nil
	}
	if s.atEnd(text) {
		return 0, s.cut()
	}
	if got := s.what(c); got != "a number" {
		return 0, s.errorf("want a number, got %s", got)
	}
	return 0, s.errorf("%s is no number", quote(string(text)))
}

// word returns the bytes up to what ends a number or a literal, without using them up.
func (s *scanner) word() ([]byte, error) {
	length := 0
	for {
		for ; s.pos+length < s.end; length++ {
			c := s.buffer[s.pos+length]
			if c == ',' || c == ']' || c == '}' || c <= ' ' {
				return s.buffer[s.pos : s.pos+length], nil
			}
		}
		if length > maxToken {
			return nil, s.errorf("a number of more than %d bytes", maxToken)
		}
		if errors.Is(s.err, io.EOF) {
			return s.buffer[s.pos:s.end], nil
		}
		if err := s.fill(); err != nil && !errors.Is(s.err, io.EOF) {
			return nil, err
		}
	}
}

// atEnd reports whether a word is the last of the file, and may be half of one.
func (s *scanner) atEnd(word []byte) bool {
	return s.pos+len(word) == s.end && errors.Is(s.err, io.EOF)
}

// truth goes past the next value and returns Python's truth of it: what is there, and
// is neither 0 nor empty, is true.
func (s *scanner) truth() (bool, error) {
	c, err := s.peek()
	if err != nil {
		return false, err
	}
	switch c {
	case '{', '[', '"':
		at := s.before + int64(s.pos)
		if err := s.skip(); err != nil {
			return false, err
		}
		const empty = 2 // a value of nothing but its delimiters
		return s.before+int64(s.pos)-at > empty, nil
	case 't', 'f', 'n':
		return c == 't', s.skip()
	}
	v, err := s.number()
	return v != 0, err
}

// skip goes past the next value.
func (s *scanner) skip() error {
	c, err := s.peek()
	if err != nil {
		return err
	}
	switch c {
	case '{':
		return s.object(func([]byte) error { return s.skip() })
	case '[':
		return s.array(s.skip)
	case '"':
		return s.skipText()
	}
	text, err := s.word()
	if err != nil {
		return err
	}
	switch string(text) {
	case "true", "false", "null":
	default:
		if _, ok := parseNumber(text); !ok && s.atEnd(text) {
			return s.cut()
		} else if !ok {
			return s.errorf("want a value, got %s", quote(string(text)))
		}
	}
	s.pos += len(text)
	return nil
}

func (s *scanner) skipText() error {
	s.pos++
	for {
		i := bytes.IndexAny(s.buffer[s.pos:s.end], `"\`)
		switch {
		case i < 0:
			s.pos = s.end
		case s.buffer[s.pos+i] == '"':
			s.pos += i + 1
			return nil
		default: // what is escaped may be beyond the buffer
			s.pos += i + 1
			if s.pos < s.end {
				s.pos++
				continue
			}
			if err := s.fill(); err != nil {
				return err
			}
			s.pos++
			continue
		}
		if err := s.fill(); err != nil {
			return err
		}
	}
}

// finish makes sure that nothing but white space is left.
func (s *scanner) finish() error {
	c, err := s.peek()
	switch {
	case errors.Is(s.err, io.EOF) && s.pos == s.end:
		return nil
	case err != nil:
		return err
	default:
		return s.errorf("there is %q behind the end of the data", c)
	}
}

// parseNumber reads a number of JSON, or one of Python's three additions. What is too
// large for a double is infinite, as in Python.
func parseNumber(text []byte) (float64, bool) {
	digits := text
	negative := len(digits) > 0 && digits[0] == '-'
	if negative {
		digits = digits[1:]
	}
	if len(digits) == 0 {
		return 0, false
	}
	if digits[0] > '9' {
		switch string(text) {
		case "NaN":
			return math.NaN(), true
		case "Infinity":
			return math.Inf(1), true
		case "-Infinity":
			return math.Inf(-1), true
		}
		return 0, false
	}
	v, exact, ok := scanDecimal(digits)
	if !ok {
		return 0, false
	}
	if !exact {
		// The text is only looked at: a copy of each would be half of all the work.
		v, _ = strconv.ParseFloat(unsafe.String(&digits[0], len(digits)), 64) // an error is a number too large, and v infinite
	}
	if negative {
		v = -v
	}
	return v, true
}

// scanDecimal checks a number without sign and, if that can be done without rounding
// twice, returns it.
func scanDecimal(text []byte) (v float64, exact, ok bool) {
	var mantissa uint64
	i, digits, exponent := 0, 0, 0
	run := func() int { // a run of digits
		from := i
		for i < len(text) && text[i] >= '0' && text[i] <= '9' {
			if digits < 19 { // beyond, it is not exact anyway
				mantissa = mantissa*10 + uint64(text[i]-'0')
				if mantissa > 0 {
					digits++
				}
			} else {
				digits++
			}
			i++
		}
		return i - from
	}
	if n := run(); n == 0 || n > 1 && text[0] == '0' {
		return 0, false, false
	}
	if i < len(text) && text[i] == '.' {
		i++
		n := run()
		if n == 0 {
			return 0, false, false
		}
		exponent = -n
	}
	if i < len(text) && (text[i] == 'e' || text[i] == 'E') {
		i++
		from := i
		if i < len(text) && (text[i] == '+' || text[i] == '-') {
			i++
		}
		given, err := strconv.Atoi(string(text[from:]))
		if i == len(text) || text[i] < '0' || text[i] > '9' {
			return 0, false, false
		}
		if err != nil {
			return 0, false, errors.Is(err, strconv.ErrRange)
		}
		exponent += given
		i = len(text)
	}
	if i < len(text) {
		return 0, false, false
	}
	// Both are exact doubles then, and one operation rounds once.
	const maxMantissa, maxExponent = 1 << 53, 22
	if digits > 19 || mantissa > maxMantissa || exponent < -maxExponent || exponent > maxExponent {
		return 0, false, true
	}
	if exponent < 0 {
		return float64(mantissa) / pow10(-exponent), true, true
	}
	return float64(mantissa) * pow10(exponent), true, true
}

// pow10 is 10^n for n up to 22, exactly.
func pow10(n int) float64 {
	return [...]float64{1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22}[n]
}
