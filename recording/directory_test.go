package recording

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/logtest"
)

func TestSegmentNames(t *testing.T) {
	for _, number := range []int64{0, 7, 99_999_999, 100_000_000} {
		if got, is := SegmentNumber(SegmentName(number)); !is || got != number {
			t.Errorf("%s is read as %d, %v", SegmentName(number), got, is)
		}
	}
	for _, name := range []string{"", "0.jsonl.zst", "00000000.jsonl", "00000000.jsonl.zst.bak", "-0000001.jsonl.zst", "+0000001.jsonl.zst", "000000001.jsonl.zst", ".00000000.jsonl.zst", "x00000000.jsonl.zst"} {
		if number, is := SegmentNumber(name); is {
			t.Errorf("%q is said to be segment %d", name, number)
		}
	}
}

// short records a few seconds in a real directory.
func short(t *testing.T, o Options, seconds int) *Writer {
	t.Helper()
	if o.Log.GetLevel() == zerolog.DebugLevel {
		o.Log = zerolog.Nop()
	}
	w, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	r := beginWith(t, w, 2, 2)
	inTurn(t, r, seconds)
	r.close(t)
	return w
}

// inTurn records seconds one after the other without their time: each waits for room in
// the queue.
func inTurn(t *testing.T, r *run, seconds int) {
	t.Helper()
	for range seconds {
		for deadline := time.Now().Add(10 * time.Second); r.w.Stats().QueuedSeconds > 1; {
			if time.Now().After(deadline) {
				t.Fatal("the disk does not keep up")
			}
			<-time.After(time.Millisecond)
		}
		for range 10 {
			r.step()
		}
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// A run in a directory that has been recorded in goes on with the next number and
// changes nothing that is there.
func TestLaterRunGoesOn(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "here")
	short(t, Options{Dir: dir}, 3)
	first := read(t, filepath.Join(dir, "00000000.jsonl.zst"))
	if err := os.WriteFile(filepath.Join(dir, "00000006.jsonl.zst"), first[:len(first)-3], 0o600); err != nil {
		t.Fatal(err)
	}
	short(t, Options{Dir: dir}, 2)
	if again := read(t, filepath.Join(dir, "00000000.jsonl.zst")); string(again) != string(first) {
		t.Error("the first run's segment has changed")
	}
	if cut := read(t, filepath.Join(dir, "00000006.jsonl.zst")); len(cut) != len(first)-3 {
		t.Error("the torn segment has changed")
	}
	lines := segmentLines(t, read(t, filepath.Join(dir, "00000007.jsonl.zst")))
	if h := only[*Header](lines)[0]; h.Segment != 7 || h.Second != 0 || len(only[*StateHash](lines)) != 2 {
		t.Errorf("the second run's header is %+v", h)
	}
}

func TestTwoCannotRecordInOneDirectory(t *testing.T) {
	dir := t.TempDir()
	w, err := Open(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Dir: dir}); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "give each its own directory") {
		t.Errorf("the second is told %v", err)
	}
	if err := w.Close(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	short(t, Options{Dir: dir}, 1)
	short(t, Options{Dir: dir}, 1)
}

func TestWhatCannotBeRecordedIn(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		options Options
		want    string
	}{
		{Options{Dir: file}, "not a directory"},
		{Options{Dir: filepath.Join(file, "below")}, "not a directory"},
		{Options{Dir: t.TempDir(), MaxBytes: 1000}, "want 0 (none) or at least 1048576 bytes"},
		{Options{Dir: t.TempDir(), MaxBytes: -1}, "want 0 (none)"},
		{Options{Dir: t.TempDir(), MaxAge: -1}, "no negative age"},
	} {
		if w, err := Open(c.options); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.options.Dir) {
			t.Errorf("%+v gives %v, %v; want an error with %q", c.options, w, err, c.want)
		}
	}
}

