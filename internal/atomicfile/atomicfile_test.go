package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

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
