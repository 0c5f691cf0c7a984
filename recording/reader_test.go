package recording

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

const (
	runA = "0d5a3f6e-58f4-4a86-9c5b-0f4f0a8d0001"
	runB = "0d5a3f6e-58f4-4a86-9c5b-0f4f0a8d0002"
	zero = 1_795_565_504_000 // Unix ms of the runs' starts in these tests
)

func seconds(t testing.TB, text string) datacenter.Seconds {
	t.Helper()
	s, err := datacenter.ParseSeconds(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// headerLine is the header of a segment of a run with one GPU, two steps a second.
func headerLine(t testing.TB, runID string, segment, second int64) *Header {
	t.Helper()
	return &Header{
		Format: Format, RunID: runID, Segment: segment, Second: second, StartedAt: time.UnixMilli(zero).UTC(), StartMs: zero,
		AgentVersion: "test", Seed: 7, DT: seconds(t, "1/2"), Config: json.RawMessage(`{"dt_s":"1/2"}`), Models: []string{"m"},
		GPUs: []GPU{{GPU: "node1:4938/0", Endpoint: "node1:4938", ModelLabel: "m"}},
	}
}

func stateOf(seq int64) *datacenter.State {
	nan := math.NaN()
	return &datacenter.State{
		Seq: seq, TimeS: float64(seq) / 2, WallTime: time.UnixMilli(zero + 500*seq).UTC(), Source: datacenter.SourceLive,
		PowerW: datacenter.ThreePhase{A: 1000.5 + float64(seq), B: 2, C: 3}, MeasuredPowerW: datacenter.ThreePhase{A: 1, B: 2, C: 3},
		Models: []datacenter.ModelState{{
			ModelLabel: "m", PowerW: 1 / 3.0, ActiveReplicas: 2, BatchSize: 64, AchievedBatchSize: nan, ObservedITLS: 0.015,
			PhaseShare: datacenter.ThreePhase{A: 0.5, B: 0.25, C: 0.25},
			Live: datacenter.LiveModelState{
				MeasuredPowerW: 600, AugmentationFactor: 2, ITLPercentilesS: datacenter.ITLPercentiles{P50: 0.01, P90: nan, P95: nan, P99: nan},
			},
		}},
	}
}

// secondLines are those of a second of a run, with the full state of its first step if
// full.
func secondLines(second int64, full bool) []Line {
	seq := 2 * second
	lines := []Line{
		&Power{
			Second: second, GPU: "node1:4938/0", OffsetNs: -1_234_567, TMs: []int64{zero + 1000*second, zero + 1000*second + 51},
			PowerMW: []int64{600_123 + second, 598_871}, Steps: []int64{seq, seq + 1},
		},
		&ITL{Seq: seq, ModelLabel: "m", Count: 4, SumNs: 61_846_120, Method: MethodUsage, OutputTokens: 5, Bins: []int64{890, 891}, Counts: []int64{3, 1}},
	}
	if full {
		lines = append(lines, &State{stateOf(seq)})
	}
	return append(lines, &StateHash{
		Second: second, Seq: seq, WallMs: zero + 1000*second, LateUs: []int64{31, 28}, Hash: []Hash{HashOf(stateOf(seq)), HashOf(stateOf(seq + 1))},
	})
}

func frameOf(t testing.TB, lines ...Line) []byte {
	t.Helper()
	var content []byte
	for _, line := range lines {
		content = append(line.AppendJSON(content), '\n')
	}
	return encodeFrame(t, string(content))
}

// segmentFrames are the frames of a segment: header, seconds from to below to.
func segmentFrames(t testing.TB, runID string, segment, from, to int64) [][]byte {
	t.Helper()
	frames := [][]byte{frameOf(t, headerLine(t, runID, segment, from))}
	for second := from; second < to; second++ {
		frames = append(frames, frameOf(t, secondLines(second, second == from)...))
	}
	return frames
}

func writeSegment(t testing.TB, dir string, segment int64, frames ...[]byte) string {
	t.Helper()
	path := filepath.Join(dir, fmt.Sprintf("%08d.jsonl.zst", segment))
	if err := os.WriteFile(path, bytes.Join(frames, nil), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// smallRecording is a run of two segments that ended in order, a command within.
func smallRecording(t testing.TB) (dir string, frames [][][]byte) {
	t.Helper()
	dir = t.TempDir()
	first := segmentFrames(t, runA, 0, 0, 2)
	command := &Command{Seq: 3, TimeS: 1.5, Actor: Actor{Via: "api"}, Body: json.RawMessage(`{"batch_size_by_model":{"m":64}}`), Results: json.RawMessage(`{}`)}
	first = slices.Insert(first, 2, frameOf(t, command))
	second := segmentFrames(t, runA, 1, 2, 4)
	second = append(second, frameOf(t, &End{Seq: 7, Reason: "done", Frames: int64(len(first) + len(second))}))
	writeSegment(t, dir, 0, first...)
	writeSegment(t, dir, 1, second...)
	return dir, [][][]byte{first, second}
}

func openReader(t testing.TB, dir string) *Reader {
	t.Helper()
	r, err := OpenReader(dir)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// linesIn are the lines read as they stand, and what was damaged.
func linesIn(t testing.TB, dir string, o ReadOptions) (lines []string, damages []Damage) {
	t.Helper()
	o.Damaged = func(d Damage) { damages = append(damages, d) }
	for entry, err := range openReader(t, dir).Lines(t.Context(), o) {
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, string(entry.Raw))
	}
	return lines, damages
}

func verifyDir(t testing.TB, dir string) *Report {
	t.Helper()
	report, err := openReader(t, dir).Verify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func findings(r *Report) string {
	var all []string
	for _, s := range r.Segments {
		all = append(all, s.Findings...)
	}
	return strings.Join(all, "\n")
}

func TestLinesOfADirectory(t *testing.T) {
	dir, _ := smallRecording(t)
	for _, foreign := range []string{"00000002.jsonl.zst.bak", "2.jsonl.zst", "notes.txt", ".00000003.jsonl.zst", "power.parquet"} {
		if err := os.WriteFile(filepath.Join(dir, foreign), []byte("foreign"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "00000009.jsonl.zst"), 0o700); err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for entry, err := range openReader(t, dir).Lines(t.Context(), ReadOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		second, known := entry.Second()
		if !known || entry.Header == nil || entry.Header.RunID != runA {
			t.Fatalf("an entry of no second or run: %+v", entry)
		}
		if again := string(entry.Line.AppendJSON(nil)); again != string(entry.Raw) {
			t.Errorf("%s reads back as %s", entry.Raw, again)
		}
		kinds = append(kinds, fmt.Sprintf("%s/%d.%d %s %d", entry.File[:8], entry.Frame, entry.Number, entry.Line.Kind(), second))
	}
	want := []string{
		"00000000/0.1 header 0", "00000000/1.1 power 0", "00000000/1.2 itl 0", "00000000/1.3 state 0", "00000000/1.4 state_hash 0",
		"00000000/2.1 command 1", "00000000/3.1 power 1", "00000000/3.2 itl 1", "00000000/3.3 state_hash 1",
		"00000001/0.1 header 2", "00000001/1.1 power 2", "00000001/1.2 itl 2", "00000001/1.3 state 2", "00000001/1.4 state_hash 2",
		"00000001/2.1 power 3", "00000001/2.2 itl 3", "00000001/2.3 state_hash 3", "00000001/3.1 end 3",
	}
	if !slices.Equal(kinds, want) {
		t.Errorf("the lines are\n%s\nwant\n%s", strings.Join(kinds, "\n"), strings.Join(want, "\n"))
	}
	if r := verifyDir(t, dir); !r.Whole || r.Segments[0].Frames != 4 || r.Segments[1].Seconds != 2 || *r.Segments[1].LastSecond != 3 {
		t.Errorf("verify: %+v", r)
	}
}

func TestLinesOfARange(t *testing.T) {
	dir, _ := smallRecording(t)
	writeSegment(t, dir, 2, segmentFrames(t, runB, 2, 0, 2)...)
	count := func(o ReadOptions) (seconds []string) {
		o.Kinds = []Kind{KindStateHash}
		lines, damages := linesIn(t, dir, o)
		if len(damages) > 0 {
			t.Errorf("%+v: damaged %v", o, damages)
		}
		for _, line := range lines {
			at := strings.Index(line, `"second":`) + len(`"second":`)
			seconds = append(seconds, line[at:at+1])
		}
		return seconds
	}
	for _, c := range []struct {
		o    ReadOptions
		want string
	}{
		{ReadOptions{}, "0 1 2 3 0 1"},
		{ReadOptions{RunID: runA}, "0 1 2 3"},
		{ReadOptions{RunID: runB}, "0 1"},
		{ReadOptions{RunID: runA, FromMs: zero + 1000, ToMs: zero + 3000}, "1 2"},
		{ReadOptions{RunID: runA, FromMs: zero + 1001}, "2 3"},
		{ReadOptions{RunID: runA, ToMs: zero + 1}, "0"},
		{ReadOptions{FromMs: zero + 3000}, "3"},
		{ReadOptions{FromMs: zero + 4000}, ""},
		{ReadOptions{ToMs: zero}, ""},
	} {
		if got := strings.Join(count(c.o), " "); got != c.want {
			t.Errorf("%+v: the seconds are %q, want %q", c.o, got, c.want)
		}
	}
}

// Segments that cannot have a second wanted are not opened.
func TestSegmentsOutsideTheRangeAreNotRead(t *testing.T) {
	dir := t.TempDir()
	for i := range int64(5) {
		writeSegment(t, dir, i, segmentFrames(t, runA, i, 100*i, 100*i+50)...)
	}
	r := openReader(t, dir)
	for _, i := range []int{0, 1, 3, 4} {
		if err := os.Remove(filepath.Join(dir, fmt.Sprintf("%08d.jsonl.zst", i))); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	for _, err := range r.Lines(t.Context(), ReadOptions{FromMs: zero + 240_000, ToMs: zero + 241_000}) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 4 { // the header and a second
		t.Errorf("%d lines", n)
	}
}

// A segment that begins after a gap has the gap's commands first: they are found by their
// own time.
func TestCommandsOfAGapAreFound(t *testing.T) {
	dir := t.TempDir()
	writeSegment(t, dir, 0, segmentFrames(t, runA, 0, 0, 2)...)
	frames := segmentFrames(t, runA, 1, 500, 502)
	command := &Command{Seq: 401, TimeS: 200.5, Actor: Actor{Via: "api"}, Body: json.RawMessage(`{}`), Results: json.RawMessage(`{}`)}
	writeSegment(t, dir, 1, slices.Insert(frames, 1, frameOf(t, command))...)
	writeSegment(t, dir, 2, segmentFrames(t, runA, 2, 1000, 1002)...)
	r := openReader(t, dir)
	if err := os.Remove(filepath.Join(dir, "00000002.jsonl.zst")); err != nil { // which is not looked at
		t.Fatal(err)
	}
	var found []int64
	for entry, err := range r.Lines(t.Context(), ReadOptions{FromMs: zero + 200_000, ToMs: zero + 201_000, Kinds: []Kind{KindCommand, KindPower}}) {
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, entry.Line.(*Command).Seq)
	}
	if !slices.Equal(found, []int64{401}) {
		t.Errorf("found are the commands %v", found)
	}
}

// Whatever bit of a recording is flipped: verify says so and all other frames are read, or
// every line is as it was.
func TestEveryFlippedBitOfARecording(t *testing.T) {
	dir := t.TempDir()
	frames := append(segmentFrames(t, runA, 0, 0, 1), frameOf(t, secondLines(1, false)...), frameOf(t, &End{Seq: 3, Reason: "done", Frames: 3}))
	path := writeSegment(t, dir, 0, frames...)
	whole, _ := linesIn(t, dir, ReadOptions{})
	raw := bytes.Join(frames, nil)
	for bit := range 8 * len(raw) {
		flipped := slices.Clone(raw)
		flipped[bit/8] ^= 1 << (bit % 8)
		if err := os.WriteFile(path, flipped, 0o600); err != nil {
			t.Fatal(err)
		}
		lines, damages := linesIn(t, dir, ReadOptions{})
		report := verifyDir(t, dir)
		if report.Whole || len(damages) == 0 {
			if !slices.Equal(lines, whole) || !report.Whole || len(damages) > 0 {
				t.Fatalf("bit %d of byte %d: not noticed; damaged %v; verify:\n%s", bit%8, bit/8, damages, findings(report))
			}
			continue
		}
		if want := without(t, [][][]byte{frames}, 0, bit/8); !slices.Equal(lines, want) {
			t.Fatalf("bit %d of byte %d: read %d lines of %d, want %d", bit%8, bit/8, len(lines), len(whole), len(want))
		}
	}
}

// without are the lines of all frames but the one of a segment that has a byte.
func without(t testing.TB, frames [][][]byte, segment, at int) (lines []string) {
	t.Helper()
	d, err := newFrameDecoder()
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	for i, parts := range frames {
		offset := 0
		for _, part := range parts {
			if i != segment || at < offset || at >= offset+len(part) {
				content, err := d.zstd.DecodeAll(part, nil)
				if err != nil {
					t.Fatal(err)
				}
				lines = append(lines, strings.Split(strings.TrimSuffix(string(content), "\n"), "\n")...)
			}
			offset += len(part)
		}
	}
	return lines
}

// Wherever a segment is cut, the last one or one before it: verify says so, and all whole
// frames are read.
func TestEveryCutOfARecording(t *testing.T) {
	dir, frames := smallRecording(t)
	for segment, parts := range frames {
		path := filepath.Join(dir, fmt.Sprintf("%08d.jsonl.zst", segment))
		raw := bytes.Join(parts, nil)
		for end := range len(raw) {
			if err := os.WriteFile(path, raw[:end], 0o600); err != nil {
				t.Fatal(err)
			}
			wholeTo := 0
			var kept [][]byte
			for _, part := range parts {
				if wholeTo+len(part) > end {
					break
				}
				wholeTo += len(part)
				kept = append(kept, part)
			}
			cut := slices.Clone(frames)
			cut[segment] = kept
			lines, damages := linesIn(t, dir, ReadOptions{})
			if want := without(t, cut, -1, 0); !slices.Equal(lines, want) {
				t.Fatalf("segment %d, cut at %d: read %d lines, want %d", segment, end, len(lines), len(want))
			}
			if end > wholeTo && (len(damages) == 0 || !damages[0].Cut && !damages[0].Missing) {
				t.Fatalf("segment %d, cut at %d: damaged %v", segment, end, damages)
			}
			if verifyDir(t, dir).Whole {
				t.Fatalf("segment %d, cut at %d: verify says whole", segment, end)
			}
		}
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if r := verifyDir(t, dir); !r.Whole {
		t.Errorf("uncut: %s", findings(r))
	}
}

func TestDamageIsNamed(t *testing.T) {
	dir, frames := smallRecording(t)
	broken := slices.Clone(frames[1])
	broken[1] = slices.Clone(broken[1])
	broken[1][len(broken[1])/2] ^= 0x10
	writeSegment(t, dir, 1, broken...)
	_, damages := linesIn(t, dir, ReadOptions{})
	want := fmt.Sprintf("00000001.jsonl.zst: frame 1 at byte %d: 1 frame, %d bytes, cannot be read (", len(broken[0]), len(broken[1]))
	if len(damages) != 1 || !strings.HasPrefix(damages[0].String(), want) || !strings.HasSuffix(damages[0].String(), "), between seconds 1 and 3 of the run") {
		t.Errorf("damaged %v\nwant %s", damages, want)
	}
	report := verifyDir(t, dir)
	if s := report.Segments[1]; s.DamagedFrames != 1 || s.DamagedBytes != int64(len(broken[1])) || s.Gaps != 1 || s.Whole() || !report.Segments[0].Whole() {
		t.Errorf("verify: %+v", report)
	}
	if said := findings(report); !strings.Contains(said, "seconds 2 to 2 of the run are missing") {
		t.Errorf("verify says\n%s", said)
	}
	// Outside of what is wanted, damage is not told.
	if _, damages := linesIn(t, dir, ReadOptions{ToMs: zero + 1000}); len(damages) > 0 {
		t.Errorf("damaged within the first second: %v", damages)
	}
	// Without somebody who is told, it is an error.
	var last error
	for _, err := range openReader(t, dir).Lines(t.Context(), ReadOptions{}) {
		last = err
	}
	if last == nil || !strings.Contains(last.Error(), want) {
		t.Errorf("the error is %v", last)
	}
}

func TestLinesThatMakeNoSenseAreNamed(t *testing.T) {
	dir, frames := smallRecording(t)
	bad := encodeFrame(t, "no JSON\n{\"kind\":\"power\",\"second\":1}\n{\"kind\":\"later\",\"x\":1}\n{\"kind\":\"end\"")
	writeSegment(t, dir, 0, frames[0][0], frames[0][1], bad, frames[0][2], frames[0][3])
	lines, damages := linesIn(t, dir, ReadOptions{})
	at := len(frames[0][0]) + len(frames[0][1])
	for i, want := range []string{"line 1: want a JSON object", "line 2: power: gpu is missing", "line 4: the line does not end in a newline"} {
		prefix := fmt.Sprintf("00000000.jsonl.zst: frame 2 at byte %d, %s", at, want)
		if len(damages) != 3 || !strings.HasPrefix(damages[i].String(), prefix) {
			t.Fatalf("damaged %v, want %s", damages, prefix)
		}
	}
	if len(lines) != 19 || lines[5] != `{"kind":"later","x":1}` {
		t.Errorf("%d lines: %q", len(lines), lines)
	}
	if s := verifyDir(t, dir).Segments[0]; s.DamagedLines != 3 || s.Whole() {
		t.Errorf("verify: %+v", s)
	}
}

// A segment whose header is damaged is read with that of another segment of the run.
func TestHeaderOfAnotherSegment(t *testing.T) {
	for segment := range int64(2) {
		dir, frames := smallRecording(t)
		writeSegment(t, dir, segment, append([][]byte{frames[segment][0][:20]}, frames[segment][1:]...)...)
		n := 0
		o := ReadOptions{Damaged: func(Damage) { n++ }, FromMs: zero, ToMs: zero + 4000}
		for entry, err := range openReader(t, dir).Lines(t.Context(), o) {
			if err != nil {
				t.Fatal(err)
			}
			if entry.Header == nil || entry.Header.RunID != runA {
				t.Errorf("segment %d: %s has no header", segment, entry.Raw)
			}
		}
		if n != 1 {
			t.Errorf("segment %d: %d damages", segment, n)
		}
	}
}

func TestOpenReaderRefuses(t *testing.T) {
	empty := t.TempDir()
	later := t.TempDir()
	content := strings.Replace(string(headerLine(t, runA, 0, 0).AppendJSON(nil)), `"format":1`, `"format":2`, 1)
	writeSegment(t, later, 0, encodeFrame(t, content+"\n"))
	for dir, want := range map[string]string{
		empty:                           "has no segments such as 00000000.jsonl.zst",
		later:                           "00000000.jsonl.zst: a later version of g2g-agent wrote it: header: format is 2",
		filepath.Join(empty, "missing"): "no such file or directory",
	} {
		if _, err := OpenReader(dir); !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %v, want %s", err, want)
		}
	}
}

func TestReadingEndsWithItsContext(t *testing.T) {
	dir, _ := smallRecording(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range openReader(t, dir).Lines(ctx, ReadOptions{}) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("the error is %v", err)
		}
	}
}