// The oldest segments go while all take too much; the current one and what is no segment stay.
func TestRetentionByBytes(t *testing.T) {
	dir := t.TempDir()
	foreign := map[string]string{
		"notes.txt": "n", "00000000.jsonl.zst.bak": "b", "power.parquet": "p", "0.jsonl.zst": "z", ".00000000.jsonl.zst": "h",
	}
	for name, text := range foreign {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.Repeat(text, 1<<20)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "00000002.jsonl.zst"), 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range 6 { // segments of earlier runs
		if i == 2 {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, SegmentName(int64(i))), make([]byte, 300<<10), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w := short(t, Options{Dir: dir, MaxBytes: 1 << 20}, 2)
	want := append(slices.Collect(maps.Keys(foreign)), lockName, "00000002.jsonl.zst", "00000003.jsonl.zst", "00000004.jsonl.zst", "00000005.jsonl.zst", "00000006.jsonl.zst")
	slices.Sort(want)
	if got := namesIn(t, dir); !slices.Equal(got, want) {
		t.Errorf("what is left is %q, want %q", got, want)
	}
	if s := w.Stats(); s.DeletedSegments != 2 || s.DirectoryBytes < 900<<10 || s.DirectoryBytes > 1<<20 {
		t.Errorf("stats %+v", s)
	}
	for name, text := range foreign {
		if string(read(t, filepath.Join(dir, name))) != strings.Repeat(text, 1<<20) {
			t.Errorf("%s has changed", name)
		}
	}
}

func namesIn(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// While a run goes on, the limit holds, segments follow one another, and the current one
// stays.
func TestRetentionAsItGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newMemory()
		r := begin(t, d, Options{MaxBytes: MinMaxBytes})
		inForce := &InForce{[]ModelInForce{{ModelLabel: "model0", BatchSize: 8}}}
		r.w.Event(Event{Seq: 0, Topic: "t"}, inForce)
		r.power = nil
		for range 2000 {
			r.run(1)
			r.states = r.states[:0]
		}
		stats := r.w.Stats()
		r.close(t)
		var total int64
		for _, f := range d.files {
			total += int64(len(f.content))
		}
		if total > MinMaxBytes || stats.DeletedSegments == 0 || stats.DroppedSeconds > 0 || stats.DirectoryBytes > MinMaxBytes {
			t.Errorf("%d bytes are there; stats %+v", total, stats)
		}
		lines := d.all(t)
		headers := only[*Header](lines)
		last := headers[0].Second - 1
		for _, h := range headers {
			if h.InForce == nil || h.InForce.Models[0].BatchSize != 8 {
				t.Errorf("segment %d has in force %+v", h.Segment, h.InForce)
			}
		}
		for _, l := range only[*StateHash](lines) {
			if l.Second != last+1 {
				t.Fatalf("second %d after %d", l.Second, last)
			}
			last = l.Second
		}
		if last != 1999 {
			t.Errorf("the last second is %d", last)
		}
		// Each segment begins with a full state: a replay can start there.
		for _, name := range d.names() {
			if of := d.lines(t, name); only[*Header](of)[0].Second <= 1999 && only[*State](of)[0].State.Seq != 10*only[*Header](of)[0].Second {
				t.Errorf("%s has its first full state at step %d", name, only[*State](of)[0].State.Seq)
			}
		}
	})
}

// What cannot be deleted is logged once, and stops no recording.
func TestSegmentsThatCannotBeDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newMemory()
		d.files[SegmentName(0)] = &memoryFile{disk: d, content: make([]byte, 2*MinMaxBytes)}
		d.broken["remove"] = errFull
		var log logtest.Buffer
		r := begin(t, d, Options{MaxBytes: MinMaxBytes, Log: zerolog.New(&log)})
		r.run(100)
		r.close(t)
		if n := strings.Count(log.String(), "cannot be deleted"); n != 1 || len(only[*StateHash](d.lines(t, SegmentName(1)))) != 100 {
			t.Errorf("logged %d times:\n%s", n, log.String())
		}
	})
}

