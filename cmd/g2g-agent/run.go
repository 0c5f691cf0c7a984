package main

import (
	"context"
	"errors"
	"fmt"
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
	"github.com/g2g-agent/g2g-agent/record"
	"github.com/g2g-agent/g2g-agent/report"
)

type runCmd struct {
	Config string `required:"" placeholder:"FILE" help:"Config of the run; - is standard input."`
	liveFlags
}

// liveFlags are those of every live run.
type liveFlags struct {
	Out       string  `placeholder:"FILE" help:"Where the states go; the ending picks the format: .csv, .jsonl or .parquet. - is CSV on standard output."`
	Record    string  `placeholder:"DIR" help:"Record all that the run sees in a directory, so that it survives a crash and can be run again (replay --from DIR); in place of record.dir of the config."`
	DurationS float64 `placeholder:"SECONDS" help:"End the run after so many seconds of steps; without it, it goes on until it is interrupted."`
	urlFlags
	processFlags
}

func (cmd runCmd) Run(ctx context.Context, term terminal) error {
	unwatch, err := cmd.watchParent(term, isStdin(cmd.Config))
	if err != nil {
		return err
	}
	defer unwatch()
	file, err := readConfig(ctx, term, cmd.Config)
	if err != nil {
		return err
	}
	c, err := file.Load(term.environ, config.ForLive)
	if err != nil {
		return err
	}
	return cmd.runLive(ctx, term, liveRun{
		config: c, name: file.Name(), load: reloader(file, cmd.Config, term.environ, config.ForLive), keepsConfig: cmd.Config == config.Stdin,
		log: newLiveLogger(c.Log, term.stderr),
	})
}

// liveRun is a live run to be done.
type liveRun struct {
	config *config.Config
	name   string // of the config, for errors
	// load reads the config again.
	load func() (*config.Config, error)
	// keepsConfig tells that load gives the same config for ever.
	keepsConfig bool
	log         liveLog
	// onState, if set, sees each state.
	onState func(*datacenter.State)
	// onPage, if set, is told the live page's address.
	onPage func(url string)
	// beside, if set, runs beside the steps, from the first on, until its context
	// is done.
	beside func(context.Context, *agent.Live)
	// onCommand, if set, sees each command and its outcome.
	onCommand func(datacenter.Command, error)
}

// errDurationOver ends a run that has a duration.
var errDurationOver = errors.New("the duration is over")

// runLive runs until ctx is done, which is its orderly end, or the duration is
// over, and prints a summary.
func (f liveFlags) runLive(ctx context.Context, term terminal, run liveRun) error {
	defer run.log.end()
	if !(f.DurationS >= 0) {
		return invalidf("--duration-s must be >= 0, got %v", f.DurationS)
	}
	urlFile, err := f.openURLFile(run.config.API.Listen, f.Out)
	if err != nil {
		return err
	}
	// That nobody reads standard output any more is an error as others are; it
	// must not kill the program before the servers are restored.
	signal.Ignore(syscall.SIGPIPE)
	rec, err := f.openRecording(run)
	if err != nil {
		return err
	}
	s, err := f.setUp(term, run, rec)
	if err != nil {
		return errors.Join(err, rec.close(ctx, "the run did not begin"))
	}
	s.serving.urlFile, s.serving.keepsConfig = urlFile, run.keepsConfig
	defer s.out.Abort()
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	if err := s.openAPI(ctx, end); err != nil {
		s.setup.Live.Close()
		return errors.Join(err, s.serving.close(), rec.close(ctx, "the run did not begin"))
	}
	timing, err := s.step(ctx, end)
	recordErr := rec.close(ctx, endReason(ctx, err))
	// The API takes its leave while the output is completed: the end is to be quick.
	closed := make(chan error, 1)
	go func() { closed <- s.serving.close() }()
	if s.summary.Steps == 0 {
		err = s.endUnbegun(err)
	} else {
		err = s.finish(err, timing)
	}
	return errors.Join(err, recordErr, <-closed)
}

// liveSession is a live run that is set up, and what stands around it.
type liveSession struct {
	liveRun
	flags     liveFlags
	term      terminal
	serving   *serving
	setup     *agent.LiveSetup
	out       *record.Queue
	recording *runRecording
	summary   *report.Summary
	took      time.Duration // the steps, with the warm-up before them
	// committed gets how completing the output went.
	committed chan error
}

