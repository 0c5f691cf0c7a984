package recording

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

const startMs = 1795565504000

// run is a run of the tests' own, which knows what it has recorded.
type run struct {
	w      *Writer
	every  time.Duration // between steps
	seq    int64         // of the next step
	gpus   int
	models int
	states []*datacenter.State
	power  map[string][]PowerEntry
	itl    []ITL
}

func headerOf(t testing.TB, gpus, models int) Header {
	h := Header{
		RunID: "run", StartedAt: wall(), StartMs: startMs, AgentVersion: "test", DT: tenth(t), Seed: 1,
		Config: json.RawMessage(`{"dt_s":0.1}`), ClockOffsetNs: map[string]int64{"node:4938": 5},
	}
	for i := range gpus {
		h.GPUs = append(h.GPUs, GPU{GPU: fmt.Sprintf("node:4938/%d", i), Endpoint: "node:4938", GPUID: i})
	}
	for i := range models {
		h.Models = append(h.Models, fmt.Sprintf("model%d", i))
	}
	return h
}

// begin records on a disk.
func begin(t testing.TB, d disk, o Options) *run {
	t.Helper()
	o.disk = d
	if o.Log.GetLevel() == zerolog.DebugLevel {
		o.Log = zerolog.Nop()
	}
	w, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return beginWith(t, w, 2, 2)
}

func beginWith(t testing.TB, w *Writer, gpus, models int) *run {
	w.Start(headerOf(t, gpus, models))
	return &run{w: w, every: 100 * time.Millisecond, gpus: gpus, models: models, power: map[string][]PowerEntry{}}
}

// stateOfStep is the state of a step: always the same.
func stateOfStep(dt datacenter.Seconds, seq int64, models int) *datacenter.State {
	s := &datacenter.State{Seq: seq, TimeS: dt.Times(seq), Source: datacenter.SourceLive, WallTime: time.UnixMilli(startMs + 100*seq).UTC()}
	for m := range models {
		s.Models = append(s.Models, datacenter.ModelState{
			ModelLabel: fmt.Sprintf("model%d", m), PowerW: math.Sqrt(float64(seq + int64(m))), BatchSize: 64, ActiveReplicas: 3, ObservedITLS: 0.02,
		})
	}
	return s
}

// step records one step with two readings a GPU and the tokens of each model.
func (r *run) step() {
	r.w.BeginStep(r.seq, startMs+100*r.seq, r.seq%7)
	for gpu := range r.gpus {
		for i := range int64(2) {
			e := PowerEntry{TMs: startMs + 100*r.seq + 50*i, PowerMW: 600_000 + r.seq, Step: r.seq, OffsetNs: r.seq / 15, Mark: MarkReading}
			if r.seq%4 == 3 {
				e.Mark = MarkConfirmation
			}
			r.w.Power(gpu, e)
			if r.power != nil {
				name := r.w.header.GPUs[gpu].GPU
				r.power[name] = append(r.power[name], e)
			}
		}
	}
	bins := [4]int64{1500, 1501, 1507, 1500 + 10 + r.seq%50}
	counts := [4]int64{1, 2, 3, r.seq}
	for m := range r.models {
		l := ITL{Seq: r.seq, ModelLabel: r.w.header.Models[m], OutputTokens: 7 + r.seq, Count: 6 + r.seq, SumNs: 1000 * r.seq, Method: MethodUsage, Bins: bins[:], Counts: counts[:]}
		r.w.ITL(&l)
		if r.power != nil {
			l.Bins, l.Counts = slices.Clone(l.Bins), slices.Clone(l.Counts)
			r.itl = append(r.itl, l)
		}
	}
	clear(bins[:]) // the writer has copied it
	if r.seq%5 == 0 && r.models > 0 {
		r.w.Metrics(&Metrics{Step: r.seq, ModelLabel: r.w.header.Models[0], NumRequestsRunning: float64(r.seq)})
	}
	s := stateOfStep(r.w.header.DT, r.seq, r.models)
	r.states = append(r.states, s)
	r.w.State(s)
	r.seq++
}

