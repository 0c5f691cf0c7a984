//go:build unix

package record

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

func mustKeep(t *testing.T, path string) (*KeptFile, []string) {
	t.Helper()
	out, notices, err := Keep(path, oneModel)
	if err != nil {
		t.Fatal(err)
	}
	k := out.(*KeptFile)
	t.Cleanup(k.Abort)
	return k, notices
}

func writeTo(t *testing.T, out Output, states []datacenter.State) {
	t.Helper()
	for i := range states {
		if err := out.Write(&states[i]); err != nil {
			t.Fatal(err)
		}
	}
}

// die leaves the file as a program does that is killed.
func (k *KeptFile) die() {
	k.done = true
	for _, p := range k.parts {
		_ = p.file.Close()
	}
}

func wantStates(t *testing.T, path string, want []datacenter.State) {
	t.Helper()
	got, err := ReadAll(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) || len(got) > 0 && got[len(got)-1].TimeS != want[len(want)-1].TimeS {
		t.Errorf("%s has %d states, want %d", filepath.Base(path), len(got), len(want))
	}
}

func wantEntries(t *testing.T, dir string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, entries(t, dir)); diff != "" {
		t.Errorf("the files (-want +got):\n%s", diff)
	}
}

// TestKeptFileReplacesNothing: each run has a name of its own.
func TestKeptFileReplacesNothing(t *testing.T) {
	for _, ending := range endings {
		dir := t.TempDir()
		path := filepath.Join(dir, "x"+ending)
		for run, want := range []string{"x" + ending, "x.2" + ending, "x.3" + ending} {
			k, notices := mustKeep(t, path)
			if (len(notices) == 0) != (run == 0) || run > 0 && !strings.Contains(notices[0], want) {
				t.Errorf("run %d says %q, want that it writes %s", run, notices, want)
			}
			states := makeStates(oneModel, run+1)
			writeTo(t, k, states)
			if err := k.Commit(); err != nil || filepath.Base(k.Path()) != want {
				t.Fatalf("%s: %v, want %s", k.Path(), err, want)
			}
			wantStates(t, k.Path(), states)
		}
		wantEntries(t, dir, "x.2"+ending, "x.3"+ending, "x"+ending)
	}
}

// TestKeptFileSurvivesItsProgram: what was flushed is there, and the next start takes
// it up.
func TestKeptFileSurvivesItsProgram(t *testing.T) {
	for ending, kept := range map[string]string{csvEnding: "x.interrupted.csv", jsonlEnding: "x.interrupted.jsonl", parquetEnding: "x.parquet.interrupted.jsonl"} {
		dir := t.TempDir()
		path := filepath.Join(dir, "x"+ending)
		states := makeStates(oneModel, 50)
		k, _ := mustKeep(t, path)
		writeTo(t, k, states)
		if err := k.Flush(); err != nil {
			t.Fatal(err)
		}
		for _, p := range k.parts { // the beginning of the next one
			if _, err := p.file.WriteString(`{"seq": 5`); err != nil {
				t.Fatal(err)
			}
		}
		k.die()
		k, notices := mustKeep(t, path)
		if said := strings.Join(notices, "\n"); !strings.Contains(said, "an earlier run was interrupted: its states up to then are in "+filepath.Join(dir, kept)) {
			t.Errorf("%s: the next start says %q", ending, said)
		}
		wantStates(t, filepath.Join(dir, kept), states)
		writeTo(t, k, states[:2])
		if err := k.Commit(); err != nil {
			t.Fatal(err)
		}
		wantStates(t, path, states[:2])
		wantEntries(t, dir, sorted(kept, "x"+ending)...)
	}
}

func sorted(names ...string) []string {
	if names[0] > names[1] {
		return []string{names[1], names[0]}
	}
	return names
}

// TestKeptFileWithoutStatesLeavesNothing: neither of a run that ends nor of one that
// is killed.
func TestKeptFileWithoutStatesLeavesNothing(t *testing.T) {
	for _, ending := range endings {
		dir := t.TempDir()
		path := filepath.Join(dir, "x"+ending)
		k, _ := mustKeep(t, path)
		if err := k.Flush(); err != nil {
			t.Fatal(err)
		}
		k.die()
		k, _ = mustKeep(t, path)
		k.Abort()
		wantEntries(t, dir)
	}
}

