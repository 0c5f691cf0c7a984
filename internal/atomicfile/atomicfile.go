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
// a device) everything is written as it comes.
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
		f.file, err = os.OpenFile(path, os.O_WRONLY, 0)
	} else {
		// Hidden and in the same directory: a rename is atomic only within a file system.
		dir, base := filepath.Split(f.target)
		f.temporary = dir + "." + base + "." + rand.Text() + temporaryEnding
		f.file, err = os.OpenFile(f.temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
		if err == nil {
			_ = Lock(f.file) // nobody else has it; the lock tells [Leftovers] that we live
		}
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
	if f.temporary != "" {
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
	// The content is lost on purpose: there is nothing to do about an error here.
	_ = f.file.Close()
	if f.temporary != "" {
		_ = os.Remove(f.temporary)
	}
}

// temporaryEnding is that of files that are not complete, and oldEnding that which
// they had before they were locked.
const temporaryEnding, oldEnding = ".part", ".tmp"

// leftAlone is how old a file must be that nobody could have locked, to be taken for
// a leftover.
const leftAlone = 10 * time.Second

// Leftovers are the files that writers of target, as [Locate] returns it, have not
// completed and that nobody writes any more.
func Leftovers(target string) []string {
	dir, base := filepath.Split(target)
	files, err := os.ReadDir(filepath.Clean(dir + "."))
	if err != nil {
		return nil
	}
	var dead []string
	for _, f := range files {
		ending := filepath.Ext(f.Name())
		random, ours := strings.CutPrefix(strings.TrimSuffix(f.Name(), ending), "."+base+".")
		if !ours || ending != temporaryEnding && ending != oldEnding || len(random) != len(rand.Text()) || !f.Type().IsRegular() {
			continue
		}
		if path := dir + f.Name(); isDead(path, ending == oldEnding) {
			dead = append(dead, path)
		}
	}
	return dead
}

// RemoveLeftover removes one of [Leftovers], unless somebody has taken it since.
func RemoveLeftover(path string) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := Lock(file); err != nil {
		return err
	}
	return os.Remove(path)
}

// isDead reports whether nobody writes the file any more.
func isDead(path string, old bool) bool {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer file.Close()
	info, err := file.Stat()
	return err == nil && (!old || time.Since(info.ModTime()) >= leftAlone) && Lock(file) == nil
}