// run records for so many seconds, in time.
func (r *run) run(seconds float64) {
	for range int(math.Round(seconds / r.every.Seconds())) {
		r.step()
		<-time.After(r.every)
	}
}

func (r *run) close(t testing.TB) {
	t.Helper()
	if err := r.w.Close(t.Context(), "done"); err != nil {
		t.Error(err)
	}
}

// recorded turns lines back into what a run knows; lines of seconds that are not in
// order fail the test.
func recorded(t testing.TB, lines []Line) (power map[string][]PowerEntry, itl []ITL, hashes map[int64]Hash, late map[int64]int64) {
	t.Helper()
	power, hashes, late = map[string][]PowerEntry{}, map[int64]Hash{}, map[int64]int64{}
	second := int64(-1)
	for _, line := range lines {
		switch l := line.(type) {
		case *Power:
			for i := range l.TMs {
				power[l.GPU] = append(power[l.GPU], PowerEntry{l.TMs[i], l.OffsetNs, l.PowerMW[i], l.Steps[i], l.MarkOf(i)})
			}
		case *ITL:
			itl = append(itl, *l)
		case *StateHash:
			if l.Second <= second || l.WallMs != startMs+100*l.Seq {
				t.Errorf("second %d after %d, due at %d ms", l.Second, second, l.WallMs-startMs)
			}
			second = l.Second
			for i, h := range l.Hash {
				hashes[l.Seq+int64(i)], late[l.Seq+int64(i)] = h, l.LateUs[i]
			}
		}
	}
	return power, itl, hashes, late
}

func TestEverythingIsRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newMemory()
		r := begin(t, d, Options{})
		r.run(24.5)
		r.close(t)
		stats := r.w.Stats()
		if want := []string{"00000000.jsonl.zst"}; !slices.Equal(d.names(), want) {
			t.Fatalf("files: %q", d.names())
		}
		lines := d.all(t)
		power, itl, hashes, late := recorded(t, lines)
		if diff := cmp.Diff(r.power, power); diff != "" {
			t.Error("power:", diff)
		}
		if diff := cmp.Diff(r.itl, itl); diff != "" {
			t.Error("itl:", diff)
		}
		for _, s := range r.states {
			if hashes[s.Seq] != HashOf(s) || late[s.Seq] != s.Seq%7 {
				t.Fatalf("step %d has the hash %v and was %d µs late", s.Seq, hashes[s.Seq], late[s.Seq])
			}
		}
		if len(hashes) != 245 || len(only[*Metrics](lines)) != 49 {
			t.Errorf("%d hashes and %d metrics", len(hashes), len(only[*Metrics](lines)))
		}
		var full []int64
		for _, s := range only[*State](lines) {
			full = append(full, s.State.Seq)
			if diff := cmp.Diff(r.states[s.State.Seq].AppendJSON(nil), s.State.AppendJSON(nil)); diff != "" {
				t.Error(diff)
			}
		}
		if want := []int64{0, 100, 200}; !slices.Equal(full, want) {
			t.Errorf("full states at %v, want %v", full, want)
		}
		if end, is := lines[len(lines)-1].(*End); !is || *end != (End{244, "done", 26, 0}) {
			t.Errorf("the last line is %+v", lines[len(lines)-1])
		}
		// The header's frame, 25 seconds of which the last is not whole, the end.
		if frames := framesOf(t, d.files["00000000.jsonl.zst"].content); len(frames) != 27 || strings.Count(string(frames[0]), "\n") != 1 {
			t.Errorf("%d frames, the first is %.80s", len(frames), frames[0])
		}
		size := uint64(len(d.files["00000000.jsonl.zst"].content))
		if want := (Stats{Seconds: 25, Frames: 27, Bytes: size, Segments: 1, DirectoryBytes: int64(size)}); stats != want {
			t.Errorf("stats %+v\nwant  %+v", stats, want)
		}
		h := only[*Header](lines)[0]
		if h.Format != 1 || h.Segment != 0 || h.Second != 0 || h.RunID != "run" || h.InForce != nil || string(h.Config) != `{"dt_s":0.1}` {
			t.Errorf("the header is %+v", h)
		}
		if f := d.files["00000000.jsonl.zst"]; !f.closed || f.synced != len(f.content) {
			t.Error("the file is not closed, or not on the disk whole")
		}
	})
}

