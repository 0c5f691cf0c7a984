package recording

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
)

// ReadOptions say what of a recording is read.
type ReadOptions struct {
	// RunID picks one run, all if it is empty.
	RunID string
	// FromMs and ToMs pick whole seconds of runs: those that begin at FromMs or later and
	// before ToMs, in Unix milliseconds by the runs' own clocks. ToMs 0 is no end.
	FromMs, ToMs int64
	// Kinds are those of the lines wanted, all if it is empty. Others are not parsed.
	Kinds []Kind
	// Damaged is told of everything that was left out since it cannot be read, in order
	// between the lines. Without it, the first damage is an error.
	Damaged func(Damage)
	// Turn, if not nil, is given the work of reading each frame, yielded or not, and each
	// line, and does it when there is time for it: an error of its own ends the reading.
	Turn func(work func()) error
	// pass, if not nil, says how many frames are passed over, undecoded, before the next.
	pass func() int
	// lead: frames before FromMs are yielded too, of segments that are read.
	lead bool
}

// slackSeconds is how far apart lines of a second can be: the writer's queue is shorter,
// and commands and events go around it.
const slackSeconds = 30

const msPerSecond = 1000

// picks reports whether the second of a run is wanted.
func (o *ReadOptions) picks(h *Header, second int64) bool {
	atMs := h.StartMs + msPerSecond*second
	return atMs >= o.FromMs && (o.ToMs == 0 || atMs < o.ToMs)
}

// inTurn does some of the work of reading in a turn.
func (o *ReadOptions) inTurn(work func()) error {
	if o.Turn == nil {
		work()
		return nil
	}
	return o.Turn(work)
}

func (o *ReadOptions) bounded() bool { return o.FromMs != 0 || o.ToMs != 0 }

// readFrame is a whole frame and where it is. It holds until the next one is read.
type readFrame struct {
	*frame
	segment *Segment
	// header is that of the run, nil where it is damaged and no other segment has it.
	header *Header
	// second of the run that its lines are of, if hasSecond.
	second    int64
	hasSecond bool
	isHeader  bool
	isSecond  bool // it has the hashes of a second's steps
}

// frameReader goes through the frames of a recording.
type frameReader struct {
	*Reader
	options ReadOptions
	decoder *frameDecoder
	yield   func(*readFrame, error) bool
	header  *Header // in the segment that is read
	last    *int64  // the second read last, of the same run
	pending []Damage
}

// errStopped ends a walk without an error of its own.
var errStopped = errors.New("the reader has enough")

// errSegmentDone says that the rest of a segment is after what is wanted.
var errSegmentDone = errors.New("the rest of the segment is not wanted")

// frames yields the frames that the options pick, and the headers of all segments that
// are read for them. The first error is the last thing yielded.
func (r *Reader) frames(ctx context.Context, o ReadOptions) iter.Seq2[*readFrame, error] {
	return func(yield func(*readFrame, error) bool) {
		decoder, err := newFrameDecoder()
		if err != nil {
			yield(nil, err)
			return
		}
		defer decoder.close()
		f := &frameReader{Reader: r, options: o, decoder: decoder, yield: yield}
		for i := range r.segments {
			if !f.wanted(i) {
				f.last = nil
				continue
			}
			if err = f.segment(ctx, i); err != nil && !errors.Is(err, errSegmentDone) {
				break
			}
			err = nil
		}
		if err == nil {
			err = f.report(nil)
		}
		if err != nil && !errors.Is(err, errStopped) {
			yield(nil, err)
		}
	}
}

// wanted tells by the headers alone whether a segment can have what the options pick.
func (f *frameReader) wanted(i int) bool {
	s := &f.segments[i]
	if !s.HasHeader {
		from := f.borrowedFrom(i)
		return from < 0 || f.options.RunID == "" || f.segments[from].RunID == f.options.RunID
	}
	if f.options.RunID != "" && s.RunID != f.options.RunID {
		return false
	}
	// A segment that begins after a gap has the gap's commands and events first, however
	// old. It is the next one only that can have some of the seconds wanted.
	late := func(s *Segment) bool {
		return s.StartMs+msPerSecond*(s.Second-slackSeconds) >= f.options.ToMs
	}
	if i > 0 && f.options.ToMs != 0 && late(s) {
		if before := &f.segments[i-1]; before.HasHeader && before.RunID == s.RunID && late(before) {
			return false
		}
	}
	if i+1 < len(f.segments) {
		next := &f.segments[i+1]
		if next.HasHeader && next.RunID == s.RunID && next.StartMs+msPerSecond*(next.Second+slackSeconds) < f.options.FromMs {
			return false
		}
	}
	return true
}

