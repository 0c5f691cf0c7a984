package sim

// fails ends a stream with the next fault that is due for it, if there is one.
// first tells that it has no tokens yet.
func (e *engine) fails(s *sequence, first bool, faults *VLLMFaults) bool {
	var shape int
	switch {
	case faults.ErrorEvents > 0 && first && e.v.take(func(f *VLLMFaults) bool {
		if !takeOne(&f.ErrorEvents) {
			return false
		}
		shape = e.v.errorEvents
		e.v.errorEvents++
		return true
	}):
		e.failStream(s, shape)
	case faults.Aborts > 0 && !first && e.v.take(func(f *VLLMFaults) bool { return takeOne(&f.Aborts) }):
		e.giveUp(s)
	default:
		return false
	}
	return true
}

// failStream is an error after the answer has begun.
func (e *engine) failStream(s *sequence, shape int) {
	event, done := errorEvent(shape)
	b := appendChunk(e.scratch[:0], event)
	if done {
		b = appendChunk(b, []byte("data: [DONE]\n\n"))
	}
	e.finish(s, append(b, lastChunk...), &e.tally.failed)
}

// giveUp ends an answer as an engine does that aborts its requests: with no more
// text and a reason that says so, and else as if it were complete.
func (e *engine) giveUp(s *sequence) {
	if e.write(s, e.appendContent(e.scratch[:0], s, 0, "abort", s.usageChunks)) {
		e.finish(s, e.appendTail(e.scratch[:0], s, false), &e.tally.failed)
	}
}

// cutAll cuts every stream in the middle of an event.
func (e *engine) cutAll() {
	for _, s := range e.running {
		if s.finished || s.canceled.Load() {
			continue
		}
		if s.stream {
			s.head = e.appendHead(s.head[:0], s)
			b := e.appendContent(e.scratch[:0], s, 1, "", s.usageChunks)
			_ = s.sink.write(b[:len(b)/2]) // the connection ends either way
		}
		s.finished = true
		e.release(s)
		e.tally.failed++
		_ = s.conn.Close()
		close(s.done)
	}
}

// lacksUsage draws whether a chunk has no usage although all should.
func (s *sequence) lacksUsage(faults *VLLMFaults) bool {
	return faults.MissingUsage > 0 && float64(s.gaps.Uint64()>>11)/(1<<53) < faults.MissingUsage
}

// errorEvent returns one of the ways in which servers report an error in a stream,
// the first of which is vLLM's, and whether the stream ends as a good one would.
func errorEvent(i int) (event []byte, done bool) {
	const message = "EngineCore encountered an issue. See stack trace (above) for the root cause."
	shapes := []string{
		`data: {"error": {"message": "` + message + `", "type": "InternalServerError", "param": null, "code": 500}}`,
		`data: {"error":"` + message + `"}`,
		`data: {"object":"error","message":"` + message + `","type":"InternalServerError","param":null,"code":500}`,
		`data: {"type":"error","error":{"type":"overloaded_error","message":"` + message + `"}}`,
		"event: error\ndata: " + message,
		`data: {"choices":[],"error":{"message":"` + message + `"},"usage":{"prompt_tokens":8,"total_tokens":8,"completion_tokens":0}}`,
		`data: {"choices":[{"index":0,"delta":{"content":""},"error":{"message":"` + message + `"},"finish_reason":"error"}]}`,
		`data: {"detail":"` + message + `"}`,
		`data: {"message":"` + message + `","code":500}`,
	}
	return []byte(shapes[i%len(shapes)] + "\n\n"), i%2 == 0
}

// malformedEvent returns one of the ways in which an event can be no chat event.
func malformedEvent(i int) []byte {
	kinds := []string{
		"data: {\"id\":\"chatcmpl-0\",\"choices\":[{\"index\":0,\"delta\":{\"con\n\n",
		"data: {\"choices\":\"none\",\"usage\":{\"completion_tokens\":\"many\"}}\n\n",
		"data: \x00\xff\xfe{{{\x80\n\n",
		"data: {\"choices\":[7]}\n\n",
		"data: [{\"choices\":[]}]\n\n",
		"data: surprise\n\n",
		"data: {\"choices\":[],\"usage\":{\"completion_tokens\":1e}}\n\n",
	}
	return []byte(kinds[i%len(kinds)])
}