// TestKeptFileThatIsKilledWhenItIsComplete: just before it gets its name.
func TestKeptFileThatIsKilledWhenItIsComplete(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.parquet")
	states := makeStates(oneModel, 5)
	k, _ := mustKeep(t, path)
	writeTo(t, k, states)
	if err := k.parts[0].close(); err != nil {
		t.Fatal(err)
	}
	if err := k.Flush(); err != nil {
		t.Fatal(err)
	}
	k.die()
	k, _ = mustKeep(t, path)
	k.Abort()
	wantStates(t, filepath.Join(dir, "x.interrupted.parquet"), states)
	wantStates(t, filepath.Join(dir, "x.parquet.interrupted.jsonl"), states)
}

// TestKeptFileHasOneWriter: a second run does not write into the first one's file,
// nor takes it for a leftover.
func TestKeptFileHasOneWriter(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.jsonl")
	k, _ := mustKeep(t, path)
	if _, _, err := Keep(path, oneModel); !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), "x.jsonl.partial: somebody else writes it") {
		t.Errorf("a second writer: %v", err)
	}
	states := makeStates(oneModel, 2)
	writeTo(t, k, states)
	if err := k.Commit(); err != nil {
		t.Fatal(err)
	}
	wantStates(t, path, states)
}

// TestKeptFileTakesUpHiddenLeftovers: as earlier versions left them, and replays do.
func TestKeptFileTakesUpHiddenLeftovers(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.csv")
	f := mustCreate(t, path) // a replay that runs
	dead := filepath.Join(dir, ".x.csv.ABCDEFGHIJKLMNOPQRSTUVWXYZ.part")
	if err := os.WriteFile(dead, encode(t, csvEnding, oneModel, makeStates(oneModel, 7)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, other := range []string{".x.csv.swp", ".x.csv.short.tmp", "y.csv", ".y.csv.ABCDEFGHIJKLMNOPQRSTUVWXYZ.part"} {
		if err := os.WriteFile(filepath.Join(dir, other), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	k, notices := mustKeep(t, path)
	if len(notices) != 1 || !strings.Contains(notices[0], "x.interrupted.csv") {
		t.Errorf("the start says %q", notices)
	}
	k.Abort()
	wantStates(t, filepath.Join(dir, "x.interrupted.csv"), makeStates(oneModel, 7))
	if n := len(entries(t, dir)); n != 6 {
		t.Errorf("there are %q, want what is not ours and the replay's own left alone", entries(t, dir))
	}
	f.Abort()
}

// failingWriter fails after so many states.
type failingWriter struct {
	writer
	left int
}

func (f *failingWriter) Write(s *datacenter.State) error {
	if f.left--; f.left < 0 {
		return errFull
	}
	return f.writer.Write(s)
}

// TestKeptFileOnAFullDisk: what was written before is kept.
func TestKeptFileOnAFullDisk(t *testing.T) {
	for _, ending := range endings {
		dir := t.TempDir()
		path := filepath.Join(dir, "x"+ending)
		if err := os.WriteFile(path, []byte("earlier"), 0o600); err != nil {
			t.Fatal(err)
		}
		states := makeStates(oneModel, 9)
		k, _ := mustKeep(t, path)
		for _, p := range k.parts {
			p.states = &failingWriter{p.states, 6}
		}
		writeTo(t, k, states[:6])
		for range 2 {
			if err := k.Write(&states[6]); !errors.Is(err, errFull) {
				t.Errorf("the write on a full disk: %v", err)
			}
		}
		kept := filepath.Join(dir, "x.interrupted"+ending)
		if err := k.Commit(); !errors.Is(err, errFull) || !strings.Contains(err.Error(), "the states before it are in "+kept) {
			t.Errorf("the end on a full disk: %v", err)
		}
		wantStates(t, kept, states[:6])
		if raw, err := os.ReadFile(path); string(raw) != "earlier" || err != nil {
			t.Errorf("what was there is %q (%v)", raw, err)
		}
	}
}

func TestKeptFileRefuses(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{dir + "/x.txt", dir + "/none/x.csv", dir} {
		if _, _, err := Keep(path, oneModel); !errors.Is(err, datacenter.ErrInvalidInput) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, _, err := Keep(dir+"/x.csv", []string{"a", "a"}); err == nil {
		t.Error("two models of one label were taken")
	}
	wantEntries(t, dir)
}