func (f *frameReader) segment(ctx context.Context, i int) error {
	s := &f.segments[i]
	path := filepath.Join(f.dir, s.Name)
	if i > 0 && f.segments[i-1].Number+1 != s.Number {
		f.pend(Damage{File: s.Name, Missing: true, Err: fmt.Errorf("the segments from %08d to %08d before it are missing", f.segments[i-1].Number+1, s.Number-1)})
	}
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		f.pend(Damage{File: s.Name, Missing: true, Err: errors.New("it was deleted while the recording was read")})
		return nil
	}
	if err != nil {
		return fmt.Errorf("recording: %w", err)
	}
	defer file.Close()
	if !s.HasHeader {
		if err := f.borrow(i); err != nil {
			return err
		}
	}
	scanner := newFrameScanner(file, f.decoder)
	for first := true; ; first = false {
		if err := ctx.Err(); err != nil {
			return err
		}
		found, part, err := f.next(scanner)
		if first && !s.HasHeader && (found != nil || errors.Is(err, io.EOF)) {
			f.pend(Damage{File: s.Name, Frame: 0, Missing: true, Err: noHeader(found)})
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("%s: %w", path, err)
		case part != nil:
			f.pend(Damage{
				File: s.Name, Offset: part.offset, Bytes: part.bytes, Frames: part.frames, Frame: part.number,
				Cut: part.cut, Err: part.reason,
			})
			continue
		}
		if err := f.take(s, found); err != nil {
			return err
		}
	}
}

// next has the scanner find and read the next frame, in a turn.
func (f *frameReader) next(scanner *frameScanner) (found *frame, part *damagedPart, err error) {
	passed := 0
	if f.options.pass != nil {
		passed = f.options.pass()
	}
	noTurn := f.options.inTurn(func() {
		scanner.pass(passed)
		found, part, err = scanner.next()
	})
	if noTurn != nil {
		return nil, nil, noTurn
	}
	return found, part, err
}

// noHeader says of a file that its first frame, which can be read, is no header, or that
// there is none.
func noHeader(first *frame) error {
	if first == nil {
		return errors.New("it is empty")
	}
	if _, err := headerIn(first.content); err != nil {
		return fmt.Errorf("its header is missing: %w", err)
	}
	return errors.New("its header was written only now")
}

// borrow takes the header of another segment for one that has none.
func (f *frameReader) borrow(i int) error {
	from := f.borrowedFrom(i)
	if from < 0 {
		f.header, f.last = nil, nil
		return nil
	}
	header, err := f.readHeader(from)
	if err != nil {
		return err
	}
	f.begin(header)
	return nil
}

// readHeader reads the header of a segment that had one.
func (f *frameReader) readHeader(i int) (*Header, error) {
	path := filepath.Join(f.dir, f.segments[i].Name)
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("recording: %w", err)
	}
	defer file.Close()
	found, _, err := newFrameScanner(file, f.decoder).next()
	if err == nil && found == nil {
		err = errors.New("its header can no longer be read")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	header, err := headerIn(found.content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return header, nil
}

// begin goes on with a segment that has this header.
func (f *frameReader) begin(header *Header) {
	if f.header == nil || f.header.RunID != header.RunID {
		f.last = nil
	}
	f.header = header
}

// take hands a frame on, after what is damaged before it.
func (f *frameReader) take(s *Segment, found *frame) error {
	read := &readFrame{frame: found, segment: s}
	if kind, _ := KindOf(found.content); kind == KindHeader {
		if header, err := headerIn(found.content); err == nil {
			read.isHeader = true
			if f.header == nil || f.header.RunID != header.RunID {
				if err := f.report(nil); err != nil { // it is of the run before
					return err
				}
			}
			f.begin(header)
		}
	}
	read.header = f.header
	read.second, read.hasSecond, read.isSecond = frameSecond(found.content, f.header)
	if read.hasSecond {
		if err := f.report(&read.second); err != nil {
			return err
		}
		if !read.isHeader && (f.last == nil || *f.last < read.second) {
			f.last = &read.second
		}
	}
	if f.options.ToMs != 0 && read.isSecond && f.header != nil && f.header.StartMs+msPerSecond*(read.second-slackSeconds) >= f.options.ToMs {
		return errSegmentDone
	}
	if !read.isHeader && f.options.bounded() && !f.options.lead && (!read.hasSecond || f.header == nil || !f.options.picks(f.header, read.second)) {
		return nil
	}
	if !f.yield(read, nil) {
		return errStopped
	}
	return nil
}

// frameSecond is the second that the lines of a frame are of: that of its state_hash,
// which isSecond says it has, else of its first line.
func frameSecond(content []byte, h *Header) (second int64, known, isSecond bool) {
	first, _, _ := bytes.Cut(content, []byte("\n"))
	rest := content
	for len(rest) > 0 {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte("\n"))
		if kind, _ := KindOf(line); kind == KindStateHash {
			first, isSecond = line, true
			break
		}
	}
	line, err := ParseLine(first)
	if err != nil {
		return 0, false, false
	}
	second, known = secondOf(line, h)
	return second, known, isSecond
}

// pend keeps a damage until it is known what comes after it.
func (f *frameReader) pend(d Damage) {
	d.After = f.last
	f.pending = append(f.pending, d)
}

// report tells of the damages before the second that comes next, nil for none.
func (f *frameReader) report(before *int64) error {
	for _, d := range f.pending {
		d.Before = before
		if f.outside(&d) {
			continue
		}
		if f.options.Damaged == nil {
			return fmt.Errorf("recording %s: %s", f.dir, d)
		}
		f.options.Damaged(d)
	}
	f.pending = f.pending[:0]
	return nil
}

// outside tells that a damage is for certain not within what is wanted.
func (f *frameReader) outside(d *Damage) bool {
	if f.header == nil || !f.options.bounded() {
		return false
	}
	at := func(second int64) int64 { return f.header.StartMs + msPerSecond*second }
	return d.Before != nil && at(*d.Before) < f.options.FromMs || f.options.ToMs != 0 && d.After != nil && at(*d.After) >= f.options.ToMs
}
