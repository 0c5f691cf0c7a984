package record

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/atomicfile"
)

// KeptFile is a file of the states of a run that takes real time, so that what was
// written must survive whatever ends it. Until it is complete it stands under its
// name with the ending .partial, for all to see, and is up to date to within a
// [Queue]'s second; a format that cannot be read before its end has JSON lines beside
// it. Nothing that is there is ever replaced: a complete file gets the next free name.
// It is not safe for concurrent use.
type KeptFile struct {
	path  string // as the caller named it
	final string // where it is to be in the end
	parts []*part
	err   error // the first failed write
	done  bool
}

// part is one file that the states are written to.
type part struct {
	path   string // while it is not complete
	kept   string // what its states are called if the run does not end in order
	file   *os.File
	lines  lineCounter // into file
	states writer
	closed bool
}

// lineCounter counts the whole lines that got into a file.
type lineCounter struct {
	file  *os.File
	lines uint64
}

func (c *lineCounter) Write(b []byte) (int, error) {
	n, err := c.file.Write(b)
	c.lines += uint64(bytes.Count(b[:n], []byte{'\n'}))
	return n, err
}

// close writes the format's end, once.
func (p *part) close() error {
	if p.closed {
		return nil
	}
	p.closed = true
	return p.states.Close()
}

const partialEnding = ".partial"

// Keep starts a file of states of the models, in that order, in the format that the
// ending of path asks for, and takes up what earlier runs have left: notices say what
// was found and what became of it. What is no regular file (a FIFO, a device) gets the
// states as they come, as with [Create].
//
// It fails, wrapping [datacenter.ErrInvalidInput], as Create does, and when somebody
// else writes the file.
func Keep(path string, models []string) (out Output, notices []string, err error) {
	format, err := formatOf(path)
	if err != nil {
		return nil, nil, err
	}
	target, mode, exists, err := atomicfile.Locate(path)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", datacenter.ErrInvalidInput, err)
	}
	if exists && !mode.IsRegular() {
		out, err := Create(path, models)
		return out, nil, err
	}
	k := &KeptFile{path: path}
	if k.final, err = nextFree(target); err != nil {
		return nil, nil, fmt.Errorf("%w: create %s: %w", datacenter.ErrInvalidInput, path, err)
	}
	if k.final != target {
		notices = append(notices, fmt.Sprintf("%s is there already and is kept: this run writes %s", path, k.final))
	}
	lines, err := formatOf(jsonlEnding)
	if err != nil {
		return nil, nil, err
	}
	written := []part{{path: target + partialEnding, kept: interrupted(target)}}
	formats := []fileFormat{format}
	if format.ending == parquetEnding {
		written = append(written, part{path: target + partialEnding + jsonlEnding, kept: interrupted(target + jsonlEnding)})
		formats = append(formats, lines)
	}
	for i := range written {
		p := &written[i]
		found, err := p.open(formats[i], models)
		notices = append(notices, found...)
		if err != nil {
			k.Abort()
			return nil, notices, fmt.Errorf("%w: create %s: %w", datacenter.ErrInvalidInput, path, err)
		}
		k.parts = append(k.parts, p)
		if exists {
			// What others may not read must not become readable by being written anew.
			if err := p.file.Chmod(mode.Perm()); err != nil {
				k.Abort()
				return nil, notices, fmt.Errorf("create %s: %w", path, pathless(err))
			}
		}
	}
	return k, append(notices, takeUpHidden(target, format)...), nil
}

// open takes up what an earlier run has left, and begins the file. Where files cannot
// be locked, nobody is kept from writing it too.
func (p *part) open(format fileFormat, models []string) (notices []string, err error) {
	for {
		file, err := os.OpenFile(p.path, os.O_RDWR|os.O_CREATE, 0o666)
		if err != nil {
			return notices, pathless(err)
		}
		if err := atomicfile.Lock(file); errors.Is(err, atomicfile.ErrLocked) {
			_ = file.Close()
			return notices, fmt.Errorf("%s: %w", p.path, err)
		}
		info, err := file.Stat()
		switch {
		case err != nil:
			_ = file.Close()
			return notices, pathless(err)
		case !atomicfile.IsAt(file, p.path): // whoever had it has completed it
		case info.Size() == 0:
			p.file, p.lines.file = file, file
			p.states, err = format.newWriter(&p.lines, models)
			if err != nil {
				p.discard()
			}
			return notices, err
		default:
			notice, err := takeUp(file, p.path, p.kept, format)
			if err != nil {
				_ = file.Close()
				return notices, err
			}
			notices = append(notices, notice)
		}
		_ = file.Close()
	}
}

