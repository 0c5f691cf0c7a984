package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/term"

	"github.com/g2g-agent/g2g-agent/config"
)

// statusLine is the last line on a terminal, drawn anew in its place. What is written to
// it goes above the line. On anything but a terminal there is no such line. It may be
// used by several goroutines.
type statusLine struct {
	out     io.Writer
	columns func() int // nil: not a terminal

	mu       sync.Mutex
	shownAt  time.Time
	anything bool
}

func newStatusLine(w io.Writer) *statusLine {
	l := &statusLine{out: w}
	if f, ok := w.(*os.File); ok && isTerminal(f) {
		l.columns = func() int {
			width, _, err := term.GetSize(int(f.Fd()))
			if err != nil || width <= 0 {
				return 80
			}
			return width
		}
	}
	return l
}

// logger has its lines above the status line.
func (l *statusLine) logger() zerolog.Logger {
	c := config.Default().Log
	if l.columns != nil {
		return newLeveledLogger(c, readable(l, true))
	}
	return newLeveledLogger(c, l)
}

// show draws the line, now and then: calls that come too soon after one draw nothing.
func (l *statusLine) show(text func(now time.Time) string) {
	if l.columns == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if now.Sub(l.shownAt) < progressEvery {
		return
	}
	l.shownAt, l.anything = now, true
	drawn := []rune(text(now))
	// A line that wraps could not be taken away again.
	fmt.Fprint(l.out, "\r\x1b[K"+string(drawn[:min(len(drawn), max(l.columns()-1, 0))]))
}

// clear takes the line off the terminal.
func (l *statusLine) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clearLocked()
}

func (l *statusLine) clearLocked() {
	if l.anything {
		l.anything, l.shownAt = false, time.Time{}
		fmt.Fprint(l.out, "\r\x1b[K")
	}
}

// Write implements [io.Writer]: whole lines above the status line.
func (l *statusLine) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clearLocked()
	return l.out.Write(p)
}
