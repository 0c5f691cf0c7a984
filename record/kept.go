package record

import (
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
	states writer
	closed bool
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
	k := &KeptFile{path: path, final: nextFree(target)}
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
	}
	return k, append(notices, takeUpHidden(target, format)...), nil
}

// open takes up what an earlier run has left, and begins the file.
func (p *part) open(format fileFormat, models []string) (notices []string, err error) {
	for {
		file, err := os.OpenFile(p.path, os.O_RDWR|os.O_CREATE, 0o666)
		if err != nil {
			return notices, pathless(err)
		}
		if err := atomicfile.Lock(file); err != nil {
			_ = file.Close()
			return notices, fmt.Errorf("%s: %w", p.path, err)
		}
		info, err := file.Stat()
		if err == nil && info.Size() == 0 && samePlace(info, p.path) {
			p.file = file
			p.states, err = format.newWriter(file, models)
			if err != nil {
				p.discard()
			}
			return notices, err
		}
		if err == nil {
			notices = append(notices, takeUp(file, p.path, p.kept, format)...)
		}
		_ = file.Close()
	}
}

// samePlace reports whether the file is still the one at path: another run may have
// completed it in between.
func samePlace(info fs.FileInfo, path string) bool {
	there, err := os.Stat(path)
	return err == nil && os.SameFile(info, there)
}

// takeUp keeps the states in a file that a run has left, as far as they can be read,
// under another name, or removes it. It always removes path.
func takeUp(file *os.File, path, kept string, format fileFormat) (notices []string) {
	readable, err := trim(file, format)
	if err != nil {
		notices = append(notices, fmt.Sprintf("%s, left by an earlier run, cannot be read: %v", path, err))
	}
	if !readable {
		if err := os.Remove(path); err != nil {
			return append(notices, fmt.Sprintf("%s, left by an earlier run without states, cannot be removed: %v", path, pathless(err)))
		}
		return append(notices, fmt.Sprintf("%s, left by an earlier run without states to read, was removed", path))
	}
	name, err := moveAside(path, kept)
	if err != nil {
		return append(notices, fmt.Sprintf("the states of an earlier run that was interrupted stay in %s: %v", path, err))
	}
	return append(notices, fmt.Sprintf("an earlier run was interrupted: its states up to then are in %s", name))
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
	for _, path := range atomicfile.Leftovers(target) {
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			continue
		}
		if atomicfile.Lock(file) == nil {
			notices = append(notices, takeUp(file, path, interrupted(target), format)...)
		}
		_ = file.Close()
	}
	return notices
}

// interrupted is the name for the states of a run that did not end in order.
func interrupted(target string) string {
	ending := filepath.Ext(target)
	return strings.TrimSuffix(target, ending) + ".interrupted" + ending
}

// nextFree is target or, if something is there, the first free one of target with a
// number before its ending, from 2 on.
func nextFree(target string) string {
	ending := filepath.Ext(target)
	name := target
	for n := 2; ; n++ {
		if _, err := os.Lstat(name); errors.Is(err, fs.ErrNotExist) {
			return name
		}
		name = fmt.Sprintf("%s.%d%s", strings.TrimSuffix(target, ending), n, ending)
	}
}

// moveAside gives a file the name, or the next free one, and returns that. It
// replaces nothing.
func moveAside(path, name string) (string, error) {
	for {
		free := nextFree(name)
		err := os.Link(path, free)
		switch {
		case errors.Is(err, fs.ErrExist): // just now
			continue
		case err != nil: // a file system without hard links
			return free, os.Rename(path, free)
		default:
			return free, os.Remove(path)
		}
	}
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
		if f, ok := p.states.(interface{ Flush() error }); ok && k.err == nil {
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
		err = fmt.Errorf("%w; %s", err, strings.Join(takeUpOwn(p), "; "))
		_ = p.file.Close()
	}
	return err
}

// takeUpOwn keeps what of this run was written.
func takeUpOwn(p *part) []string {
	format, err := formatOf(p.kept)
	if err != nil {
		return []string{err.Error()}
	}
	readable, err := trim(p.file, format)
	if err != nil || !readable {
		_ = os.Remove(p.path)
		return []string{fmt.Sprintf("nothing of it can be read in %s", filepath.Base(p.path))}
	}
	name, err := moveAside(p.path, p.kept)
	if err != nil {
		return []string{fmt.Sprintf("the states before it are in %s (%v)", p.path, err)}
	}
	return []string{"the states before it are in " + name}
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
