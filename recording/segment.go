package recording

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// maxSegmentBytes and maxSegmentS end a segment.
	maxSegmentBytes = 64 << 20
	maxSegmentS     = 3600
	// retainEveryS is the time between looks at the age of segments, in seconds of the run.
	retainEveryS = 60
)

const segmentEnding = ".jsonl.zst"

// Recordings say who commanded what from where, and have the config: they are not for
// everybody on a host to read. A stricter umask makes them stricter.
const (
	fileMode      = 0o640
	directoryMode = 0o750
)

// SegmentName is the name of the file of segment number.
func SegmentName(number int64) string { return fmt.Sprintf("%08d%s", number, segmentEnding) }

// SegmentNumber is the number of the segment that a file of that name is, false for
// any other file.
func SegmentNumber(name string) (number int64, ok bool) {
	number, err := strconv.ParseInt(strings.TrimSuffix(name, segmentEnding), 10, 64)
	return number, err == nil && number >= 0 && SegmentName(number) == name
}

// disk is what a writer needs of a directory.
type disk interface {
	// create makes a file that is not there yet.
	create(name string) (file, error)
	// list has what is called like a segment.
	list() ([]stored, error)
	remove(name string) error
	// sync makes created and removed names durable.
	sync() error
}

// file is what a writer needs of a segment's file.
type file interface {
	Write([]byte) (int, error)
	Truncate(bytes int64) error
	// sync makes what was written durable.
	sync() error
	Close() error
}

// stored is a file of a directory.
type stored struct {
	name     string
	bytes    int64
	modified time.Time
	regular  bool
}

// directory is a disk by its path.
type directory string

func (d directory) create(name string) (file, error) {
	f, err := os.OpenFile(filepath.Join(string(d), name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, fileMode)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (d directory) list() ([]stored, error) {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return nil, err
	}
	var all []stored
	for _, e := range entries {
		if _, is := SegmentNumber(e.Name()); !is {
			continue // of many foreign files, none is looked at
		}
		info, err := e.Info()
		if err != nil {
			continue // it has gone meanwhile
		}
		all = append(all, stored{e.Name(), info.Size(), info.ModTime(), info.Mode().IsRegular()})
	}
	return all, nil
}

func (d directory) remove(name string) error { return os.Remove(filepath.Join(string(d), name)) }

func (d directory) sync() error {
	f, err := os.Open(string(d))
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

type osFile struct{ *os.File }

func (f osFile) sync() error {
	if err := syncData(f.File); err != nil {
		return &fs.PathError{Op: "fdatasync", Path: f.Name(), Err: err}
	}
	return nil
}

// segment is the one that is written.
type segment struct {
	file   file
	name   string
	second int64 // the first it may have lines of
	// bytes and frames were written; synced and syncedFrames of them are known to be on
	// the disk.
	bytes, frames, synced, syncedFrames int64
}

// write appends a frame.
func (s *segment) write(frame []byte) error {
	n, err := s.file.Write(frame)
	s.bytes += int64(n)
	if err == nil {
		s.frames++
	}
	return err
}

func (s *segment) sync() error {
	if err := s.file.sync(); err != nil {
		return err
	}
	s.synced, s.syncedFrames = s.bytes, s.frames
	return nil
}

// retention deletes the oldest segments while a directory holds too much.
type retention struct {
	disk     disk
	maxBytes int64
	maxAge   time.Duration
	// sealed has when this run's segments ended. The wall clock, which files have, may step.
	sealed map[string]time.Time
	bytes  int64 // of all segments, as far as is known
}

// next is the number after all that there are.
func (r *retention) next() (number int64, err error) {
	all, err := r.disk.list()
	if err != nil {
		return 0, withoutPath(err)
	}
	for _, f := range all {
		if n, is := SegmentNumber(f.name); is {
			number = max(number, n+1)
			r.bytes += f.bytes
		}
	}
	return number, nil
}

// due: there may be something to delete.
func (r *retention) due() bool { return r.maxBytes > 0 && r.bytes > r.maxBytes }

// apply deletes what is too much, never the current segment and never anything else than
// segments.
func (r *retention) apply(current string) (deleted uint64, err error) {
	all, err := r.disk.list()
	if err != nil {
		return 0, err
	}
	all = slices.DeleteFunc(all, func(f stored) bool {
		_, is := SegmentNumber(f.name)
		return !is || !f.regular
	})
	slices.SortFunc(all, func(a, b stored) int {
		x, _ := SegmentNumber(a.name)
		y, _ := SegmentNumber(b.name)
		return int(x - y)
	})
	r.bytes = 0
	for _, f := range all {
		r.bytes += f.bytes
	}
	for _, f := range all {
		tooOld := r.maxAge > 0 && r.age(f) > r.maxAge
		if f.name == current || !r.due() && !tooOld {
			break
		}
		if err := r.disk.remove(f.name); err != nil {
			return deleted, err
		}
		delete(r.sealed, f.name)
		r.bytes -= f.bytes
		deleted++
	}
	if deleted > 0 {
		err = r.disk.sync()
	}
	return deleted, err
}

// age is the time since a segment ended.
func (r *retention) age(f stored) time.Duration {
	if at, ours := r.sealed[f.name]; ours {
		return time.Since(at)
	}
	return time.Since(f.modified)
}
