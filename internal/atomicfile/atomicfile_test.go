package atomicfile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// names lists a folder, hidden files too.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func TestFileAppearsWhenItIsComplete(t *testing.T) {
	for name, c := range map[string]struct {
		finish func(*File) error
		want   string
	}{
		"committed": {(*File).Commit, "new"},
		"aborted":   {func(f *File) error { f.Abort(); f.Abort(); return nil }, "old"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "x")
			if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := Create(path)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.Write([]byte("new")); err != nil {
				t.Fatal(err)
			}
			if raw, err := os.ReadFile(path); string(raw) != "old" {
				t.Errorf("while writing the file holds %q (%v)", raw, err)
			}
			if err := c.finish(f); err != nil {
				t.Fatal(err)
			}
			f.Abort()
			if raw, err := os.ReadFile(path); string(raw) != c.want {
				t.Errorf("the file holds %q (%v), want %q", raw, err, c.want)
			}
			if all := names(t, dir); len(all) != 1 {
				t.Errorf("the folder holds %v, want x alone", all)
			}
			if f.Commit() == nil {
				t.Error("a finished file can be committed")
			}
		})
	}
}

func TestCreateRefuses(t *testing.T) {
	dir := t.TempDir()
	if _, err := Create(filepath.Join(dir, "missing", "x")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in a missing folder: %v", err)
	}
	if _, err := Create(dir); err == nil {
		t.Error("a folder was taken for a file")
	}
	if all := names(t, dir); len(all) != 0 {
		t.Errorf("refused files left %v", all)
	}
}

func TestTakeLeftovers(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "x.csv")
	written, err := Create(target)
	if err != nil {
		t.Fatal(err)
	}
	defer written.Abort()
	const random = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	for name, age := range map[string]time.Duration{
		".x.csv." + random + ".part": 0, ".x.csv." + random + ".tmp": time.Minute,
		".x.csv.A" + random[1:25] + "A.tmp": 0, // somebody may write it
		".x.csv.swp":                        time.Minute, ".x.csv.ABC.part": time.Minute, ".y.csv." + random + ".part": time.Minute, "x.csv." + random + ".part": time.Minute,
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Time{}, time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	var taken []string
	TakeLeftovers(target, func(_ *os.File, path string) {
		taken = append(taken, filepath.Base(path))
		again, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		if err := Lock(again); !errors.Is(err, ErrLocked) {
			t.Errorf("%s is not locked while it is taken: %v", path, err)
		}
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	})
	if want := []string{".x.csv." + random + ".part", ".x.csv." + random + ".tmp"}; !slices.Equal(taken, want) {
		t.Errorf("taken: %q, want %q", taken, want)
	}
}

// TestNobodyTakesAFileThatIsWritten, at whatever moment he looks.
func TestNobodyTakesAFileThatIsWritten(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "x")
	ctx, stop := context.WithCancel(t.Context())
	var takers sync.WaitGroup
	defer takers.Wait()
	defer stop()
	for range 2 {
		takers.Go(func() {
			for ctx.Err() == nil {
				TakeLeftovers(target, func(_ *os.File, path string) { os.Remove(path) })
			}
		})
	}
	for i := range 400 {
		f, err := Create(target)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprint(f, i); err != nil {
			t.Fatal(err)
		}
		if err := f.Commit(); err != nil {
			t.Fatal(err)
		}
		if raw, err := os.ReadFile(target); string(raw) != fmt.Sprint(i) {
			t.Fatalf("file %d holds %q (%v)", i, raw, err)
		}
	}
}
