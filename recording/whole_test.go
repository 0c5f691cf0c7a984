package recording

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
)

// save puts what is in memory into a directory.
func save(t *testing.T, d *memory) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range d.names() {
		if err := os.WriteFile(filepath.Join(dir, name), d.files[name].content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func verify(t *testing.T, dir string) *Report {
	t.Helper()
	r, err := OpenReader(dir)
	if err != nil {
		t.Fatal(err)
	}
	report, err := r.Verify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// What was recorded in order is whole, over the ends of segments and in several runs.
func TestWhatIsWrittenIsWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newMemory()
		for _, id := range []string{"first", "second"} {
			w, err := Open(Options{disk: d, Log: zerolog.Nop()})
			if err != nil {
				t.Fatal(err)
			}
			h := headerOf(t, 2, 2)
			h.RunID = id
			w.Start(h)
			r := &run{w: w, every: 100 * time.Millisecond} // nothing but states, which takes less long
			r.run(3603)
			r.gpus, r.models = 2, 2
			r.run(2)
			r.w.Command(Command{Seq: r.seq, Actor: Actor{Via: "api"}}, &InForce{})
			r.run(1.5)
			r.close(t)
		}
		report := verify(t, save(t, d))
		if len(report.Segments) != 4 || !report.Whole {
			t.Errorf("%+v", report)
		}
	})
}

// Gaps are found, and nothing else is wrong where a disk was slow or full.
func TestGapsAreVerified(t *testing.T) {
	for name, change := range map[string]func(*memory, bool){
		"full": func(d *memory, now bool) { d.room = map[bool]int{true: 500, false: -1}[now] },
		"slow": func(d *memory, now bool) { d.slow = map[bool]time.Duration{true: 10 * time.Second, false: 0}[now] },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newMemory()
				r := begin(t, d, Options{})
				r.run(5)
				d.set(func() { change(d, true) })
				r.w.Command(Command{Seq: r.seq, Actor: Actor{Via: "api"}}, &InForce{})
				r.run(12)
				d.set(func() { change(d, false) })
				r.w.Command(Command{Seq: r.seq, Actor: Actor{Via: "api"}}, &InForce{})
				r.run(75)
				dropped := r.w.Stats().DroppedSeconds
				_ = r.w.Close(t.Context(), "done")
				report := verify(t, save(t, d))
				var gaps, others, seconds int64
				for _, s := range report.Segments {
					gaps += s.Gaps
					others += s.DamagedFrames + s.DamagedBytes + s.DamagedLines + s.Faults
					seconds += s.Seconds
				}
				if report.Whole || gaps == 0 || others != 0 || seconds != 92-int64(dropped) {
					t.Errorf("%d dropped; %+v", dropped, report)
				}
			})
		})
	}
}

// Whole frames that are cut off the end of a segment are noticed, also where the run's first
// segments are gone.
func TestFramesCutOffAreNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newMemory()
		w, err := Open(Options{disk: d, Log: zerolog.Nop(), MaxBytes: MinMaxBytes})
		if err != nil {
			t.Fatal(err)
		}
		r := beginWith(t, w, 64, 3)
		for range 1200 {
			r.run(1)
			r.w.Command(Command{Seq: r.seq, Actor: Actor{Via: "api"}}, &InForce{})
		}
		r.close(t)
		dir := save(t, d)
		if report := verify(t, dir); !report.Whole || len(report.Segments) < 3 || report.Segments[0].File == SegmentName(0) {
			t.Fatalf("before anything is cut off: %+v", report)
		}
		for _, name := range d.names()[:2] {
			whole := d.files[name].content
			last := bytes.LastIndex(whole, frameMagic())
			if n := len(framesOf(t, whole[last:])); n != 1 {
				t.Fatalf("%d frames come last in %s", n, name)
			}
			file := filepath.Join(dir, name)
			if err := os.WriteFile(file, whole[:last], 0o600); err != nil {
				t.Fatal(err)
			}
			if report := verify(t, dir); report.Whole {
				t.Errorf("%s without its last frame: %+v", name, report)
			}
			if err := os.WriteFile(file, whole, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	})
}
