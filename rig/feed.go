package rig

import (
	"cmp"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/g2g-agent/g2g-agent/buffer"
	"github.com/g2g-agent/g2g-agent/power"
)

// feedResolutionS is the finest time step a model's power history keeps, in
// seconds: the GPUs of a model report one by one, and each report is a new mean.
// It bounds the history that a lookup walks through.
const feedResolutionS = 0.005

// Feed turns readings of single GPUs into each model's mean power per GPU, over the
// GPUs whose power is known. Its times are those since it was made.
//
// Until the first [Feed.Advance] a reading is in the histories at once. From then on it
// is as of the next Advance: what a step reads follows from the readings that it was
// given, in an order that does not depend on which source was quicker.
type Feed struct {
	began     time.Time
	historyS  float64
	gpus      []GPU                                 // each once, in config order
	onReading func(model, gpu int, r power.Reading) // nil: nobody is told

	mu       sync.Mutex // one writer at a time; readers of the histories need no lock
	index    map[GPU]int
	clocks   []sourceClock // by GPU
	heardS   []float64     // by GPU: as of when it was last known to hold, NaN: never read
	arrived  []FeedEntry
	arrivals uint64
	stepping bool
	keepFor  time.Duration // entries before the first Advance

	models []feedModel // the step's, from the first Advance on
	slots  [][]feedSlot
}

// FeedEntry is what came of one GPU.
type FeedEntry struct {
	// GPU is its place among [Feed.GPUs].
	GPU int
	// At is as of when it holds, since the feed was made, PowerMW what it draws, in
	// milliwatts.
	At      time.Duration
	PowerMW int64
	// StampMs is the source's own time stamp, Unix milliseconds, or one made up by this host's clock; 0 for none.
	StampMs int64
	// Confirmation says that the source was asked; Lost that it has no such GPU.
	Confirmation, Lost bool

	arrival uint64
}

// sourceClock is how the clock of a GPU's source is corrected.
type sourceClock struct {
	correction time.Duration // of its Unix time to that since the feed was made
	known      bool
	last       time.Duration // of its readings
}

func (c *sourceClock) correct(to time.Duration) { c.correction, c.known = to, true }

type feedModel struct {
	history atomic.Pointer[buffer.Rolling]
	gpus    []int     // of the feed, in config order
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
	f := &Feed{
		began: time.Now(), historyS: historyS, models: make([]feedModel, len(gpus)), index: map[GPU]int{},
		keepFor: time.Duration((float64(1.25*historyS) + 2) * float64(time.Second)),
	}
	for m, ids := range gpus {
		model := &f.models[m]
		model.powerW, model.known, model.readS = make([]float64, len(ids)), make([]bool, len(ids)), make([]float64, len(ids))
		model.history.Store(f.newHistory())
		for i, id := range ids {
			f.models[m].readS[i] = math.NaN()
			n, there := f.index[id]
			if !there {
				n = len(f.gpus)
				f.index[id] = n
				f.gpus, f.slots, f.heardS = append(f.gpus, id), append(f.slots, nil), append(f.heardS, math.NaN())
				f.clocks = append(f.clocks, sourceClock{last: math.MinInt64})
			}
			f.models[m].gpus = append(f.models[m].gpus, n)
			f.slots[n] = append(f.slots[n], feedSlot{m, i})
		}
	}
	return f
}

// newHistory reaches half as far back again, since a reading may arrive late.
func (f *Feed) newHistory() *buffer.Rolling {
	return buffer.New(int(1.5*f.historyS/feedResolutionS) + 1)
}

// GPUs are those of all models, each once, in config order.
func (f *Feed) GPUs() []GPU { return f.gpus }

// ModelsOf are the models that a GPU, by its place among [Feed.GPUs], is of.
func (f *Feed) ModelsOf(gpu int) []int {
	models := make([]int, len(f.slots[gpu]))
	for i, s := range f.slots[gpu] {
		models[i] = s.model
	}
	return models
}

// Clock is a time on the clock of the histories.
func (f *Feed) Clock(t time.Time) time.Duration { return t.Sub(f.began) }

