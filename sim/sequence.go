package sim

import (
	"errors"
	"math/rand/v2"
	"slices"
	"sync/atomic"
)

// sequence is one chat request in the engine.
type sequence struct {
	conn *conn
	sink *sink
	// done is closed once the engine has nothing more to do for it.
	done     chan struct{}
	canceled atomic.Bool // the client has gone

	id      string
	created int64
	stream  bool
	// usageChunks: each chunk has the usage so far. usage: the stream ends with it.
	usageChunks, usage bool
	promptTokens       int
	maxTokens          int    // it ends with
	stops              bool   // by a stop token, and not for its length
	index              uint64 // of the request, from 0
	arrivedNS          int64

	// The engine's.
	rng      rand.PCG // for the sizes of its chunks
	gaps     rand.PCG // for which of them lack a usage
	head     []byte   // of each chunk, up to the text
	admitted bool     // runs, or has run
	engine   int      // the data-parallel engine it is counted for, once admitted
	sent     int      // tokens generated
	written  int      // tokens the client knows of
	lastNS   int64    // when the last chunk with tokens was written; 0: never
	text     []byte   // what a request without a stream gets at the end
	finished bool     // everything is written, if perhaps not yet taken by the kernel
	outcome  *int64   // what to count once it is taken
}

// step gives one sequence its tokens of this iteration.
func (e *engine) step(s *sequence, faults *VLLMFaults) {
	if s.finished || s.canceled.Load() {
		return // swept out by the next admit
	}
	first := s.sent == 0
	if s.stream && e.fails(s, first, faults) {
		return
	}
	inc := min(e.chunkTokens(s), s.maxTokens-s.sent)
	s.sent += inc
	e.kvTokens += inc
	e.tally.tokens += int64(inc)
	last := s.sent >= s.maxTokens
	if last && s.stops {
		e.tally.stopped++
	}
	if !s.stream {
		s.text = e.appendText(s.text, s, inc)
		if first {
			e.tally.ttftNS = append(e.tally.ttftNS, e.v.nowNS()-s.arrivedNS)
		}
		if last {
			e.finish(s, e.appendWhole(e.scratch[:0], s), &e.tally.finished)
		}
		return
	}
	if !e.writeChunk(s, inc, first, last, faults) || !last {
		return
	}
	noDone := faults.NoDone > 0 && e.v.take(func(f *VLLMFaults) bool { return takeOne(&f.NoDone) })
	outcome := &e.tally.finished
	if noDone {
		outcome = &e.tally.failed
	}
	e.finish(s, e.appendTail(e.scratch[:0], s, noDone), outcome)
}

// writeChunk sends the chunk of a stream's latest inc tokens, the first one behind
// the chunk with the role; false if that was the end of the sequence.
func (e *engine) writeChunk(s *sequence, inc int, first, last bool, faults *VLLMFaults) bool {
	if first {
		s.head = e.appendHead(nil, s)
		if !e.write(s, e.appendRole(e.scratch[:0], s)) {
			return false
		}
	}
	e.tally.chunks++
	if faults.MalformedEvents > 0 && e.v.take(func(f *VLLMFaults) bool { return takeOne(&f.MalformedEvents) }) {
		faults.MalformedEvents--
		return e.write(s, appendChunk(e.scratch[:0], malformedEvent(int(s.index)+s.sent)))
	}
	reason := ""
	if last {
		reason = finishReason(s)
	}
	chunk := e.appendContent(e.scratch[:0], s, inc, reason, s.usageChunks && !s.lacksUsage(faults))
	nowNS := e.v.nowNS()
	if !e.write(s, chunk) {
		return false
	}
	if s.lastNS == 0 {
		e.tally.ttftNS = append(e.tally.ttftNS, nowNS-s.arrivedNS)
	} else {
		e.batch = append(e.batch, itlSample{nowNS, nowNS - s.lastNS, int32(s.sent - s.written)})
	}
	s.lastNS, s.written = nowNS, s.sent
	return true
}

// write sends one chunk, which e.scratch may hold; false if that was the end of
// the sequence.
func (e *engine) write(s *sequence, b []byte) bool {
	if err := s.sink.write(b); err != nil {
		e.abort(s, err)
		return false
	}
	return true
}

// finish sends what ends an answer; the connection is free once the kernel has
// taken the last byte.
func (e *engine) finish(s *sequence, b []byte, outcome *int64) {
	if !e.write(s, b) {
		return
	}
	s.finished, s.outcome = true, outcome
	e.release(s)
	if s.sink.pending() {
		e.draining = append(e.draining, s)
		return
	}
	e.let(s)
}

// let gives the connection back to its goroutine.
func (e *engine) let(s *sequence) {
	*s.outcome++
	if s.conn.last {
		_ = s.conn.Close()
	}
	close(s.done)
}

// abort ends a sequence whose client is gone or stuck.
func (e *engine) abort(s *sequence, err error) {
	s.finished = true
	e.release(s)
	e.tally.aborted++
	if errors.Is(err, errBacklog) {
		s.conn.reset()
	} else {
		_ = s.conn.Close()
	}
	close(s.done)
}

// drain tries again to send what clients had not read.
func (e *engine) drain() {
	e.draining = slices.DeleteFunc(e.draining, func(s *sequence) bool {
		err := s.sink.flush()
		switch {
		case err == nil && !s.sink.pending():
			e.let(s)
		case err == nil && !s.canceled.Load():
			return false
		default:
			e.tally.aborted++
			close(s.done)
		}
		return true
	})
}

// chunkTokens draws how many tokens a chunk has.
func (e *engine) chunkTokens(s *sequence) int {
	weights := e.v.cfg.TokensPerChunk
	if len(weights) == 1 {
		return 1
	}
	var sum float64
	for _, w := range weights {
		sum += w
	}
	x := float64(s.rng.Uint64()>>11) / (1 << 53) * sum
	for i, w := range weights {
		if x < w {
			return i + 1
		}
		x -= w
	}
	return len(weights)
}
