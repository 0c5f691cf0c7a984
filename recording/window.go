package recording

import (
	"errors"
	"fmt"
	"io"
)

// readError is an error of reading a file, which is not the file's content's fault.
type readError struct{ err error }

func (e *readError) Error() string { return e.err.Error() }
func (e *readError) Unwrap() error { return e.err }

// slidingWindow reads ahead in a file, as far as is asked for: what it holds is bounded
// by what is asked for and by what the file really has.
type slidingWindow struct {
	in     io.Reader
	offset int64 // of the first byte held
	buffer []byte
	start  int // of the bytes held in buffer
	ended  bool
}

// minRead is the least that is read at once, in bytes.
const minRead = 64 << 10

// peek implements [window]. What it returns holds until the next call.
func (w *slidingWindow) peek(n int) ([]byte, error) {
	for len(w.buffer)-w.start < n && !w.ended {
		held := len(w.buffer) - w.start
		// Only as much more as is held already: a lie about a length costs no memory.
		more := max(minRead, min(n-held, held))
		w.makeRoom(more)
		end := len(w.buffer)
		got, err := io.ReadFull(w.in, w.buffer[end:end+more])
		w.buffer = w.buffer[:end+got]
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			w.ended = true
		case err != nil:
			return nil, &readError{fmt.Errorf("byte %d: %w", w.offset+int64(len(w.buffer)-w.start), err)}
		}
	}
	return w.buffer[w.start:], nil
}

// makeRoom makes room for more bytes after those held.
func (w *slidingWindow) makeRoom(more int) {
	held := w.buffer[w.start:]
	if len(w.buffer)+more <= cap(w.buffer) {
		return
	}
	if need := len(held) + more; need > cap(w.buffer) {
		w.buffer = make([]byte, 0, 2*need)
	}
	w.buffer = w.buffer[:copy(w.buffer[:len(held)], held)]
	w.start = 0
}

// skip leaves n of the held bytes behind.
func (w *slidingWindow) skip(n int) {
	w.offset += int64(n)
	w.start += n
}
