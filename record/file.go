package record

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// File writes states to a file that appears under its name only when it is
// complete. Until [File.Commit] whatever was there before stays as it was. It is
// not safe for concurrent use.
type File struct {
	path      string // as the caller named it
	target    string // path without symbolic links
	temporary string // empty if the states go to path as they come
	file      *os.File
	states    Writer
	err       error // the first failed write
	done      bool
}

// Create starts a file of states of the models, in that order, in the format
// that the ending of path asks for. A symbolic link at path keeps pointing to
// the file it names, which is what is replaced. To what is no regular file (a
// FIFO, a device) the states are written as they come.
//
// It fails, wrapping [datacenter.ErrInvalidInput], for another ending, a missing
// directory, a path that is a directory, and labels that [NewCSVWriter] refuses.
func Create(path string, models []string) (*File, error) {
	if err := checkEnding(path); err != nil {
		return nil, err
	}
	f := &File{path: path}
	mode, exists, err := f.locate()
	if err != nil {
		return nil, err
	}
	if exists && !mode.IsRegular() {
		f.file, err = os.OpenFile(path, os.O_WRONLY, 0)
	} else {
		// Hidden and in the same directory: a rename is atomic only within a file system.
		dir, base := filepath.Split(f.target)
		f.temporary = dir + "." + base + "." + rand.Text() + ".tmp"
		f.file, err = os.OpenFile(f.temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	}
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", path, err)
	}
	if exists && f.temporary != "" {
		// A file that others may not read must not become readable by being replaced.
		err = f.file.Chmod(mode.Perm())
	}
	if err == nil {
		f.states, err = newWriter(f.file, filepath.Ext(path), models)
	}
	if err != nil {
		f.Abort()
		return nil, fmt.Errorf("create %s: %w", path, err)
	}
	return f, nil
}

func newWriter(w io.Writer, ending string, models []string) (Writer, error) {
	switch ending {
	case csvEnding:
		return NewCSVWriter(w, models)
	case jsonlEnding:
		return NewJSONLWriter(w, models)
	default:
		return NewParquetWriter(w, models)
	}
}

// locate finds target and what is there now.
func (f *File) locate() (mode fs.FileMode, exists bool, err error) {
	dir, err := filepath.EvalSymlinks(filepath.Dir(f.path))
	if err != nil {
		return 0, false, missingDirectory(f.path, err)
	}
	f.target = filepath.Join(dir, filepath.Base(f.path))
	info, err := os.Stat(f.target)
	if errors.Is(err, fs.ErrNotExist) {
		// Nothing there, or a link to nothing yet.
		if link, linkErr := os.Readlink(f.target); linkErr == nil {
			if !filepath.IsAbs(link) {
				link = filepath.Join(dir, link)
			}
			f.target = link
			if _, err := os.Stat(filepath.Dir(link)); err != nil {
				return 0, false, missingDirectory(f.path, err)
			}
		}
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("create %s: %w", f.path, err)
	}
	if info.IsDir() {
		return 0, false, fmt.Errorf("%w: %s is a directory, want a file", datacenter.ErrInvalidInput, f.path)
	}
	f.target, err = filepath.EvalSymlinks(f.target)
	return info.Mode(), true, err
}

func missingDirectory(path string, err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("create %s: %w", path, err)
	}
	return fmt.Errorf("%w: the directory of %s must exist: %w", datacenter.ErrInvalidInput, path, err)
}

// Write appends one state. After an error the file cannot be committed.
func (f *File) Write(s *datacenter.State) error {
	if f.done {
		return fmt.Errorf("write %s: it is closed", f.path)
	}
	if f.err == nil {
		if err := f.states.Write(s); err != nil {
			f.err = fmt.Errorf("write %s: %w", f.path, err)
		}
	}
	return f.err
}

// Commit completes the file, makes it durable and puts it under its name. If it
// fails, nothing is left behind.
func (f *File) Commit() error {
	if f.done {
		return fmt.Errorf("write %s: it is closed", f.path)
	}
	if f.err != nil {
		f.Abort()
		return f.err
	}
	err := f.states.Close()
	if err == nil && f.temporary != "" {
		// Else the name could outlive a power cut and its content not.
		err = f.file.Sync()
	}
	if err == nil {
		err = f.file.Close()
	}
	if err == nil && f.temporary != "" {
		err = os.Rename(f.temporary, f.target)
	}
	if err != nil {
		f.Abort()
		return fmt.Errorf("write %s: %w", f.path, err)
	}
	f.done = true
	return nil
}

// Abort discards the file. It may be called more than once and does nothing
// after Commit, so that it can be deferred.
func (f *File) Abort() {
	if f.done {
		return
	}
	f.done = true
	// The states are lost on purpose: there is nothing to do about an error here.
	_ = f.file.Close()
	if f.temporary != "" {
		_ = os.Remove(f.temporary)
	}
}
