package rig

import (
	"math"
	"sync"
	"time"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// lastLoad is what a server last said of its load. Its methods may be called from
// any goroutine.
type lastLoad struct {
	mu        sync.Mutex
	load      *datacenter.ServerLoad // nil: it has said nothing
	at        time.Time
	preempted total
}

func (l *lastLoad) set(load datacenter.ServerLoad, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.load, l.at = &load, at
	l.preempted.add(load.NumPreemptionsTotal)
}

// LoadReading is what one server said of its load, as it is known at one time.
type LoadReading struct {
	// At is when it said so, zero if it has said nothing yet.
	At time.Time
	// Load is what it said, nil if that is too old by now, or there is nothing.
	Load *datacenter.ServerLoad
	// Preempted are the preemptions so far, those before a restart included, NaN if
	// the server has told of none.
	Preempted float64
}

// get is the reading, with its load if that came since a time.
func (l *lastLoad) get(since time.Time) LoadReading {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := LoadReading{At: l.at, Load: l.load, Preempted: math.NaN()}
	if l.preempted.known {
		r.Preempted = l.preempted.before + l.preempted.latest
	}
	if l.at.Before(since) {
		r.Load = nil
	}
	return r
}

// total is a count that goes on over restarts of who counts.
type total struct {
	before, latest float64 // before the latest restart, and after it
	known          bool
}

// add takes in what is said of the count, NaN for nothing.
func (t *total) add(count float64) {
	if math.IsNaN(count) {
		return
	}
	if count < t.latest {
		t.before += t.latest
	}
	t.latest, t.known = count, true
}

// serverLoad is what the server last said, nil when that is too old.
func (s *Server) serverLoad() *datacenter.ServerLoad { return s.loadReading().Load }

func (s *Server) loadReading() LoadReading {
	// Two polls may fail before the last answer is too old.
	return s.lastLoad.get(time.Now().Add(-max(s.rig.cfg.StaleAfter, 3*s.rig.cfg.PrometheusPollInterval)))
}

// running is how many requests the server runs, NaN when that is not known.
func (s *Server) running() float64 {
	if load := s.serverLoad(); load != nil {
		return load.NumRequestsRunning
	}
	return math.NaN()
}

// LoadReadings appends what each of the servers last said, in config order.
func (m *Model) LoadReadings(readings []LoadReading) []LoadReading {
	for _, s := range m.servers {
		readings = append(readings, s.loadReading())
	}
	return readings
}

// ServerLoad is [CombinedLoad] of what the servers last said.
func (m *Model) ServerLoad() (load *datacenter.ServerLoad, achievedBatchSize float64) {
	return CombinedLoad(m.LoadReadings(nil))
}

// CombinedLoad is what a model's servers last said, nil if none did lately: the sums of
// their requests and the mean of their caches' use, each over those that told it,
// and the preemptions of all, whether they told lately or not, as a count that
// never falls. The second result is the mean number of requests that a server runs,
// over those that told it, NaN if none did.
func CombinedLoad(readings []LoadReading) (load *datacenter.ServerLoad, achievedBatchSize float64) {
	if len(readings) == 1 {
		load = readings[0].Load
		if load == nil {
			return nil, math.NaN()
		}
		return load, load.NumRequestsRunning
	}
	var running, waiting, cache, preemptions tally
	anyLately := false
	for i := range readings {
		preemptions.add(readings[i].Preempted)
		if load := readings[i].Load; load != nil {
			anyLately = true
			running.add(load.NumRequestsRunning)
			waiting.add(load.NumRequestsWaiting)
			cache.add(load.KVCacheUsagePerc)
		}
	}
	if !anyLately {
		return nil, math.NaN()
	}
	return &datacenter.ServerLoad{
		NumRequestsRunning: running.sumOrNaN(), NumRequestsWaiting: waiting.sumOrNaN(),
		KVCacheUsagePerc: cache.mean(), NumPreemptionsTotal: preemptions.sumOrNaN(),
	}, running.mean()
}

// AchievedBatchSize is the mean number of requests that the servers run, over
// those that say so, NaN if none does.
func AchievedBatchSize(servers []ServerStatus) float64 {
	var running tally
	for i := range servers {
		running.add(servers[i].AchievedBatchSize)
	}
	return running.mean()
}

// tally sums up what some servers told.
type tally struct {
	sum float64
	n   int
}

// add takes in a number, NaN for none.
func (t *tally) add(number float64) {
	if !math.IsNaN(number) {
		t.sum += number
		t.n++
	}
}

// sumOrNaN is the sum, NaN of no numbers.
func (t *tally) sumOrNaN() float64 {
	if t.n == 0 {
		return math.NaN()
	}
	return t.sum
}

// mean is NaN of no numbers.
func (t *tally) mean() float64 { return t.sum / float64(t.n) }
