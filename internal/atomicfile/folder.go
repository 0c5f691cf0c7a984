package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// CheckFolder reports why files could not be created in a folder, which need not be
// there yet: then it is the nearest one above that counts. It leaves nothing behind,
// and says nothing of how much room there is.
func CheckFolder(dir string) error {
	for at := filepath.Clean(dir); ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		if (errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)) && at != filepath.Dir(at) {
			continue
		}
		if err == nil && !info.IsDir() {
			return fmt.Errorf("%s: %s is not a directory", dir, at)
		}
		if err == nil {
			err = tryIn(at)
		}
		if pathErr := (*fs.PathError)(nil); errors.As(err, &pathErr) {
			err = pathErr.Err // the name of what was tried would only confuse
		}
		if err != nil {
			return fmt.Errorf("%s: cannot write in %s: %w", dir, at, err)
		}
		return nil
	}
}

// tryIn creates a file and removes it.
func tryIn(dir string) error {
	file, err := os.CreateTemp(dir, ".*"+temporaryEnding)
	if err != nil {
		return err
	}
	return errors.Join(file.Close(), os.Remove(file.Name()))
}