// ClockS is [Feed.Clock] in seconds.
func (f *Feed) ClockS(t time.Time) float64 { return f.Clock(t).Seconds() }

// History is a model's mean power per GPU, in watts: another one from the first
// [Feed.Advance] on.
func (f *Feed) History(model int) *buffer.Rolling { return f.models[model].history.Load() }

// Sink takes the readings of one source.
func (f *Feed) Sink(source power.Source) power.Sink { return feedSink{f, source} }

type feedSink struct {
	feed   *Feed
	source power.Source
}

func (s feedSink) Read(r power.Reading) {
	id := GPU{s.source, r.Index}
	s.feed.take(id, FeedEntry{
		At: s.feed.Clock(r.At), PowerMW: int64(math.RoundToEven(r.PowerW * 1e3)), StampMs: cmp.Or(r.StampMs, noStamp), Confirmation: r.Confirmation,
	})
	s.feed.tell(id, r)
}

// noStamp stands for a time stamp that the source did not give.
const noStamp = -1

// steady puts a reading on the clock of its source, in whole milliseconds, as corrected
// last: what a correction differs by within a millisecond, as for a reading that must
// not be later than its arrival, is less than what the stamp is good to. A recording
// has one correction then, where it would have one for each reading.
func (c *sourceClock) steady(e *FeedEntry, began time.Time) {
	const ms = time.Millisecond
	if e.StampMs == noStamp {
		if !c.known {
			c.correct(-time.Duration(began.UnixNano()))
		}
		e.StampMs = int64((e.At - c.correction) / ms)
	}
	stamp := time.Duration(e.StampMs) * ms
	if off := e.At - stamp - c.correction; !c.known || off >= ms || off <= -ms {
		c.correct(e.At - stamp)
	}
	e.At = max(stamp+c.correction, c.last)
	c.last = e.At
}

func (s feedSink) Lose(index int, at time.Time) {
	s.feed.take(GPU{s.source, index}, FeedEntry{At: s.feed.Clock(at), Lost: true})
}

// Read takes in the power of a GPU as of timeS, to the milliwatt, and reports whether it
// is one of a model's.
func (f *Feed) Read(id GPU, timeS, powerW float64) bool {
	return f.take(id, FeedEntry{At: time.Duration(math.RoundToEven(timeS * 1e9)), PowerMW: int64(math.RoundToEven(powerW * 1e3))})
}

// Take takes in an entry as [Feed.Advance] returned one, of a feed for the same GPUs.
func (f *Feed) Take(e FeedEntry) { f.take(f.gpus[e.GPU], e) }

// Lose leaves a GPU that is not heard of any more out of the mean, from timeS on.
// The last one of a model stays: its power is held.
func (f *Feed) Lose(id GPU, timeS float64) {
	f.take(id, FeedEntry{At: time.Duration(math.RoundToEven(timeS * 1e9)), Lost: true})
}

// take takes in what came of a GPU.
func (f *Feed) take(id GPU, e FeedEntry) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	gpu, there := f.index[id]
	if !there {
		return false
	}
	e.GPU, e.arrival = gpu, f.arrivals
	f.arrivals++
	if e.StampMs != 0 {
		f.clocks[gpu].steady(&e, f.began)
	}
	if e.Lost { // not before what it comes after
		e.At = max(e.At, f.clocks[gpu].last)
		f.clocks[gpu].last = e.At
	} else {
		f.heardS[gpu] = e.At.Seconds()
	}
	if f.stepping {
		f.arrived = append(f.arrived, e)
		return true
	}
	f.apply(&e)
	f.keep(e)
	return true
}

// keep keeps what came before the first step, as far as that can read it: what is older
// than the histories reach is left out, but for the latest of each GPU.
func (f *Feed) keep(e FeedEntry) {
	if len(f.arrived) < cap(f.arrived) || len(f.arrived) == 0 {
		f.arrived = append(f.arrived, e)
		return
	}
	latest := make([]int, len(f.gpus))
	for i := range f.arrived {
		latest[f.arrived[i].GPU] = i
	}
	kept := f.arrived[:0]
	for i := range f.arrived {
		if old := &f.arrived[i]; e.At-old.At <= f.keepFor || latest[old.GPU] == i {
			kept = append(kept, *old)
		}
	}
	f.arrived = append(slices.Grow(kept, len(kept)+1), e)
}

