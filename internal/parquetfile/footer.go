package parquetfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// maxFooterDepth bounds how deep structures nest in a Parquet footer; those of
// the format nest less than ten deep.
const maxFooterDepth = 32

// errFooter is the error of a footer that contradicts its own length.
var errFooter = errors.New("the Parquet file is corrupt: its footer claims more than it holds")

// checkFooter refuses footers whose lengths the file cannot hold, and those that
// nest without end. The library's own reader does neither (as of v0.32.0): it
// reserves room for as many elements as a list claims to have, before it reads the
// first, and follows structures it does not know as deep as they go. A footer of
// nine bytes makes it ask for 200 GB, a longer one exhausts the stack. Both end the
// program: recover, which turns the library's panics into errors, sees neither.
func checkFooter(r io.ReaderAt, size int64) error {
	var end [8]byte // the footer's size and the magic bytes
	if size < int64(len(end)) {
		return errors.New("the file is too short to be a Parquet file")
	}
	if _, err := r.ReadAt(end[:], size-int64(len(end))); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	length := int64(binary.LittleEndian.Uint32(end[:4]))
	if string(end[4:]) != "PAR1" || length > size-int64(len(end)) {
		return errors.New("the file does not end as a Parquet file: it is cut short or of another kind")
	}
	footer := make([]byte, length)
	if _, err := r.ReadAt(footer, size-int64(len(end))-length); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	w := thriftWalk{rest: footer}
	return w.structure(0)
}

// The types of Thrift's compact protocol, in which footers are written.
const (
	thriftStop, thriftTrue, thriftFalse, thriftByte, thriftI16, thriftI32 = 0, 1, 2, 3, 4, 5
	thriftI64, thriftDouble, thriftBinary, thriftList, thriftSet          = 6, 7, 8, 9, 10
	thriftMap, thriftStruct                                               = 11, 12
)

// thriftWalk passes over values without keeping any of them.
type thriftWalk struct{ rest []byte }

func (w *thriftWalk) byte() (byte, error) {
	if len(w.rest) == 0 {
		return 0, errFooter
	}
	b := w.rest[0]
	w.rest = w.rest[1:]
	return b, nil
}

func (w *thriftWalk) varint() (uint64, error) {
	v, n := binary.Uvarint(w.rest)
	if n <= 0 {
		return 0, errFooter
	}
	w.rest = w.rest[n:]
	return v, nil
}

func (w *thriftWalk) skip(n uint64) error {
	if n > uint64(len(w.rest)) {
		return errFooter
	}
	w.rest = w.rest[n:]
	return nil
}

func (w *thriftWalk) structure(depth int) error {
	for {
		header, err := w.byte()
		if err != nil {
			return err
		}
		kind := header & 0xf
		if kind == thriftStop {
			return nil
		}
		if header>>4 == 0 { // the field's number follows
			if _, err := w.varint(); err != nil {
				return err
			}
		}
		if kind == thriftTrue || kind == thriftFalse {
			continue // a field's truth is its type
		}
		if err := w.value(kind, depth); err != nil {
			return err
		}
	}
}

func (w *thriftWalk) value(kind byte, depth int) error {
	if depth > maxFooterDepth {
		return fmt.Errorf("the Parquet file is corrupt: its footer nests more than %d deep", maxFooterDepth)
	}
	switch kind {
	case thriftTrue, thriftFalse, thriftByte:
		return w.skip(1)
	case thriftI16, thriftI32, thriftI64:
		_, err := w.varint()
		return err
	case thriftDouble:
		return w.skip(8)
	case thriftBinary:
		n, err := w.varint()
		if err != nil {
			return err
		}
		return w.skip(n)
	case thriftList, thriftSet:
		header, err := w.byte()
		if err != nil {
			return err
		}
		n := uint64(header >> 4)
		if n == 0xf {
			if n, err = w.varint(); err != nil {
				return err
			}
		}
		return w.elements(n, depth, header&0xf)
	case thriftMap:
		n, err := w.varint()
		if err != nil || n == 0 {
			return err
		}
		kinds, err := w.byte()
		if err != nil {
			return err
		}
		return w.elements(n, depth, kinds>>4, kinds&0xf)
	case thriftStruct:
		return w.structure(depth + 1)
	default:
		return fmt.Errorf("the Parquet file is corrupt: its footer has a value of unknown type %d", kind)
	}
}

// elements passes over n elements, each of the given kinds in turn. Each takes a
// byte at least, so that n is bounded by what is left.
func (w *thriftWalk) elements(n uint64, depth int, kinds ...byte) error {
	if n > uint64(len(w.rest)) {
		return errFooter
	}
	for range n {
		for _, kind := range kinds {
			if err := w.value(kind, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}
