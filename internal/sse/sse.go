// Package sse takes server-sent events out of a stream of bytes, by the letter of
// the WHATWG HTML standard, section 9.2 ("Server-sent events").
package sse

import "bytes"

// Found says what a call of [Splitter.Next] has come to.
type Found uint8

const (
	// Nothing says that the event under way goes on in the next piece.
	Nothing Found = iota
	// Whole says that an event has come to its end. One whose data fields are all
	// empty is an event; one without any data field is none.
	Whole
	// TooLong says that the event under way has a line, or data, beyond the bound. It
	// is said once, as soon as it is known, and the rest of the event is passed over.
	TooLong
	// ErrorField says that there is a line with the field "error", which the standard
	// does not know, and with a value: that is the data. Some servers tell so of a
	// failure, without any event. Whoever does not mind goes on: the event under way
	// loses nothing.
	ErrorField
)

// Splitter finds the events of a stream that arrives in pieces. Where the stream
// is cut into pieces does not matter. It must be [Splitter.Reset] before its
// first use.
//
// Lines end with LF, CR LF, or CR alone. A byte-order mark at the very start,
// comments, unknown fields but [ErrorField], id and retry are passed over: nobody
// here resumes a stream or reconnects when a server says so. What stands at the end
// of the stream without an empty line behind it is no event.
type Splitter struct {
	max  int    // bytes that a line may have, without its end, and the data of an event
	line []byte // the start of a line whose end has not come yet
	data []byte // the data of the event under way, unless it lies in the latest piece
	kind []byte // its type

	begun    bool // the first line is over
	afterCR  bool // the last line ended with CR: an LF that follows belongs to it
	ended    bool // kind is that of an event that was found already
	open     bool // the event under way has data
	tooLong  bool // the event under way is to be passed over
	skipLine bool // the line under way, too
}

// Reset makes the splitter ready for a new stream, with lines and data of up to
// maxBytes.
func (s *Splitter) Reset(maxBytes int) {
	*s = Splitter{max: maxBytes, line: Keep(s.line), data: Keep(s.data), kind: Keep(s.kind)}
}

// Keep empties a buffer for the next stream, or lets go of one that has grown beyond
// what ordinary events need.
func Keep(b []byte) []byte {
	if cap(b) > 64<<10 {
		return nil
	}
	return b[:0]
}

// Next looks for the end of the event under way in p, the next piece of the
// stream. When it has found that, data are the values of the event's data fields,
// joined with LF: valid until the next call, and not checked to be UTF-8. rest is
// what of p is behind it, empty if all is used up; the next call begins with it.
//
// It is long because its parts share what a line may change, and every line of every
// stream comes through here.
func (s *Splitter) Next(p []byte) (data, rest []byte, found Found) {
	var single []byte // data of the event under way, while that is one line
	if s.ended {
		s.ended, s.kind = false, s.kind[:0]
	}
	for {
		if s.afterCR && len(p) > 0 {
			s.afterCR = false
			if p[0] == '\n' {
				p = p[1:]
			}
		}
		end := lineEnd(p)
		if end < 0 {
			break
		}
		line := p[:end]
		s.afterCR = p[end] == '\r'
		p = p[end+1:]
		if s.skipLine { // its rest, which makes it no empty line
			s.skipLine = false
			continue
		}
		if len(s.line) > 0 {
			s.line = append(s.line, line...)
			line, s.line = s.line, s.line[:0]
		}
		if len(line) > s.max {
			if s.giveUp() {
				return nil, p, TooLong
			}
			single = nil
			continue
		}
		if !s.begun {
			s.begun = true
			line = bytes.TrimPrefix(line, []byte("\ufeff"))
		}
		if len(line) == 0 {
			if s.open {
				if single == nil {
					single = s.data
				}
				s.data, s.open, s.ended = s.data[:0], false, true
				return single, p, Whole
			}
			s.kind, s.tooLong = s.kind[:0], false
			continue
		}
		switch value, isData := s.field(line); {
		case !isData && value != nil:
			if single != nil {
				s.data = append(s.data[:0], single...)
			}
			return value, p, ErrorField
		case !isData:
		case !s.open:
			single, s.open = value, true
		case s.join(single, value):
			single = nil
		default:
			s.giveUp()
			return nil, p, TooLong
		}
	}
	if single != nil { // it does not stay
		s.data = append(s.data[:0], single...)
	}
	return nil, nil, s.keepLine(p)
}

// Type is the value of the last event field of the event that [Splitter.Next] has
// just found, empty if there was none. It is valid until the next call.
func (s *Splitter) Type() []byte { return s.kind }

// lineEnd is the index of the LF or CR that ends the first line of p, -1 without
// one. It looks at a window at a time: a stream of CR alone would otherwise be
// searched for an LF from each of its lines to the end of the piece.
func lineEnd(p []byte) int {
	if len(p) > 0 && p[0] == '\n' { // an empty line, as every other one is
		return 0
	}
	const window = 512
	for from := 0; from < len(p); from += window {
		part := p[from:min(from+window, len(p))]
		end := bytes.IndexByte(part, '\n')
		if end >= 0 {
			part = part[:end]
		}
		if cr := bytes.IndexByte(part, '\r'); cr >= 0 {
			return from + cr
		}
		if end >= 0 {
			return from + end
		}
	}
	return -1
}

// field reads a line. It returns the value of a data field, not nil even if it
// is empty, or that of an error field unless it is empty, and keeps that of an event
// field.
func (s *Splitter) field(line []byte) (value []byte, isData bool) {
	if s.tooLong {
		return nil, false
	}
	if len(line) > 5 && string(line[:5]) == "data:" { // what nearly all lines are
		return withoutBlank(line[5:]), true
	}
	name, value := line, line[len(line):]
	if colon := bytes.IndexByte(line, ':'); colon >= 0 {
		name, value = line[:colon], withoutBlank(line[colon+1:])
	}
	switch string(name) {
	case "data":
		return value, true
	case "event":
		s.kind = append(s.kind[:0], value...)
	case "error":
		if len(value) > 0 {
			return value, false
		}
	}
	return nil, false
}

// withoutBlank is a value without the one blank that may stand before it.
func withoutBlank(value []byte) []byte {
	if len(value) > 0 && value[0] == ' ' {
		return value[1:]
	}
	return value
}

// join appends another line of data to the event under way, whose data so far is
// first unless that is nil. It tells whether there was room.
func (s *Splitter) join(first, value []byte) bool {
	if first != nil {
		s.data = append(s.data[:0], first...)
	}
	if len(s.data)+1+len(value) > s.max {
		return false
	}
	s.data = append(append(s.data, '\n'), value...)
	return true
}

// keepLine keeps the start of a line for the next piece.
func (s *Splitter) keepLine(start []byte) Found {
	if len(start) == 0 || s.skipLine {
		return Nothing
	}
	s.line = append(s.line, start...)
	if len(s.line) <= s.max {
		return Nothing
	}
	s.line, s.skipLine, s.begun = s.line[:0], true, true
	if s.giveUp() {
		return TooLong
	}
	return Nothing
}

// giveUp passes over the event under way. It tells whether that is news.
func (s *Splitter) giveUp() bool {
	before := s.tooLong
	s.open, s.tooLong, s.begun = false, true, true
	return !before
}

// Cut tells, at the end of a stream, whether that cut something off: a line, or an
// event that has data or was too long.
func (s *Splitter) Cut() bool { return s.open || s.tooLong || s.skipLine || len(s.line) > 0 }
