package recording

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/klauspost/compress/zstd"
)

// output is the side of a writer that its goroutine is on.
type output struct {
	w         *Writer
	encoder   *zstd.Encoder
	retention retention
	number    int64    // of the next segment
	segment   *segment // that is written, nil: recording has stopped, or not begun
	ended     bool

	cannotDelete bool // which was logged

	lines   []byte // of the frame to come
	frame   []byte
	err     error                                 // of what was written since failure was asked
	columns struct{ tMs, powerMW, steps []int64 } // of the line to come
	marks   []byte
	frames  int64 // written by this run

	after *InForce // what was handled
	// full: the first state at or after each of these steps is to be written in full, and
	// the first from second fullAt on.
	full   []int64
	fullAt int64
	// unsynced are commands and events that are written, and kept until they are on the
	// disk; kept are those that wait for the recording to go on.
	unsynced, kept []byte
	syncDue        <-chan time.Time // while there are unsynced ones: steps may be far apart

	stopped   bool // since stoppedBy, tried again at retryAt
	stoppedBy error
	retryAt   time.Time
	gap       Gap // of seconds missing, not marked yet
	gapped    bool
	// toldCommands and toldEvents were lost and are told in marks of gaps.
	toldCommands, toldEvents uint64
}

func (o *output) init(w *Writer) error {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(true), zstd.WithSingleSegment(true))
	if err != nil {
		return err
	}
	o.w, o.encoder = w, encoder
	o.retention = retention{disk: w.disk, maxBytes: w.o.MaxBytes, maxAge: w.o.MaxAge, sealed: map[string]time.Time{}}
	o.number, err = o.retention.next()
	return err
}

// run writes until the end of the run.
func (o *output) run() {
	defer o.w.unlock()
	if err := o.open(0); err != nil {
		o.fail(err)
	}
	for !o.ended {
		if it, ok := o.w.queue.next(); ok {
			o.handle(it)
			continue
		}
		select {
		case <-o.w.queue.wake:
		case <-o.syncDue:
			o.sync()
			if err := o.failure(); err != nil {
				o.fail(err)
			}
		}
	}
}

func (o *output) handle(it item) {
	o.missing(it.gap)
	switch {
	case it.last:
		o.end(it.line.(*End))
	case it.second != nil:
		o.second(it.second, it.after)
		o.w.queue.done(it.second)
	default:
		o.line(it)
	}
}

// missing notes seconds that are not in the recording; a gap without a cause is none.
func (o *output) missing(gap Gap) {
	switch {
	case gap.Cause == "":
	case !o.gapped:
		o.gap, o.gapped = gap, true
	default:
		o.gap.LastSecond = gap.LastSecond
	}
}

// second writes a second, and ends the segment where one is due.
func (o *output) second(s *second, after *InForce) {
	o.after = after
	if o.segment == nil {
		o.drop(s)
		if !time.Now().Before(o.retryAt) {
			o.resume(s.number+1, o.seqAfter(s))
		}
		return
	}
	began := time.Now()
	if err := o.writeSecond(s); err != nil {
		o.fail(err)
		o.drop(s)
		return
	}
	took := time.Since(began)
	o.w.count(func(stats *Stats) {
		stats.Seconds++
		stats.SlowestSync = max(stats.SlowestSync, took)
	})
	o.marked()
	if o.segment.bytes >= o.segmentLimit() || s.number+1-o.segment.second >= maxSegmentS {
		o.rotate(s.number + 1)
	} else if o.retention.due() || s.number%retainEveryS == 0 {
		o.retain()
	}
}

// segmentLimit keeps several segments within the limit of the directory.
func (o *output) segmentLimit() int64 {
	if most := o.w.o.MaxBytes; most > 0 {
		return min(maxSegmentBytes, most/4)
	}
	return maxSegmentBytes
}

// seqAfter is the step after those of s.
func (o *output) seqAfter(s *second) int64 {
	if len(s.states) == 0 {
		return 0
	}
	return s.states[len(s.states)-1].Seq + 1
}

