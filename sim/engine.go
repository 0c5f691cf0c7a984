package sim

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// engine is the loop that runs the sequences of one life of a server: iteration
// by iteration, each as long as the profile says, each giving every running
// sequence its next tokens.
type engine struct {
	v         *VLLM
	rng       *rand.Rand
	model     []byte // as a JSON string
	words     [][]byte
	pcgSeed   uint64
	meanChunk float64 // tokens

	mu       sync.Mutex
	inbox    []*sequence
	closed   bool
	wake     chan struct{}
	capFrom  int // the cap when the ramp began
	capTo    int
	capRate  float64 // per second; 0: no ramp
	capSince time.Time
	// Published for others to read.
	load load

	// Only the loop's.
	waiting  []*sequence
	running  []*sequence
	draining []*sequence
	batch    []itlSample // of this iteration
	inTruth  int         // how many of batch the truth knows
	scratch  []byte
	kvTokens int
	powerW   float64
	next     int // the data-parallel engine of the next request
	tally    tally
}

// load is the state of the engine that metrics show, by data-parallel engine.
type load struct {
	running, waiting []int
	kvTokens         int
	powerW           float64
}

// tally is what one batch of writes adds to the server's counters.
type tally struct {
	chunks, tokens, prompt, finished, stopped, failed, aborted, iterations, overruns int64

	ttftNS []int64
}

func newEngine(v *VLLM, life uint64) *engine {
	e := &engine{
		v:       v,
		rng:     newRand(v.cfg.Seed, "iterations", int(life)),
		model:   appendJSONString(nil, v.cfg.ModelID),
		pcgSeed: v.cfg.Seed,
		wake:    make(chan struct{}, 1),
		capTo:   v.cfg.MaxNumSeqs,
		scratch: make([]byte, 0, 4096),
		load:    load{running: make([]int, v.cfg.Engines), waiting: make([]int, v.cfg.Engines)},
		powerW:  -1,
	}
	// Words as models write them, and some that a careless client trips over.
	for _, word := range []string{
		" the", " power", " of", " a", " grid", "'s", " batch", " is", ",", " 42", ".\n", " \"quoted\"", " é", " 能",
		" data: [DONE]", "\n\n", " {\"completion_tokens\": 7}", " \\", " and", " so", " on", "!",
	} {
		quoted := appendJSONString(nil, word)
		e.words = append(e.words, quoted[1:len(quoted)-1])
	}
	var sum float64
	for i, w := range v.cfg.TokensPerChunk {
		sum += w
		e.meanChunk += float64(i+1) * w
	}
	e.meanChunk /= sum
	return e
}

// submit queues a request; false if the engine has ended.
func (e *engine) submit(s *sequence) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return false
	}
	e.inbox = append(e.inbox, s)
	e.poke()
	return true
}

// poke wakes the loop if it is idle.
func (e *engine) poke() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// setCap commands a cap; it rises by rate sequences a second, at once if 0, and
// falls at once.
func (e *engine) setCap(n int, rate float64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	e.capFrom = e.capAt(now)
	e.capTo, e.capRate, e.capSince = n, rate, now
	e.poke()
}

func (e *engine) capAt(now time.Time) int {
	if e.capRate <= 0 || e.capTo <= e.capFrom {
		return e.capTo
	}
	rise := e.capRate * now.Sub(e.capSince).Seconds()
	return min(e.capFrom+int(min(rise, math.MaxInt32)), e.capTo)
}

func (e *engine) caps() (commanded, inForce int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.capTo, e.capAt(time.Now())
}

// drainInterval is how often a slow client of a finished request is tried again
// while nothing else happens.
const drainInterval = 5 * time.Millisecond

func (e *engine) run(ctx context.Context) {
	defer e.end()
	var due time.Time
	for ctx.Err() == nil {
		admitted := e.admit()
		e.settle()
		if len(e.running) == 0 {
			due = time.Time{}
			if !e.idle(ctx) {
				return
			}
			continue
		}
		// Iterations follow each other on an absolute schedule: a timer that fires
		// late, and the writing, do not make the mean longer.
		now, start := time.Now(), due
		if start.IsZero() {
			start = now
		}
		due = start.Add(e.iteration(admitted))
		if due.Before(now) {
			// Writing took longer than an iteration, or the server was frozen: what
			// is lost is lost.
			e.tally.overruns++
			start, due = now, now
		}
		e.tally.iterations++
		if !e.generate(ctx, start, due) {
			return
		}
	}
}

// idle waits for work; false if the engine is to end.
func (e *engine) idle(ctx context.Context) bool {
	var drain <-chan time.Time
	if len(e.draining) > 0 {
		drain = time.After(drainInterval)
	}
	select {
	case <-ctx.Done():
		return false
	case <-e.wake:
	case <-drain:
	}
	e.drain()
	return true
}

