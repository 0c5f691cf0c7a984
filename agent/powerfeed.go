package agent

import (
	"sync"

	"github.com/g2g-agent/g2g-agent/buffer"
)

// feedResolutionS is the finest time step a model's power history keeps, in
// seconds: the GPUs of a model report one by one, and each report is a new mean.
// It bounds the history that a lookup walks through.
const feedResolutionS = 0.005

// powerFeed turns readings of single GPUs into each model's mean power per GPU,
// over the GPUs whose power is known.
type powerFeed struct {
	mu     sync.Mutex // one writer at a time; readers of the histories need no lock
	models []feedModel
	slots  map[GPU][]feedSlot
}

type feedModel struct {
	history *buffer.Rolling
	powerW  []float64 // by GPU, in config order
	known   []bool
	lastS   float64
}

// feedSlot is a GPU's place in a model.
type feedSlot struct{ model, gpu int }

// newPowerFeed returns a feed for models with the given GPUs, in config order,
// with histories of historyS seconds.
func newPowerFeed(gpus [][]GPU, historyS float64) *powerFeed {
	f := &powerFeed{models: make([]feedModel, len(gpus)), slots: map[GPU][]feedSlot{}}
	for m, ids := range gpus {
		f.models[m] = feedModel{
			// Half as much again, since a reading may arrive late.
			history: buffer.New(int(1.5*historyS/feedResolutionS) + 1),
			powerW:  make([]float64, len(ids)), known: make([]bool, len(ids)),
		}
		for i, id := range ids {
			f.slots[id] = append(f.slots[id], feedSlot{m, i})
		}
	}
	return f
}

// read takes in the power of a GPU as of timeS and reports whether it is one of
// a model's.
func (f *powerFeed) read(id GPU, timeS, powerW float64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	slots := f.slots[id]
	for _, s := range slots {
		m := &f.models[s.model]
		m.powerW[s.gpu], m.known[s.gpu] = powerW, true
		m.append(timeS)
	}
	return len(slots) > 0
}

// lose leaves a GPU that is not heard of any more out of the mean, from timeS on.
// The last one of a model stays: its power is held.
func (f *powerFeed) lose(id GPU, timeS float64) {
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
