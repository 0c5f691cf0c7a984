package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// maxFileBytes bounds the config file.
const maxFileBytes = 16 << 20

// File is a config file that was read, once even if it serves several purposes: it may
// be a pipe.
type File struct {
	name string
	text []byte
}

// ReadFile reads a config file. The error is an [*Error].
func ReadFile(name string) (*File, error) { return newFile(name, readFile) }

func newFile(name string, read func(name string) ([]byte, error)) (*File, error) {
	text, err := read(name)
	if err != nil {
		return nil, &Error{name, []Problem{{"", err.Error()}}}
	}
	return &File{name, text}, nil
}

// Load lets the environment (as os.Environ gives it) override the file, and validates
// the whole. The error is an [*Error] with all problems.
func (f *File) Load(environ []string, purpose Purpose) (*Config, error) {
	c, problems := parse(f.text, environ, purpose, filepath.Dir(f.name))
	if len(problems) > 0 {
		return nil, &Error{f.name, problems}
	}
	return c, nil
}

func readFile(file string) ([]byte, error) {
	raw, err := readBounded(file)
	var pathErr *os.PathError
	if errors.As(err, &pathErr) {
		return nil, pathErr.Err
	}
	return raw, err
}

func readBounded(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() && info.Size() > maxFileBytes {
		return nil, fmt.Errorf("has %d bytes, a config has at most %d", info.Size(), maxFileBytes)
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err == nil && len(raw) > maxFileBytes {
		err = fmt.Errorf("has more bytes than the %d that a config has at most", maxFileBytes)
	}
	return raw, err
}
