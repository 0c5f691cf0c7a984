package recording

import (
	"bytes"
	"slices"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// maxContent is how many bytes of lines a frame has, unless a single line is longer. A
// frame's window is as large as its content, and readers take no window above 8 MiB.
const maxContent = 4 << 20

// failure is what was wrong since it was asked last: after the first failure, nothing is
// written until then.
func (o *output) failure() error {
	err := o.err
	o.err = nil
	return err
}

// add appends a line to the frame to come, and writes the frame before it if both are
// too long for one.
func (o *output) add(l Line) {
	at := len(o.lines)
	o.lines = append(l.AppendJSON(o.lines), '\n')
	o.divide(at)
}

// addKept makes the frame to come one of what was kept, all of it but the last maxContent
// in frames before it.
func (o *output) addKept() {
	o.lines = o.lines[:0]
	for line := range bytes.Lines(o.kept) {
		at := len(o.lines)
		o.lines = append(o.lines, line...)
		o.divide(at)
	}
}

// divide writes the frame to come without the line at its end, if it is too long with it.
func (o *output) divide(at int) {
	if len(o.lines) > maxContent && at > 0 {
		o.write(o.lines[:at])
		o.lines = o.lines[:copy(o.lines, o.lines[at:])]
	}
}

// flush writes the frame to come, if it has lines.
func (o *output) flush() {
	if len(o.lines) > 0 {
		o.write(o.lines)
		o.lines = o.lines[:0]
	}
}

func (o *output) write(lines []byte) {
	if o.err != nil {
		return
	}
	o.frame = o.encoder.EncodeAll(lines, o.frame[:0])
	if o.err = o.segment.write(o.frame); o.err != nil {
		return
	}
	o.frames++
	o.retention.bytes += int64(len(o.frame))
	bytes := uint64(len(o.frame))
	o.w.count(func(stats *Stats) {
		stats.Frames++
		stats.Bytes += bytes
		stats.DirectoryBytes = o.retention.bytes
	})
}

// sync makes durable what was written.
func (o *output) sync() {
	if o.err != nil {
		return
	}
	if o.err = o.segment.sync(); o.err == nil {
		o.unsynced, o.syncDue = o.unsynced[:0], nil
	}
}

// writeSecond writes the lines of a second, the mark of a gap first and the hashes last.
func (o *output) writeSecond(s *second) error {
	o.lines = o.lines[:0]
	if o.gapped {
		o.fullAt = s.number
		o.add(o.gapEvent(o.seqAfter(s) - int64(len(s.states))))
	}
	for gpu, entries := range s.power {
		o.power(s.number, o.w.header.GPUs[gpu].GPU, entries)
	}
	for i := range s.itl {
		o.add(&s.itl[i])
	}
	for i := range s.metrics {
		o.add(&s.metrics[i])
	}
	o.states(s)
	o.flush()
	o.sync()
	return o.failure()
}

// power writes a GPU's lines of a second, one for each correction of its clock.
func (o *output) power(second int64, gpu string, entries []PowerEntry) {
	for len(entries) > 0 {
		offsetNs := entries[0].OffsetNs
		n := slices.IndexFunc(entries, func(e PowerEntry) bool { return e.OffsetNs != offsetNs })
		if n < 0 {
			n = len(entries)
		}
		c := &o.columns
		c.tMs, c.powerMW, c.steps, o.marks = c.tMs[:0], c.powerMW[:0], c.steps[:0], o.marks[:0]
		for _, e := range entries[:n] {
			c.tMs, c.powerMW, c.steps = append(c.tMs, e.TMs), append(c.powerMW, e.PowerMW), append(c.steps, e.Step)
			o.marks = append(o.marks, byte(e.Mark))
		}
		o.add(&Power{Second: second, GPU: gpu, OffsetNs: offsetNs, TMs: c.tMs, PowerMW: c.powerMW, Steps: c.steps, Mark: string(o.marks)})
		entries = entries[n:]
	}
}

// states writes the states of a second that are due in full, then the hashes of all.
func (o *output) states(s *second) {
	for _, state := range s.states {
		due := func(seq int64) bool { return seq <= state.Seq }
		if s.number >= o.fullAt || slices.ContainsFunc(o.full, due) {
			o.full = slices.DeleteFunc(o.full, due)
			o.fullAt = s.number - s.number%fullStateEveryS + fullStateEveryS
			o.add(&State{state})
		}
	}
	for from := 0; from < len(s.states); {
		n := consecutive(s.states[from:])
		line := StateHash{Second: s.number, Seq: s.states[from].Seq, WallMs: s.steps[from].wallMs}
		for i := from; i < from+n; i++ {
			line.LateUs = append(line.LateUs, s.steps[i].lateUs)
			line.Hash = append(line.Hash, HashOf(s.states[i]))
		}
		o.add(&line)
		from += n
	}
}

// consecutive is how many of the first states have numbers one after the other.
func consecutive(states []*datacenter.State) int {
	n := 1
	for n < len(states) && states[n].Seq == states[n-1].Seq+1 {
		n++
	}
	return n
}