// Segments end after an hour, and by their age; files' times do not tell the age of
// this run's own, as the clock may have stepped.
func TestRetentionByAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newMemory()
		now := time.Now()
		d.files[SegmentName(0)] = &memoryFile{disk: d, modified: now.Add(-3 * time.Hour)}
		d.files[SegmentName(1)] = &memoryFile{disk: d, modified: now.Add(-90 * time.Minute)}
		d.files[SegmentName(2)] = &memoryFile{disk: d, modified: now.Add(24 * time.Hour)}
		w, err := Open(Options{disk: d, MaxAge: 2 * time.Hour, Log: zerolog.Nop()})
		if err != nil {
			t.Fatal(err)
		}
		h := headerOf(t, 0, 0)
		if h.DT, err = datacenter.ParseSeconds("1"); err != nil {
			t.Fatal(err)
		}
		w.Start(h)
		r := &run{w: w, every: time.Second}
		synctest.Wait()
		if want := []string{SegmentName(1), SegmentName(2), SegmentName(3)}; !slices.Equal(d.names(), want) {
			t.Fatalf("at the start there are %q, want %q", d.names(), want)
		}
		d.set(func() { delete(d.files, SegmentName(2)) })
		r.run(3601)
		synctest.Wait()
		d.set(func() { d.files[SegmentName(3)].modified = time.Unix(0, 0) })
		if want := []string{SegmentName(3), SegmentName(4)}; !slices.Equal(d.names(), want) {
			t.Fatalf("after an hour there are %q, want %q", d.names(), want)
		}
		r.run(3600)
		synctest.Wait()
		if want := []string{SegmentName(3), SegmentName(4), SegmentName(5)}; !slices.Equal(d.names(), want) {
			t.Fatalf("after two hours there are %q, want %q", d.names(), want)
		}
		r.run(3600)
		r.run(3660)
		r.close(t)
		if want := []string{SegmentName(5), SegmentName(6), SegmentName(7)}; !slices.Equal(d.names(), want) {
			t.Fatalf("after four hours there are %q, want %q", d.names(), want)
		}
		for i, name := range d.names() {
			if h := only[*Header](d.lines(t, name))[0]; h.Second != 3600*int64(2+i) || h.Segment != int64(5+i) {
				t.Errorf("%s begins with second %d", name, h.Second)
			}
		}
	})
}

// A disk that is full stops the recording, which goes on when there is room: a real one.
func TestFullDisk(t *testing.T) {
	dir := smallDisk(t)
	stopped, resumed := make(chan error, 1), make(chan Gap, 1)
	w, err := Open(Options{
		Dir: dir, Log: zerolog.Nop(), retryAfter: time.Millisecond,
		OnStop: func(err error) { stopped <- err }, OnGap: func(g Gap) { resumed <- g },
	})
	if err != nil {
		t.Fatal(err)
	}
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 900<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	r := beginWith(t, w, 8, 3)
	for range 3000 {
		inTurn(t, r, 1)
		if len(stopped) > 0 {
			break
		}
	}
	select {
	case err := <-stopped:
		if !strings.Contains(err.Error(), "no space left on device") {
			t.Errorf("it stopped because of %v", err)
		}
	default:
		t.Fatal("the disk is not full")
	}
	inTurn(t, r, 20)
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		inTurn(t, r, 1)
		if len(resumed) > 0 {
			break
		}
		<-time.After(time.Millisecond)
	}
	if len(resumed) == 0 {
		t.Fatal("it does not go on")
	}
	inTurn(t, r, 3)
	stats := w.Stats()
	if err := w.Close(t.Context(), "done"); err == nil || stats.Stopped {
		t.Errorf("stats %+v, the end says %v", stats, err)
	}
	var lines []Line
	for _, name := range namesIn(t, dir) {
		if _, is := SegmentNumber(name); is {
			raw := read(t, filepath.Join(dir, name))
			framesOf(t, raw) // none is torn
			lines = append(lines, segmentLines(t, raw)...)
		}
	}
	checkGaps(t, lines, r.seq/10, stats.DroppedSeconds, "no space left on device")
}

// smallDisk is a folder that holds 1 MB.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	out, err := exec.CommandContext(t.Context(), "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", dir).CombinedOutput()
	if err != nil {
		said := fmt.Sprintf("a small disk cannot be mounted, which needs to be root: %v: %s", err, out)
		if os.Getenv("G2GTEST_REQUIRE_TOOLS") != "" {
			t.Fatal(said)
		}
		t.Skip(said)
	}
	t.Cleanup(func() {
		if out, err := exec.CommandContext(context.WithoutCancel(t.Context()), "umount", dir).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	return dir
}
