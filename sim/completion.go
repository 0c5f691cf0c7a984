package sim

import (
	"slices"
	"strconv"
)

// Streams are as vLLM 0.32.0 writes them: see testdata/captures.

// startCompletion writes the head of a stream.
func (c *conn) startCompletion() error {
	return c.startStream(dateLine(), "server: uvicorn", "content-type: text/event-stream; charset=utf-8", "vary: Origin")
}

// appendHead appends what all chunks of a stream begin with.
func (e *engine) appendHead(b []byte, s *sequence) []byte {
	b = append(b, `data: {"id":"`...)
	b = append(b, s.id...)
	b = append(b, `","object":"chat.completion.chunk","created":`...)
	b = strconv.AppendInt(b, s.created, 10)
	b = append(b, `,"model":`...)
	b = append(b, e.model...)
	return append(b, `,"choices":[`...)
}

// chunkRoom is what is left free before a payload for its length in hex.
const chunkRoom = 10

// frame writes the length before a payload that starts at chunkRoom, and the end
// behind it. The result lies within b.
func frame(b []byte) []byte {
	n := len(b) - chunkRoom
	b = append(b, '\r', '\n')
	at := chunkRoom - 1
	b[at], b[at-1] = '\n', '\r'
	at--
	for {
		at--
		b[at] = "0123456789abcdef"[n&15]
		if n >>= 4; n == 0 {
			return b[at:]
		}
	}
}

func room(b []byte) []byte { return append(b, "          "...) }

func (e *engine) appendRole(b []byte, s *sequence) []byte {
	b = append(room(b), s.head...)
	b = append(b, `{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]`...)
	b = appendUsageSoFar(b, s, s.usageChunks, 0)
	return frame(append(b, ",\"prompt_token_ids\":null,\"prompt_text\":null}\n\n"...))
}

// appendContent appends the chunk of the last inc tokens. The reason is that for
// which it is the last one, empty for others.
func (e *engine) appendContent(b []byte, s *sequence, inc int, reason string, usage bool) []byte {
	b = append(room(b), s.head...)
	b = append(b, `{"index":0,"delta":{"content":"`...)
	b = e.appendText(b, s, inc)
	if reason != "" {
		b = appendFinish(b, reason)
	} else {
		b = append(b, `"},"logprobs":null,"finish_reason":null,"token_ids":null}]`...)
	}
	b = appendUsageSoFar(b, s, usage, s.sent)
	return frame(append(b, "}\n\n"...))
}

// appendText appends the text of the last inc tokens, escaped.
func (e *engine) appendText(b []byte, s *sequence, inc int) []byte {
	for i := s.sent - inc; i < s.sent; i++ {
		b = append(b, e.words[(int(s.index%1024)*7+i)%len(e.words)]...)
	}
	return b
}

// appendUsage appends the usage, without its last brace.
func appendUsage(b []byte, s *sequence, completion int) []byte {
	b = append(b, `,"usage":{"prompt_tokens":`...)
	b = strconv.AppendInt(b, int64(s.promptTokens), 10)
	b = append(b, `,"total_tokens":`...)
	b = strconv.AppendInt(b, int64(s.promptTokens+completion), 10)
	b = append(b, `,"completion_tokens":`...)
	return strconv.AppendInt(b, int64(completion), 10)
}

// appendUsageSoFar appends the usage of a chunk that is not the last one, if it is
// to have one.
func appendUsageSoFar(b []byte, s *sequence, wanted bool, completion int) []byte {
	if !wanted {
		return b
	}
	return append(appendUsage(b, s, completion), `,"completion_tokens_details":null}`...)
}

// appendTail appends what follows the last content: the usage without choices,
// [DONE], and the end of the body.
func (e *engine) appendTail(b []byte, s *sequence, noDone bool) []byte {
	if s.usage {
		payload := append(slices.Clone(s.head), ']')
		payload = appendUsage(payload, s, s.sent)
		b = appendChunk(b, append(payload, "},\"system_fingerprint\":\"vllm-0.32.0-5132e1a7\"}\n\n"...))
	}
	if !noDone {
		b = appendChunk(b, []byte("data: [DONE]\n\n"))
	}
	return append(b, lastChunk...)
}

// appendFinish appends why an answer ended, after its last text.
func appendFinish(b []byte, reason string) []byte {
	b = append(b, `"},"logprobs":null,"finish_reason":"`...)
	b = append(b, reason...)
	return append(b, `","stop_reason":null,"token_ids":null}]`...)
}

func finishReason(s *sequence) string {
	if s.stops {
		return "stop"
	}
	return "length"
}

// appendWhole appends the answer to a request without a stream.
func (e *engine) appendWhole(b []byte, s *sequence) []byte {
	var body []byte
	body = append(body, `{"id":"`...)
	body = append(body, s.id...)
	body = append(body, `","object":"chat.completion","created":`...)
	body = strconv.AppendInt(body, s.created, 10)
	body = append(body, `,"model":`...)
	body = append(body, e.model...)
	body = append(body, `,"choices":[{"index":0,"message":{"role":"assistant","content":"`...)
	body = append(body, s.text...)
	body = appendFinish(body, finishReason(s))
	body = append(appendUsage(body, s, s.sent), "}}"...)
	b = append(b, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: "...)
	b = strconv.AppendInt(b, int64(len(body)), 10)
	if s.conn.last {
		b = append(b, "\r\nconnection: close"...)
	}
	b = append(b, "\r\n\r\n"...)
	return append(b, body...)
}
