package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/agent"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/recording"
)

// runRecording is the recording of a live run. A nil one records nothing.
type runRecording struct {
	writer *recording.Writer
	path   string
	live   atomic.Pointer[agent.Live] // nil before it is set up
	header recording.Header
	log    zerolog.Logger
}

// recordingEnds is how long the end of a recording may take to be on the disk.
const recordingEnds = 10 * time.Second

// openRecording opens the recording that the flags or the config ask for, nil if none do.
func (f liveFlags) openRecording(run liveRun) (*runRecording, error) {
	c := *run.config
	c.Record.Dir = cmp.Or(f.Record, c.Record.Dir)
	if c.Record.Dir == "" {
		return nil, nil
	}
	dir, err := filepath.Abs(c.Record.Dir)
	if err != nil {
		return nil, fmt.Errorf("--record: %w", err)
	}
	c.Record.Dir = dir
	effective, err := c.Effective()
	if err != nil {
		return nil, err
	}
	r := &runRecording{path: dir, header: recording.Header{AgentVersion: programVersion(), Config: effective}, log: run.log.Logger}
	r.writer, err = recording.Open(recording.Options{
		Dir: dir, MaxBytes: c.Record.MaxBytes, MaxAge: time.Duration(c.Record.MaxAgeS * float64(time.Second)), Log: run.log.Logger,
		OnStop: func(err error) { r.announce(datacenter.RecordingStopped{Cause: err.Error()}) },
		OnGap: func(g recording.Gap) {
			r.announce(datacenter.RecordingGap{FirstSecond: g.FirstSecond, LastSecond: g.LastSecond, Cause: g.Cause})
		},
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", datacenter.ErrInvalidInput, err)
	}
	run.log.Info().Str("dir", dir).Int64("max_bytes", c.Record.MaxBytes).Msg("the run is recorded, second by second; replay --from runs it again")
	return r, nil
}

// announce tells those who watch the run.
func (r *runRecording) announce(data datacenter.EventData) {
	if live := r.live.Load(); live != nil {
		live.Announce(data)
	}
}

// of has what comes up in the recording told as events of a run.
func (r *runRecording) of(live *agent.Live) {
	if r != nil {
		r.live.Store(live)
	}
}

// observe has the run recorded.
func (r *runRecording) observe(o *agent.Observer) {
	if r != nil {
		o.Recorder, o.Header = r.writer, r.header
	}
}

// close ends the recording, also after the end of ctx.
func (r *runRecording) close(ctx context.Context, reason string) error {
	if r == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordingEnds)
	defer cancel()
	if err := r.writer.Close(ctx, reason); err != nil {
		return fmt.Errorf("the recording may lack its end: %w", err)
	}
	return nil
}

// endReason says why a run ended.
func endReason(ctx context.Context, err error) string {
	switch {
	case errors.Is(context.Cause(ctx), errDurationOver):
		return "duration"
	case err != nil:
		return err.Error()
	default:
		return "interrupted"
	}
}

// dir is where the recording is, empty if nothing is recorded.
func (r *runRecording) dir() string {
	if r == nil {
		return ""
	}
	return r.path
}

// stats is what tells how the recording goes, nil if nothing is recorded.
func (r *runRecording) stats() func() recording.Stats {
	if r == nil {
		return nil
	}
	return r.writer.Stats
}
