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

// jsonlWriter writes states as JSON objects, one a line.
type jsonlWriter struct {
	out    *bufio.Writer
	labels []string
	line   []byte
}

// newJSONLWriter returns a writer to w of states of the models, in that order.
// It fails, wrapping [datacenter.ErrInvalidInput], for the labels that
// [NewCSVWriter] refuses.
func newJSONLWriter(w io.Writer, models []string) (*jsonlWriter, error) {
	if err := checkLabels(models); err != nil {
		return nil, err
	}
	return &jsonlWriter{out: bufio.NewWriterSize(w, bufferSize), labels: slices.Clone(models)}, nil
}

// Write appends s as one line.
func (j *jsonlWriter) Write(s *datacenter.State) error {
	if err := checkModels(s, j.labels); err != nil {
		return err
	}
	j.line = append(s.AppendJSON(j.line[:0]), '\n')
	_, err := j.out.Write(j.line)
	return err
}

// Flush passes on all lines written so far.
func (j *jsonlWriter) Flush() error { return j.out.Flush() }

// Close flushes. It does not close the underlying writer.
func (j *jsonlWriter) Close() error { return j.out.Flush() }

// readJSONL reads states as [datacenter.State.AppendJSON] writes them, one a
// line; blank lines are passed over. Errors start with name and the line.
func readJSONL(r io.Reader, name string) iter.Seq2[*datacenter.State, error] {
	return func(yield func(*datacenter.State, error) bool) {
		in := bufio.NewReaderSize(&tailReader{r: r}, bufferSize)
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
