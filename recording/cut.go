package recording

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/klauspost/compress/zstd"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// ReasonCut is the reason of the [End] of what was cut out of a recording before the
// run's own end.
const ReasonCut = "cut"

// TopicApplied is the topic of the events of a recording that tell what takes effect from
// a step on.
const TopicApplied = "recording.applied"

// applied is the data of such an event.
type applied struct {
	ModelLabel   string `json:"model_label"`
	BatchSize    *int   `json:"batch_size"`
	ReplicaDelta *int   `json:"replica_delta"`
}

// ErrNothingThere is the error of a part of a recording that has nothing.
var ErrNothingThere = fmt.Errorf("%w: the recording has nothing of that time", datacenter.ErrInvalidInput)

// Cut writes what the options pick into a new directory, which appears when it is
// complete: segments of the same frames, each with a header from which it reads alone, and
// an end. Kinds are not looked at. It fails, wrapping [datacenter.ErrInvalidInput], if
// there is something at dir already, or nothing to be cut ([ErrNothingThere]).
func (r *Reader) Cut(ctx context.Context, o ReadOptions, dir string) (err error) {
	dir = filepath.Clean(dir) // "part/" is beside its like, too
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s is there already: name a directory that is not", datacenter.ErrInvalidInput, dir)
	}
	temporary := filepath.Join(filepath.Dir(dir), "."+filepath.Base(dir)+"."+rand.Text()+".tmp")
	if err := os.Mkdir(temporary, directoryMode); err != nil {
		return fmt.Errorf("%w: cut: %w", datacenter.ErrInvalidInput, err)
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(temporary) // the error before says more
		}
	}()
	c := &cutter{dir: temporary, options: o}
	if err := c.cut(ctx, r); err != nil {
		return fmt.Errorf("cut into %s: %w", dir, err)
	}
	if err := syncDirectory(temporary); err != nil {
		return err
	}
	if err := os.Rename(temporary, dir); err != nil {
		return err
	}
	return syncDirectory(filepath.Dir(dir))
}

// CutTo writes what the options pick of one run, which they name, to w: a single segment
// of the same frames that reads alone, with the header of the first and an end. Nothing
// was written where it fails with [ErrNothingThere]. Kinds are not looked at.
func (r *Reader) CutTo(ctx context.Context, o ReadOptions, w io.Writer) error {
	if o.RunID == "" {
		return fmt.Errorf("%w: cut: name the run", datacenter.ErrInvalidInput)
	}
	c := &cutter{out: w, options: o}
	return c.cut(ctx, r)
}

func syncDirectory(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// cutter writes the segments of a cut.
type cutter struct {
	dir     string
	options ReadOptions
	encoder *zstd.Encoder
	out     io.Writer // of one segment for all; nil: each has a file
	file    *os.File
	number  int64    // of the segment that comes next
	source  *Segment // that the file is of
	header  *Header  // of the source, renewed as things take effect
	unknown *Segment // was left out
	fresh   bool     // nothing of the source was written yet
	frames  int64    // of the run, so far
	end     *End     // of the source
	lastSeq int64
}

func (c *cutter) cut(ctx context.Context, r *Reader) (err error) {
	if c.encoder, err = newEncoder(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.encoder.Close(), c.closeFile()) }()
	o := c.options
	o.lead = true // what has taken effect before
	for at, err := range r.frames(ctx, o) {
		if err != nil {
			return err
		}
		if err := c.frame(at); err != nil {
			return err
		}
	}
	if err := c.endRun(); err != nil {
		return err
	}
	if c.number == 0 {
		return ErrNothingThere
	}
	return nil
}

func newEncoder() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(true), zstd.WithSingleSegment(true))
}

// frame takes the next frame of the source.
func (c *cutter) frame(at *readFrame) error {
	if at.header == nil {
		return c.leaveOut(at)
	}
	if c.header == nil || c.header.RunID != at.header.RunID {
		if err := c.endRun(); err != nil {
			return err
		}
		c.header, c.end, c.frames, c.lastSeq = nil, nil, 0, -1
	}
	if c.source != at.segment {
		header := *at.header
		if header.InForce != nil {
			header.InForce = &InForce{slices.Clone(header.InForce.Models)}
		}
		c.source, c.header, c.fresh = at.segment, &header, true
	}
	if at.isHeader {
		return nil
	}
	wanted := at.hasSecond && c.options.picks(c.header, at.second)
	var frame []byte
	var err error
	if noTurn := c.options.inTurn(func() { frame, err = c.read(at, wanted) }); noTurn != nil {
		return noTurn
	}
	if err != nil || !wanted || frame == nil {
		return err
	}
	if c.fresh {
		if err := c.openFile(at.second); err != nil {
			return err
		}
	}
	return c.write(frame)
}

