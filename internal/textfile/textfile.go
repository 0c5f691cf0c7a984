// Package textfile reads text as other programs leave it: with a byte-order mark
// before it, or in UTF-16. All readers of text files use it, so that a file that is
// good for one is good for all.
package textfile

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"unicode/utf16"
)

const (
	// mark is the byte-order mark in UTF-8, which has no order; programs on Windows
	// put it before what they write.
	mark      = "\xef\xbb\xbf"
	markLE    = "\xff\xfe"
	markBE    = "\xfe\xff"
	sizeOfAny = len(mark)
)

// ErrUTF16 is what is wrong with a text in UTF-16, or in UTF-32.
var ErrUTF16 = errors.New("is text in UTF-16, as Windows programs write it; save it as UTF-8")

// nulError is [ErrUTF16] of a text that has no mark to say so.
type nulError struct{}

func (nulError) Error() string {
	return "is text in UTF-16, as Windows programs write it, or no text at all: one of its first two bytes is NUL; save it as UTF-8"
}

func (nulError) Unwrap() error { return ErrUTF16 }

// Strip returns a text in UTF-8 without its byte-order mark. The error is
// [ErrUTF16].
func Strip(raw []byte) ([]byte, error) {
	if err := checkStart(raw); err != nil {
		return nil, err
	}
	return bytes.TrimPrefix(raw, []byte(mark)), nil
}

// NewReader is [Strip] for what is read bit by bit: its first Read may fail with
// [ErrUTF16].
func NewReader(r io.Reader) io.Reader { return &reader{buffered: bufio.NewReader(r)} }

type reader struct {
	buffered *bufio.Reader
	begun    bool
	err      error
}

func (r *reader) Read(p []byte) (int, error) {
	if !r.begun {
		r.begun = true
		start, _ := r.buffered.Peek(sizeOfAny) // what is shorter is looked at, too
		if r.err = checkStart(start); r.err == nil && string(start) == mark {
			_, _ = r.buffered.Discard(len(mark)) // they are there
		}
	}
	if r.err != nil {
		return 0, r.err
	}
	return r.buffered.Read(p)
}

// ToUTF8 returns a text in UTF-8 without its byte-order mark, be it in UTF-8 or, with
// a mark, in UTF-16. What is no text there becomes U+FFFD.
func ToUTF8(raw []byte) []byte {
	var order binary.ByteOrder
	switch {
	case bytes.HasPrefix(raw, []byte(markLE)):
		order = binary.LittleEndian
	case bytes.HasPrefix(raw, []byte(markBE)):
		order = binary.BigEndian
	default:
		return bytes.TrimPrefix(raw, []byte(mark))
	}
	units := make([]uint16, 0, len(raw)/2)
	for raw = raw[2:]; len(raw) >= 2; raw = raw[2:] {
		units = append(units, order.Uint16(raw))
	}
	if len(raw) > 0 {
		units = append(units, 0xFFFD) // half a character
	}
	return []byte(string(utf16.Decode(units)))
}

// checkStart refuses a text that begins as one in UTF-16 or UTF-32 does: with a mark, or
// with an ASCII character, of which one half is zero.
func checkStart(start []byte) error {
	switch {
	case bytes.HasPrefix(start, []byte(markLE)), bytes.HasPrefix(start, []byte(markBE)):
		return ErrUTF16
	case len(start) >= 2 && (start[0] == 0 || start[1] == 0):
		return nulError{}
	}
	return nil
}
