package recording

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
)

var update = flag.Bool("update", false, "rewrite the golden recording of the present format")

// goldenDirectory has a recording of format 1, as it was written when that was new, and
// lines.jsonl, what is in it. That of a format that has been released never changes.
const goldenDirectory = "testdata/format1"

// recordGolden records what is in the golden recording: two segments of a run that has
// everything, with a gap between them.
func recordGolden(t *testing.T) *memory {
	t.Helper()
	d := newMemory()
	w, err := Open(Options{disk: d, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	r := beginWith(t, w, 2, 2)
	r.run(1.2)
	inForce := &InForce{[]ModelInForce{{ModelLabel: "model0", BatchSize: 32}, {ModelLabel: "model1", BatchSize: 64}}}
	w.Command(Command{
		Seq: r.seq, TimeS: 1.2, WallTime: wall(), Actor: Actor{"api", "127.0.0.1:40000", "control"}, IdempotencyKey: "key-1",
		Body: json.RawMessage(`{"batch_size_by_model":{"model0":32}}`), Results: json.RawMessage(`[{"model_label":"model0","accepted":true}]`),
	}, inForce)
	w.Event(Event{Seq: r.seq, ID: 0, WallTime: wall(), TimeS: 1.2, Topic: "datacenter.batch_size.updated", Data: json.RawMessage(`{"batch_size_by_model":{"model0":32,"model1":64}}`)}, nil)
	r.run(1.8)
	d.set(func() { d.room = 0 })
	r.run(2)
	w.Command(Command{Seq: r.seq, TimeS: 5, Actor: Actor{Via: "script"}, Body: json.RawMessage(`{}`)}, nil)
	d.set(func() { d.room = -1 })
	r.run(61)
	if err := w.Close(t.Context(), "done"); err == nil {
		t.Error("no gap")
	}
	return d
}

func TestFormatIsTheGoldenOne(t *testing.T) {
	path := filepath.Join(goldenDirectory, "lines.jsonl")
	synctest.Test(t, func(t *testing.T) {
		d := recordGolden(t)
		var text []byte
		for _, name := range d.names() {
			text = append(text, bytes.Join(framesOf(t, d.files[name].content), nil)...)
			if *update {
				write(t, filepath.Join(goldenDirectory, name), d.files[name].content)
			}
		}
		if *update {
			write(t, path, text)
		}
		if diff := cmp.Diff(strings.Split(string(read(t, path)), "\n"), strings.Split(string(text), "\n")); diff != "" {
			t.Errorf("what is written is not the golden recording (-golden +written):\n%s", diff)
		}
	})
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

// The golden recording is read, by this version and all later ones, and says what it
// said when it was written.
func TestGoldenRecordingIsRead(t *testing.T) {
	var text []byte
	kinds := map[Kind]int{}
	for _, name := range []string{SegmentName(0), SegmentName(1)} {
		segment := read(t, filepath.Join(goldenDirectory, name))
		text = append(text, bytes.Join(framesOf(t, segment), nil)...)
		for _, line := range segmentLines(t, segment) {
			kinds[line.Kind()]++
		}
	}
	if string(text) != string(read(t, filepath.Join(goldenDirectory, "lines.jsonl"))) {
		t.Error("the segments are not the lines beside them")
	}
	for _, kind := range []Kind{KindHeader, KindPower, KindITL, KindMetrics, KindCommand, KindEvent, KindState, KindStateHash, KindEnd} {
		if kinds[kind] == 0 {
			t.Errorf("no line of kind %s", kind)
		}
	}
	var gaps, others int64
	for _, s := range verify(t, goldenDirectory).Segments {
		gaps += s.Gaps
		others += s.DamagedBytes + s.DamagedLines + s.Faults
	}
	if gaps != 1 || others != 0 {
		t.Errorf("verifying finds %d gaps and %d other faults, want its one gap", gaps, others)
	}
	for raw := range bytes.Lines(text) {
		line, err := ParseLine(raw)
		if err != nil {
			t.Fatal(err)
		}
		if again := append(line.AppendJSON(nil), '\n'); string(again) != string(raw) {
			t.Errorf("read and written anew it is\n%swas\n%s", again, raw)
		}
	}
}

// Each segment reads alone: its hashes are those of the states, its states in full have
// the hashes beside them.
func TestGoldenHashes(t *testing.T) {
	for _, name := range []string{SegmentName(0), SegmentName(1)} {
		lines := segmentLines(t, read(t, filepath.Join(goldenDirectory, name)))
		_, _, hashes, _ := recorded(t, lines)
		for _, s := range only[*State](lines) {
			if hashes[s.State.Seq] != HashOf(s.State) {
				t.Errorf("%s: the state of step %d has the hash %v, and %v stands there", name, s.State.Seq, HashOf(s.State), hashes[s.State.Seq])
			}
		}
	}
}
