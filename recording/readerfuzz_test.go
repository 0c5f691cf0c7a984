package recording

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

func FuzzReader(f *testing.F) {
	_, frames := smallRecording(f)
	f.Add(bytes.Join(frames[0], nil), bytes.Join(frames[1], nil))
	f.Add(bytes.Join(frames[0][:2], nil), bytes.Join(frames[1][1:], nil))
	f.Add(frames[0][1], []byte{})
	f.Fuzz(func(t *testing.T, first, second []byte) {
		dir := t.TempDir()
		writeSegment(t, dir, 0, first)
		writeSegment(t, dir, 1, second)
		r, err := OpenReader(dir)
		if err != nil {
			if !errors.Is(err, datacenter.ErrInvalidInput) {
				t.Fatal(err)
			}
			return
		}
		lines, damages := linesIn(t, dir, ReadOptions{})
		report, err := r.Verify(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if report.Whole && (len(damages) > 0 || len(lines) == 0) {
			t.Fatalf("verify says whole of %d lines with damages %v", len(lines), damages)
		}
		linesIn(t, dir, ReadOptions{FromMs: zero + 1000, ToMs: zero + 2000})
	})
}

// FuzzContent has any text in frames that are sound.
func FuzzContent(f *testing.F) {
	for _, second := range []int64{0, 1} {
		var content []byte
		for _, line := range append(secondLines(second, true), &End{Seq: 3, Reason: "done", Frames: 2}) {
			content = append(line.AppendJSON(content), '\n')
		}
		f.Add(string(headerLine(f, runA, 0, second).AppendJSON(nil))+"\n", string(content))
	}
	for _, dt := range []string{"1/1000000000000000000", "9007199254740992", "1/3"} {
		header := strings.Replace(string(headerLine(f, runA, 0, MaxInteger).AppendJSON(nil)), `"dt":"1/2"`, `"dt":"`+dt+`"`, 1)
		f.Add(header+"\n", `{"kind":"event","seq":9007199254740992,"id":null,"wall_time":null,"time_s":1,"topic":"recording.gap","data":{}}`+"\n")
	}
	f.Fuzz(func(t *testing.T, header, content string) {
		dir := t.TempDir()
		writeSegment(t, dir, 0, encodeFrame(t, header), encodeFrame(t, content))
		r, err := OpenReader(dir)
		if err != nil {
			if !errors.Is(err, datacenter.ErrInvalidInput) {
				t.Fatal(err)
			}
			return
		}
		report, err := r.Verify(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, damages := linesIn(t, dir, ReadOptions{}); report.Whole && len(damages) > 0 {
			t.Fatalf("verify says whole, damaged are %v", damages)
		}
		if _, err := r.Info(t.Context()); err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(t.TempDir(), "part")
		if err := r.Cut(t.Context(), ReadOptions{FromMs: zero, ToMs: zero + 2000, Damaged: func(Damage) {}}, out); err != nil {
			if _, missing := os.Stat(out); missing == nil {
				t.Fatalf("%v, and yet it is there", err)
			}
			return
		}
		if _, damages := linesIn(t, out, ReadOptions{}); len(damages) > 0 && damages[0].Line == 0 {
			t.Fatalf("what was cut out is damaged: %v", damages)
		}
	})
}
