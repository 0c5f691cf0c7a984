//go:build unix

package record

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

var oneModel = []string{"m"}

func mustCreate(t *testing.T, path string) *File {
	t.Helper()
	f, err := Create(path, oneModel)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Abort)
	return f
}

func mustWrite(t *testing.T, f *File, states []datacenter.State) {
	t.Helper()
	for i := range states {
		if err := f.Write(&states[i]); err != nil {
			t.Fatal(err)
		}
	}
}

func entries(t *testing.T, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

func TestCommitPutsTheFileUnderItsName(t *testing.T) {
	for _, ending := range endings {
		dir := t.TempDir()
		path := filepath.Join(dir, "x"+ending)
		states := makeStates(oneModel, 3)
		f := mustCreate(t, path)
		mustWrite(t, f, states)
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: is there before Commit: %v", ending, err)
		}
		if err := f.Commit(); err != nil {
			t.Fatal(err)
		}
		f.Abort()
		if diff := cmp.Diff([]string{"x" + ending}, entries(t, dir)); diff != "" {
			t.Errorf("%s: files after Commit (-want +got):\n%s", ending, diff)
		}
		got, err := ReadAll(path)
		if diff := cmp.Diff(states, got, sameBits); err != nil || diff != "" {
			t.Errorf("%s: states read back (-want +got): %v\n%s", ending, err, diff)
		}
		if f.Commit() == nil || f.Write(&states[0]) == nil {
			t.Errorf("%s: can be used after Commit", ending)
		}
	}
}

func TestPermissionsAreThoseOfAnOrdinaryFile(t *testing.T) {
	dir := t.TempDir()
	ordinary, err := os.Create(filepath.Join(dir, "ordinary"))
	if err != nil {
		t.Fatal(err)
	}
	defer ordinary.Close()
	want, err := ordinary.Stat()
	if err != nil {
		t.Fatal(err)
	}
	private := filepath.Join(dir, "private.csv")
	if err := os.WriteFile(private, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]os.FileMode{filepath.Join(dir, "new.csv"): want.Mode(), private: 0o600} {
		if err := mustCreate(t, path).Commit(); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode() != mode {
			t.Errorf("%s: got %v (%v), want %v", path, info, err, mode)
		}
	}
}

func TestWhatWasThereSurvives(t *testing.T) {
	for name, end := range map[string]func(*testing.T, *File){
		"aborted": func(_ *testing.T, f *File) { f.Abort(); f.Abort() },
		"state of other models": func(t *testing.T, f *File) {
			if f.Write(&makeStates(nil, 1)[0]) == nil || f.Commit() == nil {
				t.Error("no error")
			}
		},
		"failing writer": func(t *testing.T, f *File) {
			f.file.Abort() // closes the file below
			if err := f.Commit(); err == nil || !strings.Contains(err.Error(), f.path) {
				t.Errorf("got error %v, want one that names the file", err)
			}
		},
	} {
		for _, ending := range endings {
			t.Run(name+ending, func(t *testing.T) {
				dir := t.TempDir()
				path := filepath.Join(dir, "x"+ending)
				if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
					t.Fatal(err)
				}
				f := mustCreate(t, path)
				mustWrite(t, f, makeStates(oneModel, 3))
				end(t, f)
				if diff := cmp.Diff([]string{"x" + ending}, entries(t, dir)); diff != "" {
					t.Errorf("files (-want +got):\n%s", diff)
				}
				if raw, err := os.ReadFile(path); string(raw) != "old" {
					t.Errorf("got %q (%v), want what was there", raw, err)
				}
			})
		}
	}
}

func TestLinksStay(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link.csv")
	if err := os.Symlink("sub/target.csv", link); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{1, 2} { // a link to nothing yet, then to a file
		f := mustCreate(t, link)
		mustWrite(t, f, makeStates(oneModel, n))
		if err := f.Commit(); err != nil {
			t.Fatal(err)
		}
		if got, err := ReadAll(filepath.Join(dir, "sub/target.csv")); len(got) != n {
			t.Errorf("the target has %d states (%v), want %d", len(got), err, n)
		}
		if to, err := os.Readlink(link); to != "sub/target.csv" {
			t.Errorf("the link points to %q (%v)", to, err)
		}
	}
}

func TestFIFOIsWrittenDirectly(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.parquet")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Skip("no FIFO here:", err)
	}
	received := make(chan []byte)
	go func() {
		var raw []byte
		if r, err := os.Open(path); err == nil {
			raw, _ = io.ReadAll(r)
			r.Close()
		}
		received <- raw
	}()
	states := makeStates(oneModel, 3)
	f := mustCreate(t, path)
	mustWrite(t, f, states)
	err := f.Commit()
	got, readErr := decode(parquetEnding, <-received)
	if diff := cmp.Diff(states, got, sameBits); err != nil || readErr != nil || diff != "" {
		t.Errorf("states read from the pipe (-want +got): %v, %v\n%s", err, readErr, diff)
	}
	if diff := cmp.Diff([]string{"x.parquet"}, entries(t, dir)); diff != "" {
		t.Errorf("files after the pipe was written to (-want +got):\n%s", diff)
	}
}

// A FIFO that nobody reads is refused, and keeps nobody waiting for ever.
func TestFIFOWithoutAReader(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.csv")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Skip("no FIFO here:", err)
	}
	began := time.Now()
	_, err := Create(path, oneModel)
	if !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "reader") {
		t.Errorf("%v, want the file's name and what it lacks", err)
	}
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestFullDeviceIsAnError(t *testing.T) {
	link := filepath.Join(t.TempDir(), "full.csv")
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("no /dev/full here")
	}
	if err := os.Symlink("/dev/full", link); err != nil {
		t.Fatal(err)
	}
	if err := mustCreate(t, link).Commit(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got error %v, want %v", err, syscall.ENOSPC)
	}
}

func TestCreateRefuses(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "dir.csv"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("none/target.csv", filepath.Join(dir, "dangling.csv")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"x.txt":        "must end in .csv, .jsonl or .parquet",
		"x":            "must end in .csv, .jsonl or .parquet",
		"none/x.csv":   filepath.Join(dir, "none"),
		"dangling.csv": filepath.Join(dir, "none"),
		"dir.csv":      "is a directory",
	} {
		_, err := Create(filepath.Join(dir, path), oneModel)
		if !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got error %v, want invalid input: …%s…", path, err, want)
		}
	}
	if _, err := Create(filepath.Join(dir, "x.csv"), []string{"m", "m"}); !errors.Is(err, datacenter.ErrInvalidInput) {
		t.Errorf("got error %v for a label that stands twice, want invalid input", err)
	}
	if diff := cmp.Diff([]string{"dangling.csv", "dir.csv"}, entries(t, dir)); diff != "" {
		t.Errorf("files after what was refused (-want +got):\n%s", diff)
	}
	for _, path := range []string{"x.txt", "missing.csv"} {
		if _, err := ReadAll(filepath.Join(dir, path)); !errors.Is(err, datacenter.ErrInvalidInput) {
			t.Errorf("%s: got error %v, want invalid input", path, err)
		}
	}
}
