package recording

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

func cutDir(t *testing.T, dir string, o ReadOptions) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "part")
	if err := openReader(t, dir).Cut(t.Context(), o, out); err != nil {
		t.Fatal(err)
	}
	return out
}

// withoutEnds are the lines that are no headers and no ends.
func withoutEnds(lines []string) []string {
	return slices.DeleteFunc(slices.Clone(lines), func(l string) bool {
		return strings.HasPrefix(l, `{"kind":"header"`) || strings.HasPrefix(l, `{"kind":"end"`)
	})
}

func TestCutHasThePartAndReadsAlone(t *testing.T) {
	dir, _ := smallRecording(t)
	writeSegment(t, dir, 2, segmentFrames(t, runB, 2, 0, 2)...)
	for _, o := range []ReadOptions{
		{}, {RunID: runA}, {RunID: runB}, {RunID: runA, FromMs: zero + 1000, ToMs: zero + 3000}, {FromMs: zero + 1000, ToMs: zero + 2000},
		{RunID: runA, FromMs: zero + 2000}, {RunID: runA, ToMs: zero + 1000},
	} {
		out := cutDir(t, dir, o)
		got, _ := linesIn(t, out, ReadOptions{})
		want, _ := linesIn(t, dir, o)
		if want, got := withoutEnds(want), withoutEnds(got); !slices.Equal(got, want) {
			t.Errorf("%+v: the lines are\n%s\nwant\n%s", o, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if report := verifyDir(t, out); !report.Whole {
			t.Errorf("%+v: %s", o, findings(report))
		}
		// What was cut can be cut.
		again, _ := linesIn(t, cutDir(t, out, ReadOptions{}), ReadOptions{})
		if !slices.Equal(again, got) {
			t.Errorf("%+v: cut again it has\n%s\nwant\n%s", o, strings.Join(again, "\n"), strings.Join(got, "\n"))
		}
	}
}

func TestHeaderOfACutHasWhatIsInForce(t *testing.T) {
	dir := t.TempDir()
	frames := segmentFrames(t, runA, 0, 0, 5)
	event := func(seq int64, data string) []byte {
		return frameOf(t, &Event{Seq: seq, ID: -1, TimeS: float64(seq) / 2, Topic: TopicApplied, Data: json.RawMessage(data)})
	}
	// Before second 1, and in second 3.
	frames = slices.Insert(frames, 4, event(6, `{"model_label":"m","batch_size":16}`), event(7, `{"model_label":"m","replica_delta":5}`))
	frames = slices.Insert(frames, 2, event(2, `{"model_label":"m","batch_size":32}`), event(3, `{"model_label":"m","replica_delta":-3}`), event(3, `{"model_label":"other","batch_size":1}`))
	writeSegment(t, dir, 0, frames...)
	headerIn := func(o ReadOptions) *Header {
		for entry, err := range openReader(t, cutDir(t, dir, o)).Lines(t.Context(), ReadOptions{}) {
			if err != nil {
				t.Fatal(err)
			}
			return entry.Line.(*Header)
		}
		return nil
	}
	for fromS, want := range map[int64]string{
		0: "<nil>", 1: "64 and 0 replicas", 2: "32 and -3 replicas", 3: "32 and -3 replicas", 4: "16 and 2 replicas",
	} {
		h := headerIn(ReadOptions{FromMs: zero + 1000*fromS})
		got := "<nil>"
		if h.InForce != nil {
			got = fmt.Sprintf("%d and %d replicas", h.InForce.Models[0].BatchSize, h.InForce.Models[0].ReplicaDelta)
		}
		if got != want || h.Second != fromS || h.RunID != runA {
			t.Errorf("from second %d: in force is %s, want %s; header %+v", fromS, got, want, h)
		}
	}
}

func TestCutOfADamagedRecordingHasTheRest(t *testing.T) {
	dir, frames := smallRecording(t)
	broken := slices.Clone(frames[1])
	broken[1] = broken[1][:len(broken[1])-9]
	writeSegment(t, dir, 1, broken...)
	n := 0
	out := cutDir(t, dir, ReadOptions{Damaged: func(Damage) { n++ }})
	got, damages := linesIn(t, out, ReadOptions{})
	want := withoutEnds(without(t, frames, 1, len(frames[1][0])))
	if n != 1 || len(damages) > 0 || !slices.Equal(withoutEnds(got), want) {
		t.Errorf("%d damages before, %v after; %d lines, want %d", n, damages, len(got), len(want))
	}
	if report := verifyDir(t, out); report.Whole || !strings.Contains(findings(report), "seconds 2 to 2 of the run are missing") {
		t.Errorf("verify: %s", findings(report))
	}
}

// Leases are in a header as it was, and not in one of a later second.
func TestLeasesAreNotCarriedOver(t *testing.T) {
	dir := t.TempDir()
	until := 9.5
	h := headerLine(t, runA, 3, 2)
	h.InForce = &InForce{Models: []ModelInForce{{ModelLabel: "m", BatchSize: 32, BatchSizeUntilS: &until, ReplicaDelta: -4, LeasedReplicaDelta: -4, ReplicaUntilS: &until}}}
	frames := segmentFrames(t, runA, 3, 2, 5)
	frames[0] = frameOf(t, h)
	writeSegment(t, dir, 3, frames...)
	for fromS, leased := range map[int64]bool{2: true, 3: false} {
		for entry, err := range openReader(t, cutDir(t, dir, ReadOptions{FromMs: zero + 1000*fromS})).Lines(t.Context(), ReadOptions{Kinds: []Kind{KindHeader}}) {
			if err != nil {
				t.Fatal(err)
			}
			m := entry.Line.(*Header).InForce.Models[0]
			if m.BatchSize != 32 || m.ReplicaDelta != -4 || (m.BatchSizeUntilS != nil) != leased || (m.LeasedReplicaDelta != 0) != leased {
				t.Errorf("from second %d: %+v", fromS, m)
			}
		}
	}
}

func TestCutLeavesOutWhatIsOfNoRun(t *testing.T) {
	dir := t.TempDir()
	frames := segmentFrames(t, runA, 0, 0, 2)
	writeSegment(t, dir, 0, frames[1:]...)
	writeSegment(t, dir, 1, segmentFrames(t, runB, 1, 0, 2)...)
	var said []string
	out := cutDir(t, dir, ReadOptions{Damaged: func(d Damage) { said = append(said, d.String()) }})
	if report := verifyDir(t, out); !report.Whole || report.Segments[0].RunID != runB {
		t.Errorf("verify: %s", findings(report))
	}
	if all := strings.Join(said, "\n"); !strings.Contains(all, "00000000.jsonl.zst: it has no header, nor has another") || strings.Count(all, "nor has another") != 1 {
		t.Errorf("said was\n%s", all)
	}
}

func TestCutAppearsCompleteOrNotAtAll(t *testing.T) {
	dir, frames := smallRecording(t)
	parent := t.TempDir()
	out := filepath.Join(parent, "part")
	r := openReader(t, dir)
	if err := r.Cut(t.Context(), ReadOptions{FromMs: zero + 100_000}, out); !errors.Is(err, ErrNothingThere) || !errors.Is(err, datacenter.ErrInvalidInput) {
		t.Errorf("the error is %v", err)
	}
	writeSegment(t, dir, 1, frames[1][0], frames[1][1][1:])
	if err := r.Cut(t.Context(), ReadOptions{}, out); err == nil || !strings.Contains(err.Error(), "00000001.jsonl.zst: frame 1 at byte") {
		t.Errorf("the error is %v", err)
	}
	if entries, err := os.ReadDir(parent); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	if err := r.Cut(t.Context(), ReadOptions{}, parent); !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), "is there already") {
		t.Errorf("the error is %v", err)
	}
	if err := r.Cut(t.Context(), ReadOptions{}, filepath.Join(parent, "none", "part")); !errors.Is(err, datacenter.ErrInvalidInput) {
		t.Errorf("the error is %v", err)
	}
}
