package record

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"iter"
	"slices"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// JSONLWriter writes states as JSON objects, one a line.
type JSONLWriter struct {
	out    *bufio.Writer
	labels []string
	line   []byte
}

// NewJSONLWriter returns a writer to w of states of the models, in that order.
// It fails, wrapping [datacenter.ErrInvalidInput], for the labels that
// [NewCSVWriter] refuses.
func NewJSONLWriter(w io.Writer, models []string) (*JSONLWriter, error) {
	if err := checkLabels(models); err != nil {
		return nil, err
	}
	return &JSONLWriter{out: bufio.NewWriterSize(w, bufferSize), labels: slices.Clone(models)}, nil
}

// Write appends s as one line.
func (j *JSONLWriter) Write(s *datacenter.State) error {
	if err := checkModels(s, j.labels); err != nil {
		return err
	}
	j.line = append(s.AppendJSON(j.line[:0]), '\n')
	_, err := j.out.Write(j.line)
	return err
}

// Close flushes. It does not close the underlying writer.
func (j *JSONLWriter) Close() error { return j.out.Flush() }

// ReadJSONL reads states as [datacenter.State.AppendJSON] writes them, one a
// line; blank lines are passed over. Errors start with name and the line.
func ReadJSONL(r io.Reader, name string) iter.Seq2[*datacenter.State, error] {
	return func(yield func(*datacenter.State, error) bool) {
		in := bufio.NewReaderSize(r, bufferSize)
		for number := 1; ; number++ {
			line, readErr := in.ReadBytes('\n')
			if readErr != nil && readErr != io.EOF {
				yield(nil, inputError(fmt.Sprintf("%s:%d", name, number), readErr))
				return
			}
			if len(bytes.TrimSpace(line)) > 0 {
				s := new(datacenter.State)
				if err := s.UnmarshalJSON(line); err != nil {
					yield(nil, inputError(fmt.Sprintf("%s:%d", name, number), err))
					return
				}
				if !yield(s, nil) {
					return
				}
			}
			if readErr == io.EOF {
				return
			}
		}
	}
}
