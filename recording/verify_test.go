package recording

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestVerifyFindsWhatIsMissing(t *testing.T) {
	at := func(seconds ...int64) [][]byte {
		frames := [][]byte{frameOf(t, headerLine(t, runA, 0, 0))}
		for _, second := range seconds {
			frames = append(frames, frameOf(t, secondLines(second, true)...))
		}
		return frames
	}
	end := func(seq, frames int64) []byte { return frameOf(t, &End{Seq: seq, Reason: "done", Frames: frames}) }
	gap := frameOf(t, &Event{Seq: 4, ID: -1, TimeS: 2, Topic: TopicGap, Data: json.RawMessage(`{"first_second":1,"last_second":1,"cause":"the disk is too slow"}`)})
	wrong := secondLines(1, true)
	wrong[2].(*State).State.PowerW.B++
	for name, c := range map[string]struct {
		frames [][]byte
		want   string
	}{
		"nothing":               {append(at(0, 1), end(3, 3)), ""},
		"no end":                {at(0, 1), "it was killed, or goes on"},
		"a second":              {append(at(0, 2), end(5, 3)), "seconds 1 to 1 of the run are missing or not complete"},
		"the first second":      {append(at(1), end(3, 2)), "seconds 0 to 0 of the run are missing"},
		"a second, as told":     {append(append(at(0), gap), append(at(2)[1:], end(5, 3))...), "seconds 1 to 1 of the run are missing or not complete (the disk is too slow)"},
		"the last second":       {append(at(0, 1), end(5, 3)), "the run has ended with step 5, the last one recorded is 3"},
		"frames":                {append(at(0, 1), end(3, 7)), "the run had 7 frames before, here are 3"},
		"what a state was":      {append(at(0), frameOf(t, wrong...), end(3, 3)), "the state of step 2 has the hash"},
		"order":                 {append(at(0, 1, 1), end(3, 4)), "a second time"},
		"silence after the end": {append(append(at(0), end(1, 2)), at(1)[1:]...), "comes after the run's end"},
	} {
		dir := t.TempDir()
		writeSegment(t, dir, 0, c.frames...)
		report := verifyDir(t, dir)
		if report.Whole != (c.want == "") || !strings.Contains(findings(report), c.want) {
			t.Errorf("%s: whole %t, findings\n%s\nwant %s", name, report.Whole, findings(report), c.want)
		}
	}
}

func TestVerifyOfSeveralRunsAndLostSegments(t *testing.T) {
	dir, _ := smallRecording(t)
	writeSegment(t, dir, 2, segmentFrames(t, runB, 2, 0, 2)...)
	writeSegment(t, dir, 4, segmentFrames(t, runB, 4, 4, 5)...)
	report := verifyDir(t, dir)
	if s := report.Segments; report.Whole || !s[0].Whole() || !s[1].Whole() || !s[2].Whole() || s[3].Whole() || s[3].Gaps != 1 || s[3].Faults != 1 || s[3].EndedInOrder {
		t.Errorf("verify: %s", findings(report))
	}
	if said := findings(report); !strings.Contains(said, "the segments from 00000003 to 00000003 before it are missing, between seconds 1 and 4") {
		t.Errorf("verify says\n%s", said)
	}
	// The oldest segments may be gone: they were too old.
	if err := os.Remove(filepath.Join(dir, "00000000.jsonl.zst")); err != nil {
		t.Fatal(err)
	}
	if s := verifyDir(t, dir).Segments[0]; !s.Whole() {
		t.Errorf("without the oldest: %+v", s)
	}
}
