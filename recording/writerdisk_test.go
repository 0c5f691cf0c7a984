package recording

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/internal/logtest"
)

// A disk that is too slow costs whole seconds, and no step waits for it.
func TestSlowDiskDropsSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newMemory()
		var gaps []Gap
		r := begin(t, d, Options{OnGap: func(g Gap) { gaps = append(gaps, g) }})
		r.run(3)
		d.set(func() { d.slow = 20 * time.Second })
		began := time.Now()
		for i := range 30 {
			r.run(1)
			r.w.Command(Command{Seq: r.seq, Actor: Actor{Via: "api"}}, nil)
			if i == 10 {
				d.set(func() { d.slow = 0 })
			}
		}
		if took := time.Since(began); took != 30*time.Second {
			t.Errorf("30 s of steps took %v", took)
		}
		stats := r.w.Stats()
		_ = r.w.Close(t.Context(), "done")
		lines := d.all(t)
		if commands := only[*Command](lines); len(commands) != 30 {
			t.Errorf("%d of 30 commands are there", len(commands))
		}
		if stats.DroppedSeconds == 0 || stats.Gaps == 0 || stats.Stopped {
			t.Fatalf("stats %+v", stats)
		}
		checkGaps(t, lines, int64(33), stats.DroppedSeconds, causeSlow)
		if int(stats.Gaps) != len(gaps) {
			t.Errorf("%d gaps, told of %+v", stats.Gaps, gaps)
		}
	})
}

// checkGaps holds that of the run's seconds each is there or in a gap, not both, that a
// full state follows each gap, and that dropped are missing.
func checkGaps(t *testing.T, lines []Line, seconds int64, dropped uint64, cause string) {
	t.Helper()
	seen := map[int64]string{}
	var missing uint64
	for i, line := range lines {
		switch l := line.(type) {
		case *StateHash:
			seen[l.Second] += "there"
		case *Event:
			gap, is := l.Gap()
			if !is {
				continue
			}
			if !strings.Contains(gap.Cause, cause) {
				t.Errorf("the cause is %q, want %q", gap.Cause, cause)
			}
			for s := gap.FirstSecond; s <= gap.LastSecond; s++ {
				seen[s] += "missing"
				missing++
			}
			if states := only[*State](lines[i:]); len(states) > 0 && states[0].State.Seq != l.Seq || l.Seq != 10*(gap.LastSecond+1) {
				t.Errorf("after the gap %+v, marked before step %d, the first full state is of step %d", gap, l.Seq, states[0].State.Seq)
			}
		}
	}
	for s := range seconds {
		if seen[s] != "there" && seen[s] != "missing" {
			t.Errorf("second %d is %q", s, seen[s])
		}
	}
	if missing != dropped || missing == 0 {
		t.Errorf("%d seconds are missing, %d were dropped", missing, dropped)
	}
}

// A disk that fails stops the recording, not the run, and it goes on in a new segment.
func TestFailingDiskStopsTheRecordingOnly(t *testing.T) {
	for name, fails := range map[string]func(*memory, bool){
		"full":          func(d *memory, now bool) { d.room = map[bool]int{true: 700, false: -1}[now] },
		"full at once":  func(d *memory, now bool) { d.room = map[bool]int{true: 0, false: -1}[now] },
		"sync fails":    func(d *memory, now bool) { fail(d, now, "sync") },
		"all fails":     func(d *memory, now bool) { fail(d, now, "sync", "create", "truncate", "remove", "list") },
		"not truncated": func(d *memory, now bool) { fail(d, now, "sync", "syncdir", "remove") },
	} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { failingDisk(t, fails) }) })
	}
}

func fail(d *memory, now bool, what ...string) {
	for _, w := range what {
		if now {
			d.broken[w] = errFull
		} else {
			delete(d.broken, w)
		}
	}
}

