//go:build unix

package atomicfile

import (
	"errors"
	"os"
	"syscall"
)

// ErrLocked says that another program, or another part of this one, has a file.
var ErrLocked = errors.New("somebody else writes it")

// Lock takes the file for us alone, until it is closed or the program ends,
// however that comes about. It does not wait: a file that somebody else has is
// [ErrLocked].
func Lock(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return ErrLocked
	}
	return err
}
