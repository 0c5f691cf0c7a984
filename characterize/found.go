package characterize

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/atomicfile"
)

// foundFile has the batch sizes that servers had before a call that has not ended.
const foundFile = "found.json"

// found are the batch sizes that servers had before they were told any, by URL. They are
// on the disk before that, so that the call after one that was killed does not take what
// that left behind for what there was.
type found struct {
	file string

	mu    sync.Mutex
	sizes map[string]int
	taken map[string]bool // by this call
}

// maxFoundBytes is more than the file ever holds.
const maxFoundBytes = 1 << 20

// loadFound takes up what a call left that has not ended. Its errors wrap
// [datacenter.ErrInvalidInput].
func (s *store) loadFound() (*found, error) {
	f := &found{file: filepath.Join(s.dir, foundFile), sizes: map[string]int{}, taken: map[string]bool{}}
	file, err := os.Open(f.file)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", datacenter.ErrInvalidInput, err)
	}
	defer file.Close()
	if err := json.NewDecoder(io.LimitReader(file, maxFoundBytes)).Decode(&f.sizes); err != nil {
		return nil, fmt.Errorf("%w: %s: %w; it has the batch sizes by server that a call found which was cut off; without it, servers get back those they have now",
			datacenter.ErrInvalidInput, f.file, err)
	}
	if f.sizes == nil {
		f.sizes = map[string]int{}
	}
	return f, nil
}

// find notes what a server has, unless that is known from before, and returns what it is
// to be left with; 0 is not known.
func (f *found) find(url string, batchSize int) (int, error) {
	if batchSize == 0 {
		return 0, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.taken[url] = true
	if n := f.sizes[url]; n > 0 {
		return n, nil
	}
	f.sizes[url] = batchSize
	return batchSize, f.save()
}

// restored forgets what this call's servers had: they have it again.
func (f *found) restored() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for url := range f.taken {
		delete(f.sizes, url)
	}
	if len(f.sizes) > 0 {
		return f.save()
	}
	if err := os.Remove(f.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// save makes the file durable; mu is held.
func (f *found) save() error {
	raw, err := json.Marshal(f.sizes)
	if err != nil {
		return err
	}
	removeLeftovers(f.file)
	file, err := atomicfile.Create(f.file)
	if err != nil {
		return err
	}
	defer file.Abort()
	if _, err := file.Write(append(raw, '\n')); err != nil {
		return fmt.Errorf("write %s: %w", f.file, err)
	}
	return file.Commit()
}
