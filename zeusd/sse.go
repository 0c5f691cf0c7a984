package zeusd

import (
	"bytes"
	"errors"
	"io"
	"time"

	"github.com/g2g-agent/g2g-agent/internal/sse"
)

// maxEventBytes bounds a line of a stream and the data of an event.
const maxEventBytes = 64 << 10

// errEventTooLong is an event beyond maxEventBytes. The reader skips it and can go
// on.
var errEventTooLong = errors.New("event is longer than 64 KiB")

// eventReader reads the events of a stream.
type eventReader struct {
	r        io.Reader
	now      func() time.Time
	splitter sse.Splitter
	buf      []byte
	rest     []byte    // of what was read last, not yet looked at
	arrived  time.Time // when that read returned
	err      error     // the stream's end, once met
}

func newEventReader(r io.Reader, now func() time.Time) *eventReader {
	e := &eventReader{r: r, now: now, buf: make([]byte, 4<<10)}
	e.splitter.Reset(maxEventBytes)
	return e
}

// next returns the data of the next event that has any, which is valid until the
// call after, and when the read that completed it returned: taken before any
// parsing. errEventTooLong is not the end, any other error is; io.EOF is a clean
// one.
func (e *eventReader) next() (data []byte, arrived time.Time, err error) {
	for {
		for len(e.rest) > 0 {
			var found sse.Found
			data, e.rest, found = e.splitter.Next(e.rest)
			switch {
			case found == sse.TooLong:
				return nil, e.arrived, errEventTooLong
			case found == sse.Whole && len(bytes.TrimSpace(data)) > 0: // one without data keeps the connection alive
				return data, e.arrived, nil
			}
		}
		if e.err != nil {
			return nil, e.arrived, e.err
		}
		var n int
		n, e.err = e.r.Read(e.buf)
		if n > 0 {
			e.arrived = e.now()
		}
		e.rest = e.buf[:n]
	}
}

// cut tells, after the end, whether an event was under way.
func (e *eventReader) cut() bool { return e.splitter.Cut() }
