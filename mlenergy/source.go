package mlenergy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/excerpt"
)

// maxQuoted bounds what a message repeats of the data, in bytes.
const maxQuoted = 200

func quote(text string) string { return excerpt.Quote(text, maxQuoted) }

// Source is where a compiled benchmark directory comes from.
type Source interface {
	// Fetch returns a directory of this machine that has the files, which are named
	// relative to it and parted by slashes. It may be another one with each call.
	Fetch(ctx context.Context, files []string) (dir string, err error)
}

// Directory is a compiled benchmark directory of this machine.
type Directory string

// Fetch implements [Source]. It does not look for the files: whoever opens them does.
func (d Directory) Fetch(context.Context, []string) (string, error) { return string(d), nil }

// errorAt is what is wrong with a file of the benchmark.
func errorAt(file, format string, args ...any) error {
	return fmt.Errorf("%w: %s: %w", datacenter.ErrInvalidInput, excerpt.Printable(file, 4*maxQuoted), fmt.Errorf(format, args...))
}

// staysBelow reports whether a path leads to something below the directory that it is
// joined to.
func staysBelow(path string) bool {
	return filepath.IsLocal(filepath.FromSlash(path)) && !strings.Contains(path, `\`)
}

// openFile opens a file below dir. Its name must not lead out of it; a symbolic link
// may, as in a cache of the Hugging Face hub, where all files are links.
func openFile(dir, name string) (*os.File, string, error) {
	if !staysBelow(name) {
		return nil, "", errorAt(dir, "the path %s leads out of the directory", quote(name))
	}
	path := filepath.Join(dir, filepath.FromSlash(name))
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("is no file") // to open a FIFO would wait for its writer
	}
	var f *os.File
	if err == nil {
		f, err = os.Open(path)
	}
	if err != nil {
		var pathErr *os.PathError
		if errors.As(err, &pathErr) {
			err = pathErr.Err
		}
		return nil, "", errorAt(path, "%w", err)
	}
	return f, path, nil
}