// Advance has the histories, and what else a step reads, know what has come since the
// last call, and returns it, appended to entries, in the order in which it was taken in:
// by time, then by GPU, then as it came. The first call begins the histories anew, with
// what came before it. It is for one goroutine; entries that have room cost no memory.
func (f *Feed) Advance(entries []FeedEntry) []FeedEntry {
	f.mu.Lock()
	n := len(entries)
	entries = append(entries, f.arrived...)
	f.arrived = f.arrived[:0]
	first := !f.stepping
	if first {
		f.arrived = nil // it had room for far more than comes in a step
	}
	f.stepping = true
	f.mu.Unlock()
	came := entries[n:]
	slices.SortFunc(came, func(a, b FeedEntry) int {
		return cmp.Or(cmp.Compare(a.At, b.At), cmp.Compare(a.GPU, b.GPU), cmp.Compare(a.arrival, b.arrival))
	})
	if first {
		f.beginAnew()
	}
	for i := range came {
		f.apply(&came[i])
	}
	return entries
}

// beginAnew empties the histories.
func (f *Feed) beginAnew() {
	for m := range f.models {
		model := &f.models[m]
		model.history.Store(f.newHistory())
		clear(model.known)
		clear(model.powerW)
		model.lastS = 0
		for i := range model.readS {
			model.readS[i] = math.NaN()
		}
	}
}

// apply takes an entry into the histories of the models that the GPU is of.
func (f *Feed) apply(e *FeedEntry) {
	timeS := e.At.Seconds()
	for _, s := range f.slots[e.GPU] {
		m := &f.models[s.model]
		if e.Lost {
			m.lose(s.gpu, timeS)
			continue
		}
		m.powerW[s.gpu], m.known[s.gpu], m.readS[s.gpu] = float64(e.PowerMW)/1e3, true, timeS
		m.append(timeS)
	}
}

// lose leaves a GPU out, unless it is the last one.
func (m *feedModel) lose(gpu int, timeS float64) {
	others := 0
	for i, known := range m.known {
		if known && i != gpu {
			others++
		}
	}
	if m.known[gpu] && others > 0 {
		m.known[gpu] = false
		m.append(timeS)
	}
}

// tell hands a reading on.
func (f *Feed) tell(id GPU, r power.Reading) {
	if f.onReading == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if gpu, there := f.index[id]; there {
		for _, s := range f.slots[gpu] {
			f.onReading(s.model, s.gpu, r)
		}
	}
}

// AgeAtS is for how long, in seconds, at a time on the histories' clock, the power of the
// model's GPU heard of least recently has been taken on trust, as far as the step knows:
// since the start if it was never read. It is for the goroutine that calls Advance.
func (f *Feed) AgeAtS(model int, nowS float64) float64 {
	oldest := 0.0
	for _, readS := range f.models[model].readS {
		if math.IsNaN(readS) {
			readS = 0
		}
		oldest = max(oldest, nowS-readS)
	}
	return oldest
}

// HeardGPU reports whether a GPU was read, as far as the step knows.
func (f *Feed) HeardGPU(gpu int) bool {
	s := f.slots[gpu][0]
	return !math.IsNaN(f.models[s.model].readS[s.gpu])
}

// Heard reports whether each of the model's GPUs was read, as far as the step knows.
func (f *Feed) Heard(model int) bool {
	return !slices.ContainsFunc(f.models[model].readS, math.IsNaN)
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
	ages := make([]float64, len(f.models[model].gpus))
	for i, gpu := range f.models[model].gpus {
		if ages[i] = nowS - f.heardS[gpu]; math.IsNaN(f.heardS[gpu]) {
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
	for i, gpu := range f.models[model].gpus {
		if math.IsNaN(f.heardS[gpu]) {
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
	history := m.history.Load()
	if history.Len() > 0 && timeS < m.lastS+feedResolutionS {
		history.Amend(mean)
		return
	}
	m.lastS = timeS
	history.Append(timeS, mean)
}
