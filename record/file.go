package record

import (
	"fmt"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/atomicfile"
)

// File writes states to a file that appears under its name only when it is
// complete. Until [File.Commit] whatever was there before stays as it was. It is
// not safe for concurrent use.
type File struct {
	path   string
	file   *atomicfile.File
	states writer
	err    error // the first failed write
}

// Create starts a file of states of the models, in that order, in the format
// that the ending of path asks for. A symbolic link at path keeps pointing to
// the file it names, which is what is replaced. To what is no regular file (a
// FIFO, a device) the states are written as they come.
//
// It fails, wrapping [datacenter.ErrInvalidInput], for another ending, a path
// that cannot be written to, and labels that [NewCSVWriter] refuses.
func Create(path string, models []string) (*File, error) {
	format, err := formatOf(path)
	if err != nil {
		return nil, err
	}
	file, err := atomicfile.Create(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", datacenter.ErrInvalidInput, err)
	}
	states, err := format.newWriter(file, models)
	if err != nil {
		file.Abort()
		return nil, fmt.Errorf("create %s: %w", path, err)
	}
	return &File{path: path, file: file, states: states}, nil
}

// Write appends one state. After an error the file cannot be committed.
func (f *File) Write(s *datacenter.State) error {
	if f.err == nil {
		if err := f.states.Write(s); err != nil {
			f.err = fmt.Errorf("write %s: %w", f.path, err)
		}
	}
	return f.err
}

// Flush passes on what was written so far, as far as the format can.
func (f *File) Flush() error {
	if states, ok := f.states.(flusher); ok && f.err == nil {
		if err := states.Flush(); err != nil {
			f.err = fmt.Errorf("write %s: %w", f.path, err)
		}
	}
	return f.err
}

// Commit completes the file, makes it durable and puts it under its name. If it
// fails, nothing is left behind.
func (f *File) Commit() error {
	if f.err == nil {
		if err := f.states.Close(); err != nil {
			f.err = fmt.Errorf("write %s: %w", f.path, err)
		}
	}
	if f.err != nil {
		f.file.Abort()
		return f.err
	}
	f.err = fmt.Errorf("write %s: it is closed", f.path)
	return f.file.Commit()
}

// Abort discards the file. It may be called more than once and does nothing
// after Commit, so that it can be deferred.
func (f *File) Abort() { f.file.Abort() }