// drop counts a second that is not written while recording has stopped.
func (o *output) drop(s *second) {
	o.missing(Gap{FirstSecond: s.number, LastSecond: s.number, Cause: o.stoppedBy.Error()})
	o.w.count(func(stats *Stats) { stats.DroppedSeconds++ })
}

// line writes a command or event at once, or keeps it.
func (o *output) line(it item) {
	if it.after != nil {
		o.after = it.after
	}
	o.lines = append(it.line.AppendJSON(o.lines[:0]), '\n')
	if o.segment == nil {
		o.keep(it.line)
	} else {
		switch l := it.line.(type) {
		case *Command:
			o.full = append(o.full, l.Seq)
		case *Event:
			if it.after != nil {
				o.full = append(o.full, l.Seq)
			}
		}
		o.unsynced = append(o.unsynced, o.lines...)
		if o.syncDue == nil {
			o.syncDue = time.After(syncWithin)
		}
		o.flush()
		if it.synced != nil {
			o.sync()
		}
		if err := o.failure(); err != nil {
			o.fail(err)
		}
	}
	if it.synced != nil {
		var err error
		if o.stopped {
			err = fmt.Errorf("%w: %w", ErrNotRecorded, o.stoppedBy)
		}
		it.synced <- err
	}
}

// keep keeps the line that was made until recording goes on.
func (o *output) keep(l Line) {
	if len(o.kept)+len(o.lines) <= maxHeldBytes {
		o.kept = append(o.kept, o.lines...)
		return
	}
	o.w.count(func(stats *Stats) {
		if l.Kind() == KindCommand {
			stats.LostCommands++
		} else {
			stats.LostEvents++
		}
	})
}

// end ends the run. If recording has stopped, it is tried once more.
func (o *output) end(l *End) {
	o.ended = true
	if o.segment == nil {
		o.resume(SecondOf(o.w.header.DT, l.Seq+1), l.Seq+1)
	}
	if o.segment == nil {
		return
	}
	if o.gapped {
		o.add(o.gapEvent(l.Seq + 1))
	}
	l.Frames, l.DroppedSeconds = o.frames, int64(o.w.Stats().DroppedSeconds)
	o.add(l)
	o.flush()
	o.sync()
	if err := o.failure(); err != nil {
		o.fail(err)
		return
	}
	o.marked()
	if err := o.segment.file.Close(); err != nil {
		o.w.o.Log.Warn().Err(err).Msg("the recording is on the disk, and its file could not be closed")
	}
	o.segment = nil
}

// rotate ends the segment and begins the next.
func (o *output) rotate(second int64) {
	o.seal()
	if err := o.open(second); err != nil {
		o.fail(err)
	}
}

// seal closes the segment, all of which is on the disk.
func (o *output) seal() {
	o.retention.sealed[o.segment.name] = time.Now()
	if err := o.segment.file.Close(); err != nil {
		o.w.o.Log.Warn().Err(err).Str("segment", o.segment.name).Msg("a segment of the recording is on the disk, and could not be closed")
	}
	o.segment = nil
}

// open begins a segment with its header. Nothing is left of one that cannot be begun.
func (o *output) open(second int64) error {
	created, err := o.w.disk.create(SegmentName(o.number))
	for tries := 0; errors.Is(err, fs.ErrExist) && tries < 100; tries++ {
		o.number++
		created, err = o.w.disk.create(SegmentName(o.number))
	}
	if err != nil {
		return err
	}
	name := SegmentName(o.number)
	o.segment = &segment{file: created, name: name, second: second}
	h := o.w.header
	h.Segment, h.Second = o.number, second
	if second > 0 {
		h.InForce = o.after
		frames := o.frames
		h.Frames = &frames
	}
	o.lines = o.lines[:0]
	o.add(&h)
	o.flush()
	if err := o.failure(); err != nil {
		return err
	}
	if err := o.segment.sync(); err != nil {
		return err
	}
	if err := o.w.disk.sync(); err != nil {
		return err
	}
	o.number++
	o.fullAt = 0
	o.w.count(func(stats *Stats) { stats.Segments++ })
	o.retain()
	return nil
}

