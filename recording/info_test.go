package recording

import (
	"encoding/json"
	"testing"
)

func TestInfo(t *testing.T) {
	dir, frames := smallRecording(t)
	writeSegment(t, dir, 2, append(segmentFrames(t, runB, 2, 0, 3), frames[0][1][:30])...)
	info, err := openReader(t, dir).Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if info.Segments != 3 || len(info.Runs) != 2 || info.Damages != 1 {
		t.Fatalf("info: %+v", info)
	}
	a, b := info.Runs[0], info.Runs[1]
	if a.RunID != runA || a.FirstSecond != 0 || a.LastSecond != 3 || a.Seconds != 4 || a.End != "done" || a.Lines[KindCommand] != 1 || a.Lines[KindPower] != 4 || a.Lines[KindHeader] != 2 {
		t.Errorf("the first run: %+v", a)
	}
	if b.RunID != runB || b.Seconds != 3 || b.End != "" || b.To.Sub(b.From).Seconds() != 3 || b.From.UnixMilli() != zero || b.DT != "1/2" || b.GPUs != 1 {
		t.Errorf("the second run: %+v", b)
	}
	if a.Bytes+b.Bytes+30 != info.Bytes || a.LineBytes[KindPower] == 0 {
		t.Errorf("bytes: %d and %d of %d", a.Bytes, b.Bytes, info.Bytes)
	}
}

// Times that JSON cannot have are left out, and stop nothing.
func TestInfoOfTimesThatCannotBe(t *testing.T) {
	for _, startMs := range []int64{MaxInteger, -MaxInteger} {
		dir := t.TempDir()
		header := headerLine(t, runA, 0, 0)
		header.StartMs = startMs
		last := secondLines(0, false)
		last[len(last)-1].(*StateHash).Second = MaxInteger
		writeSegment(t, dir, 0, frameOf(t, header), frameOf(t, secondLines(0, false)...), frameOf(t, last...))
		info, err := openReader(t, dir).Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := json.Marshal(info); err != nil || len(info.Runs) != 1 || info.Runs[0].LastSecond != MaxInteger {
			t.Errorf("%+v: %v", info, err)
		}
	}
}