// takeUp keeps the states in a file that a run has left, as far as they can be read,
// under another name, or removes it if it has none. Either way path is free, unless it
// fails. A file that cannot be read is kept as it is.
func takeUp(file *os.File, path, kept string, format fileFormat) (notice string, err error) {
	readable, trimErr := trim(file, format)
	if !readable && trimErr == nil {
		if err := os.Remove(path); err != nil {
			return "", fmt.Errorf("%s, left by an earlier run without states, cannot be removed: %w", path, pathless(err))
		}
		return fmt.Sprintf("%s, left by an earlier run without states to read, was removed", path), nil
	}
	name, err := moveAside(path, kept)
	switch {
	case err != nil:
		return "", fmt.Errorf("the states of an earlier run that was interrupted are in %s, which cannot be moved out of the way: %w", path, err)
	case trimErr != nil:
		return fmt.Sprintf("%s, left by an earlier run, cannot be read and is now %s: %v", path, name, trimErr), nil
	}
	return fmt.Sprintf("an earlier run was interrupted: its states up to then are in %s", name), nil
}

// trim cuts off what is no whole state at the end, and reports whether there is any.
func trim(file *os.File, format fileFormat) (readable bool, err error) {
	if format.ending == parquetEnding { // whole or nothing
		info, err := file.Stat()
		if err != nil {
			return false, err
		}
		for _, err := range format.read(file, info.Size(), file.Name()) {
			return err == nil, nil
		}
		return false, nil
	}
	size, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return false, err
	}
	end, lines := size, 0
	block := make([]byte, 64<<10)
	for at := size; at > 0 && lines < 2; {
		n := min(int64(len(block)), at)
		at -= n
		if _, err := file.ReadAt(block[:n], at); err != nil {
			return false, err
		}
		for i := n - 1; i >= 0; i-- {
			if block[i] != '\n' {
				continue
			}
			if lines == 0 {
				end = at + i + 1
			}
			lines++
		}
	}
	if lines == 0 {
		end = 0
	}
	header := 0 // lines that are no states
	if format.ending == csvEnding {
		header = 1
	}
	return lines > header, file.Truncate(end)
}

// takeUpHidden does the same with the hidden files that earlier versions wrote.
func takeUpHidden(target string, format fileFormat) (notices []string) {
	atomicfile.TakeLeftovers(target, func(file *os.File, path string) {
		notice, err := takeUp(file, path, interrupted(target), format)
		if err != nil { // it is in nobody's way
			notice = err.Error()
		}
		notices = append(notices, notice)
	})
	return notices
}

// interrupted is the name for the states of a run that did not end in order.
func interrupted(target string) string {
	ending := filepath.Ext(target)
	return strings.TrimSuffix(target, ending) + ".interrupted" + ending
}

// nextFree is target or, if something is there, the first free one of target with a
// number before its ending, from 2 on.
func nextFree(target string) (string, error) {
	ending := filepath.Ext(target)
	name := target
	for n := 2; ; n++ {
		_, err := os.Lstat(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return name, nil
		case err != nil:
			return "", err
		}
		name = fmt.Sprintf("%s.%d%s", strings.TrimSuffix(target, ending), n, ending)
	}
}

// moveAside gives a file the name, or the next free one, and returns that. It
// replaces nothing.
func moveAside(path, name string) (string, error) {
	for {
		free, err := nextFree(name)
		if err != nil {
			return "", err
		}
		if err := give(path, free); !errors.Is(err, fs.ErrExist) { // else just now
			return free, err
		}
	}
}

