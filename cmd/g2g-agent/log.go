package main

import (
	"io"
	"os"
	"time"

	"github.com/rs/zerolog"
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
	if c.Format == "console" || c.Format == "auto" && isTerminal(w) {
		return newConsoleLogger(c, w, isTerminal(w))
	}
	return newLeveledLogger(c, w)
}

// newConsoleLogger logs in readable form.
func newConsoleLogger(c config.Log, w io.Writer, color bool) zerolog.Logger {
	return newLeveledLogger(c, zerolog.ConsoleWriter{Out: w, TimeFormat: time.TimeOnly, NoColor: !color})
}

func newLeveledLogger(c config.Log, w io.Writer) zerolog.Logger {
	level, err := zerolog.ParseLevel(c.Level)
	if err != nil {
		level = zerolog.InfoLevel // the config was validated
	}
	return zerolog.New(w).Level(level).With().Timestamp().Logger()
}
