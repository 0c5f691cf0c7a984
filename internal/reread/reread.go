// Package reread reads files anew while the program runs. What is read again must
// keep nobody waiting: it has to be a regular file, and one on a disk that hangs is
// given up after a while. (The first time a file is read, at the start, it may be a
// pipe.)
package reread

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"
)

// Limit is how long reading a file anew may take.
const Limit = 5 * time.Second

// Open opens a regular file. It refuses others without waiting for them, as one has
// to for the other end of a pipe.
func Open(file string) (*os.File, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file, and is not read again", file)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// File returns what is in a regular file of at most maxBytes.
func File(file string, maxBytes int) ([]byte, error) {
	f, err := Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, int64(maxBytes)+1))
	if err == nil && len(raw) > maxBytes {
		err = fmt.Errorf("%s has more than %d bytes", file, maxBytes)
	}
	if err != nil {
		return nil, err
	}
	return raw, nil
}

// Patience waits for readings that may hang, at most so long for each. The zero
// value is ready. However often it is tried, one reading at most hangs.
type Patience[T any] struct {
	mu      sync.Mutex
	pending chan struct{} // closed when the reading before has ended; nil if it has
}

// ErrHangs is wrapped by the error of a reading that was given up.
var ErrHangs = errors.New("reading files again takes too long; does their disk hang?")

// Within returns what read does, or [ErrHangs] after limit: read then goes on by
// itself, and what it gives is dropped.
func (p *Patience[T]) Within(limit time.Duration, read func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	var none T
	for {
		p.mu.Lock()
		pending := p.pending
		if pending == nil {
			break
		}
		p.mu.Unlock()
		select {
		case <-pending:
		case <-timeout.C:
			return none, fmt.Errorf("%w (the reading before has not ended either)", ErrHangs)
		}
	}
	ended := make(chan struct{})
	p.pending = ended
	p.mu.Unlock()
	got := make(chan result, 1)
	go func() {
		value, err := read()
		got <- result{value, err}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.pending = nil
		close(ended)
	}()
	select {
	case r := <-got:
		return r.value, r.err
	case <-timeout.C:
		return none, fmt.Errorf("%w (given up after %v)", ErrHangs, limit)
	}
}
