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

// Stdin as the name of a config file is standard input.
const Stdin = "-"

// DisplayName is how messages name a config file.
func DisplayName(name string) string {
	if name == Stdin {
		return "standard input"
	}
	return name
}

// File is a config file that was read, once even if it serves several purposes: it may
// be a pipe.
type File struct {
	name string
	text []byte
}

// ReadFile reads a config file, or standard input to its end for the name [Stdin]. The
// error is an [*Error].
func ReadFile(name string) (*File, error) {
	if name == Stdin {
		return newFile(name, func(string) ([]byte, error) { return readBounded(os.Stdin) })
	}
	return newFile(name, readFile)
}

func newFile(name string, read func(name string) ([]byte, error)) (*File, error) {
	text, err := read(name)
	if err != nil {
		return nil, &Error{DisplayName(name), []Problem{{"", err.Error()}}}
	}
	return &File{name, text}, nil
}

// Name is how messages name the file.
func (f *File) Name() string { return DisplayName(f.name) }

// dir is what relative paths are relative to: the file's folder, and for standard input
// the working directory.
func (f *File) dir() string {
	if f.name == Stdin {
		return ""
	}
	return filepath.Dir(f.name)
}

// Load lets the environment (as os.Environ gives it) override the file, and validates
// the whole. The error is an [*Error] with all problems.
func (f *File) Load(environ []string, purpose Purpose) (*Config, error) {
	c, problems := parse(f.text, environ, purpose, f.dir())
	if len(problems) > 0 {
		return nil, &Error{f.Name(), problems}
	}
	return c, nil
}

func readFile(file string) ([]byte, error) {
	raw, err := openBounded(file)
	var pathErr *os.PathError
	if errors.As(err, &pathErr) {
		return nil, pathErr.Err
	}
	return raw, err
}

func openBounded(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readBounded(f)
}

func readBounded(f *os.File) ([]byte, error) {
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() && info.Size() > maxFileBytes {
		return nil, fmt.Errorf("has %d bytes, a config has at most %d", info.Size(), maxFileBytes)
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err == nil && len(raw) > maxFileBytes {
		err = fmt.Errorf("has more bytes than the %d that a config has at most", maxFileBytes)
	}
	return raw, err
}