// leaveOut tells, once, of a segment that is of no run that is known.
func (c *cutter) leaveOut(at *readFrame) error {
	if c.unknown == at.segment {
		return nil
	}
	c.unknown = at.segment
	d := Damage{File: at.segment.Name, Missing: true, Err: errors.New("it has no header, nor has another segment of its run: all of it is left out")}
	if c.options.Damaged == nil {
		return errors.New(d.String())
	}
	c.options.Damaged(d)
	return nil
}

// read notes what a frame's lines mean for headers and the end, and returns the frame as
// it is to be written: without an end, nil if nothing is left.
func (c *cutter) read(at *readFrame, wanted bool) ([]byte, error) {
	var others []byte
	ends := false
	for number, raw := range frameLines(at.content) {
		entry, err := entryOf(at, number, raw, []Kind{KindEvent, KindState, KindStateHash, KindEnd})
		if err != nil {
			d := Damage{File: at.segment.Name, Offset: at.offset, Frame: at.number, Line: number, Err: err}
			if c.options.Damaged == nil {
				return nil, errors.New(d.String())
			}
			if wanted {
				c.options.Damaged(d)
			}
		}
		if entry != nil {
			if l, is := entry.Line.(*End); is {
				ends = true
				if wanted {
					c.end = l
				}
				continue
			}
			c.note(entry.Line, wanted)
		}
		others = append(others, raw...)
	}
	switch {
	case !ends:
		return at.raw, nil
	case len(others) == 0:
		return nil, nil
	}
	return c.encoder.EncodeAll(others, nil), nil
}

func (c *cutter) note(line Line, wanted bool) {
	switch l := line.(type) {
	case *Event:
		if c.fresh && !wanted {
			c.applied(l)
		}
	case *State:
		c.setBase(l.State)
	case *StateHash:
		if wanted {
			c.lastSeq = l.Seq + int64(len(l.Hash)) - 1
		}
	}
}

// setBase takes from a state what is in force at the start of a run, of which the header
// does not tell.
func (c *cutter) setBase(s *datacenter.State) {
	if c.header.InForce != nil || !c.fresh {
		return
	}
	f := &InForce{}
	for i := range s.Models {
		f.Models = append(f.Models, ModelInForce{ModelLabel: s.Models[i].ModelLabel, BatchSize: s.Models[i].BatchSize})
	}
	c.header.InForce = f
}

// applied notes what takes effect before the first second of a file.
func (c *cutter) applied(e *Event) {
	var a applied
	if e.Topic != TopicApplied || json.Unmarshal(e.Data, &a) != nil || c.header.InForce == nil {
		return
	}
	for i := range c.header.InForce.Models {
		m := &c.header.InForce.Models[i]
		if m.ModelLabel != a.ModelLabel {
			continue
		}
		if a.BatchSize != nil {
			m.BatchSize = *a.BatchSize
		}
		if a.ReplicaDelta != nil {
			m.ReplicaDelta += *a.ReplicaDelta
		}
	}
}

// openFile begins the next segment, whose first second this is.
func (c *cutter) openFile(second int64) error {
	if err := c.closeFile(); err != nil {
		return err
	}
	if c.fresh = false; c.out != nil && c.number > 0 {
		return nil
	}
	if c.out == nil {
		if err := c.createFile(); err != nil {
			return err
		}
	}
	header := *c.header
	if second <= header.Second && header.Second == 0 {
		header.InForce = nil
	}
	if second > header.Second && header.InForce != nil {
		// When leases end is known where a segment begins, and no more after that.
		for i := range header.InForce.Models {
			m := &header.InForce.Models[i]
			m.BatchSizeUntilS, m.LeasedReplicaDelta, m.ReplicaUntilS, m.Overdue = nil, 0, nil, false
		}
	}
	frames := c.frames
	header.Segment, header.Second, header.Frames = c.number, max(header.Second, second), &frames
	c.number++
	return c.write(c.encoder.EncodeAll(append(header.AppendJSON(nil), '\n'), nil))
}

func (c *cutter) createFile() error {
	file, err := os.OpenFile(filepath.Join(c.dir, SegmentName(c.number)), os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return err
	}
	c.file = file
	return nil
}

func (c *cutter) write(frame []byte) error {
	c.frames++
	w := c.out
	if w == nil {
		w = c.file
	}
	_, err := w.Write(frame)
	return err
}

// endRun writes the end of the run that was cut.
func (c *cutter) endRun() error {
	if c.frames == 0 {
		return c.closeFile()
	}
	end := &End{Seq: c.lastSeq, Reason: ReasonCut, Frames: c.frames}
	if c.end != nil {
		end.Seq, end.Reason, end.DroppedSeconds = c.end.Seq, c.end.Reason, c.end.DroppedSeconds
	}
	if err := c.write(c.encoder.EncodeAll(append(end.AppendJSON(nil), '\n'), nil)); err != nil {
		return err
	}
	c.frames = 0
	return c.closeFile()
}

func (c *cutter) closeFile() error {
	if c.file == nil {
		return nil
	}
	file := c.file
	c.file = nil
	if err := file.Sync(); err != nil {
		return errors.Join(err, file.Close())
	}
	return file.Close()
}
