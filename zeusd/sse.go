package zeusd

import (
	"bytes"
	"errors"
	"io"
	"time"
)

// maxEventBytes bounds a line of a stream and the data of an event.
const maxEventBytes = 64 << 10

// errEventTooLong is an event beyond maxEventBytes. The reader has skipped it and
// can go on.
var errEventTooLong = errors.New("event is longer than 64 KiB")

// eventReader takes server-sent events out of a byte stream. It allocates its
// buffers once.
//
// Lines end with LF or CR LF. Of the fields only data counts; comments and the
// others are skipped.
type eventReader struct {
	r   io.Reader
	now func() time.Time

	buf        []byte // what was read: buf[start:end] is not yet looked at
	start, end int
	scanned    int       // buf[start:scanned] is known to hold no LF
	arrived    time.Time // when the latest read returned
	err        error     // the stream's end, once met

	data     []byte // of the event under way
	hasData  bool
	tooLong  bool // the event under way is to be skipped
	skipLine bool // the line under way is to be skipped
}

func newEventReader(r io.Reader, now func() time.Time) *eventReader {
	return &eventReader{r: r, now: now, buf: make([]byte, 4<<10)}
}

// next returns the data of the next event, which is valid until the call after,
// and when the read that completed it returned: taken before any parsing.
// errEventTooLong is not the end, any other error is; io.EOF is a clean one.
func (e *eventReader) next() (data []byte, arrived time.Time, err error) {
	for {
		line, ok := e.line()
		if !ok {
			if e.err != nil {
				return nil, e.arrived, e.err
			}
			e.fill()
			continue
		}
		if len(line) > 0 {
			e.field(line)
			continue
		}
		if e.skipLine { // the rest of a line too long, which was no empty one
			e.skipLine = false
			continue
		}
		hadData, tooLong := e.hasData, e.tooLong
		data = e.data
		e.data, e.hasData, e.tooLong = e.data[:0], false, false
		if tooLong {
			return nil, e.arrived, errEventTooLong
		}
		if hadData {
			return data, e.arrived, nil
		}
	}
}

// cut tells, after the end, whether an event was under way.
func (e *eventReader) cut() bool {
	return e.hasData || e.tooLong || e.skipLine || e.start < e.end
}

// line takes the next whole line out of the buffer, without its end. A line that
// is to be skipped is returned empty, with skipLine still set.
func (e *eventReader) line() ([]byte, bool) {
	i := bytes.IndexByte(e.buf[e.scanned:e.end], '\n')
	if i < 0 {
		e.scanned = e.end
		return nil, false
	}
	line := e.buf[e.start : e.scanned+i]
	e.start = e.scanned + i + 1
	e.scanned = e.start
	if e.skipLine {
		return nil, true
	}
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	return line, true
}

func (e *eventReader) field(line []byte) {
	value, ok := bytes.CutPrefix(line, []byte("data:"))
	if !ok || e.tooLong {
		return
	}
	if len(value) > 0 && value[0] == ' ' {
		value = value[1:]
	}
	if len(e.data)+1+len(value) > maxEventBytes {
		e.tooLong = true
		return
	}
	if e.hasData {
		e.data = append(e.data, '\n')
	}
	e.data = append(e.data, value...)
	e.hasData = true
}

// fill reads once. Room comes from what was consumed, then from a larger buffer,
// and at the limit from giving the line up.
func (e *eventReader) fill() {
	if e.start > 0 {
		e.end = copy(e.buf, e.buf[e.start:e.end])
		e.scanned -= e.start
		e.start = 0
	}
	if e.end == len(e.buf) {
		if len(e.buf) < maxEventBytes {
			e.buf = append(e.buf, make([]byte, len(e.buf))...)
		} else {
			e.tooLong, e.skipLine = true, true
			e.end, e.scanned = 0, 0
		}
	}
	n, err := e.r.Read(e.buf[e.end:])
	if n > 0 {
		e.arrived = e.now()
		e.end += n
	}
	e.err = err
}
