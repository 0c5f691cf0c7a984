// Package credentialtest has keys for tests of those who send them.
package credentialtest

import "sync"

// File stands for a file with a key that may be replaced. Its methods may be called
// from any goroutine.
type File struct {
	mu    sync.Mutex
	key   string
	err   error
	reads int
}

// NewFile returns a file that holds the key, or that cannot be read if err is not nil.
func NewFile(key string, err error) *File { return &File{key: key, err: err} }

// Read returns what the file holds, or why it cannot be read.
func (f *File) Read() (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads++
	return f.key, f.err
}

// Set replaces the key, or the error.
func (f *File) Set(key string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.key, f.err = key, err
}

// Reads is how often the file was read.
func (f *File) Reads() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reads
}
