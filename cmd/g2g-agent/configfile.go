package main

import (
	"context"
	"errors"
	"os"

	"github.com/g2g-agent/g2g-agent/config"
)

// readConfig reads the config of a verb, from standard input for the name "-". Whoever
// writes there, or to a FIFO, may never end, and so the end of ctx ends the waiting.
func readConfig(ctx context.Context, term terminal, name string) (*config.File, error) {
	if info, err := os.Stat(name); name != config.Stdin && (err != nil || info.Mode().IsRegular()) {
		return config.ReadFile(name)
	}
	if name == config.Stdin && isTerminal(os.Stdin) {
		// Whether it is seen or not, the config is waited for.
		_ = tell(term.stderr, "the config is read from standard input, until its end (Ctrl-D)\n")
	}
	type result struct {
		file *config.File
		err  error
	}
	read := make(chan result, 1)
	go func() { // left to itself if it never ends, as the program then does
		file, err := config.ReadFile(name)
		read <- result{file, err}
	}()
	select {
	case r := <-read:
		return r.file, r.err
	case <-ctx.Done():
		return nil, errors.New("interrupted while the config was read from " + config.DisplayName(name))
	}
}

// loadConfig reads and validates the config of a verb, see [readConfig].
func loadConfig(ctx context.Context, term terminal, name string, purpose config.Purpose) (*config.Config, error) {
	file, err := readConfig(ctx, term, name)
	if err != nil {
		return nil, err
	}
	return file.Load(term.environ, purpose)
}

// reloader returns what reads a config again; that from standard input stays as it is.
func reloader(file *config.File, name string, environ []string, purpose config.Purpose) func() (*config.Config, error) {
	if name == config.Stdin {
		return func() (*config.Config, error) { return file.Load(environ, purpose) }
	}
	return func() (*config.Config, error) { return config.Reload(name, environ, purpose) }
}

// isStdin reports whether a file is this program's standard input, under whatever name.
func isStdin(name string) bool {
	if name == config.Stdin {
		return true
	}
	own, err := os.Stdin.Stat()
	if err != nil {
		return false
	}
	file, err := os.Stat(name)
	return err == nil && os.SameFile(own, file)
}
