package agent

import (
	"context"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/loadgen"
	"github.com/g2g-agent/g2g-agent/recording"
)

// recordedSecond is what the lines of one second say of its steps.
type recordedSecond struct {
	header *recording.Header
	power  []recordedPower
	itl    []*recording.ITL
	loads  []*recording.Metrics
	states map[int64]*datacenter.State
	hashes *recording.StateHash
}

// recordedPower is an entry of a GPU's power.
type recordedPower struct {
	gpu   string
	entry recording.PowerEntry
}

// recordedLines reads a recording second by second.
type recordedLines struct {
	next  func() (*recording.Entry, error, bool)
	stop  func()
	over  func() error // why reading is to end, nil as long as it is not
	runID string
	// happened are commands' effects and what else comes before the second that it is of.
	happened []*recording.Event
	gap      bool // since the second before
	damaged  bool
	begun    *recording.Header // of a segment that began since the second before
	// sinceHeader is how much of happened stands before it.
	sinceHeader int
	ended       *recording.End
	tell        func(string)
}

// newRecordedLines reads the lines of a run. tell is told of what is missing.
func newRecordedLines(ctx context.Context, r *recording.Reader, o recording.ReadOptions, tell func(string)) *recordedLines {
	l := &recordedLines{tell: tell, over: func() error { return context.Cause(ctx) }}
	o.Damaged = func(d recording.Damage) {
		l.damaged = true
		tell(d.String())
	}
	l.next, l.stop = iter.Pull2(r.Lines(ctx, o))
	return l
}

// second reads up to the end of the next second that has steps; io.EOF after the last.
func (l *recordedLines) second() (*recordedSecond, error) {
	s := &recordedSecond{states: map[int64]*datacenter.State{}}
	for l.ended == nil {
		entry, err, more := l.next()
		if !more {
			break
		}
		if err != nil {
			return nil, err
		}
		if entry.Header == nil {
			continue // without a header nothing can be made of it, which was told
		}
		if l.runID == "" {
			l.runID = entry.Header.RunID
		}
		if entry.Header.RunID != l.runID {
			l.tell(fmt.Sprintf("%s: another run begins, which is not replayed; --run picks one", entry.File))
			break
		}
		s.header = entry.Header
		if l.take(s, entry.Line) {
			return s, nil
		}
	}
	l.stop()
	return nil, io.EOF
}

// take takes a line in, and reports whether it is the last one of its second.
func (l *recordedLines) take(s *recordedSecond, line recording.Line) (complete bool) {
	switch line := line.(type) {
	case *recording.Power:
		for i := range line.TMs {
			s.power = append(s.power, recordedPower{line.GPU, recording.PowerEntry{
				TMs: line.TMs[i], OffsetNs: line.OffsetNs, PowerMW: line.PowerMW[i], Step: line.Steps[i], Mark: line.MarkOf(i),
			}})
		}
	case *recording.ITL:
		s.itl = append(s.itl, line)
	case *recording.Metrics:
		s.loads = append(s.loads, line)
	case *recording.State:
		s.states[line.State.Seq] = line.State
	case *recording.Header:
		if line.Segment != 0 {
			l.sinceHeader = len(l.happened)
			l.begun = line
		}
	case *recording.Event:
		if gap, is := line.Gap(); is {
			l.gap = true
			if l.begun != nil { // it has what came in the gap, which stands behind it
				l.happened = l.happened[:l.sinceHeader]
			}
			l.tell(fmt.Sprintf("seconds %d to %d were not recorded: %s", gap.FirstSecond, gap.LastSecond, gap.Cause))
			break
		}
		l.happened = append(l.happened, line)
	case *recording.StateHash:
		s.hashes = line
		return true
	case *recording.End:
		l.ended = line
	}
	return false
}

// at is when an entry holds, on the clock of the run's power histories.
func (p *recordedPower) at(h *recording.Header) time.Duration {
	const nsPerMs = int64(time.Millisecond)
	return time.Duration((p.entry.TMs-h.StartMs)*nsPerMs + p.entry.OffsetNs + h.ClockZeroNs)
}

// stepITL is what a line says of a step's tokens, nil if that cannot be.
func stepITL(l *recording.ITL) *loadgen.StepITL {
	s := &loadgen.StepITL{Count: l.Count, SumNs: l.SumNs, Output: l.OutputTokens, Bins: l.Bins, Counts: l.Counts}
	if l.Method == recording.MethodPerChunk {
		s.PerChunk = max(l.Count, 1)
	}
	if !loadgen.ValidBins(l.Bins, l.Counts) {
		return nil
	}
	return s
}
