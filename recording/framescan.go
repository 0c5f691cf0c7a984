package recording

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// maxWasted bounds, in bytes, what is decoded or looked at in vain within a segment: a
// file made for it could have each of its bytes begin a frame that is found to be none
// only at its end.
const maxWasted = 4 << 30

// frame is a whole frame of a segment. Raw and content hold until the next one is read.
type frame struct {
	offset  int64 // in its file
	number  int   // in its file, from 0, damaged ones counted as far as they can be told apart
	raw     []byte
	content []byte
}

// damagedPart is a part of a segment that holds no readable frame.
type damagedPart struct {
	offset, bytes int64
	number        int   // of its first frame in the file, from 0
	frames        int   // frames that begin in it, as far as that can be told
	cut           bool  // it goes to the end of the file, within a frame
	reason        error // what is wrong with its first frame
}

// frameScanner finds the frames of a segment one after the other, and what lies between
// them where it is damaged.
type frameScanner struct {
	in      slidingWindow
	decoder *frameDecoder
	frames  int
	wasted  int64
	budget  int64  // of wasted
	used    int    // bytes of the frame read last, still in the window
	found   *frame // behind a damaged part, which is returned before it
}

func newFrameScanner(in io.Reader, decoder *frameDecoder) *frameScanner {
	return &frameScanner{in: slidingWindow{in: in}, decoder: decoder, budget: maxWasted}
}

// pass goes over up to n frames without decoding them, as long as they look sound.
func (s *frameScanner) pass(n int) {
	for ; n > 0 && s.found == nil; n-- {
		s.in.skip(s.used)
		s.used = 0
		shape, err := measureFrame(&s.in)
		if err != nil {
			return // next tells of it
		}
		s.frames++
		s.used = shape.size
	}
}

// next returns the next frame or the damaged part before it: one of both. At the end it
// fails with [io.EOF], else only if reading fails.
func (s *frameScanner) next() (*frame, *damagedPart, error) {
	if f := s.found; f != nil {
		s.found = nil
		return f, nil, nil
	}
	s.in.skip(s.used)
	s.used = 0
	b, err := s.in.peek(1)
	if err != nil {
		return nil, nil, err
	}
	if len(b) == 0 {
		return nil, nil, io.EOF
	}
	f, err := s.try()
	if err == nil {
		return f, nil, nil
	}
	if failed := (*readError)(nil); errors.As(err, &failed) {
		return nil, nil, err
	}
	part := &damagedPart{offset: s.in.offset, number: s.frames - 1, reason: err}
	if s.found, err = s.resume(part); err != nil {
		return nil, nil, err
	}
	part.bytes = s.in.offset - part.offset
	part.cut = s.found == nil && errors.Is(part.reason, errFrameCut)
	return nil, part, nil
}

// try reads the frame that begins where the window is.
func (s *frameScanner) try() (*frame, error) {
	s.frames++
	shape, err := measureFrame(&s.in)
	const blockCost = 16 // looking at a block costs about as much as decoding so many bytes
	if err != nil {
		s.wasted += int64(blockCost * (shape.blocks + 1))
		return nil, err
	}
	b, err := s.in.peek(shape.size)
	if err != nil {
		return nil, err
	}
	raw := b[:shape.size]
	content, err := s.decoder.decode(raw, shape)
	if err != nil {
		s.wasted += int64(blockCost*(shape.blocks+1) + shape.content)
		return nil, err
	}
	s.used = shape.size
	return &frame{offset: s.in.offset, number: s.frames - 1, raw: raw, content: content}, nil
}

// resume looks, from the byte after a damaged frame's first, for the next whole frame,
// and moves the window there or to the end of the file.
func (s *frameScanner) resume(part *damagedPart) (*frame, error) {
	part.frames = 1
	magic := frameMagic()
	s.in.skip(1)
	for {
		b, err := s.in.peek(minRead)
		if err != nil {
			return nil, err
		}
		if len(b) < len(magic) {
			s.in.skip(len(b))
			return nil, nil
		}
		at := bytes.Index(b, magic)
		if at < 0 || s.wasted > s.budget {
			s.in.skip(len(b) - len(magic) + 1)
			continue
		}
		s.in.skip(at)
		f, err := s.try()
		if err == nil {
			return f, nil
		}
		if failed := (*readError)(nil); errors.As(err, &failed) {
			return nil, err
		}
		part.frames++
		s.in.skip(1)
		if s.wasted > s.budget {
			part.reason = fmt.Errorf("%w; and after it there is so much that only looks like frames that the rest is left out", part.reason)
		}
	}
}
