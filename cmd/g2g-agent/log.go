package main

import (
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"github.com/rs/zerolog/diode"

	"github.com/g2g-agent/g2g-agent/config"
)

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
// in time are dropped, and it says how many. Its end writes out what is waiting,
// and gives up when that is not taken either.
func newLiveLogger(c config.Log, w io.Writer) liveLog {
	// Without its other methods: the queue would close w in the end.
	out := struct{ io.Writer }{formatted(c, w)}
	queue := diode.NewWriter(out, logQueueSize, logPollInterval, func(lost int) {
		// From the goroutine that writes to out, so not through the queue.
		direct := newLeveledLogger(c, out)
		direct.Warn().Int("lines", lost).Msg("lines of the log were dropped: they were not taken in time")
	})
	return newLiveLog(c, queue, sync.OnceFunc(func() {
		_ = within(noticeTimeout, queue.Close) // there is nobody to be told
	}))
}

// liveLog is the log of a run that goes on for long.
type liveLog struct {
	zerolog.Logger
	level *logLevel
	// end shows what is left of the log; calls after the first do nothing.
	end func()
}

// newLiveLog logs to w at a level that can change.
func newLiveLog(c config.Log, w io.Writer, end func()) liveLog {
	level := &logLevel{}
	level.set(c)
	c.Level = zerolog.LevelTraceValue
	return liveLog{newLeveledLogger(c, w).Hook(level), level, end}
}

// logLevel is a hook that drops what is below a level.
type logLevel struct{ least atomic.Int32 }

func (l *logLevel) set(c config.Log) { l.least.Store(int32(levelOf(c))) }

func (l *logLevel) has(level zerolog.Level) bool { return int32(level) >= l.least.Load() }

// Run implements [zerolog.Hook].
func (l *logLevel) Run(e *zerolog.Event, level zerolog.Level, _ string) {
	if !l.has(level) {
		e.Discard()
	}
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
	return zerolog.New(w).Level(levelOf(c)).Hook(zerolog.HookFunc(stamp))
}

// stamp adds the time to a line, in microseconds: zerolog's own has whole seconds
// unless a global variable is set.
func stamp(e *zerolog.Event, _ zerolog.Level, _ string) {
	e.Str(zerolog.TimestampFieldName, time.Now().UTC().Format("2006-01-02T15:04:05.000000Z07:00"))
}

func levelOf(c config.Log) zerolog.Level {
	level, err := zerolog.ParseLevel(c.Level)
	if err != nil {
		return zerolog.InfoLevel // the config was validated
	}
	return level
}