// retain deletes what is too much. What cannot be deleted stops no recording: a full disk
// does.
func (o *output) retain() {
	current := ""
	if o.segment != nil {
		current = o.segment.name
	}
	deleted, err := o.retention.apply(current)
	if err != nil && !o.cannotDelete {
		o.w.o.Log.Warn().Err(err).Msg("old segments of the recording cannot be deleted, it takes more than it should")
	}
	o.cannotDelete = err != nil
	o.w.count(func(stats *Stats) {
		stats.DeletedSegments += deleted
		stats.DirectoryBytes = o.retention.bytes
	})
}

// fail stops the recording: the segment ends where it is known to be on the disk.
func (o *output) fail(err error) {
	if s := o.segment; s != nil {
		// The disk has failed already: nothing of this can be relied on, and readers
		// take a torn end for what it is.
		o.frames -= s.frames - s.syncedFrames
		_ = s.file.Truncate(s.synced)
		_ = s.file.Close()
		if s.synced == 0 {
			_ = o.w.disk.remove(s.name)
		} else {
			o.retention.sealed[s.name] = time.Now()
		}
		o.segment = nil
	}
	o.kept = append(o.kept, o.unsynced...)
	o.unsynced, o.syncDue = o.unsynced[:0], nil
	o.retryAt = time.Now().Add(o.w.o.retryAfter)
	o.stoppedBy = err
	o.w.count(func(stats *Stats) { stats.Stopped, stats.StoppedBy = true, err.Error() })
	if o.stopped {
		return
	}
	o.stopped = true
	o.w.o.Log.Error().Err(err).Str("dir", o.w.o.Dir).Stringer("retry_every", o.w.o.retryAfter).Msg("recording has stopped, the run goes on")
	if o.w.o.OnStop != nil {
		o.w.o.OnStop(err)
	}
}

// resume goes on in a new segment, whose first second is to come, with the mark of what
// is missing, if the disk lets it.
func (o *output) resume(second, seq int64) {
	o.retain() // what is too old by now may be the room that is missing
	err := o.open(second)
	if err == nil {
		o.addKept()
		if o.gapped {
			o.add(o.gapEvent(seq))
		}
		o.flush()
		o.sync()
		err = o.failure()
	}
	if err != nil {
		o.fail(err)
		return
	}
	o.kept, o.stopped = nil, false
	o.w.count(func(stats *Stats) { stats.Stopped, stats.StoppedBy = false, "" })
	o.marked()
}

// gapEvent is the mark of missing seconds before step seq.
func (o *output) gapEvent(seq int64) *Event {
	stats := o.w.Stats()
	o.gap.LostCommands, o.gap.LostEvents = int64(stats.LostCommands-o.toldCommands), int64(stats.LostEvents-o.toldEvents)
	data, _ := json.Marshal(o.gap) // numbers and text always marshal
	return &Event{Seq: seq, ID: -1, WallTime: time.Now(), TimeS: o.w.header.DT.Times(seq), Topic: TopicGap, Data: data}
}

// marked: the mark of missing seconds, if there are any, is on the disk.
func (o *output) marked() {
	if !o.gapped {
		return
	}
	gap := o.gap
	o.gap, o.gapped = Gap{}, false
	o.toldCommands += uint64(gap.LostCommands)
	o.toldEvents += uint64(gap.LostEvents)
	o.w.count(func(stats *Stats) { stats.Gaps++ })
	o.w.o.Log.Warn().Int64("first_second", gap.FirstSecond).Int64("last_second", gap.LastSecond).Str("cause", gap.Cause).
		Msg("the recording goes on after a gap")
	if o.w.o.OnGap != nil {
		o.w.o.OnGap(gap)
	}
}
