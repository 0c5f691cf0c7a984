package requests

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/g2g-agent/g2g-agent/internal/atomicfile"
)

// ending is that of request files.
const ending = ".jsonl"

// partName is the directory in which files are until all are complete.
const partName = ".part"

// There reports whether a directory of request files is there, and which of the
// models' files it lacks. That it is there is all that says it is complete, as in
// OpenG2G's RequestStore.ensure.
func There(dir string, models []Model) (there bool, missing []string, err error) {
	switch info, err := os.Stat(dir); {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR): // whoever makes it finds out
		return false, nil, nil
	case err != nil:
		return false, nil, err
	case !info.IsDir():
		return false, nil, invalidf("%s is a file, want a directory", dir)
	}
	for _, m := range models {
		path := filepath.Join(dir, m.Label+ending)
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, path)
		} else if err != nil {
			return true, missing, err
		}
	}
	return true, missing, nil
}

// Generate writes a file LABEL.jsonl for each model into dir, all with the same
// prompts. A new directory appears when all files are complete; in one that is there,
// the models' files are replaced, one after the other, once all are complete. The number of
// different prompts is distinct; warnings are the source's.
func Generate(ctx context.Context, dir string, models []Model, source Source, cfg Config) (distinct int, warnings []string, err error) {
	if cfg.NumRequests < 1 || cfg.MaxCompletionTokens < 1 {
		return 0, nil, invalidf("want at least 1 request and 1 completion token, got %d and %d", cfg.NumRequests, cfg.MaxCompletionTokens)
	}
	encoders := make([]*encoder, len(models))
	seen := map[string]bool{}
	for i, m := range models {
		if err := CheckLabel(m.Label); err != nil {
			return 0, nil, err
		}
		if seen[m.Label] {
			return 0, nil, invalidf("model label %s is there twice", quote(m.Label))
		}
		seen[m.Label] = true
		if encoders[i], err = newEncoder(m, cfg); err != nil {
			return 0, nil, err
		}
	}
	prompts, warnings, err := source.Sample(ctx, cfg.NumRequests, cfg.Seed)
	if err != nil {
		return 0, warnings, err
	}
	if len(prompts) == 0 {
		return 0, warnings, invalidf("the data holds no prompt")
	}
	warnings = append(warnings, blanks(prompts)...)
	part, err := openPart(dir)
	if err != nil {
		return 0, warnings, err
	}
	defer part.remove()
	for i, m := range models {
		write := func(w io.Writer) error { return writeAll(ctx, w, encoders[i], prompts, cfg) }
		if err := part.write(m.Label+ending, write); err != nil {
			return 0, warnings, err
		}
	}
	return len(prompts), warnings, part.commit()
}

// blanks remarks on prompts of a data set that ask nothing: OpenG2G takes them.
func blanks(prompts []Prompt) []string {
	count, first := 0, ""
	for i := range prompts {
		if p := &prompts[i]; p.isBlank() {
			if count++; count == 1 {
				first = fmt.Sprintf("%s: row %d: the prompt is empty; it is asked all the same, as OpenG2G does", p.File, p.Row)
			}
		}
	}
	switch count {
	case 0:
		return nil
	case 1:
		return []string{first}
	}
	return []string{fmt.Sprintf("%s; so it is with %d prompts in all", first, count)}
}

func writeAll(ctx context.Context, w io.Writer, e *encoder, prompts []Prompt, cfg Config) error {
	for p := range filledUp(prompts, cfg.NumRequests, cfg.Seed) {
		if err := ctx.Err(); err != nil {
			return err
		}
		line, err := e.encode(p)
		if err != nil {
			return err
		}
		if _, err := w.Write(line); err != nil {
			return err
		}
	}
	return nil
}

// part is a directory of files that are not all complete: beside the one that they are
// for, or in it if it is there, so that both are on one file system. Its name is always
// the same, so that what a killed program left is taken up by the next one.
type part struct {
	dir, path string
	into      bool // dir is there
	lock      *os.File
	files     []string
	committed bool
}

func openPart(dir string) (*part, error) {
	p := &part{dir: filepath.Clean(dir)}
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		p.into, p.path = true, filepath.Join(dir, partName)
	} else {
		parent, base := filepath.Split(p.dir)
		p.path = parent + "." + base + partName
	}
	for {
		if err := os.MkdirAll(p.path, 0o777); err != nil {
			return nil, fmt.Errorf("make %s: %w", dir, err)
		}
		var err error
		if p.lock, err = os.Open(p.path); errors.Is(err, fs.ErrNotExist) {
			continue // somebody else has just completed it
		} else if err != nil {
			return nil, err
		}
		switch err := atomicfile.Lock(p.lock); {
		case errors.Is(err, atomicfile.ErrLocked):
			_ = p.lock.Close()
			return nil, fmt.Errorf("another program is making %s just now", dir)
		case err != nil:
			_ = p.lock.Close()
			return nil, fmt.Errorf("lock %s: %w", p.path, err)
		case atomicfile.IsAt(p.lock, p.path):
			return p, p.empty()
		}
		_ = p.lock.Close() // it is in its place now; ours is another
	}
}

// empty removes what a killed program left.
func (p *part) empty() error {
	entries, err := os.ReadDir(p.path)
	for _, e := range entries {
		err = errors.Join(err, os.Remove(filepath.Join(p.path, e.Name())))
	}
	if err != nil {
		_ = p.lock.Close()
	}
	return err
}

// write makes one of the files, durable. Errors of writing name it as it will be.
func (p *part) write(name string, content func(io.Writer) error) (err error) {
	file, err := os.OpenFile(filepath.Join(p.path, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return p.named(name, err)
	}
	defer func() { err = p.named(name, errors.Join(err, file.Close())) }()
	out := bufio.NewWriterSize(file, 1<<20)
	if err := content(out); err != nil {
		return err
	}
	if err := out.Flush(); err != nil {
		return err
	}
	p.files = append(p.files, name)
	return file.Sync()
}

// named gives an error of the file system the file's name.
func (p *part) named(name string, err error) error {
	if pathErr := (*fs.PathError)(nil); errors.As(err, &pathErr) {
		return fmt.Errorf("write %s: %w", filepath.Join(p.dir, name), pathErr.Err)
	}
	return err
}

// commit puts the files in their place.
func (p *part) commit() error {
	if !p.into {
		if err := os.Rename(p.path, p.dir); err != nil {
			return fmt.Errorf("make %s: %w", p.dir, errors.Unwrap(err))
		}
		p.committed = true
		return nil
	}
	for _, name := range p.files {
		if err := os.Rename(filepath.Join(p.path, name), filepath.Join(p.dir, name)); err != nil {
			return fmt.Errorf("replace %s: %w", filepath.Join(p.dir, name), errors.Unwrap(err))
		}
	}
	return nil
}

// remove discards what was not put in its place.
func (p *part) remove() {
	if !p.committed {
		_ = os.RemoveAll(p.path) // the next one removes what is left
	}
	_ = p.lock.Close()
}
