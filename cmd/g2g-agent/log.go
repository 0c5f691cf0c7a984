package main

import (
	"io"
	"os"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"github.com/rs/zerolog/diode"
	"golang.org/x/term"

	"github.com/g2g-agent/g2g-agent/config"
)

// isTerminal reports whether w is a terminal someone may be looking at.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// newLogger logs to w as the config asks: readable on a terminal, JSON otherwise,
// unless it names a format.
func newLogger(c config.Log, w io.Writer) zerolog.Logger {
	return newLeveledLogger(c, formatted(c, w))
}

const (
	// logQueueSize is how many lines may wait for whoever reads the log.
	logQueueSize = 1000
	// The queue is looked at so often. A line may miss the diode's other way of
	// waking its reader, and then waits for the line after it.
	logPollInterval = 20 * time.Millisecond
)

// newLiveLogger is a newLogger that never waits for w: lines that w does not take
// in time are dropped, and it says how many. end writes out what is waiting, and
// gives up when that is not taken either.
func newLiveLogger(c config.Log, w io.Writer) (log zerolog.Logger, end func()) {
	// Without its other methods: the queue would close w in the end.
	out := struct{ io.Writer }{formatted(c, w)}
	queue := diode.NewWriter(out, logQueueSize, logPollInterval, func(lost int) {
		// From the goroutine that writes to out, so not through the queue.
		direct := newLeveledLogger(c, out)
		direct.Warn().Int("lines", lost).Msg("lines of the log were dropped: they were not taken in time")
	})
	return newLeveledLogger(c, queue), sync.OnceFunc(func() {
		_ = within(noticeTimeout, queue.Close) // there is nobody to be told
	})
}

// formatted gives w the format that the config asks for.
func formatted(c config.Log, w io.Writer) io.Writer {
	if c.Format == "console" || c.Format == "auto" && isTerminal(w) {
		return readable(w, isTerminal(w))
	}
	return w
}

// readable makes lines for people out of the log's JSON.
func readable(w io.Writer, color bool) zerolog.ConsoleWriter {
	return zerolog.ConsoleWriter{Out: w, TimeFormat: time.TimeOnly, NoColor: !color}
}

func newLeveledLogger(c config.Log, w io.Writer) zerolog.Logger {
	level, err := zerolog.ParseLevel(c.Level)
	if err != nil {
		level = zerolog.InfoLevel // the config was validated
	}
	return zerolog.New(w).Level(level).With().Timestamp().Logger()
}
