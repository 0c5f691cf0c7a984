package recording

import (
	"context"
	"fmt"
	"math"
)

// maxNoted bounds how many findings of a segment are kept in words; all are counted.
const maxNoted = 100

// Report is what [Reader.Verify] found.
type Report struct {
	Dir      string          `json:"dir"`
	Whole    bool            `json:"whole"`
	Segments []SegmentReport `json:"segments"`
}

// SegmentReport is what was found in one segment.
type SegmentReport struct {
	File  string `json:"file"`
	RunID string `json:"run_id"`
	Bytes int64  `json:"bytes"`
	// FirstSecond and LastSecond are those of the run that it has states of, nil without;
	// Seconds is how many it has.
	FirstSecond *int64 `json:"first_second"`
	LastSecond  *int64 `json:"last_second"`
	Seconds     int64  `json:"seconds"`
	Frames      int64  `json:"frames"`
	// Of what is damaged: frames as far as they can be told apart, their bytes, and lines
	// that make no sense in frames that are sound.
	DamagedFrames int64 `json:"damaged_frames"`
	DamagedBytes  int64 `json:"damaged_bytes"`
	DamagedLines  int64 `json:"damaged_lines"`
	// Gaps is how often steps are missing.
	Gaps int64 `json:"gaps"`
	// Faults counts what else is wrong.
	Faults int64 `json:"faults"`
	// EndedInOrder: another segment of the run follows it, or its last line says that the
	// run has ended.
	EndedInOrder bool `json:"ended_in_order"`
	// Findings says it in words: the first 100.
	Findings []string `json:"findings"`
}

// Whole reports whether nothing is wrong with the segment.
func (s *SegmentReport) Whole() bool {
	return s.DamagedFrames == 0 && s.DamagedBytes == 0 && s.DamagedLines == 0 && s.Gaps == 0 && s.Faults == 0 && s.EndedInOrder
}

func (s *SegmentReport) note(format string, args ...any) {
	switch {
	case len(s.Findings) < maxNoted:
		s.Findings = append(s.Findings, fmt.Sprintf(format, args...))
	case len(s.Findings) == maxNoted:
		s.Findings = append(s.Findings, "and more, which is only counted")
	}
}

// verifier goes through a recording.
type verifier struct {
	report *Report
	byFile map[string]*SegmentReport
	at     *SegmentReport // the segment that is read
	runID  string
	frames int64 // of the run, so far; negative if that is not known
	next   int64 // the step to come, -1 if it is not known
	second int64 // of the latest steps
	ended  bool  // the run's end was read
	states []hashedState
	gaps   []Gap // that events have told of, and no missing step yet
}

type hashedState struct {
	seq  int64
	hash Hash
}

// Verify reads everything and says what is damaged or missing. It fails only if reading
// does.
func (r *Reader) Verify(ctx context.Context) (*Report, error) {
	v := &verifier{report: &Report{Dir: r.dir, Segments: make([]SegmentReport, len(r.segments))}, byFile: map[string]*SegmentReport{}, next: -1}
	for i, s := range r.segments {
		v.report.Segments[i] = SegmentReport{File: s.Name, RunID: s.RunID, Bytes: s.Bytes, Findings: []string{}}
		v.byFile[s.Name] = &v.report.Segments[i]
	}
	o := ReadOptions{Damaged: v.damaged}
	for at, err := range r.frames(ctx, o) {
		if err != nil {
			return nil, err
		}
		v.frame(at)
	}
	v.endRun()
	v.report.Whole = true
	for i := range v.report.Segments {
		v.report.Whole = v.report.Whole && v.report.Segments[i].Whole()
	}
	return v.report, nil
}

func (v *verifier) damaged(d Damage) {
	s := v.byFile[d.File]
	switch {
	case d.Missing:
		s.Faults++
	case d.Line > 0:
		s.DamagedLines++
	default:
		s.DamagedFrames += int64(d.Frames)
		s.DamagedBytes += d.Bytes
	}
	s.note("%s", d)
}

func (v *verifier) frame(at *readFrame) {
	s := v.byFile[at.segment.Name]
	if at.header != nil && at.header.RunID != v.runID {
		v.endRun()
		v.beginRun(at)
	} else if v.at != nil && v.at != s && !v.ended {
		v.at.EndedInOrder = true
	}
	if v.at != s {
		v.at = s
		if at.header != nil {
			s.RunID = at.header.RunID
		}
	}
	s.Frames++
	for number, raw := range frameLines(at.content) {
		entry, err := entryOf(at, number, raw, nil)
		if err != nil {
			v.damaged(Damage{File: s.File, Offset: at.offset, Frame: at.number, Line: number, Err: err})
			continue
		}
		v.line(s, at, entry.Line)
	}
	v.frames++
}

