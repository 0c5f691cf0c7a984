package record

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// endless is a file whose line does not end.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	copy(p, bytes.Repeat([]byte{'x'}, len(p)))
	e.read += len(p)
	return len(p), nil
}

func (*endless) ReadAt([]byte, int64) (int, error) { return 0, io.EOF }

func TestALineWithoutEndIsRefused(t *testing.T) {
	for _, ending := range []string{csvEnding, jsonlEnding} {
		format, err := formatOf("in" + ending)
		if err != nil {
			t.Fatal(err)
		}
		in := &endless{}
		var got error
		for _, err := range format.read(in, 0, "in") {
			got = err
		}
		if !errors.Is(got, datacenter.ErrInvalidInput) || !strings.Contains(got.Error(), "in:1: a line is longer than 64 MiB") || in.read > 2*maxLine {
			t.Errorf("%s: error %v after %d bytes", ending, got, in.read)
		}
	}
}
