package recording

import (
	"math"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// PowerEntry is one entry of a GPU's [Power] lines.
type PowerEntry struct {
	// TMs is the source's own time stamp, in Unix milliseconds, OffsetNs the correction
	// that was used, in nanoseconds, see [Power.OffsetNs].
	TMs, OffsetNs int64
	// PowerMW is in milliwatts.
	PowerMW int64
	// Step is the first step that could see it.
	Step int64
	Mark Mark
}

// second is what the steps of one second fill. Its memory is used again.
type second struct {
	number  int64
	steps   []stepTimes
	states  []*datacenter.State
	power   [][]PowerEntry // by GPU
	itl     []ITL          // whose columns are parts of columns
	columns []int64
	metrics []Metrics
}

type stepTimes struct{ wallMs, lateUs int64 }

func newSecond(gpus int) *second { return &second{power: make([][]PowerEntry, gpus)} }

// clear makes the second empty. States are let go.
func (s *second) clear() {
	clear(s.states)
	s.steps, s.states, s.itl, s.columns, s.metrics = s.steps[:0], s.states[:0], s.itl[:0], s.columns[:0], s.metrics[:0]
	for gpu := range s.power {
		s.power[gpu] = s.power[gpu][:0]
	}
}

// SecondOf is the second of the run that step seq belongs to.
func SecondOf(dt datacenter.Seconds, seq int64) int64 { return int64(math.Floor(dt.Times(seq))) }

// steps is the side of a writer that the stepping goroutine is on. Nothing there waits.
type steps struct {
	filling *second // what is being filled, or is to be
	begun   bool    // a step is in it
	times   stepTimes
	seq     int64 // of the step, −1 before the first
}

func (t *steps) init(w *Writer) {
	t.seq = -1
	w.queue.init(len(w.header.GPUs))
	t.filling = w.queue.exchange(nil)
}

// last is the second that is not complete yet, nil if there is none, and the number of the
// last step.
func (t *steps) last() (unfinished *second, lastSeq int64) {
	if t.begun {
		unfinished = t.filling
	}
	t.begun = false
	return unfinished, t.seq
}

// handOver gives what was filled to the writer's goroutine.
func (t *steps) handOver(w *Writer) {
	t.filling, t.begun = w.queue.exchange(t.filling), false
}

// BeginStep says that what is recorded from here on belongs to step seq, which was due at
// wallMs by the wall clock, in Unix milliseconds, and begins lateUs microseconds later.
func (w *Writer) BeginStep(seq, wallMs, lateUs int64) {
	t := &w.steps
	number := SecondOf(w.header.DT, seq)
	if t.begun && t.filling.number != number {
		t.handOver(w) // the steps that would have ended it are missing
	}
	t.filling.number, t.begun = number, true
	t.times, t.seq = stepTimes{wallMs, lateUs}, seq
}

// Power records what the step sees anew of GPU gpu, by its place in the header.
func (w *Writer) Power(gpu int, e PowerEntry) {
	power := w.steps.filling.power
	power[gpu] = append(power[gpu], e)
}

// ITL records what came of a model's tokens. The line's columns are copied.
func (w *Writer) ITL(l *ITL) {
	s := w.steps.filling
	copied := *l
	copied.Bins, copied.Counts = s.column(l.Bins), s.column(l.Counts)
	s.itl = append(s.itl, copied)
}

// column copies a column into the second's memory.
func (s *second) column(values []int64) []int64 {
	from := len(s.columns)
	s.columns = append(s.columns, values...)
	return s.columns[from:len(s.columns):len(s.columns)]
}

// Metrics records a reading of a server's load that the step sees.
func (w *Writer) Metrics(l *Metrics) { w.steps.filling.metrics = append(w.steps.filling.metrics, *l) }

// State ends the step, and with the last step of a second hands the second over. The state
// is kept, and hashed by the writer's goroutine: it must not change any more.
func (w *Writer) State(s *datacenter.State) {
	t := &w.steps
	t.filling.states = append(t.filling.states, s)
	t.filling.steps = append(t.filling.steps, t.times)
	if SecondOf(w.header.DT, t.seq+1) != t.filling.number {
		t.handOver(w)
	}
}
