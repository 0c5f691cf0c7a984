package recording

import (
	"bytes"
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// longRecording is a run of two segments, with a full state every 10 s and one more in
// second 13, and then another run.
func longRecording(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for segment, part := range []struct {
		run      string
		from, to int64
	}{{runA, 0, 45}, {runA, 45, 100}, {runB, 0, 30}} {
		frames := [][]byte{frameOf(t, headerLine(t, part.run, int64(segment), part.from))}
		for second := part.from; second < part.to; second++ {
			frames = append(frames, frameOf(t, secondLines(second, second%10 == 0 || second == part.from || second == 13)...))
		}
		writeSegment(t, dir, int64(segment), frames...)
	}
	return dir
}

// tell is a point in short.
type tell struct {
	AtS, States    int64
	Mean, Min, Max float64
}

func told(d *Decimated) (points []tell) {
	for _, p := range d.Points {
		points = append(points, tell{(p.TMs - zero) / 1000, p.States, *p.Mean.PowerW.A, *p.Min.PowerW.A, *p.Max.PowerW.A})
	}
	return points
}

// Power on phase A is 1000.5 W and the number of the step, of which there are two a second;
// parts of the time are multiples of 10 s since 1970, and the run began 4 s into one.
func TestDecimate(t *testing.T) {
	r := openReader(t, longRecording(t))
	for _, c := range []struct {
		o       ReadOptions
		most    int
		pointMs int64
		want    []tell
	}{
		{ReadOptions{RunID: runB}, 10, 10_000, []tell{{-4, 1, 1000.5, 1000.5, 1000.5}, {6, 1, 1020.5, 1020.5, 1020.5}, {16, 1, 1040.5, 1040.5, 1040.5}}},
		{ReadOptions{RunID: runB}, 2, 20_000, []tell{{-4, 2, 1010.5, 1000.5, 1020.5}, {16, 1, 1040.5, 1040.5, 1040.5}}},
		{ReadOptions{RunID: runA, FromMs: zero + 40_000, ToMs: zero + 60_000}, 10, 10_000, []tell{{36, 2, 1085.5, 1080.5, 1090.5}, {46, 1, 1100.5, 1100.5, 1100.5}}},
		{ReadOptions{RunID: runA}, 1, 160_000, []tell{{-64, 11, 1090.5, 1000.5, 1180.5}}},
		{ReadOptions{}, 1, 160_000, []tell{{-64, 14, 1075.5, 1000.5, 1180.5}}},
		{ReadOptions{FromMs: zero + 1_000_000}, 1, 10_000, nil},
	} {
		d, err := r.Decimate(t.Context(), c.o, c.most)
		if err != nil {
			t.Fatal(err)
		}
		if d.PointMs != c.pointMs {
			t.Errorf("%+v in %d points: they are of %d ms, want %d", c.o, c.most, d.PointMs, c.pointMs)
		}
		if diff := cmp.Diff(c.want, told(d)); diff != "" {
			t.Errorf("%+v in %d points (-want +got):\n%s", c.o, c.most, diff)
		}
	}
}

// What a state does not know is null, and all members are there.
func TestDecimatedMembers(t *testing.T) {
	d, err := openReader(t, longRecording(t)).Decimate(t.Context(), ReadOptions{RunID: runB, ToMs: zero + 1000}, 10)
	if err != nil {
		t.Fatal(err)
	}
	number := func(v float64) *float64 { return &v }
	m := func(v *float64) datacenter.ByModel[*float64] {
		return datacenter.ByModel[*float64]{{ModelLabel: "m", Value: v}}
	}
	want := Values{
		PowerW: Phases{number(1000.5), number(2), number(3)}, PowerByModelW: m(number(1 / 3.0)), BatchSizeByModel: m(number(64)), AchievedByModel: m(nil),
		ActiveReplicas: m(number(2)), ObservedITLSByModel: m(number(0.015)), ITLPercentile99ModelS: m(nil),
	}
	if diff := cmp.Diff([]Point{{TMs: zero - 4000, States: 1, Mean: want, Min: want, Max: want}}, d.Points); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// States with times that no run can have are left out, and models that come and go are
// told apart.
func TestDecimateWhatIsOdd(t *testing.T) {
	d := decimator{most: 1, pointMs: leastPointMs, parts: map[int64]*part{}}
	for _, timeS := range []float64{math.NaN(), math.Inf(1), -1e300, 1e13} {
		s := stateOf(0)
		s.TimeS = timeS
		d.add(zero, s)
	}
	if got := d.result(); len(got.Points) != 0 {
		t.Errorf("there are %+v", got.Points)
	}
	first, second := stateOf(0), stateOf(40)
	second.Models[0].ModelLabel, second.PowerW.A = "other", math.Inf(1)
	d.add(-zero, first) // long before 1970
	d.add(-zero, second)
	p := d.result().Points[0]
	if len(p.Mean.PowerByModelW) != 2 || *p.Mean.PowerW.A != 1000.5 || *p.Mean.PowerW.B != 2 || p.TMs > -zero || p.TMs+d.pointMs <= -zero {
		t.Errorf("they are %+v", p)
	}
}

// Reading does its work in turns, of a frame or line each, and most frames between full states
// are passed over; it ends where there is no turn.
func TestReadingInTurns(t *testing.T) {
	r := openReader(t, longRecording(t))
	turns := 0
	o := ReadOptions{Turn: func(work func()) error {
		turns++
		work()
		return nil
	}}
	count := func() (lines int) {
		for _, err := range r.Lines(t.Context(), o) {
			if err != nil {
				t.Fatal(err)
			}
			lines++
		}
		return lines
	}
	inTurns := count()
	if turns != 100+30+3+3+inTurns { // seconds, headers, ends of files, lines
		t.Errorf("%d turns", turns)
	}
	turns = 0
	if _, err := r.Decimate(t.Context(), o, 100); err != nil || turns > 45 {
		t.Errorf("points take %d turns: %v", turns, err)
	}
	o.Turn = nil
	if plain := count(); plain != inTurns {
		t.Errorf("%d lines, without turns %d", inTurns, plain)
	}
	noTurn := errors.New("no turn")
	o.Turn = func(func()) error { return noTurn }
	if _, err := r.Decimate(t.Context(), o, 100); !errors.Is(err, noTurn) {
		t.Errorf("without a turn: %v", err)
	}
}

// Of steps longer than a second no frame is passed over.
func TestDecimateLongSteps(t *testing.T) {
	dir := t.TempDir()
	header := headerLine(t, runA, 0, 0)
	header.DT = seconds(t, "10")
	frames := [][]byte{frameOf(t, header)}
	for seq := range int64(20) {
		s := stateOf(seq)
		s.TimeS = float64(10 * seq)
		frames = append(frames, frameOf(t, &State{s}, &StateHash{Second: 10 * seq, Seq: seq, WallMs: zero + 10_000*seq, LateUs: []int64{1}, Hash: []Hash{HashOf(s)}}))
	}
	writeSegment(t, dir, 0, frames...)
	if d, err := openReader(t, dir).Decimate(t.Context(), ReadOptions{}, 100); err != nil || len(d.Points) != 20 {
		t.Errorf("%d points: %v", len(d.Points), err)
	}
}

// What is damaged, or deleted under the reader, costs no more than itself.
func TestDecimateOfADamagedRecording(t *testing.T) {
	dir := longRecording(t)
	path := filepath.Join(dir, SegmentName(1))
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	clear(content[len(content)/2 : len(content)*2/3])
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	r := openReader(t, dir)
	damages := 0
	o := ReadOptions{Damaged: func(Damage) { damages++ }}
	d, err := r.Decimate(t.Context(), o, 100)
	if err != nil || damages == 0 || len(d.Points) < 5 || len(d.Points) > 13 {
		t.Errorf("%d damages, %d points: %v", damages, len(d.Points), err)
	}
	if err := os.Remove(filepath.Join(dir, SegmentName(0))); err != nil {
		t.Fatal(err)
	}
	before, left := damages, len(d.Points)
	d, err = r.Decimate(t.Context(), o, 100)
	if err != nil || damages != 2*before+1 || len(d.Points) >= left || len(d.Points) == 0 {
		t.Errorf("without a segment: %d damages, %d points: %v", damages-before, len(d.Points), err)
	}
	o.RunID = runA
	var out bytes.Buffer
	if err := r.CutTo(t.Context(), o, &out); err != nil || out.Len() == 0 {
		t.Errorf("cut: %d bytes: %v", out.Len(), err)
	}
}

// A stream of a cut is one segment that reads alone and has what a cut has.
func TestCutToOneSegment(t *testing.T) {
	r := openReader(t, longRecording(t))
	for _, o := range []ReadOptions{
		{RunID: runA}, {RunID: runB}, {RunID: runA, FromMs: zero + 43_000, ToMs: zero + 50_000}, {RunID: runA, FromMs: zero + 45_000}, {RunID: runB, ToMs: zero + 1},
	} {
		var out bytes.Buffer
		if err := r.CutTo(t.Context(), o, &out); err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		writeSegment(t, dir, 0, out.Bytes())
		if report := verifyDir(t, dir); !report.Whole {
			t.Errorf("%+v: %s", o, findings(report))
		}
		got, _ := linesIn(t, dir, ReadOptions{})
		want, _ := linesIn(t, cutDir(t, r.Dir(), o), ReadOptions{})
		if diff := cmp.Diff(withoutEnds(want), withoutEnds(got)); diff != "" {
			t.Errorf("%+v (-files +stream):\n%s", o, diff)
		}
	}
	var out bytes.Buffer
	for _, o := range []ReadOptions{{RunID: runA, FromMs: zero + 1_000_000}, {RunID: "none"}} {
		if err := r.CutTo(t.Context(), o, &out); !errors.Is(err, ErrNothingThere) || out.Len() != 0 {
			t.Errorf("%+v: %d bytes: %v", o, out.Len(), err)
		}
	}
	if err := r.CutTo(t.Context(), ReadOptions{}, &out); !errors.Is(err, datacenter.ErrInvalidInput) || out.Len() != 0 {
		t.Errorf("of all runs: %d bytes: %v", out.Len(), err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.CutTo(ended, ReadOptions{RunID: runA}, &out); !errors.Is(err, context.Canceled) {
		t.Errorf("without a client: %v", err)
	}
}
