package hub_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/hub"
	"github.com/g2g-agent/g2g-agent/hub/hubtest"
)

// fillCache writes a cache as the Python client has it: snapshots of links to blobs.
func fillCache(t *testing.T, commit string, files map[string][]byte) (dir string) {
	t.Helper()
	dir = t.TempDir()
	root := filepath.Join(dir, "datasets--ml-energy--benchmark-v3")
	write := func(path string, data []byte) {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o777), os.WriteFile(path, data, 0o666)); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(root, "refs", "main"), []byte(commit))
	for path, data := range files {
		blob := filepath.Join(root, "blobs", hubtest.SHA256(data))
		link := filepath.Join(root, "snapshots", commit, path)
		write(blob, data)
		if err := errors.Join(os.MkdirAll(filepath.Dir(link), 0o777)); err != nil {
			t.Fatal(err)
		}
		to, err := filepath.Rel(filepath.Dir(link), blob)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, link); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// A cache of the Python client that has the files is used as it is, without a request
// and without writing anything.
func TestCacheIsUsedFirst(t *testing.T) {
	f := newBenchmark(t)
	cache := fillCache(t, commitB, map[string][]byte{"runs/llm.parquet": results})
	u := newUser(t, f, func(cfg *hub.Config) { cfg.CacheDirs = []string{t.TempDir(), cache} })
	repo := u.repo(t)
	dir, err := repo.Fetch(t.Context(), []string{"runs/llm.parquet"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	wantFile(t, dir, "runs/llm.parquet", results)
	if want := filepath.Join(cache, "datasets--ml-energy--benchmark-v3", "snapshots", commitB); dir != want || repo.Commit() != commitB {
		t.Errorf("the directory is %s of commit %s, want %s", dir, repo.Commit(), want)
	}
	if atHub, _ := f.Requests(); len(atHub) > 0 {
		t.Errorf("the hub was asked %v", atHub)
	}
	if entries, err := os.ReadDir(u.dir); err != nil || len(entries) > 0 {
		t.Errorf("written: %v, %v", entries, err)
	}
}

// What a cache lacks is downloaded, of the cache's commit once a file of it was used,
// and what it has is linked beside it, not downloaded again.
func TestCacheIsCompleted(t *testing.T) {
	f := newBenchmark(t)
	f.Put(commitB, "runs/llm.parquet", results, true)
	f.Move(commitB)
	cache := fillCache(t, commitA, map[string][]byte{"runs/llm.parquet": table})
	u := newUser(t, f, func(cfg *hub.Config) { cfg.CacheDirs = []string{cache} })
	repo := u.repo(t)
	if _, err := repo.Fetch(t.Context(), []string{"runs/llm.parquet"}, nil); err != nil {
		t.Fatal(err)
	}
	dir, err := repo.Fetch(t.Context(), []string{"runs/llm.parquet", "llm/a b/results.json"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	wantFile(t, dir, "runs/llm.parquet", table)
	wantFile(t, dir, "llm/a b/results.json", results)
	if _, atStore := f.Requests(); len(atStore) > 0 {
		t.Errorf("downloaded again: %v", atStore)
	}
	// The cache is cleaned up: the link leads nowhere, and the file is fetched.
	if err := os.RemoveAll(cache); err != nil {
		t.Fatal(err)
	}
	if _, err = repo.Fetch(t.Context(), []string{"runs/llm.parquet"}, nil); err != nil {
		t.Fatal(err)
	}
	wantFile(t, dir, "runs/llm.parquet", table)
}

// A cache that lacks a file does not tie anybody to its old commit, and what has its
// name is no file for that.
func TestIncompleteCacheOfOldCommit(t *testing.T) {
	f := newBenchmark(t)
	cache := fillCache(t, commitB, map[string][]byte{"README.md": results})
	odd := filepath.Join(cache, "datasets--ml-energy--benchmark-v3", "snapshots", commitA, "runs", "llm.parquet")
	if err := os.MkdirAll(odd, 0o777); err != nil {
		t.Fatal(err)
	}
	u := newUser(t, f, func(cfg *hub.Config) { cfg.CacheDirs = []string{cache} })
	dir, err := u.repo(t).Fetch(t.Context(), []string{"runs/llm.parquet"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if dir != u.own("snapshots", commitA) {
		t.Errorf("the directory is %s", dir)
	}
	wantFile(t, dir, "runs/llm.parquet", table)
}

// A commit that is named is looked for in the cache, whatever the cache's branches are.
func TestCacheOfNamedCommit(t *testing.T) {
	f := newBenchmark(t)
	cache := fillCache(t, commitA, map[string][]byte{"runs/llm.parquet": table})
	u := newUser(t, f, func(cfg *hub.Config) { cfg.CacheDirs = []string{cache} })
	repo, err := u.Repo(dataset, commitA)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := repo.Fetch(t.Context(), []string{"runs/llm.parquet"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	wantFile(t, dir, "runs/llm.parquet", table)
	if !strings.HasPrefix(dir, cache) {
		t.Errorf("the directory is %s, want one in %s", dir, cache)
	}
	if repo, err = u.Repo(dataset, commitB); err != nil {
		t.Fatal(err)
	}
	if _, err = repo.Fetch(t.Context(), []string{"runs/llm.parquet"}, nil); !errors.Is(err, hub.ErrRevisionNotFound) {
		t.Errorf("of another commit: %v", err)
	}
	if atHub, atStore := f.Requests(); len(atHub) != 1 || len(atStore) > 0 {
		t.Errorf("asked %v %v", atHub, atStore)
	}
}

// Offline, the caches are all there is: nothing is asked, and the message says what is
// missing and where it was looked for.
func TestOffline(t *testing.T) {
	f := newBenchmark(t)
	cache := fillCache(t, commitA, map[string][]byte{"runs/llm.parquet": table, "runs/mllm.parquet": results})
	u := newUser(t, f, func(cfg *hub.Config) { cfg.CacheDirs, cfg.Offline = []string{cache}, true })
	files, err := u.repo(t).List(t.Context(), "runs")
	if want := []hub.File{{Path: "runs/llm.parquet", SizeBytes: int64(len(table))}, {Path: "runs/mllm.parquet", SizeBytes: int64(len(results))}}; err != nil || !slices.Equal(files, want) {
		t.Errorf("the listing is %v, %v; want %v", files, err, want)
	}
	if !strings.Contains(u.log.String(), "may have more files") {
		t.Errorf("the log is %s", u.log)
	}
	if _, err := u.repo(t).Fetch(t.Context(), []string{"runs/llm.parquet"}, nil); err != nil {
		t.Error(err)
	}
	_, err = u.repo(t).Fetch(t.Context(), []string{"runs/llm.parquet", "x/results.json"}, nil)
	if !errors.Is(err, hub.ErrOffline) || !strings.Contains(err.Error(), "x/results.json") || !strings.Contains(err.Error(), cache) {
		t.Errorf("the error is %v", err)
	}
	if _, err = u.repo(t).List(t.Context(), "other"); !errors.Is(err, hub.ErrOffline) {
		t.Errorf("the error is %v", err)
	}
	if atHub, _ := f.Requests(); len(atHub) > 0 {
		t.Errorf("the hub was asked %v", atHub)
	}
}

// Without a network, what a cache has serves as listing; without a cache, the error
// says that the hub cannot be reached, and how often it was tried.
func TestUnreachable(t *testing.T) {
	f := newBenchmark(t)
	f.Close()
	cache := fillCache(t, commitA, map[string][]byte{"runs/llm.parquet": table})
	u := newUser(t, f, func(cfg *hub.Config) { cfg.CacheDirs = []string{cache} })
	if files, err := u.repo(t).List(t.Context(), ""); err != nil || len(files) != 1 {
		t.Errorf("the listing is %v, %v", files, err)
	}
	u = newUser(t, f)
	_, err := u.repo(t).Fetch(t.Context(), []string{"runs/llm.parquet"}, nil)
	if !errors.Is(err, hub.ErrUnreachable) || errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), f.URL+"/datasets/"+dataset+"/resolve/main/runs/llm.parquet: ") {
		t.Errorf("the error is %v", err)
	}
	if waits := u.waited(); len(waits) != 5 {
		t.Errorf("waited %v, want 5 times", waits)
	}
}