// admit takes in what has arrived and moves as much of the queue into the batch
// as the cap allows; it returns how many.
func (e *engine) admit() int {
	e.mu.Lock()
	e.waiting = append(e.waiting, e.inbox...)
	clear(e.inbox)
	e.inbox = e.inbox[:0]
	limit := e.capAt(time.Now())
	e.mu.Unlock()

	e.running = slices.DeleteFunc(e.running, e.gone)
	e.waiting = slices.DeleteFunc(e.waiting, e.gone)
	if most := e.v.cfg.Profile.PrefillsPerIteration; most > 0 {
		limit = min(limit, len(e.running)+most)
	}
	n := min(max(limit-len(e.running), 0), len(e.waiting))
	for _, s := range e.waiting[:n] {
		s.admitted, s.engine = true, e.next
		e.next = (e.next + 1) % e.v.cfg.Engines
		s.rng = *rand.NewPCG(e.pcgSeed, s.index)
		s.gaps = *rand.NewPCG(e.pcgSeed, ^s.index)
		e.kvTokens += s.promptTokens
		e.tally.prompt += int64(s.promptTokens)
		e.running = append(e.running, s)
	}
	e.waiting = slices.Delete(e.waiting, 0, n)
	return n
}

// gone ends a sequence whose client has left.
func (e *engine) gone(s *sequence) bool {
	if !s.canceled.Load() {
		return false
	}
	e.release(s)
	e.tally.aborted++
	close(s.done)
	return true
}

// release gives back what a sequence holds.
func (e *engine) release(s *sequence) {
	if s.admitted {
		e.kvTokens -= s.promptTokens + s.sent
	}
}

// iteration returns how long the next iteration takes.
func (e *engine) iteration(admitted int) time.Duration {
	p := &e.v.cfg.Profile
	seconds := p.itlS(len(e.running)) * e.meanChunk
	if p.ITLSigma > 0 {
		// The mean of the factor is 1.
		seconds *= math.Exp(p.ITLSigma*e.rng.NormFloat64() - p.ITLSigma*p.ITLSigma/2)
	}
	seconds += float64(admitted) * p.PrefillS
	if slow := e.v.slowDown(); slow > 0 {
		seconds *= slow
	}
	return time.Duration(min(seconds, 3600) * float64(time.Second))
}

// generate writes the running sequences' next tokens when they are due: all at
// the end of the iteration, or spread over it. False if the engine is to end.
func (e *engine) generate(ctx context.Context, start, due time.Time) bool {
	n := len(e.running)
	step := due.Sub(start)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for i := 0; i < n; {
		at, upTo := due, n
		if e.v.cfg.Spread {
			at = start.Add(step * time.Duration(i+1) / time.Duration(n))
		}
		if wait := time.Until(at); wait > 0 {
			timer.Reset(wait)
			select {
			case <-ctx.Done():
				return false
			case <-timer.C:
			}
		}
		faults, ok := e.v.awaitEngine(ctx)
		if !ok {
			return false
		}
		if e.v.cfg.Spread && step > 0 {
			passed := time.Since(start)
			upTo = min(max(int(float64(n)*float64(passed)/float64(step)), i+1), n)
		}
		if faults.DropStreams && e.v.take(func(f *VLLMFaults) bool { return takeOnce(&f.DropStreams) }) {
			e.cutAll()
			break
		}
		for ; i < upTo; i++ {
			e.step(e.running[i], &faults)
		}
		e.tell()
	}
	e.running = slices.DeleteFunc(e.running, func(s *sequence) bool { return s.finished })
	e.drain()
	return true
}

// tell adds what was written to the true ITL.
func (e *engine) tell() {
	e.v.itl.add(e.batch[e.inTruth:])
	e.inTruth = len(e.batch)
}

// settle tells the server's counters what was done, the metrics how things are,
// and the GPUs what to draw. Counts and state change together: who sees that all
// have finished sees that none runs.
func (e *engine) settle() {
	e.tell()
	e.v.mu.Lock()
	defer e.v.mu.Unlock()
	e.v.count(&e.tally, e.batch)
	e.batch, e.inTruth = e.batch[:0], 0
	e.tally = tally{ttftNS: e.tally.ttftNS[:0]}
	e.publish()
}

// end lets go of everything when the server dies.
func (e *engine) end() {
	e.mu.Lock()
	e.closed = true
	e.waiting = append(e.waiting, e.inbox...)
	e.inbox = nil
	e.mu.Unlock()
	for _, s := range slices.Concat(e.running, e.waiting) {
		if !s.finished {
			e.tally.failed++
			close(s.done)
		}
	}
	for _, s := range e.draining {
		e.tally.failed++
		close(s.done)
	}
	e.running, e.waiting, e.draining = nil, nil, nil
	e.settle()
}

func (e *engine) publish() {
	powerW := e.v.cfg.Profile.PowerWPerGPU(len(e.running))
	if powerW != e.powerW {
		for _, gpu := range e.v.cfg.GPUs {
			gpu.SetPowerW(powerW)
		}
		e.powerW = powerW
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	clear(e.load.running)
	clear(e.load.waiting)
	for _, s := range e.running {
		e.load.running[s.engine]++
	}
	for i := range e.waiting {
		e.load.waiting[(e.next+i)%len(e.load.waiting)]++
	}
	e.load.kvTokens, e.load.powerW = e.kvTokens, powerW
}

// snapshot returns the load; what has just arrived is waiting.
func (e *engine) snapshot() load {
	e.mu.Lock()
	defer e.mu.Unlock()
	l := e.load
	l.running, l.waiting = slices.Clone(l.running), slices.Clone(l.waiting)
	for i := range e.inbox {
		l.waiting[i%len(l.waiting)]++
	}
	return l
}