func (v *verifier) beginRun(at *readFrame) {
	h := at.header
	v.runID, v.frames, v.ended, v.gaps, v.states = h.RunID, unknownFrames, false, nil, nil
	switch {
	case at.isHeader && h.Frames != nil: // else it is that of another segment
		v.frames = *h.Frames
	case h.Second == 0:
		v.frames = 0
	}
	v.next = firstStepOf(h.Second, h)
	v.second = h.Second - 1
}

// endRun settles what is told of the run that was read.
func (v *verifier) endRun() {
	if v.at == nil {
		return
	}
	v.lostAtTheEnd()
	if v.ended {
		v.at.EndedInOrder = true
		return
	}
	v.at.note("%s: the run %s has no end here: it was killed, or goes on", v.at.File, v.runID)
}

// lostAtTheEnd tells of gaps after which no step came.
func (v *verifier) lostAtTheEnd() {
	for _, gap := range v.gaps {
		v.gap(v.at, gap.FirstSecond, gap.LastSecond, gap.Cause)
	}
	v.gaps = nil
}

// firstStepOf is the number of the first step that a second of the run has, or a later
// one; -1 if it is beyond what a recording can have.
func firstStepOf(second int64, h *Header) int64 {
	about := math.Floor(float64(second) / h.DT.Float64())
	if !(about < MaxInteger) {
		return -1
	}
	// Rounding may have moved it by one.
	for step := max(int64(about)-1, 0); step <= int64(about)+2; step++ {
		if SecondOf(h.DT, step) >= second {
			return step
		}
	}
	return -1
}

func (v *verifier) line(s *SegmentReport, at *readFrame, line Line) {
	if v.ended {
		v.fault(s, at, "a line of kind %s comes after the run's end", line.Kind())
		v.ended = false
	}
	switch l := line.(type) {
	case *Header:
		if !at.isHeader || at.segment.Number != l.Segment {
			v.fault(s, at, "a header of segment %d stands in segment %d", l.Segment, at.segment.Number)
		}
		if l.Frames != nil {
			v.counted(s, at, *l.Frames)
			v.frames = *l.Frames
		}
	case *State:
		v.states = append(v.states, hashedState{l.State.Seq, HashOf(l.State)})
	case *StateHash:
		v.hashes(s, at, l)
	case *Event:
		if gap, is := l.Gap(); is {
			v.gaps = append(v.gaps, gap)
		}
	case *End:
		v.end(s, at, l)
	}
}

func (v *verifier) fault(s *SegmentReport, at *readFrame, format string, args ...any) {
	s.Faults++
	s.note("%s: frame %d at byte %d: %s", s.File, at.number, at.offset, fmt.Sprintf(format, args...))
}

func (v *verifier) gap(s *SegmentReport, first, last int64, cause string) {
	s.Gaps++
	if cause != "" {
		cause = " (" + cause + ")"
	}
	s.note("%s: seconds %d to %d of the run are missing or not complete%s", s.File, first, last, cause)
}

// hashes checks that the steps of a second follow those before, and that the full states
// recorded in it have the hashes recorded.
func (v *verifier) hashes(s *SegmentReport, at *readFrame, l *StateHash) {
	switch {
	case v.next >= 0 && l.Seq < v.next:
		v.fault(s, at, "the steps from %d on come a second time: those before end at %d", l.Seq, v.next-1)
	case v.next >= 0 && l.Seq > v.next:
		cause := ""
		for _, gap := range v.gaps {
			cause = gap.Cause
		}
		v.gap(s, v.second+1, max(l.Second-1, v.second+1), cause)
		v.gaps = nil
	}
	for _, state := range v.states {
		i := state.seq - l.Seq
		if i >= 0 && i < int64(len(l.Hash)) && l.Hash[i] != state.hash {
			v.fault(s, at, "the state of step %d has the hash %s, recorded is %s", state.seq, state.hash, l.Hash[i])
		}
	}
	v.states = v.states[:0]
	if s.LastSecond == nil || *s.LastSecond != l.Second {
		s.Seconds++
	}
	v.next, v.second = l.Seq+int64(len(l.Hash)), l.Second
	if s.FirstSecond == nil {
		s.FirstSecond = &l.Second
	}
	s.LastSecond = &l.Second
}

func (v *verifier) end(s *SegmentReport, at *readFrame, l *End) {
	v.ended = true
	if v.next >= 0 && l.Seq+1 != v.next && v.gaps == nil {
		v.gap(s, v.second+1, v.second+1, fmt.Sprintf("the run has ended with step %d, the last one recorded is %d", l.Seq, v.next-1))
	}
	v.counted(s, at, l.Frames)
	v.lostAtTheEnd()
}

// unknownFrames is a number of frames that stays negative, however many come.
const unknownFrames = math.MinInt64

// counted checks how many frames of the run there are told to be.
func (v *verifier) counted(s *SegmentReport, at *readFrame, told int64) {
	if v.frames >= 0 && told != v.frames {
		v.fault(s, at, "the run had %d frames before, here are %d of them", told, v.frames)
	}
}
