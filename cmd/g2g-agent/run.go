package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/agent"
	"github.com/g2g-agent/g2g-agent/api"
	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/datacenter"
)

type runCmd struct {
	Config string `required:"" placeholder:"FILE" help:"Config of the run."`
	liveFlags
}

// liveFlags are those of every live run.
type liveFlags struct {
	Out       string  `placeholder:"FILE" help:"Where the states go; the ending picks the format: .csv, .jsonl or .parquet. - is CSV on standard output."`
	DurationS float64 `placeholder:"SECONDS" help:"End the run after so many seconds of steps; without it, it goes on until it is interrupted."`
}

func (cmd runCmd) Run(ctx context.Context, term terminal) error {
	load := func() (*config.Config, error) { return config.Load(cmd.Config, term.environ, config.ForLive) }
	c, err := load()
	if err != nil {
		return err
	}
	return cmd.runLive(ctx, term, liveRun{config: c, name: cmd.Config, load: load, log: newLiveLogger(c.Log, term.stderr)})
}

// liveRun is a live run to be done.
type liveRun struct {
	config *config.Config
	name   string // of the config, for errors
	// load reads the config again.
	load func() (*config.Config, error)
	log  liveLog
	// onState, if set, sees each state.
	onState func(*datacenter.State)
	// onPage, if set, is told the live page's address.
	onPage func(url string)
	// beside, if set, runs beside the steps, from the first on, until its context
	// is done.
	beside func(context.Context, *agent.Live)
	// onCommand, if set, is called after each command from outside that was not
	// refused.
	onCommand func()
}

// errDurationOver ends a run that has a duration.
var errDurationOver = errors.New("the duration is over")

// runLive runs until ctx is done, which is its orderly end, or the duration is
// over, and prints a summary.
func (f liveFlags) runLive(ctx context.Context, term terminal, run liveRun) (err error) {
	defer run.log.end()
	if !(f.DurationS >= 0) {
		return invalidf("--duration-s must be >= 0, got %v", f.DurationS)
	}
	// That nobody reads standard output any more is an error as others are; it
	// must not kill the program before the servers are restored.
	signal.Ignore(syscall.SIGPIPE)
	serving, err := newServing(run.config, run.load, run.log.Logger, run.log.level, term.environ)
	if err != nil {
		return err
	}
	setup, err := agent.SetUpLive(run.config, agent.SecretsFrom(term.environ), run.log.Logger, serving.observer(run.logEvent))
	if err != nil {
		return fmt.Errorf("%s: %w", run.name, err)
	}
	for _, w := range setup.Warnings {
		run.log.Warn().Msg(w)
	}
	direct, err := openOutput(f.Out, setup.Models, true, term)
	if err != nil {
		return err
	}
	out := startQueuedOutput(direct)
	defer out.Abort()

	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	defer func() { err = errors.Join(err, serving.close()) }()
	if err := serving.open(ctx, api.Config{
		Site: commandedSite{setup.Live, run.onCommand}, Settings: run.config.API, Control: run.config.Control, LiveStats: setup.Live.Stats,
	}, end); err != nil {
		setup.Live.Close()
		return err
	}
	if run.onPage != nil && serving.server != nil {
		run.onPage(serving.server.URL())
	}
	var beside sync.WaitGroup
	began := time.Now()
	summary := agent.NewSummary(run.config.DT, setup.Models)
	alive := aliveLog{log: run.log}
	timing, err := setup.Live.Run(ctx, func(s *datacenter.State) error {
		if s.Seq == 0 && run.beside != nil {
			beside.Go(func() { run.beside(ctx, setup.Live) })
		}
		alive.update()
		summary.Add(s)
		serving.publish(s)
		if run.onState != nil {
			run.onState(s)
		}
		if f.DurationS > 0 && s.TimeS+run.config.DT.Float64() >= f.DurationS {
			end(errDurationOver)
		}
		return out.Write(s)
	})
	took := time.Since(began)
	end(nil)
	beside.Wait()
	// The API takes its leave while the output is completed: the end is to be quick.
	var closing sync.WaitGroup
	closing.Go(func() { _ = serving.close() }) // its error is asked for in the end
	defer closing.Wait()
	if summary.Steps == 0 {
		run.log.end()
		if err == nil {
			err = tell(term.stderr, "interrupted before the first step\n")
		}
		return err
	}
	logTiming(run.log.Logger, timing)
	// What was measured is kept, however the run ended.
	if commitErr := out.Commit(); !errors.Is(err, commitErr) {
		err = errors.Join(err, commitErr)
	}
	run.log.end()
	var text strings.Builder
	w := term.stdout
	if f.Out == stdoutPath {
		w = term.stderr
	}
	return errors.Join(err, printSummary(&text, summary, took), tell(w, text.String()))
}

// commandedSite tells of each command that was not refused.
type commandedSite struct {
	*agent.Live
	onCommand func() // may be nil
}

func (s commandedSite) Apply(ctx context.Context, command datacenter.Command) error {
	err := s.Live.Apply(ctx, command)
	var refused *datacenter.CommandError
	if s.onCommand != nil && !errors.As(err, &refused) {
		s.onCommand()
	}
	return err
}

// logEvent logs an event, in passing if the agent itself has, with the cause.
func (run *liveRun) logEvent(e datacenter.Event) {
	level := zerolog.InfoLevel
	switch kind, _ := datacenter.EventKindOf(e.Topic); {
	case kind.LoggedAtSource:
		level = zerolog.DebugLevel
	case kind.Level >= slog.LevelWarn:
		level = zerolog.WarnLevel
	}
	run.log.WithLevel(level).Float64("time_s", e.TimeS).Interface("data", e.Data).Msg(e.Topic)
}

// tell writes text for people, who may not be reading.
func tell(w io.Writer, text string) error {
	return within(noticeTimeout, func() error {
		_, err := io.WriteString(w, text)
		return err
	})
}

// aliveLog notes now and then what the program itself takes.
type aliveLog struct {
	log  liveLog
	last time.Time
}

const aliveEvery = 10 * time.Second

func (a *aliveLog) update() {
	if time.Since(a.last) < aliveEvery || !a.log.level.has(zerolog.DebugLevel) {
		return
	}
	a.last = time.Now()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	a.log.Debug().Int("goroutines", runtime.NumGoroutine()).Uint64("heap_bytes", m.HeapAlloc).Uint64("system_bytes", m.Sys).Msg("alive")
}