// give renames a file; a name that is taken is an [fs.ErrExist].
func give(path, name string) error {
	if err := os.Link(path, name); errors.Is(err, fs.ErrExist) {
		return err
	} else if err != nil { // such as that the file system has no hard links
		reserved, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_ = reserved.Close() // nothing was written
		if err := os.Rename(path, name); err != nil {
			_ = os.Remove(name)
			return err
		}
		return nil
	}
	if err := os.Remove(path); err != nil {
		_ = os.Remove(name) // or it is there twice
		return err
	}
	return nil
}

// pathless is an error without the path, which is said in other words.
func pathless(err error) error {
	if pathErr := (*fs.PathError)(nil); errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}

// Path is where the states will be when the file is complete.
func (k *KeptFile) Path() string { return k.final }

// Write appends one state. After an error no more are written.
func (k *KeptFile) Write(s *datacenter.State) error {
	if k.err != nil {
		return k.err
	}
	var errs []error
	for _, p := range k.parts {
		if err := p.states.Write(s); err != nil {
			errs = append(errs, pathless(err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		k.err = fmt.Errorf("write %s: %w", k.path, err)
	}
	return k.err
}

// Flush passes on what was written so far, as far as the format can.
func (k *KeptFile) Flush() error {
	for _, p := range k.parts {
		if f, ok := p.states.(flusher); ok && k.err == nil {
			if err := f.Flush(); err != nil {
				k.err = fmt.Errorf("write %s: %w", k.path, pathless(err))
			}
		}
	}
	return k.err
}

// Commit completes the file, makes it durable and puts it under its name. If states
// could not be written, those before them are kept under a name of their own, which
// the error tells.
func (k *KeptFile) Commit() error {
	if k.done {
		return fmt.Errorf("write %s: it is closed", k.path)
	}
	k.done = true
	main := k.parts[0]
	err := k.err
	if err == nil {
		err = errors.Join(main.close(), main.file.Sync())
	}
	if err == nil {
		var name string
		if name, err = moveAside(main.path, k.final); err == nil {
			k.final = name
			_ = main.file.Close()
			for _, p := range k.parts[1:] {
				p.discard()
			}
			return nil
		}
	}
	err = fmt.Errorf("%s is incomplete: %w", k.path, pathless(err))
	for _, p := range k.parts {
		_ = p.close() // as far as it goes
		err = fmt.Errorf("%w; %s", err, takeUpOwn(p))
		_ = p.file.Close()
	}
	return err
}

// takeUpOwn keeps what of this run was written, and says where.
func takeUpOwn(p *part) string {
	format, err := formatOf(p.kept)
	if err != nil {
		return err.Error()
	}
	readable, trimErr := trim(p.file, format)
	if !readable && trimErr == nil {
		_ = os.Remove(p.path)
		return fmt.Sprintf("nothing of it can be read in %s", filepath.Base(p.path))
	}
	name, err := moveAside(p.path, p.kept)
	if err != nil {
		name = fmt.Sprintf("%s (%v)", p.path, err)
	}
	if trimErr != nil {
		return fmt.Sprintf("what was written is in %s, and cannot be read now: %v", name, trimErr)
	}
	return "the states before it are in " + name
}

// Kept counts the states that are in the file, or beside it.
func (k *KeptFile) Kept() uint64 {
	var most uint64
	for _, p := range k.parts {
		switch lines := p.lines.lines; filepath.Ext(p.kept) {
		case csvEnding:
			most = max(most, max(lines, 1)-1) // a header comes first
		case jsonlEnding:
			most = max(most, lines)
		}
	}
	return most
}

// Abort discards the file. It may be called more than once and does nothing after
// Commit, so that it can be deferred.
func (k *KeptFile) Abort() {
	if k.done {
		return
	}
	k.done = true
	for _, p := range k.parts {
		p.discard()
	}
}

// discard removes the part. Its content is lost on purpose.
func (p *part) discard() {
	if p.file != nil {
		_ = os.Remove(p.path)
		_ = p.file.Close()
	}
}