// Each second is on the disk as soon as its last step was made.
func TestSecondsAreSynced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newMemory()
		r := begin(t, d, Options{})
		for i := range 50 {
			r.step()
			synctest.Wait()
			f := d.files["00000000.jsonl.zst"]
			if hashes := only[*StateHash](segmentLines(t, f.content[:f.synced])); len(hashes) != (i+1)/10 {
				t.Fatalf("after step %d, %d seconds are on the disk", i, len(hashes))
			}
		}
		r.close(t)
	})
}

func TestCommandsAreThereAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newMemory()
		r := begin(t, d, Options{})
		r.run(1.3)
		after := &InForce{[]ModelInForce{{ModelLabel: "model0", BatchSize: 32}}}
		r.w.Command(Command{Seq: r.seq, TimeS: 1.3, Actor: Actor{Via: "api"}, Body: json.RawMessage(`{"a":1}`)}, after)
		r.w.Event(Event{Seq: r.seq, Topic: "datacenter.batch_size.updated"}, nil)
		synctest.Wait()
		frames := framesOf(t, d.files["00000000.jsonl.zst"].content)
		if n := len(frames); n != 4 || !strings.HasPrefix(string(frames[2]), `{"kind":"command","seq":13,`) || !strings.HasPrefix(string(frames[3]), `{"kind":"event","seq":13,`) {
			t.Fatalf("%d frames, the last %s", n, frames[n-1])
		}
		if d.unsynced(SegmentName(0)) == 0 {
			t.Error("it was synced, which nobody has asked for")
		}
		if err := r.w.SyncCommand(t.Context(), Command{Seq: r.seq + 2}, nil); err != nil || d.unsynced(SegmentName(0)) != 0 {
			t.Errorf("%d bytes are not synced: %v", d.unsynced(SegmentName(0)), err)
		}
		r.run(1)
		r.close(t)
		var full []int64
		for _, s := range only[*State](d.all(t)) {
			full = append(full, s.State.Seq)
		}
		if want := []int64{0, 13, 15}; !slices.Equal(full, want) {
			t.Errorf("full states at %v, want %v", full, want)
		}
	})
}

// Commands are synced within a second, however far apart steps are.
func TestCommandsAreSyncedWithoutSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newMemory()
		r := begin(t, d, Options{})
		for i := range 3 {
			r.w.Command(Command{Seq: int64(i)}, nil)
			<-time.After(999 * time.Millisecond)
			synctest.Wait()
			if d.unsynced(SegmentName(0)) == 0 {
				t.Error("it was synced at once, which nobody has asked for")
			}
			<-time.After(2 * time.Millisecond)
			synctest.Wait()
			if n := d.unsynced(SegmentName(0)); n != 0 || len(only[*Command](d.all(t))) != i+1 {
				t.Errorf("%d bytes are not synced", n)
			}
		}
		d.set(func() { d.broken["sync"] = errFull })
		r.w.Command(Command{Seq: 9}, nil)
		<-time.After(1001 * time.Millisecond)
		synctest.Wait()
		if !r.w.Stats().Stopped {
			t.Error("a sync that fails is not noticed")
		}
		d.set(func() { delete(d.broken, "sync") })
		r.close(t)
		if n := len(only[*Command](d.all(t))); n != 4 {
			t.Errorf("%d of 4 commands are there", n)
		}
	})
}

// A second of more lines than a frame may have is several frames.
func TestLongSecondsAreDivided(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newMemory()
		r := begin(t, d, Options{})
		r.step()
		bins, counts := make([]int64, 1700), make([]int64, 1700)
		for i := range bins {
			bins[i], counts[i] = int64(i), int64(1e9)+int64(i)
		}
		const many = 400
		for range many {
			r.w.ITL(&ITL{ModelLabel: "model0", Method: MethodUsage, Bins: bins, Counts: counts})
		}
		r.close(t)
		frames := framesOf(t, d.files["00000000.jsonl.zst"].content)
		if len(frames) < 4 {
			t.Errorf("%d frames", len(frames))
		}
		for _, frame := range frames {
			if len(frame) > maxContent {
				t.Errorf("a frame has %d bytes", len(frame))
			}
		}
		if n := len(only[*ITL](d.all(t))); n != many+2 {
			t.Errorf("%d lines", n)
		}
	})
}

