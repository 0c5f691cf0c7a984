package api

import (
	"bufio"
	"bytes"
	"net"
	"net/http"
	"time"
)

const (
	// writeTimeout is what every answer has to be read in, and leastReadRate, in
	// bytes a second, how fast a large one must be.
	writeTimeout  = 30 * time.Second
	leastReadRate = 64 << 10
)

// response is a [http.ResponseWriter] that knows what was answered.
type response struct {
	http.ResponseWriter
	status  int // 0: nothing yet
	written int64
	// timed: a client that reads too slowly is cut off.
	timed bool
	// writing is for how long the client has kept writes waiting. What the answer itself
	// takes to be made is not its fault.
	writing time.Duration
	// waited is for how long there was nothing to answer.
	waited time.Duration
	// keep, if not nil, receives a copy of the body, whether or not the client takes
	// it; it is nil again once that is larger than keepBytes.
	keep      *bytes.Buffer
	keepBytes int
}

// Unwrap is for [http.ResponseController].
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *response) WriteHeader(status int) {
	if w.status == 0 && status >= http.StatusOK {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *response) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	if w.timed {
		began := time.Now()
		defer func() { w.writing += time.Since(began) }()
		allowed := writeTimeout + time.Duration(float64(w.written)/leastReadRate*float64(time.Second))
		// A writer without deadlines, as in a test, has none to set.
		_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(began.Add(allowed - w.writing))
	}
	n, err := w.ResponseWriter.Write(b)
	w.written += int64(n)
	switch {
	case w.keep == nil:
	case w.keep.Len()+len(b) > w.keepBytes:
		w.keep = nil
	default:
		// What is kept is for a client that comes back: that it is gone now must not
		// end the answer in the middle.
		return w.keep.Write(b)
	}
	return n, err
}

// Hijack hands the connection to a WebSocket.
func (w *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil {
		w.status = http.StatusSwitchingProtocols
	}
	return conn, rw, err
}

// Flush sends what is buffered.
func (w *response) Flush() {
	_ = http.NewResponseController(w.ResponseWriter).Flush() // it cannot be flushed: it is sent later
}
