package recording

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/excerpt"
)

// Segment is one file of a recording.
type Segment struct {
	Name   string
	Number int64
	Bytes  int64 // when the recording was opened
	// Modified is when the file was written last, by then.
	Modified time.Time
	// Of its header; empty and 0 where that is damaged.
	RunID           string
	Second, StartMs int64
	HasHeader       bool
}

// Reader reads a recording: a directory of segments, in the order of their numbers. It
// may be read while it is written, up to what is whole. It is safe for concurrent use.
type Reader struct {
	dir      string
	segments []Segment
}

// OpenReader lists the segments of a recording and reads their headers. Other files are left
// alone. It fails, wrapping [datacenter.ErrInvalidInput], for what is no directory, and
// for one without segments, or with one of a later format.
func OpenReader(dir string) (*Reader, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("%w: recording: %w", datacenter.ErrInvalidInput, err)
	}
	decoder, err := newFrameDecoder()
	if err != nil {
		return nil, err
	}
	defer decoder.close()
	r := &Reader{dir: dir}
	for _, entry := range entries {
		number, is := SegmentNumber(entry.Name())
		if !is || entry.IsDir() {
			continue
		}
		segment, err := r.openSegment(entry.Name(), number, decoder)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the oldest one was deleted just now
		}
		if err != nil {
			return nil, err
		}
		r.segments = append(r.segments, segment)
	}
	if len(r.segments) == 0 {
		return nil, fmt.Errorf("%w: recording: %s has no segments such as 00000000%s", datacenter.ErrInvalidInput, dir, segmentEnding)
	}
	slices.SortFunc(r.segments, func(a, b Segment) int { return int(a.Number - b.Number) })
	return r, nil
}

// errLaterFormat is the error of a header of a later version.
var errLaterFormat = errors.New("a later version of g2g-agent wrote it")

func (r *Reader) openSegment(name string, number int64, decoder *frameDecoder) (Segment, error) {
	segment := Segment{Name: name, Number: number}
	path := filepath.Join(r.dir, name)
	info, err := os.Stat(path) // before it is opened: to open a FIFO waits
	if err != nil {
		return segment, fmt.Errorf("recording: %w", err)
	}
	if !info.Mode().IsRegular() {
		return segment, fmt.Errorf("%w: recording: %s is no regular file", datacenter.ErrInvalidInput, path)
	}
	f, err := os.Open(path)
	if err != nil {
		return segment, fmt.Errorf("recording: %w", err)
	}
	defer f.Close()
	segment.Bytes, segment.Modified = info.Size(), info.ModTime()
	first, _, err := newFrameScanner(f, decoder).next()
	switch {
	case errors.Is(err, io.EOF) || err == nil && first == nil:
		return segment, nil // whoever reads it on is told
	case err != nil:
		return segment, fmt.Errorf("%s: %w", path, err)
	}
	header, err := headerIn(first.content)
	if errors.Is(err, errLaterFormat) {
		return segment, fmt.Errorf("%w: %s: %w", datacenter.ErrInvalidInput, path, err)
	}
	if err == nil {
		segment.HasHeader = true
		segment.RunID, segment.Second, segment.StartMs = header.RunID, header.Second, header.StartMs
	}
	return segment, nil
}

// headerIn reads a frame that has a header.
func headerIn(content []byte) (*Header, error) {
	line, _, _ := strings.Cut(string(content), "\n")
	parsed, err := ParseLine([]byte(line))
	if err != nil {
		var later struct {
			Kind   Kind  `json:"kind"`
			Format int64 `json:"format"`
		}
		if json.Unmarshal([]byte(line), &later) == nil && later.Kind == KindHeader && later.Format > Format {
			return nil, fmt.Errorf("%w: %w", errLaterFormat, err)
		}
		return nil, err
	}
	header, is := parsed.(*Header)
	if !is {
		return nil, fmt.Errorf("a line of kind %s stands where the header should", excerpt.Quote(string(parsed.Kind()), 40))
	}
	return header, nil
}

// Dir is the recording's directory.
func (r *Reader) Dir() string { return r.dir }

// Segments are the recording's files, in order.
func (r *Reader) Segments() []Segment { return slices.Clone(r.segments) }

// borrowedFrom is the segment whose header holds for segment i, which has none: the
// next, if that one goes on with an earlier run, else the one before, whose run ours is
// unless a run of its own has only the damaged segment. It is -1 where there is none.
func (r *Reader) borrowedFrom(i int) int {
	next := i + 1
	if next < len(r.segments) && r.segments[next].HasHeader && r.segments[next].Second > 0 && r.segments[next].Number == r.segments[i].Number+1 {
		return next
	}
	for before := i - 1; before >= 0; before-- {
		if r.segments[before].HasHeader {
			return before
		}
	}
	return -1
}

// secondOf is the second of the run that a line belongs to, false for a line of none or
// where the header that tells the length of a step is not known.
func secondOf(line Line, h *Header) (int64, bool) {
	switch l := line.(type) {
	case *Header:
		return l.Second, true
	case *Power:
		return l.Second, true
	case *StateHash:
		return l.Second, true
	case *ITL:
		return secondOfStep(l.Seq, h)
	case *Metrics:
		return secondOfStep(l.Step, h)
	case *Command:
		return secondOfStep(l.Seq, h)
	case *Event:
		return secondOfStep(l.Seq, h)
	case *State:
		return secondOfStep(l.State.Seq, h)
	case *End:
		return secondOfStep(max(l.Seq, 0), h)
	}
	return 0, false
}

func secondOfStep(step int64, h *Header) (int64, bool) {
	if h == nil {
		return 0, false
	}
	return SecondOf(h.DT, step), true
}
