// Package atomicfile writes files that appear under their name only when they
// are complete.
package atomicfile

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// File is a file being written. Until [File.Commit] whatever was under its name
// before stays as it was. It is not safe for concurrent use.
type File struct {
	path      string // as the caller named it
	target    string // path without symbolic links
	temporary string // empty if what is written goes to path as it comes
	file      *os.File
	done      bool
}

// Create starts the file at path. A symbolic link at path keeps pointing to the
// file it names, which is what is replaced. To what is no regular file (a FIFO,
// a device) everything is written as it comes; a FIFO needs a reader within 5 s.
//
// The errors name path. A missing directory is an [fs.ErrNotExist]; a path that
// is a directory is refused.
func Create(path string) (*File, error) {
	f := &File{path: path}
	target, mode, exists, err := Locate(path)
	if err != nil {
		return nil, err
	}
	f.target = target
	if exists && !mode.IsRegular() {
		f.file, err = openInPlace(path, mode)
	} else {
		f.file, f.temporary, err = createTemporary(target)
	}
	if err != nil {
		// The temporary file's name would only confuse.
		if pathErr := (*fs.PathError)(nil); errors.As(err, &pathErr) {
			err = pathErr.Err
		}
		return nil, fmt.Errorf("create %s: %w", path, err)
	}
	if exists && f.temporary != "" {
		// A file that others may not read must not become readable by being replaced.
		if err := f.file.Chmod(mode.Perm()); err != nil {
			f.Abort()
			return nil, fmt.Errorf("create %s: %w", path, err)
		}
	}
	return f, nil
}

// readerWithin is how long the reader of a FIFO may take to come.
const readerWithin = 5 * time.Second

// openInPlace opens what is no regular file. A FIFO that nobody reads would keep us
// waiting for ever, so that its reader has only so long.
func openInPlace(path string, mode fs.FileMode) (*os.File, error) {
	if mode&fs.ModeNamedPipe == 0 {
		return os.OpenFile(path, os.O_WRONLY, 0)
	}
	for began := time.Now(); ; {
		file, err := os.OpenFile(path, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		if !errors.Is(err, syscall.ENXIO) {
			return file, err
		}
		if time.Since(began) >= readerWithin {
			return nil, fmt.Errorf("nobody has opened it for reading within %v; start its reader", readerWithin)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// createTemporary creates and locks a file beside target: the lock tells
// [TakeLeftovers] that it is written. It is hidden and in the same directory, since a
// rename is atomic only within a file system.
func createTemporary(target string) (file *os.File, path string, err error) {
	dir, base := filepath.Split(target)
	for {
		path = dir + "." + base + "." + rand.Text() + temporaryEnding
		if file, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666); err != nil {
			return nil, "", err
		}
		// Before it is locked, somebody may just be taking it for a leftover. Where files
		// cannot be locked, nobody does.
		if !errors.Is(Lock(file), ErrLocked) && IsAt(file, path) {
			return file, path, nil
		}
		_ = file.Close()
		_ = os.Remove(path)
	}
}

// IsAt reports whether an open file is the one at path still.
func IsAt(file *os.File, path string) bool {
	opened, err := file.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(path)
	return err == nil && os.SameFile(opened, there)
}

// Locate returns the path without symbolic links, also of a link to nothing yet,
// and what is there now. Its errors name path. A missing directory is an
// [fs.ErrNotExist]; a path that is a directory is refused.
func Locate(path string) (target string, mode fs.FileMode, exists bool, err error) {
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return "", 0, false, directoryError(path, err)
	}
	target = filepath.Join(dir, filepath.Base(path))
	info, err := os.Stat(target)
	if errors.Is(err, fs.ErrNotExist) {
		// Nothing there, or a link to nothing yet.
		if link, linkErr := os.Readlink(target); linkErr == nil {
			if !filepath.IsAbs(link) {
				link = filepath.Join(dir, link)
			}
			target = link
			if _, err := os.Stat(filepath.Dir(link)); err != nil {
				return "", 0, false, directoryError(path, err)
			}
		}
		return target, 0, false, nil
	}
	if err != nil {
		return "", 0, false, fmt.Errorf("create %s: %w", path, err)
	}
	if info.IsDir() {
		return "", 0, false, fmt.Errorf("%s is a directory, want a file", path)
	}
	target, err = filepath.EvalSymlinks(target)
	return target, info.Mode(), true, err
}

func directoryError(path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the directory of %s must exist: %w", path, err)
	}
	return fmt.Errorf("create %s: %w", path, err)
}

// Write appends p.
func (f *File) Write(p []byte) (int, error) { return f.file.Write(p) }

// Commit makes the file durable and puts it under its name. If it fails, nothing
// is left behind.
func (f *File) Commit() error {
	if f.done {
		return fmt.Errorf("write %s: it is closed", f.path)
	}
	var err error
	if f.temporary == "" {
		err = f.file.Close()
	} else {
		// Else the name could outlive a power cut and its content not.
		if err = f.file.Sync(); err == nil {
			err = os.Rename(f.temporary, f.target)
		}
		if err == nil {
			_ = f.file.Close() // it is safe; before the rename it would have been unlocked
		}
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
	// The content is lost on purpose: there is nothing to do about an error here.
	if f.temporary != "" {
		_ = os.Remove(f.temporary)
	}
	_ = f.file.Close()
}

// temporaryEnding is that of files that are not complete, and oldEnding that which
// they had before they were locked.
const temporaryEnding, oldEnding = ".part", ".tmp"

// leftAlone is how old a file must be that nobody could have locked, to be taken for
// a leftover.
const leftAlone = 10 * time.Second

// TakeLeftovers calls take with each file that a writer of target, as [Locate] returns
// it, has not completed and that nobody writes any more. It is open for reading and
// writing, and locked, while take has it.
func TakeLeftovers(target string, take func(file *os.File, path string)) {
	dir, base := filepath.Split(target)
	files, err := os.ReadDir(filepath.Clean(dir + "."))
	if err != nil {
		return // whoever writes there will say so
	}
	for _, f := range files {
		ending := filepath.Ext(f.Name())
		random, ours := strings.CutPrefix(strings.TrimSuffix(f.Name(), ending), "."+base+".")
		if ours && (ending == temporaryEnding || ending == oldEnding) && len(random) == len(rand.Text()) && f.Type().IsRegular() {
			takeIfDead(dir+f.Name(), ending == oldEnding, take)
		}
	}
}

func takeIfDead(path string, old bool, take func(file *os.File, path string)) {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer file.Close()
	info, err := file.Stat()
	if err == nil && (!old || time.Since(info.ModTime()) >= leftAlone) && Lock(file) == nil && IsAt(file, path) {
		take(file, path)
	}
}