func failingDisk(t *testing.T, fails func(*memory, bool)) {
	d := newMemory()
	var log logtest.Buffer
	var stops []error
	var gaps []Gap
	r := begin(t, d, Options{Log: zerolog.New(&log), OnStop: func(err error) { stops = append(stops, err) }, OnGap: func(g Gap) { gaps = append(gaps, g) }})
	r.run(3)
	d.set(func() { fails(d, true) })
	inForce := &InForce{[]ModelInForce{{ModelLabel: "model0", BatchSize: 8}}}
	for range 150 {
		r.run(1)
		r.w.Command(Command{Seq: r.seq, Actor: Actor{Via: "api"}}, inForce)
	}
	synctest.Wait()
	stats := r.w.Stats()
	if !stats.Stopped || !strings.Contains(stats.StoppedBy, errFull.Error()) || stats.Seconds < 2 || stats.DroppedSeconds < 100 || len(stops) != 1 || !errors.Is(stops[0], errFull) {
		t.Errorf("stats %+v, told of %v", stats, stops)
	}
	if err := r.w.SyncCommand(t.Context(), Command{Seq: r.seq, Actor: Actor{Via: "api"}}, inForce); !errors.Is(err, ErrNotRecorded) || !errors.Is(err, errFull) {
		t.Errorf("a command is said to be on the disk: %v", err)
	}
	d.set(func() { fails(d, false) })
	r.run(62)
	r.w.Command(Command{Seq: r.seq, Actor: Actor{Via: "api"}}, inForce)
	synctest.Wait()
	if stats = r.w.Stats(); stats.Stopped || stats.Gaps != 1 || len(gaps) != 1 {
		t.Errorf("stats %+v, told of %+v", stats, gaps)
	}
	if err := r.w.Close(t.Context(), "done"); err == nil || !strings.Contains(err.Error(), "seconds in 1 gaps were not recorded") {
		t.Errorf("the end says %v", err)
	}
	if n := strings.Count(log.String(), "recording has stopped"); n != 1 {
		t.Errorf("it is logged %d times:\n%s", n, log.String())
	}
	lines := d.all(t)
	checkGaps(t, lines, 215, stats.DroppedSeconds, errFull.Error())
	if commands := only[*Command](lines); len(commands) < 152 {
		t.Errorf("%d of 152 commands are there", len(commands))
	}
	headers := only[*Header](lines)
	h := headers[len(headers)-1]
	if h.Second != gaps[0].LastSecond+1 || h.InForce == nil || h.InForce.Models[0].BatchSize != 8 {
		t.Errorf("the last header is %+v", h)
	}
}

// Recording that cannot begin begins when it can.
func TestDiskThatFailsAtTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newMemory()
		d.broken["create"] = errFull
		r := begin(t, d, Options{})
		r.run(5)
		d.set(func() { delete(d.broken, "create") })
		r.run(60)
		stats := r.w.Stats()
		_ = r.w.Close(t.Context(), "done")
		checkGaps(t, d.all(t), 65, stats.DroppedSeconds, errFull.Error())
	})
}

// The end of a run is another attempt.
func TestEndOfARunThatWasStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newMemory()
		r := begin(t, d, Options{})
		r.run(2)
		d.set(func() { d.room = 0 })
		r.run(5)
		d.set(func() { d.room = -1 })
		if err := r.w.Close(t.Context(), "done"); err == nil {
			t.Error("nothing is said of what is missing")
		}
		lines := d.all(t)
		if end, is := lines[len(lines)-1].(*End); !is || end.DroppedSeconds != 5 || end.Seq != 69 {
			t.Errorf("the last line is %+v", lines[len(lines)-1])
		}
		checkGaps(t, lines, 7, 5, errFull.Error())
	})
	synctest.Test(t, func(t *testing.T) {
		d := newMemory()
		r := begin(t, d, Options{})
		r.run(2)
		d.set(func() { d.room = 0 })
		r.run(5)
		if err := r.w.Close(t.Context(), "done"); err == nil || !strings.Contains(err.Error(), "its end is missing") {
			t.Errorf("the end says %v", err)
		}
	})
}

// Nobody waits longer than wanted for a disk that hangs, and memory has a bound.
func TestHangingDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newMemory()
		r := begin(t, d, Options{})
		r.run(2)
		d.set(func() { d.slow = time.Hour })
		r.run(2)
		body := json.RawMessage(`"` + strings.Repeat("x", 1<<20) + `"`)
		for range 70 {
			r.w.Command(Command{Seq: r.seq, Body: body}, nil)
			r.w.Event(Event{Seq: r.seq, Data: json.RawMessage(`"` + strings.Repeat("x", 1<<10) + `"`)}, nil)
		}
		stats := r.w.Stats()
		if stats.LostCommands < 5 || stats.LostCommands > 8 {
			t.Errorf("of 70 MiB of commands, %d were lost, want those above 64", stats.LostCommands)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		began := time.Now()
		if err := r.w.SyncCommand(ctx, Command{Seq: r.seq}, nil); !errors.Is(err, ErrNotRecorded) {
			t.Errorf("a command is said to be on the disk: %v", err)
		}
		if err := r.w.Close(ctx, "done"); err == nil || !strings.Contains(err.Error(), "does not answer") || time.Since(began) > 5*time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		d.set(func() { d.slow = 0 })
		<-r.w.ended // after the hour
		for _, frame := range framesOf(t, d.files["00000000.jsonl.zst"].content) {
			if len(frame) > maxContent {
				t.Errorf("a frame has %d bytes", len(frame))
			}
		}
	})
}
