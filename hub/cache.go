package hub

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/g2g-agent/g2g-agent/internal/atomicfile"
)

// roots are the directories that may have the data set, ours last.
func (r *Repo) roots() []string {
	folder := "datasets--" + strings.ReplaceAll(r.name, "/", "--")
	var roots []string
	for _, dir := range append(slices.Clone(r.client.cfg.CacheDirs), r.client.cfg.Dir) {
		roots = append(roots, filepath.Join(dir, folder))
	}
	return roots
}

// own is where the data set is kept by us.
func (r *Repo) own() string {
	roots := r.roots()
	return roots[len(roots)-1]
}

func snapshot(root, commit string) string { return filepath.Join(root, "snapshots", commit) }

// commitIn is the pinned commit, else the one that a directory has for the revision.
func (r *Repo) commitIn(root string) string {
	if r.commit != "" {
		return r.commit
	}
	raw, err := readToken(filepath.Join(root, "refs", filepath.FromSlash(r.revision)))
	if commit := strings.TrimSpace(raw); err == nil && isCommit(commit) {
		return commit
	}
	return ""
}

// has is the size of a file if it is there and a file.
func has(dir, file string) (size int64, ok bool) {
	info, err := os.Stat(filepath.Join(dir, filepath.FromSlash(file)))
	if err != nil || !info.Mode().IsRegular() {
		return 0, false
	}
	return info.Size(), true
}

// cached returns the first snapshot with all the files, and pins its commit.
func (r *Repo) cached(files []string) (dir string, bytes int64, ok bool) {
	for _, root := range r.roots() {
		commit := r.commitIn(root)
		if commit == "" {
			continue
		}
		dir, bytes = snapshot(root, commit), 0
		lacks := slices.ContainsFunc(files, func(file string) bool {
			size, ok := has(dir, file)
			bytes += size
			return !ok
		})
		if !lacks {
			r.commit = commit
			return dir, bytes, true
		}
	}
	return "", 0, false
}

// listCached is what the first cache with something of the folder has there.
func (r *Repo) listCached(folder string) []File {
	for _, root := range r.roots() {
		commit := r.commitIn(root)
		if commit == "" {
			continue
		}
		dir := snapshot(root, commit)
		var files []File
		// What cannot be read is not there for us.
		_ = filepath.WalkDir(filepath.Join(dir, filepath.FromSlash(folder)), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return nil //nolint:nilerr // see above
			}
			if rel, err := filepath.Rel(dir, path); err == nil {
				if size, ok := has(dir, rel); ok {
					files = append(files, File{filepath.ToSlash(rel), size})
				}
			}
			return nil
		})
		if len(files) > 0 {
			r.commit = commit
			r.client.cfg.Log.Warn().Str("dir", dir).Int("files", len(files)).
				Msg("hub: the listing is what a cache has; the data set may have more files")
			return files
		}
	}
	return nil
}

// pin has all further files be of the commit, and notes it for the revision.
func (r *Repo) pin(commit string) error {
	if r.commit != "" {
		return nil
	}
	ref := filepath.Join(r.own(), "refs", filepath.FromSlash(r.revision))
	if err := os.MkdirAll(filepath.Dir(ref), 0o777); err != nil {
		return r.diskError(err)
	}
	file, err := atomicfile.Create(ref)
	if err != nil {
		return r.diskError(err)
	}
	defer file.Abort()
	if _, err := file.Write([]byte(commit)); err != nil {
		return r.diskError(err)
	}
	if err := file.Commit(); err != nil {
		return r.diskError(err)
	}
	r.commit = commit
	r.client.cfg.Log.Info().Str("dataset", r.name).Str("revision", r.revision).Str("commit", commit).
		Msg("hub: files are taken from this commit")
	return nil
}

// adopt links a file of a cache into our snapshot, and reports whether it is there
// then, with its size.
func (r *Repo) adopt(file string) (size int64, ok bool, err error) {
	ours := filepath.Join(snapshot(r.own(), r.commit), filepath.FromSlash(file))
	for _, root := range slices.Backward(r.roots()) { // ours first
		dir := snapshot(root, r.commit)
		size, ok := has(dir, file)
		if !ok {
			continue
		}
		if root == r.own() {
			return size, true, nil
		}
		target, err := filepath.EvalSymlinks(filepath.Join(dir, filepath.FromSlash(file)))
		if err != nil {
			continue // it has gone
		}
		if target, err = filepath.Abs(target); err == nil {
			err = r.link(target, ours)
		}
		return size, err == nil, err
	}
	return 0, false, nil
}

// link makes a symbolic link, in place of one that leads nowhere any more.
func (r *Repo) link(target, path string) error {
	temporary := filepath.Join(r.parts(), "link-"+rand.Text())
	for _, dir := range []string{r.parts(), filepath.Dir(path)} {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return r.diskError(err)
		}
	}
	if err := os.Symlink(target, temporary); err != nil {
		return r.diskError(err)
	}
	if err := os.Rename(temporary, path); err != nil {
		_ = os.Remove(temporary)
		return r.diskError(err)
	}
	return nil
}

// parts is where what is not complete is kept.
func (r *Repo) parts() string { return filepath.Join(r.own(), "parts") }

// diskError is the error of writing; of one for want of room it says so.
func (r *Repo) diskError(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return &Error{Where: r.own(), kind: ErrDiskFull, cause: err, advice: roomAdvice}
	}
	return fmt.Errorf("keep a file of the hub: %w", err)
}

const roomAdvice = "make room, or choose another directory; what has arrived is kept and continued next time"
