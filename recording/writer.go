package recording

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/internal/atomicfile"
)

const (
	// maxQueued is how many whole seconds may wait for the disk.
	maxQueued = 4
	// maxHeldBytes is how much memory commands and events may take that wait for the disk.
	maxHeldBytes = 64 << 20
	// retryAfter is the time from a failure to the next attempt, in a new segment.
	retryAfter = time.Minute
	// syncWithin is how long a command or event may be written and not synced.
	syncWithin = time.Second
	// fullStateEveryS is the time between full states, in seconds of the run.
	fullStateEveryS = 10

	// DefaultMaxBytes is how much a directory may hold unless told otherwise.
	DefaultMaxBytes = 20_000_000_000
	// MinMaxBytes is the least limit of a directory that can be kept.
	MinMaxBytes = 1 << 20
)

// ErrInUse says that another program records in the directory.
var ErrInUse = errors.New("another program records there")

// ErrNotRecorded says that a command is not known to be on the disk.
var ErrNotRecorded = errors.New("not recorded")

// Options are where and how a [Writer] records.
type Options struct {
	// Dir is made if it is not there. Segments of earlier runs in it stay, and count.
	Dir string
	// MaxBytes is how much the segments may take together, at least [MinMaxBytes]; the
	// oldest are deleted to keep it, of earlier runs first. 0: no limit.
	MaxBytes int64
	// MaxAge is how old the end of a segment may be. 0: no limit.
	MaxAge time.Duration
	Log    zerolog.Logger
	// OnStop, if set, is told that recording stopped, and why; OnGap that it goes on, or that
	// the disk was too slow for some seconds. Both are called by the writer's goroutine, which
	// waits for them; the recording has the gap already.
	OnStop func(error)
	OnGap  func(Gap)

	// Of tests: another disk than the directory, another time than [retryAfter].
	disk       disk
	retryAfter time.Duration
}

// Stats is what a [Writer] has done so far.
type Stats struct {
	// Seconds, Frames and Bytes were written, in so many Segments; DeletedSegments went, of
	// whatever run, to keep the limits.
	Seconds, Frames, Bytes, Segments, DeletedSegments uint64
	// DirectoryBytes is what all segments of the directory take.
	DirectoryBytes int64
	// DroppedSeconds could not be written, in so many Gaps. LostCommands and LostEvents were
	// more than memory holds.
	DroppedSeconds, Gaps, LostCommands, LostEvents uint64
	// QueuedSeconds wait for the disk.
	QueuedSeconds int
	// Stopped: nothing is recorded, because of StoppedBy; it is tried again each minute.
	Stopped   bool
	StoppedBy string
	// SlowestSync is the longest that a second took to be on the disk.
	SlowestSync time.Duration
}

// Writer records one run. A goroutine of its own encodes, compresses and writes; nobody
// waits for it but [Writer.SyncCommand] and [Writer.Close].
//
// BeginStep, Power, ITL, Metrics and State are for the goroutine that steps; Command,
// Event, SyncCommand and Stats for any. What could not be written is counted and
// marked, and never ends a run.
type Writer struct {
	o      Options
	disk   disk
	lock   *os.File // nil in tests of other disks
	header Header
	steps  steps
	queue  queue
	out    output
	ended  chan struct{} // closed when the goroutine has ended

	mu    sync.Mutex
	stats Stats
}

// Open takes a directory for us alone and finds the number of the next segment. Its
// errors say what is wrong with the directory: it cannot be made or written in, or
// somebody else records there ([ErrInUse]).
func Open(o Options) (*Writer, error) {
	if o.MaxBytes != 0 && o.MaxBytes < MinMaxBytes || o.MaxAge < 0 {
		return nil, fmt.Errorf("recording in %s: the limits are %d bytes and %v, want 0 (none) or at least %d bytes, and no negative age", o.Dir, o.MaxBytes, o.MaxAge, MinMaxBytes)
	}
	w := &Writer{o: o, disk: o.disk}
	if o.retryAfter == 0 {
		w.o.retryAfter = retryAfter
	}
	w.queue.wake = make(chan struct{}, 1)
	if w.disk == nil {
		lock, err := takeDirectory(o.Dir)
		if err != nil {
			return nil, fmt.Errorf("recording in %s: %w", o.Dir, err)
		}
		w.lock, w.disk = lock, directory(o.Dir)
	}
	if err := w.out.init(w); err != nil {
		w.unlock()
		return nil, fmt.Errorf("recording in %s: %w", o.Dir, err)
	}
	return w, nil
}

// lockName is the file in a directory that is locked by who records there.
const lockName = ".recording.lock"

func takeDirectory(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, directoryMode); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, fileMode)
	if err != nil {
		return nil, withoutPath(err)
	}
	if err := atomicfile.Lock(lock); err != nil {
		_ = lock.Close() // nothing was written
		if errors.Is(err, atomicfile.ErrLocked) {
			return nil, fmt.Errorf("%w: give each its own directory", ErrInUse)
		}
		return nil, withoutPath(err)
	}
	return lock, nil
}

// withoutPath is an error without the name of a file that would only confuse.
func withoutPath(err error) error {
	if pathErr := (*fs.PathError)(nil); errors.As(err, &pathErr) {
		return fmt.Errorf("cannot write there: %w", pathErr.Err)
	}
	return err
}

func (w *Writer) unlock() {
	if w.lock != nil {
		_ = w.lock.Close() // nothing was written
	}
}

// Start begins the run: h is the header of its first segment, in which Segment, Second,
// InForce and ConfigSHA256 are the writer's to fill in. It comes before all other methods
// but Stats and Close. A disk that fails now is treated as one that fails later.
func (w *Writer) Start(h Header) {
	h.Format = Format
	w.header = h
	w.steps.init(w)
	w.ended = make(chan struct{})
	go func() {
		defer close(w.ended)
		w.out.run()
	}()
}

// Close ends the run: what is queued is written, and a line that says why it ended. It
// waits for that until ctx is over, and then leaves the rest to a disk that hangs. Its
// error says what is missing in the recording.
func (w *Writer) Close(ctx context.Context, reason string) error {
	if w.ended == nil {
		w.unlock()
		return nil
	}
	unfinished, lastSeq := w.steps.last()
	w.queue.end(unfinished, lastSeq, reason)
	select {
	case <-w.ended:
	case <-ctx.Done():
		return fmt.Errorf("recording in %s: the end is not on the disk: it does not answer: %w", w.o.Dir, ctx.Err())
	}
	s := w.Stats()
	if s.Stopped {
		return fmt.Errorf("recording in %s: its end is missing, %d seconds were not recorded: %s", w.o.Dir, s.DroppedSeconds, s.StoppedBy)
	}
	if s.DroppedSeconds > 0 {
		return fmt.Errorf("recording in %s: %d seconds in %d gaps were not recorded", w.o.Dir, s.DroppedSeconds, s.Gaps)
	}
	return nil
}

// Stats is what was done so far.
func (w *Writer) Stats() Stats {
	queued, dropped, commands, events := w.queue.counts()
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.stats
	s.QueuedSeconds = queued
	s.DroppedSeconds += dropped
	s.LostCommands += commands
	s.LostEvents += events
	return s
}

// count changes the statistics.
func (w *Writer) count(change func(*Stats)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(&w.stats)
}
