package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/g2g-agent/g2g-agent/internal/atomicfile"
)

// urlFlags are those of verbs with the API.
type urlFlags struct {
	URLFile string `name:"url-file" placeholder:"FILE" help:"Where the API's URL goes, as one line, once requests are taken. A file is there as long as the agent is; a pipe, such as /dev/fd/3, is written to and closed."`
}

// urlFile is where the API's URL goes; nil is nowhere.
type urlFile struct {
	path, target string // target is path without symbolic links
	// open is what /dev/fd/N stands for.
	open *os.File
	// inPlace tells that there is something else than a file: a FIFO, a device.
	inPlace bool
	// line is what was written to a file that is to be removed.
	line string
}

// maxURLFileBytes is more than any URL of ours has.
const maxURLFileBytes = 1024

// openURLFile looks at where the URL is to go, before anything else is opened. A file
// left by an agent that was killed is removed, so that nobody takes its URL for ours.
// The errors wrap [datacenter.ErrInvalidInput].
func (f urlFlags) openURLFile(listen, out string) (*urlFile, error) {
	if f.URLFile == "" {
		return nil, nil
	}
	if listen == "" {
		return nil, invalidf("--url-file: there is no API that has a URL: api.listen is empty")
	}
	u := &urlFile{path: f.URLFile}
	if fd, is := descriptor(f.URLFile); is {
		return u, u.take(fd, out)
	}
	target, mode, exists, err := atomicfile.Locate(f.URLFile)
	switch {
	case err != nil:
		return nil, invalidf("--url-file: %w", err)
	case exists && !mode.IsRegular():
		u.inPlace = true
		return u, nil
	case exists:
		err = removeOld(target)
	}
	u.target = target
	if err != nil {
		return nil, invalidf("--url-file: %w", err)
	}
	atomicfile.TakeLeftovers(target, func(_ *os.File, dead string) {
		_ = os.Remove(dead) // nobody takes it for anything
	})
	return u, nil
}

// descriptor returns the number N of a path such as /dev/fd/N.
func descriptor(path string) (fd int, is bool) {
	path = filepath.Clean(path)
	for i, name := range []string{"/dev/stdin", "/dev/stdout", "/dev/stderr"} {
		if path == name {
			return i, true
		}
	}
	number := regexp.MustCompile(`^/(?:dev|proc/self)/fd/([0-9]{1,9})$`).FindStringSubmatch(path)
	if number == nil {
		return 0, false
	}
	fd, err := strconv.Atoi(number[1])
	return fd, err == nil
}

// take takes over what was opened by whoever started the program. Opened anew by its
// path, a pipe would not end for its reader as long as we have the first one.
func (u *urlFile) take(fd int, out string) error {
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return invalidf("--url-file: %s is not open: whoever starts the agent must leave it open to it", u.path)
	}
	kinds := map[uint32]bool{unix.S_IFIFO: true, unix.S_IFSOCK: true, unix.S_IFREG: true, unix.S_IFCHR: true}
	switch mode := uint32(stat.Mode) & unix.S_IFMT; { //nolint:unconvert // macOS has 16 bits
	case fd == syscall.Stdin:
		return invalidf("--url-file: %s is standard input", u.path)
	case fd == syscall.Stdout && out == stdoutPath:
		return invalidf("--url-file: %s is where --out - has the states go; want another one", u.path)
	case !kinds[mode]:
		return invalidf("--url-file: %s is neither a pipe nor a socket or a file", u.path)
	}
	if fd > syscall.Stderr {
		unix.CloseOnExec(fd)
	}
	u.open = os.NewFile(uintptr(fd), u.path)
	return nil
}

// removeOld removes a file with the URL of an agent, and lets an empty one be. It is an
// error if something else is in it.
func removeOld(path string) error {
	text, err := readStart(path)
	if err != nil {
		return err
	}
	if text == "" {
		return nil
	}
	if !regexp.MustCompile(`^https?://[^\s]+\n$`).MatchString(text) {
		return fmt.Errorf("%s holds something else than a URL; want a file that may be replaced", path)
	}
	return os.Remove(path)
}

// readStart reads a file as far as a URL may go.
func readStart(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxURLFileBytes))
	return string(text), err
}

// write writes the URL. It does not wait for whoever is to read a pipe: that is left to
// the function that it returns, unless it is nil, which is done with ctx.
func (u *urlFile) write(url string, log zerolog.Logger) (waiting func(ctx context.Context) error, err error) {
	if u == nil {
		return nil, nil
	}
	line := strings.TrimSuffix(url, "/") + "\n"
	if u.open != nil || u.inPlace {
		return func(ctx context.Context) error { return u.writeInPlace(ctx, line, log) }, nil
	}
	file, err := atomicfile.Create(u.path)
	if err == nil {
		defer file.Abort()
		_, err = io.WriteString(file, line)
	}
	if err == nil {
		err = file.Commit()
	}
	if err != nil {
		return nil, fmt.Errorf("--url-file: %w", err)
	}
	u.line = line
	return nil, nil
}

// writeInPlace writes to a pipe, a device or whatever was opened for us, and closes it:
// its reader gets the end. That a pipe's reader has gone is logged only, since a URL
// that nobody wants harms nobody.
func (u *urlFile) writeInPlace(ctx context.Context, line string, log zerolog.Logger) error {
	f, err := u.opened(ctx, log)
	if f == nil {
		return err
	}
	_, err = io.WriteString(f, line)
	if f.Fd() > uintptr(syscall.Stderr) {
		err = errors.Join(err, f.Close())
	}
	switch {
	case errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNRESET):
		log.Warn().Str("url_file", u.path).Msg("nobody reads --url-file any more")
		return nil
	case err != nil:
		return fmt.Errorf("--url-file: %w", err)
	}
	return nil
}

// opened returns what can be written to at once, nil if ctx is done before there is a
// reader.
func (u *urlFile) opened(ctx context.Context, log zerolog.Logger) (*os.File, error) {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for told := false; ; told = true {
		if u.open == nil {
			f, err := os.OpenFile(u.path, os.O_WRONLY|syscall.O_NONBLOCK, 0)
			if err != nil && !errors.Is(err, syscall.ENXIO) {
				return nil, fmt.Errorf("--url-file: %w", err)
			}
			u.open = f // nil without a reader
		}
		if u.open != nil && writable(u.open) {
			return u.open, nil
		}
		if !told {
			log.Info().Str("url_file", u.path).Msg("waiting for a reader of --url-file")
		}
		select {
		case <-ctx.Done():
			return nil, nil
		case <-ticker.C:
		}
	}
}

// writable reports whether a write would not wait.
func writable(f *os.File) bool {
	poll := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLOUT}}
	n, err := unix.Poll(poll, 0)
	return err != nil && !errors.Is(err, unix.EINTR) || n > 0
}

// remove takes the file away, unless it is another agent's by now.
func (u *urlFile) remove(log zerolog.Logger) {
	if u == nil || u.line == "" {
		return
	}
	text, err := readStart(u.target)
	if err == nil && text == u.line {
		err = os.Remove(u.target)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn().Err(err).Msg("the file of the URL cannot be removed")
	}
}
