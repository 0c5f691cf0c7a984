package recording

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"slices"
)

// Entry is a line of a recording, and where it stands.
type Entry struct {
	Line Line
	// Raw is the line as it stands in the file, without its newline. It holds until the
	// next entry.
	Raw []byte
	// Header is that of the run, nil where it is damaged and no other segment has it.
	Header *Header
	// File is the segment's name; Frame counts its frames from 0, Number the frame's lines
	// from 1.
	File          string
	Frame, Number int
}

// Second is the second of the run that the line is of, false for a line of none or if
// the header is not known.
func (e *Entry) Second() (int64, bool) { return secondOf(e.Line, e.Header) }

var errNoNewline = errors.New("the line does not end in a newline")

// Lines yields the lines that the options pick, in the order in which they stand, with a
// frame at a time in memory. Of every segment that is read the header comes first, if
// kinds allow it, whatever its second. The first error is the last thing yielded; what is
// damaged is no error where [ReadOptions.Damaged] is told of it.
func (r *Reader) Lines(ctx context.Context, o ReadOptions) iter.Seq2[*Entry, error] {
	return func(yield func(*Entry, error) bool) {
		damaged := func(at *readFrame, number int, err error) error {
			d := Damage{File: at.segment.Name, Offset: at.offset, Frame: at.number, Line: number, Err: err}
			if at.hasSecond {
				d.After, d.Before = &at.second, &at.second
			}
			if o.Damaged == nil {
				return errors.New(d.String())
			}
			o.Damaged(d)
			return nil
		}
		for at, err := range r.frames(ctx, o) {
			if err != nil {
				yield(nil, err)
				return
			}
			for number, raw := range frameLines(at.content) {
				if kind, known := KindOf(raw); known && len(o.Kinds) > 0 && !slices.Contains(o.Kinds, kind) && bytes.HasSuffix(raw, []byte("\n")) {
					continue // without a turn
				}
				var entry *Entry
				var err error
				if noTurn := o.inTurn(func() { entry, err = entryOf(at, number, raw, o.Kinds) }); noTurn != nil {
					yield(nil, noTurn)
					return
				}
				if err != nil {
					if err := damaged(at, number, err); err != nil {
						yield(nil, err)
						return
					}
					continue
				}
				if entry != nil && !yield(entry, nil) {
					return
				}
			}
		}
	}
}

// frameLines yields the lines of a frame, with their newlines, and their numbers from 1.
func frameLines(content []byte) iter.Seq2[int, []byte] {
	return func(yield func(int, []byte) bool) {
		for number := 1; len(content) > 0; number++ {
			end := bytes.IndexByte(content, '\n') + 1
			if end == 0 {
				end = len(content)
			}
			if !yield(number, content[:end]) {
				return
			}
			content = content[end:]
		}
	}
}

// entryOf parses a line, nil if it is of a kind that is not wanted.
func entryOf(at *readFrame, number int, raw []byte, kinds []Kind) (*Entry, error) {
	raw, whole := bytes.CutSuffix(raw, []byte("\n"))
	if !whole {
		return nil, errNoNewline
	}
	if kind, known := KindOf(raw); known && len(kinds) > 0 && !slices.Contains(kinds, kind) {
		return nil, nil
	}
	line, err := ParseLine(raw)
	if err != nil {
		return nil, err
	}
	if len(kinds) > 0 && !slices.Contains(kinds, line.Kind()) {
		return nil, nil
	}
	return &Entry{Line: line, Raw: raw, Header: at.header, File: at.segment.Name, Frame: at.number, Number: number}, nil
}