// Wall clocks step, and a run's seconds do not: what is written follows the steps.
func TestWallClockMayStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newMemory()
		r := begin(t, d, Options{})
		wallMs := []int64{startMs, startMs - 3_600_000, time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli() - 500, 0, startMs + 1}
		for second, ms := range wallMs {
			for range 10 {
				r.w.BeginStep(r.seq, ms, 0)
				r.w.Power(0, PowerEntry{TMs: ms, PowerMW: 1, Step: r.seq, OffsetNs: int64(second%2) * 3_000_000_000, Mark: MarkReading})
				r.w.State(stateOfStep(r.w.header.DT, r.seq, 2))
				r.seq++
				ms += 100
			}
			synctest.Wait()
		}
		r.close(t)
		hashes, power := only[*StateHash](d.all(t)), only[*Power](d.all(t))
		if len(hashes) != len(wallMs) || len(power) != len(wallMs) {
			t.Fatalf("%d seconds, %d lines of power", len(hashes), len(power))
		}
		for i, want := range wallMs {
			if h, p := hashes[i], power[i]; h.Second != int64(i) || h.Seq != 10*int64(i) || h.WallMs != want || p.TMs[9] != want+900 || p.OffsetNs != int64(i%2)*3_000_000_000 {
				t.Errorf("second %d is %+v, %+v", i, h, p)
			}
		}
	})
}

// Steps that are not one after the other are told so.
func TestStepsWithAGapInTheirNumbers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newMemory()
		r := begin(t, d, Options{})
		for _, r.seq = range []int64{0, 1, 5, 6} {
			r.step()
			r.seq--
		}
		r.close(t)
		hashes := only[*StateHash](d.all(t))
		if len(hashes) != 2 || hashes[0].Seq != 0 || len(hashes[0].Hash) != 2 || hashes[1].Seq != 5 || len(hashes[1].Hash) != 2 || hashes[1].WallMs != startMs+500 {
			t.Errorf("%+v", hashes)
		}
	})
}

// A run that ends before its first step leaves a header and an end.
func TestRunWithoutSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newMemory()
		begin(t, d, Options{}).close(t)
		lines := d.all(t)
		if end, is := lines[len(lines)-1].(*End); len(lines) != 2 || !is || end.Seq != -1 {
			t.Errorf("%+v", lines)
		}
		w, err := Open(Options{disk: d})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Close(t.Context(), "never begun"); err != nil || len(d.names()) != 1 {
			t.Errorf("%v, %q", err, d.names())
		}
	})
}

// What a step hands over allocates nothing, once a second's memory is there.
func TestStepsDoNotAllocate(t *testing.T) {
	w, err := Open(Options{disk: newMemory(), Log: zerolog.New(io.Discard)})
	if err != nil {
		t.Fatal(err)
	}
	r := beginWith(t, w, 8, 3)
	r.power = nil
	state := stateOfStep(w.header.DT, 0, 3)
	itl := ITL{ModelLabel: "model0", Method: MethodUsage, Bins: []int64{1, 2, 3}, Counts: []int64{1, 2, 3}}
	step := func() {
		w.BeginStep(r.seq, startMs, 0)
		for gpu := range 8 {
			w.Power(gpu, PowerEntry{TMs: startMs, PowerMW: 1, Step: r.seq, Mark: MarkReading})
		}
		w.ITL(&itl)
		w.State(state)
		r.seq++
	}
	for range 300 {
		step()
	}
	// The writer's goroutine allocates beside it, for each second of ten steps.
	if allocs := testing.AllocsPerRun(9, step); allocs > 0 {
		t.Errorf("%v allocations a step", allocs)
	}
	_ = w.Close(t.Context(), "done") // it may not have kept up
}
