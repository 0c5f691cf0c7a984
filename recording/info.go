package recording

import (
	"context"
	"time"
)

// Info is what is in a recording.
type Info struct {
	Dir      string    `json:"dir"`
	Bytes    int64     `json:"bytes"`
	Segments int       `json:"segments"`
	Runs     []RunInfo `json:"runs"`
	// Damages is how many parts, segments or lines cannot be read.
	Damages int64 `json:"damages"`
}

// RunInfo is what is there of one run.
type RunInfo struct {
	RunID        string    `json:"run_id"`
	StartedAt    time.Time `json:"started_at"`
	AgentVersion string    `json:"agent_version"`
	DT           string    `json:"dt"`
	Models       []string  `json:"models"`
	GPUs         int       `json:"gpus"`
	// FirstSecond and LastSecond are those of the run that are there, From and To when the
	// first began and the last ended.
	FirstSecond int64     `json:"first_second"`
	LastSecond  int64     `json:"last_second"`
	From        time.Time `json:"from"`
	To          time.Time `json:"to"`
	Seconds     int64     `json:"seconds"`
	// Lines counts the lines of each kind, LineBytes their bytes before compression.
	Lines     map[Kind]int64 `json:"lines"`
	LineBytes map[Kind]int64 `json:"line_bytes"`
	// Bytes are those of its frames.
	Bytes int64 `json:"bytes"`
	// End is why the run has ended, empty where no end is there.
	End string `json:"end"`
}

// maxKinds bounds the kinds that are told apart: foreign ones are counted as others.
const maxKinds = 32

// Info reads everything and says what there is. It fails only if reading does.
func (r *Reader) Info(ctx context.Context) (*Info, error) {
	info := &Info{Dir: r.dir, Segments: len(r.segments), Runs: []RunInfo{}}
	for i := range r.segments {
		info.Bytes += r.segments[i].Bytes
	}
	var run *RunInfo
	for at, err := range r.frames(ctx, ReadOptions{Damaged: func(Damage) { info.Damages++ }}) {
		if err != nil {
			return nil, err
		}
		if run == nil || at.header != nil && at.header.RunID != run.RunID {
			info.Runs = append(info.Runs, newRunInfo(at.header))
			run = &info.Runs[len(info.Runs)-1]
		}
		run.add(at)
	}
	for i := range info.Runs {
		run := &info.Runs[i]
		run.To = timeOf(run.From.UnixMilli() + msPerSecond*(run.LastSecond-run.FirstSecond+1))
		if run.Seconds == 0 {
			run.To = run.From
		}
	}
	return info, nil
}

func newRunInfo(h *Header) RunInfo {
	run := RunInfo{Lines: map[Kind]int64{}, LineBytes: map[Kind]int64{}, Models: []string{}}
	if h == nil {
		return run
	}
	run.RunID, run.StartedAt, run.AgentVersion, run.DT, run.Models, run.GPUs = h.RunID, h.StartedAt, h.AgentVersion, h.DT.String(), h.Models, len(h.GPUs)
	run.FirstSecond, run.LastSecond = h.Second, h.Second
	run.From = timeOf(h.StartMs + msPerSecond*h.Second)
	return run
}

// timeOf is a time in Unix milliseconds; the zero one where a year has more than four
// digits, which JSON has no times of.
func timeOf(ms int64) time.Time {
	t := time.UnixMilli(ms).UTC()
	if t.Year() < 0 || t.Year() > 9999 {
		return time.Time{}
	}
	return t
}

func (run *RunInfo) add(at *readFrame) {
	run.Bytes += int64(len(at.raw))
	if at.isSecond {
		if run.Seconds == 0 {
			run.FirstSecond = at.second
			if at.header != nil {
				run.From = timeOf(at.header.StartMs + msPerSecond*at.second)
			}
		}
		if run.Seconds == 0 || run.LastSecond != at.second {
			run.Seconds++
		}
		run.LastSecond = at.second
	}
	for _, raw := range frameLines(at.content) {
		kind, known := KindOf(raw)
		if _, counted := run.Lines[kind]; !known || !counted && len(run.Lines) >= maxKinds {
			kind = "other"
		}
		run.Lines[kind]++
		run.LineBytes[kind] += int64(len(raw))
		if kind == KindEnd {
			if line, err := ParseLine(raw); err == nil {
				if end, is := line.(*End); is {
					run.End = end.Reason
				}
			}
		}
	}
}
