package recording

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/klauspost/compress/zstd"
)

// Bounds of a frame. What claims more is damaged: no length in a file is believed.
const (
	maxFrameBytes   = 16 << 20
	maxContentBytes = 64 << 20
	maxWindowBytes  = 8 << 20
	maxBlockBytes   = 128 << 10 // Zstandard's own bound, compressed or not
)

const (
	blockHeaderBytes = 3
	checksumBytes    = 4
)

// frameMagic is what every frame begins with.
func frameMagic() []byte { return []byte{0x28, 0xb5, 0x2f, 0xfd} }

// errFrameCut is the error of a frame of which the file has only the start.
var errFrameCut = errors.New("the file ends within the frame")

// frameShape is what the outside of a frame tells, before anything is decoded.
type frameShape struct {
	size    int // bytes of the frame
	content int // bytes of its content
	blocks  int
}

// window gives the next bytes of a file: at least n from where it stands if the file
// has them, else what there is. It fails only if reading does.
type window interface {
	peek(n int) ([]byte, error)
}

// measureFrame checks the outside of the frame that in stands at, and finds its end.
// [errFrameCut] says that the file ends before the frame does; any other error of it,
// that this is no frame of a recording. An error of reading is a *readError.
func measureFrame(in window) (frameShape, error) {
	var shape frameShape
	b, err := in.peek(zstd.HeaderMaxSize)
	if err != nil {
		return shape, err
	}
	content, at, err := checkFrameHeader(b)
	if err != nil {
		return shape, err
	}
	possible := 0 // bytes of content that the blocks so far can have
	for last := false; !last; shape.blocks++ {
		if at+blockHeaderBytes > maxFrameBytes {
			return shape, fmt.Errorf("it is longer than %d MiB", maxFrameBytes>>20)
		}
		if b, err = in.peek(at + blockHeaderBytes); err != nil {
			return shape, err
		}
		if len(b) < at+blockHeaderBytes {
			return shape, errFrameCut
		}
		bytes, produces, isLast, err := checkBlock(b[at:])
		if err != nil {
			return shape, fmt.Errorf("block %d: %w", shape.blocks, err)
		}
		last = isLast
		possible += produces
		at += blockHeaderBytes + bytes
	}
	at += checksumBytes
	if at > maxFrameBytes {
		return shape, fmt.Errorf("it is longer than %d MiB", maxFrameBytes>>20)
	}
	if content > possible {
		return shape, fmt.Errorf("it claims %d bytes of content, its blocks have at most %d", content, possible)
	}
	if b, err = in.peek(at); err != nil {
		return shape, err
	}
	if len(b) < at {
		return shape, errFrameCut
	}
	shape.size, shape.content = at, content
	return shape, nil
}

// checkFrameHeader returns the claimed size of the content and the header's own.
func checkFrameHeader(b []byte) (content, size int, err error) {
	magic := frameMagic()
	if !slices.Equal(b[:min(len(b), len(magic))], magic[:min(len(b), len(magic))]) {
		return 0, 0, errors.New("no Zstandard frame begins here")
	}
	const descriptorAt, unusedBits, dictionaryBits = 4, 0x18, 0x03
	if len(b) <= descriptorAt {
		return 0, 0, errFrameCut
	}
	var h zstd.Header
	switch err := h.Decode(b); {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return 0, 0, errFrameCut
	case err != nil:
		return 0, 0, err
	case h.Skippable:
		return 0, 0, errors.New("it is a skippable frame")
	case b[descriptorAt]&unusedBits != 0:
		return 0, 0, errors.New("its header has bits set that have no meaning")
	case b[descriptorAt]&dictionaryBits != 0:
		return 0, 0, errors.New("it needs a dictionary")
	case !h.HasCheckSum:
		return 0, 0, errors.New("it has no checksum")
	case !h.HasFCS:
		return 0, 0, errors.New("it does not tell the size of its content")
	case h.FrameContentSize > maxContentBytes:
		return 0, 0, fmt.Errorf("it claims %d bytes of content, more than %d MiB", h.FrameContentSize, maxContentBytes>>20)
	case h.WindowSize > maxWindowBytes:
		return 0, 0, fmt.Errorf("it claims a window of %d bytes, more than %d MiB", h.WindowSize, maxWindowBytes>>20)
	}
	return int(h.FrameContentSize), h.HeaderSize, nil
}

// checkBlock returns how many bytes follow the block's header, and how many bytes of
// content they can become.
func checkBlock(b []byte) (size, produces int, last bool, err error) {
	const raw, rle, compressed = 0, 1, 2
	h := binary.LittleEndian.Uint32([]byte{b[0], b[1], b[2], 0})
	last, size = h&1 == 1, int(h>>3)
	if size > maxBlockBytes {
		return 0, 0, false, fmt.Errorf("its size is %d, more than Zstandard allows (%d)", size, maxBlockBytes)
	}
	switch h >> 1 & 3 {
	case raw:
		return size, size, last, nil
	case rle:
		return 1, size, last, nil
	case compressed:
		return size, maxBlockBytes, last, nil
	}
	return 0, 0, false, errors.New("it is of no known type")
}

// frameDecoder decodes whole frames, one at a time.
type frameDecoder struct {
	zstd   *zstd.Decoder
	buffer []byte
}

func newFrameDecoder() (*frameDecoder, error) {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxContentBytes))
	if err != nil {
		return nil, err
	}
	return &frameDecoder{zstd: d}, nil
}

// decode returns the content of a frame that [measureFrame] found sound outside; it
// holds until the next call.
func (d *frameDecoder) decode(frame []byte, shape frameShape) ([]byte, error) {
	content, err := d.zstd.DecodeAll(frame, d.buffer[:0])
	if cap(content) > cap(d.buffer) {
		d.buffer = content[:0]
	}
	if err != nil {
		return nil, err
	}
	if len(content) != shape.content {
		return nil, fmt.Errorf("it has %d bytes of content and claims %d", len(content), shape.content)
	}
	return content, nil
}

func (d *frameDecoder) close() { d.zstd.Close() }
