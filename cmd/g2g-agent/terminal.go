package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/term"

	"github.com/g2g-agent/g2g-agent/record"
)

// terminal is where a verb reads and writes.
type terminal struct {
	stdout, stderr io.Writer
	environ        []string
	// end asks for the orderly end of the program, as a signal does.
	end func()
}

// isTerminal reports whether w is a terminal someone may be looking at.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// noticeTimeout is how long the end of a run waits for words for people to be
// taken.
const noticeTimeout = time.Second

// tell writes text for people, who may not be reading.
func tell(w io.Writer, text string) error {
	return within(noticeTimeout, func() error {
		_, err := io.WriteString(w, text)
		return err
	})
}

// within returns what f does, or that it did not end in time. Then it goes on by
// itself: a write that nobody takes cannot be called back, and must not keep the
// program from ending.
func within(limit time.Duration, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	select {
	case err := <-done:
		return err
	case <-timeout.C:
		return fmt.Errorf("%w within %v", record.ErrNotTaken, limit)
	}
}
