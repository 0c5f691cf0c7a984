package rig

import (
	"math"
	"slices"
	"sync"
	"time"

	"github.com/g2g-agent/g2g-agent/buffer"
	"github.com/g2g-agent/g2g-agent/power"
)

// feedResolutionS is the finest time step a model's power history keeps, in
// seconds: the GPUs of a model report one by one, and each report is a new mean.
// It bounds the history that a lookup walks through.
const feedResolutionS = 0.005

// Feed turns readings of single GPUs into each model's mean power per GPU, over the
// GPUs whose power is known. Its times are in seconds since it was made.
type Feed struct {
	began     time.Time
	onReading func(model, gpu int, r power.Reading) // nil: nobody is told

	mu     sync.Mutex // one writer at a time; readers of the histories need no lock
	models []feedModel
	slots  map[GPU][]feedSlot
}

type feedModel struct {
	history *buffer.Rolling
	powerW  []float64 // by GPU, in config order
	known   []bool
	readS   []float64 // when each was last known to hold, NaN: never read
	lastS   float64
}

// feedSlot is a GPU's place in a model.
type feedSlot struct{ model, gpu int }

// NewFeed returns a feed for models with the given GPUs, in config order, with
// histories of historyS seconds.
func NewFeed(gpus [][]GPU, historyS float64) *Feed {
	f := &Feed{began: time.Now(), models: make([]feedModel, len(gpus)), slots: map[GPU][]feedSlot{}}
	for m, ids := range gpus {
		f.models[m] = feedModel{
			// Half as much again, since a reading may arrive late.
			history: buffer.New(int(1.5*historyS/feedResolutionS) + 1),
			powerW:  make([]float64, len(ids)), known: make([]bool, len(ids)), readS: make([]float64, len(ids)),
		}
		for i, id := range ids {
			f.models[m].readS[i] = math.NaN()
			f.slots[id] = append(f.slots[id], feedSlot{m, i})
		}
	}
	return f
}

// ClockS is a time on the clock of the histories, in seconds.
func (f *Feed) ClockS(t time.Time) float64 { return t.Sub(f.began).Seconds() }

// History is a model's mean power per GPU, in watts.
func (f *Feed) History(model int) *buffer.Rolling { return f.models[model].history }

// Sink takes the readings of one source.
func (f *Feed) Sink(source power.Source) power.Sink { return feedSink{f, source} }

type feedSink struct {
	feed   *Feed
	source power.Source
}

func (s feedSink) Read(r power.Reading) {
	id := GPU{s.source, r.Index}
	s.feed.Read(id, s.feed.ClockS(r.At), r.PowerW)
	s.feed.tell(id, r)
}

func (s feedSink) Lose(index int, at time.Time) { s.feed.Lose(GPU{s.source, index}, s.feed.ClockS(at)) }

// Read takes in the power of a GPU as of timeS and reports whether it is one of a
// model's.
func (f *Feed) Read(id GPU, timeS, powerW float64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	slots := f.slots[id]
	for _, s := range slots {
		m := &f.models[s.model]
		m.powerW[s.gpu], m.known[s.gpu], m.readS[s.gpu] = powerW, true, timeS
		m.append(timeS)
	}
	return len(slots) > 0
}

// tell hands a reading on.
func (f *Feed) tell(id GPU, r power.Reading) {
	if f.onReading == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.slots[id] {
		f.onReading(s.model, s.gpu, r)
	}
}

// Lose leaves a GPU that is not heard of any more out of the mean, from timeS on.
// The last one of a model stays: its power is held.
func (f *Feed) Lose(id GPU, timeS float64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.slots[id] {
		m := &f.models[s.model]
		others := 0
		for i, known := range m.known {
			if known && i != s.gpu {
				others++
			}
		}
		if m.known[s.gpu] && others > 0 {
			m.known[s.gpu] = false
			m.append(timeS)
		}
	}
}

// AgeS is for how long, in seconds, the power of the model's GPU heard of least
// recently has been taken on trust: since the start if it was never read.
func (f *Feed) AgeS(model int) float64 {
	oldest := 0.0
	for _, age := range f.agesS(model) {
		oldest = max(oldest, age)
	}
	return oldest
}

// agesS is for how long the power of each of the model's GPUs has been taken on
// trust, in seconds.
func (f *Feed) agesS(model int) []float64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	nowS := f.ClockS(time.Now())
	ages := slices.Clone(f.models[model].readS)
	for i, readS := range ages {
		if ages[i] = nowS - readS; math.IsNaN(readS) {
			ages[i] = nowS
		}
	}
	return ages
}

// unread are the places of the model's GPUs that were never read.
func (f *Feed) unread(model int) []int {
	f.mu.Lock()
	defer f.mu.Unlock()
	var unread []int
	for i, readS := range f.models[model].readS {
		if math.IsNaN(readS) {
			unread = append(unread, i)
		}
	}
	return unread
}

// append notes the mean as it now is.
func (m *feedModel) append(timeS float64) {
	sum, n := 0.0, 0
	for i, known := range m.known {
		if known {
			sum += m.powerW[i]
			n++
		}
	}
	mean := sum / float64(n)
	if m.history.Len() > 0 && timeS < m.lastS+feedResolutionS {
		m.history.Amend(mean)
		return
	}
	m.lastS = timeS
	m.history.Append(timeS, mean)
}
