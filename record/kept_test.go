//go:build unix

package record

import (
	"bufio"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

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
		if k.Kept() != 6 {
			t.Errorf("%s: %d states counted as kept, want 6", ending, k.Kept())
		}
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

// TestKeptFileThatCannotBeMoved: what an earlier run has left stays where it is, and
// the start says so, rather than try for ever.
func TestKeptFileThatCannotBeMoved(t *testing.T) {
	dir := t.TempDir()
	name := strings.Repeat("x", 240) + ".csv" // .interrupted is too long for it
	path := filepath.Join(dir, name+partialEnding)
	if err := os.WriteFile(path, []byte("time_s\n0\n1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err := Keep(filepath.Join(dir, name), oneModel)
	if !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), path+", which cannot be moved out of the way: ") || !errors.Is(err, syscall.ENAMETOOLONG) {
		t.Errorf("the start: %v", err)
	}
	wantEntries(t, dir, name+partialEnding)
}

// TestKeptFileThatCannotBeRead: it is kept as it is.
func TestKeptFileThatCannotBeRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.csv.partial")
	if err := os.WriteFile(path, []byte("time_s\n0\n1"), 0o600); err != nil {
		t.Fatal(err)
	}
	unreadable, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unreadable.Close()
	format, err := formatOf("x.csv")
	if err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(filepath.Dir(path), "x.interrupted.csv")
	notice, err := takeUp(unreadable, path, kept, format)
	if err != nil || !strings.Contains(notice, "cannot be read and is now "+kept) {
		t.Errorf("it says %q (%v)", notice, err)
	}
	if raw, err := os.ReadFile(kept); string(raw) != "time_s\n0\n1" {
		t.Errorf("what is kept is %q (%v)", raw, err)
	}
	// Of this run it is the same.
	if err := os.Rename(kept, path); err != nil {
		t.Fatal(err)
	}
	if said := takeUpOwn(&part{path: path, kept: kept, file: unreadable}); !strings.Contains(said, "what was written is in "+kept) {
		t.Errorf("it says %q", said)
	}
	wantEntries(t, filepath.Dir(path), "x.interrupted.csv")
}

// TestKeptFileWithANameTooLong: for the file, or only while it is written.
func TestKeptFileWithANameTooLong(t *testing.T) {
	dir := t.TempDir()
	for _, length := range []int{248, 252, 300} {
		if _, _, err := Keep(filepath.Join(dir, strings.Repeat("x", length)+".csv"), oneModel); !errors.Is(err, datacenter.ErrInvalidInput) || !errors.Is(err, syscall.ENAMETOOLONG) {
			t.Errorf("%d letters: %v", length, err)
		}
	}
	wantEntries(t, dir)
}

// TestKeptFileIsForWhomTheEarlierWas: others cannot read it either.
func TestKeptFileIsForWhomTheEarlierWas(t *testing.T) {
	for _, ending := range endings {
		path := filepath.Join(t.TempDir(), "x"+ending)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		k, _ := mustKeep(t, path)
		writeTo(t, k, makeStates(oneModel, 2))
		if err := k.Commit(); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(k.Path()); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has %v (%v), want those of the earlier one", k.Path(), info.Mode(), err)
		}
	}
}

// TestGiveWithoutHardLinks: what appears under the name meanwhile is not replaced.
func TestGiveWithoutHardLinks(t *testing.T) {
	dir := t.TempDir() // of which there are no hard links
	if err := os.Mkdir(filepath.Join(dir, "from"), 0o700); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(dir, "to")
	if err := give(filepath.Join(dir, "from"), to); err == nil {
		t.Error("a folder became a file")
	}
	wantEntries(t, dir, "from") // and no reservation
}

// TestKeptFIFOIsNotBuffered: whoever reads it gets each state within a second.
func TestKeptFIFOIsNotBuffered(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.jsonl")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	out, _, err := Keep(path, oneModel)
	if err != nil {
		t.Fatal(err)
	}
	q := NewQueue(out, zerolog.Nop())
	defer q.Abort()
	if err := q.Write(&makeStates(oneModel, 1)[0]); err != nil {
		t.Fatal(err)
	}
	if err := reader.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(reader).ReadString('\n'); err != nil {
		t.Errorf("got %q: %v", line, err)
	}
}
