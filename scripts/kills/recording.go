package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/g2g-agent/g2g-agent/recording"
	"github.com/g2g-agent/g2g-agent/scripts/internal/measuring"
)

// killRecordings kills runs that record in one directory, and looks at what each has
// left.
func killRecordings(ctx context.Context, runs int) error {
	dir, err := os.MkdirTemp("", "g2g-kills")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary, err := measuring.Build(ctx, dir)
	if err != nil {
		return err
	}
	folder := filepath.Join(dir, "recording")
	var left remains
	for i := range runs {
		// The first states come after some 3 s.
		at, err := killed(ctx, demo(ctx, binary, "--record", folder), 3*time.Second+time.Duration(rand.Int64N(int64(5*time.Second))))
		if err == nil {
			err = left.look(ctx, folder, at)
		}
		if err != nil {
			return fmt.Errorf("run %d: %w", i, err)
		}
	}
	cmd := demo(ctx, binary, "--record", folder, "--duration-s", "2")
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("the run after %d that were killed: %w\n%s", runs, err, said)
	}
	err = left.all(ctx, folder)
	fmt.Printf("%d runs killed at random moments, and one that ended: %d recorded, %d seconds, of %d runs all that were over, of %d all but the last; "+
		"%d bytes of frames that were not whole\n", runs, len(left.seen), left.seconds, left.complete, left.inFlight, left.torn)
	return err
}

// remains is what runs have left.
type remains struct {
	seen     map[string]bool // run_ids
	seconds  int64
	complete int // runs of which every second that was over is there
	inFlight int // and of which the last one is missing
	torn     int64
}

// look reads what the run that was killed last, at a time, has left.
func (r *remains) look(ctx context.Context, folder string, at time.Time) error {
	reader, err := recording.OpenReader(folder)
	if err != nil {
		if r.seen == nil {
			return nil // the first one was killed before it began to record
		}
		return err
	}
	segments := reader.Segments()
	run := segments[len(segments)-1]
	if r.seen == nil {
		r.seen = map[string]bool{}
	}
	if r.seen[run.RunID] {
		return nil // killed before it began to record
	}
	r.seen[run.RunID] = true
	next := int64(0)
	options := recording.ReadOptions{RunID: run.RunID, Kinds: []recording.Kind{recording.KindStateHash}, Damaged: func(recording.Damage) {}}
	for entry, err := range reader.Lines(ctx, options) {
		if err != nil {
			return err
		}
		line, is := entry.Line.(*recording.StateHash)
		if !is {
			continue
		}
		if line.Second != next {
			return fmt.Errorf("second %d comes after %d", line.Second, next-1)
		}
		next++
	}
	r.seconds += next
	switch over := (at.UnixMilli() - run.StartMs) / 1000; {
	case next >= over:
		r.complete++
	case next == over-1:
		r.inFlight++
	default:
		return fmt.Errorf("%d seconds were over, %d are recorded", over, next)
	}
	return nil
}

// all verifies the whole directory: but for a frame that was being written, nothing is
// wrong with any segment.
func (r *remains) all(ctx context.Context, folder string) error {
	reader, err := recording.OpenReader(folder)
	if err != nil {
		return err
	}
	report, err := reader.Verify(ctx)
	if err != nil {
		return err
	}
	var faults []error
	for i, s := range report.Segments {
		r.torn += s.DamagedBytes
		if s.DamagedFrames > 1 || s.DamagedLines+s.Gaps+s.Faults > 0 || i == len(report.Segments)-1 && !s.EndedInOrder {
			faults = append(faults, fmt.Errorf("%s: %q", s.File, s.Findings))
		}
	}
	return errors.Join(faults...)
}