// setUp reads what the config names and opens the output; no server is contacted.
func (f liveFlags) setUp(term terminal, run liveRun, rec *runRecording) (*liveSession, error) {
	serving, err := newServing(run.config, run.load, run.log.Logger, run.log.level, term.environ)
	if err != nil {
		return nil, err
	}
	observer := serving.observer(run.logEvent)
	observer.OnCommand = run.onCommand
	s := &liveSession{liveRun: run, flags: f, term: term, serving: serving, recording: rec}
	observer.OnStepped = s.commitOutput
	rec.observe(&observer)
	setup, err := agent.SetUpLive(run.config, agent.SecretsFrom(term.environ), run.log.Logger, observer)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", run.name, err)
	}
	for _, w := range setup.Warnings {
		run.log.Warn().Msg(w)
	}
	out, notices, err := openKeptOutput(f.Out, setup.Models, term)
	for _, n := range notices { // what was taken up was, whatever failed after it
		run.log.Warn().Msg(n)
	}
	if err != nil {
		setup.Live.Close()
		return nil, err
	}
	rec.of(setup.Live)
	s.setup, s.out, s.summary = setup, record.NewQueue(out, run.log.Logger), report.NewSummary(run.config.DT, setup.Models)
	return s, nil
}

// commitOutput begins to complete the output as soon as there are no more states:
// what comes after may take long, and may be cut short.
func (s *liveSession) commitOutput() {
	if s.summary.Steps == 0 {
		return
	}
	s.committed = make(chan error, 1)
	go func() { s.committed <- s.out.Commit() }()
}

// openAPI opens the API and what else is told of the run. Its failure later on
// calls end.
func (s *liveSession) openAPI(ctx context.Context, end context.CancelCauseFunc) error {
	err := s.serving.open(ctx, api.Config{
		Site: s.setup.Live, Settings: s.config.API, Control: s.config.Control, LiveStats: s.setup.Live.Stats, OutputLeftOut: s.out.LeftOut,
		Recording: s.recording.stats(), RecordingDir: s.recording.dir(),
	}, end)
	if err == nil && s.onPage != nil && s.serving.server != nil {
		s.onPage(s.serving.server.URL())
	}
	return err
}

// step computes the steps, until ctx is done, which it is at the end, the duration
// is over, or a step fails.
func (s *liveSession) step(ctx context.Context, end context.CancelCauseFunc) (agent.Timing, error) {
	var beside sync.WaitGroup
	alive := aliveLog{log: s.log}
	began := time.Now()
	timing, err := s.setup.Live.Run(ctx, func(state *datacenter.State) error {
		if state.Seq == 0 && s.beside != nil {
			beside.Go(func() { s.beside(ctx, s.setup.Live) })
		}
		alive.update()
		s.summary.Add(state)
		s.serving.publish(state)
		if s.onState != nil {
			s.onState(state)
		}
		if s.flags.DurationS > 0 && state.TimeS+s.config.DT.Float64() >= s.flags.DurationS {
			end(errDurationOver)
		}
		return s.out.Write(state)
	})
	s.took = time.Since(began)
	end(nil)
	beside.Wait()
	return timing, err
}

// endUnbegun ends a run without a step: there is nothing to be kept. The error is
// that of the run.
func (s *liveSession) endUnbegun(err error) error {
	s.log.end()
	if err == nil {
		err = tell(s.term.stderr, "interrupted before the first step\n")
	}
	return err
}

// finish completes the output and prints the summary: what was measured is kept,
// however the run ended. The error is that of the run, and what went wrong here.
func (s *liveSession) finish(err error, timing agent.Timing) error {
	logTiming(s.log.Logger, timing)
	if commitErr := <-s.committed; !errors.Is(err, commitErr) {
		err = errors.Join(err, commitErr)
	}
	s.log.end()
	w := s.term.stdout
	if s.flags.Out == stdoutPath {
		w = s.term.stderr
	}
	var text strings.Builder
	return errors.Join(err, s.summary.WriteText(&text, s.took), tell(w, text.String()))
}

// logEvent logs an event, in passing if the agent itself has, with the cause.
func (run *liveRun) logEvent(e datacenter.Event) {
	level := zerolog.InfoLevel
	switch kind, _ := datacenter.EventKindOf(e.Topic); {
	case kind.LoggedAtSource:
		level = zerolog.DebugLevel
	case kind.Attention:
		level = zerolog.WarnLevel
	}
	run.log.WithLevel(level).Float64("time_s", e.TimeS).Interface("data", e.Data).Msg(e.Topic)
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
