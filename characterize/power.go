package characterize

import (
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/g2g-agent/g2g-agent/power"
)

// reading is the power of a GPU from a time on.
type reading struct {
	at     time.Time
	powerW float64
}

// courses are the readings of one model's GPUs, by their place among its GPUs. Its
// methods may be called from any goroutine.
type courses struct {
	mu    sync.Mutex
	gpus  [][]reading
	ended bool
}

func newCourses(gpus int) *courses { return &courses{gpus: make([][]reading, gpus)} }

func (c *courses) add(gpu int, r power.Reading) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended {
		c.gpus[gpu] = append(c.gpus[gpu], reading{r.At, r.PowerW})
	}
}

// end drops all readings, and those to come: those of other models may be needed for
// days yet.
func (c *courses) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.gpus)
	c.ended = true
}

// forget drops what was before a time, but for the readings that hold then.
func (c *courses) forget(before time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, course := range c.gpus {
		if n := holdsAt(course, before); n > 0 {
			c.gpus[i] = slices.Delete(course, 0, n)
		}
	}
}

// since are the readings from a time on, with those that held then.
func (c *courses) since(from time.Time) [][]reading {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([][]reading, len(c.gpus))
	for i, course := range c.gpus {
		all[i] = slices.Clone(course[max(holdsAt(course, from), 0):])
	}
	return all
}

// meanW is the mean power of a GPU over a stretch of time, over those that were read.
func (c *courses) meanW(from, to time.Time) float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	var means []float64
	for _, course := range c.gpus {
		if len(course) > 0 {
			means = append(means, meanW(course, from, to))
		}
	}
	return meanKnown(means)
}

// holdsAt is the latest reading not after a time, -1 if there is none.
func holdsAt(course []reading, at time.Time) int {
	return sort.Search(len(course), func(i int) bool { return course[i].at.After(at) }) - 1
}

// meanW is a GPU's mean power over a stretch of time: sources report a power when it
// changes, so a reading holds until the next. The first one holds before it, too.
func meanW(course []reading, from, to time.Time) float64 {
	i := max(holdsAt(course, from), 0)
	var energyJ float64
	for at := from; at.Before(to); i++ {
		until := to
		if i+1 < len(course) && course[i+1].at.Before(to) {
			until = course[i+1].at
		}
		if until.After(at) {
			energyJ += float64(course[i].powerW * until.Sub(at).Seconds())
			at = until
		}
	}
	return energyJ / to.Sub(from).Seconds()
}
