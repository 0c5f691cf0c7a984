// Package record carries datacenter states to and from files: CSV, JSON lines
// and Parquet. A path's ending (.csv, .jsonl, .parquet) picks the format.
//
// What is written reads back bit for bit, with these limits: CSV has no seq,
// wall_time or source; only JSON has what live runs alone know; JSON has no
// number for NaN and the infinities; Parquet keeps wall_time as an instant,
// without its zone.
//
// All states of a file have the same models, in the same order. Units are those
// of [datacenter.State]: watts and seconds.
package record

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// writer writes states in one format.
type writer interface {
	// Write appends one state. It does not keep the state. It fails if the
	// state's models are not those the writer was made for.
	Write(*datacenter.State) error
	// Close writes what is still buffered and the format's end. It does not
	// close the underlying writer.
	Close() error
}

// flusher passes on what was written so far.
type flusher interface{ Flush() error }

// The endings of the formats.
const (
	csvEnding     = ".csv"
	jsonlEnding   = ".jsonl"
	parquetEnding = ".parquet"
)

// fileFormat is a format that files may have.
type fileFormat struct {
	ending    string
	newWriter func(w io.Writer, models []string) (writer, error)
	// read reads the states from the size bytes of in; its errors start with name.
	read func(in input, size int64, name string) iter.Seq2[*datacenter.State, error]
}

// input is a file that is read.
type input interface {
	io.Reader
	io.ReaderAt
}

func fileFormats() []fileFormat {
	return []fileFormat{
		{
			csvEnding,
			func(w io.Writer, models []string) (writer, error) { return NewCSVWriter(w, models) },
			func(in input, _ int64, name string) iter.Seq2[*datacenter.State, error] { return readCSV(in, name) },
		},
		{
			jsonlEnding,
			func(w io.Writer, models []string) (writer, error) { return newJSONLWriter(w, models) },
			func(in input, _ int64, name string) iter.Seq2[*datacenter.State, error] { return readJSONL(in, name) },
		},
		{
			parquetEnding,
			func(w io.Writer, models []string) (writer, error) { return newParquetWriter(w, models) },
			func(in input, size int64, name string) iter.Seq2[*datacenter.State, error] {
				return readParquet(in, size, name)
			},
		},
	}
}

// formatOf returns the format that the ending of path asks for.
func formatOf(path string) (fileFormat, error) {
	formats := fileFormats()
	for _, f := range formats {
		if filepath.Ext(path) == f.ending {
			return f, nil
		}
	}
	return fileFormat{}, fmt.Errorf("%w: %q must end in %s, %s or %s", datacenter.ErrInvalidInput,
		path, formats[0].ending, formats[1].ending, formats[2].ending)
}

// stateColumns are the columns of a state itself, in CSV order.
func stateColumns() []string {
	return []string{"time_s", "power_a_w", "power_b_w", "power_c_w"}
}

// modelColumns are the columns of each model, in CSV order; a column's name is
// its model's label and one of these.
func modelColumns() []string {
	return []string{
		":power_w", ":active_replicas", ":batch_size", ":observed_itl_s",
		":phase_share_a", ":phase_share_b", ":phase_share_c",
	}
}

// ReadAll reads all states of the file at path. Its errors are those of
// [ReadFile].
func ReadAll(path string) ([]datacenter.State, error) {
	var states []datacenter.State
	for s, err := range ReadFile(path) {
		if err != nil {
			return nil, err
		}
		states = append(states, *s)
	}
	return states, nil
}

// ReadFile reads the states of the file at path one by one, in the format that its
// ending names. The states are the caller's to keep. The first error is the last
// thing yielded; it names the file and wraps [datacenter.ErrInvalidInput], unless
// reading itself failed.
func ReadFile(path string) iter.Seq2[*datacenter.State, error] {
	return func(yield func(*datacenter.State, error) bool) {
		format, err := formatOf(path)
		if err != nil {
			yield(nil, err)
			return
		}
		f, err := os.Open(path)
		if err != nil {
			yield(nil, fmt.Errorf("%w: %w", datacenter.ErrInvalidInput, err))
			return
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			yield(nil, err)
			return
		}
		format.read(f, info.Size(), path)(yield)
	}
}

// checkLabels refuses model labels that a format could not carry: CSV readers
// turn a carriage return and newline into a newline, and JSON and Parquet hold
// UTF-8 only.
func checkLabels(labels []string) error {
	seen := make(map[string]bool, len(labels))
	for _, label := range labels {
		if !utf8.ValidString(label) || strings.Contains(label, "\r") {
			return fmt.Errorf("%w: model label %q must be UTF-8 without carriage returns", datacenter.ErrInvalidInput, label)
		}
		if seen[label] {
			return fmt.Errorf("%w: model label %q stands there twice", datacenter.ErrInvalidInput, label)
		}
		seen[label] = true
	}
	return nil
}

// checkModels tells whether s has exactly the models labels.
func checkModels(s *datacenter.State, labels []string) error {
	if len(s.Models) != len(labels) {
		return fmt.Errorf("state %d has %d models, the states before it have %d", s.Seq, len(s.Models), len(labels))
	}
	for i, label := range labels {
		if got := s.Models[i].ModelLabel; got != label {
			return fmt.Errorf("state %d: model %d is %q, want %q", s.Seq, i, got, label)
		}
	}
	return nil
}

// newState returns a state with the models labels.
func newState(labels []string) *datacenter.State {
	s := &datacenter.State{Models: make([]datacenter.ModelState, len(labels))}
	for i, label := range labels {
		s.Models[i].ModelLabel = label
	}
	return s
}

// inputError says where err arose. It is the input's fault unless the
// operating system failed to read it.
func inputError(where string, err error) error {
	if failed := (*fs.PathError)(nil); errors.As(err, &failed) {
		return fmt.Errorf("%s: %w", where, err)
	}
	return fmt.Errorf("%w: %s: %w", datacenter.ErrInvalidInput, where, err)
}
