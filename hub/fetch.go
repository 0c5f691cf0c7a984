package hub

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/excerpt"
)

// Progress is how far a [Repo.Fetch] is. What was there before counts as done.
// DoneBytes falls when a file has to be begun again.
type Progress struct {
	DoneBytes, TotalBytes int64
	DoneFiles, TotalFiles int
}

// Fetch returns a directory that has the files, named by their paths within the data
// set: the first snapshot of a cache that has all of them, without asking the hub, else
// our own, into which the missing ones are downloaded and those that a cache has are
// linked. Files asked for in earlier calls may be in another directory.
//
// A nil progress is not called; another is called by one goroutine at a time, many
// times a second, from when all sizes are known, and must not block. What has arrived
// when Fetch fails or ctx ends is kept and continued by the next call.
//
// The error is that of the first file that failed: an [*Error], that of ctx, one of the
// disk, or one that wraps [datacenter.ErrInvalidInput].
func (r *Repo) Fetch(ctx context.Context, paths []string, progress func(Progress)) (dir string, err error) {
	paths = slices.Clone(paths)
	slices.Sort(paths)
	paths = slices.Compact(paths)
	if len(paths) == 0 {
		return "", fmt.Errorf("%w: no files of the data set %s are asked for", datacenter.ErrInvalidInput, r.name)
	}
	for _, path := range paths {
		if err := checkPath(path); err != nil {
			return "", fmt.Errorf("%w: the file %w", datacenter.ErrInvalidInput, err)
		}
	}
	tally := &tally{tell: progress, Progress: Progress{TotalFiles: len(paths)}}
	if dir, bytes, ok := r.cached(paths); ok {
		r.client.cfg.Log.Info().Str("dataset", r.name).Str("dir", dir).Msg("hub: all files are there; the hub is not asked for newer ones")
		tally.TotalBytes = bytes
		tally.add(bytes, len(paths))
		return dir, nil
	}
	missing, err := r.plan(ctx, paths, tally)
	if err != nil {
		return "", err
	}
	if err := r.checkRoom(missing); err != nil {
		return "", err
	}
	tally.add(0, 0)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(r.client.cfg.Parallel)
	for _, file := range missing {
		group.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx) // another has failed
			}
			return r.download(ctx, file, tally)
		})
	}
	if err := group.Wait(); err != nil {
		return "", err
	}
	return snapshot(r.own(), r.commit), nil
}

// plan finds the commit, takes what is there, and asks about the rest.
func (r *Repo) plan(ctx context.Context, paths []string, tally *tally) (missing []remote, err error) {
	if r.client.cfg.Offline {
		return nil, r.offline("no cache has all the files, such as " + excerpt.Quote(r.lacking(paths), maxQuoted))
	}
	var first remote
	if r.commit == "" {
		if first, err = r.describe(ctx, paths[0]); err != nil {
			return nil, err
		}
	}
	var unknown []string
	for _, path := range paths {
		size, ok, err := r.adopt(path)
		switch {
		case err != nil:
			return nil, err
		case ok:
			tally.TotalBytes += size
			tally.DoneBytes += size
			tally.DoneFiles++
		case path == first.path:
			missing = append(missing, first)
		default:
			unknown = append(unknown, path)
		}
	}
	described := make([]remote, len(unknown))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(r.client.cfg.Parallel)
	for i, path := range unknown {
		group.Go(func() (err error) {
			if ctx.Err() == nil {
				described[i], err = r.describe(ctx, path)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	missing = append(missing, described...)
	for _, file := range missing {
		tally.TotalBytes += file.size
	}
	return missing, nil
}

// lacking is a file that no cache has.
func (r *Repo) lacking(paths []string) string {
	for _, path := range paths {
		somewhere := slices.ContainsFunc(r.roots(), func(root string) bool {
			commit := r.commitIn(root)
			_, ok := has(snapshot(root, commit), path)
			return ok && commit != ""
		})
		if !somewhere {
			return path
		}
	}
	return paths[0] // each is somewhere, and no cache has all
}

// checkRoom returns an error if the disk has no room for what is to come.
func (r *Repo) checkRoom(files []remote) error {
	if err := os.MkdirAll(r.parts(), 0o777); err != nil {
		return r.diskError(err)
	}
	var need uint64
	for _, file := range files {
		have := int64(0)
		if info, err := os.Stat(r.part(file)); err == nil && info.Size() <= file.size {
			have = info.Size()
		}
		need += uint64(file.size - have)
	}
	if free, known := r.client.free(r.parts()); known && free < need {
		return &Error{Where: r.own(), kind: ErrDiskFull, advice: roomAdvice,
			detail: fmt.Sprintf("%d files of the data set %s need %s more, %s are free", len(files), r.name, size(need), size(free))}
	}
	return nil
}

// size is a number of bytes for people.
func size(bytes uint64) string {
	if bytes < 1_000_000 {
		return fmt.Sprintf("%d bytes", bytes)
	}
	if bytes < 1_000_000_000 {
		return fmt.Sprintf("%.1f MB", float64(bytes)/1e6)
	}
	return fmt.Sprintf("%.1f GB", float64(bytes)/1e9)
}

func (r *Repo) part(file remote) string { return filepath.Join(r.parts(), file.sum+".part") }

// tally adds up the progress of all files.
type tally struct {
	mu sync.Mutex
	Progress
	tell func(Progress)
}

func (t *tally) add(bytes int64, files int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.DoneBytes += bytes
	t.DoneFiles += files
	if t.tell != nil {
		t.tell(t.Progress)
	}
}
