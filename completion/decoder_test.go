package completion

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const eventStreamHead = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"

// tokenEvent is a content chunk as vLLM writes it.
func tokenEvent(content string, tokens int) string {
	return fmt.Sprintf(`data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m",`+
		`"choices":[{"index":0,"delta":{"content":%q},"logprobs":null,"finish_reason":null}],`+
		`"usage":{"prompt_tokens":9,"total_tokens":%d,"completion_tokens":%d}}`+"\n\n", content, 9+tokens, tokens)
}

const (
	roleEvent = `data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":{"prompt_tokens":9,"total_tokens":9,"completion_tokens":0}}` + "\n\n"
	doneEvent = "data: [DONE]\n\n"
)

func finalEvent(tokens int) string {
	return fmt.Sprintf(`data: {"choices":[],"usage":{"prompt_tokens":9,"total_tokens":%d,"completion_tokens":%d}}`+"\n\n", 9+tokens, tokens)
}

// inChunks is a chunked body with each of the parts as a chunk, without its end.
func inChunks(parts ...string) string {
	var b strings.Builder
	for _, part := range parts {
		fmt.Fprintf(&b, "%x\r\n%s\r\n", len(part), part)
	}
	return b.String()
}

const lastChunk = "0\r\n\r\n"

// outcome is what a decoder makes of a response.
type outcome struct {
	Chunks    []Chunk
	Ended     bool
	Done      bool
	KeepAlive bool
	Kind      string
	Err       string
}

const testMaxEvent = 4 << 10

// decode feeds a response in pieces of the sizes that next returns.
func decode(response []byte, next func(left int) int) outcome {
	var d responseDecoder
	d.reset(testMaxEvent)
	var o outcome
	var err error
	for rest := response; len(rest) > 0 && !o.Ended; {
		n := min(max(next(len(rest)), 1), len(rest))
		// A copy, so that what is kept beyond the call shows.
		piece := bytes.Clone(rest[:n])
		o.Ended, err = d.feed(piece)
		o.Chunks = append(o.Chunks, withoutBytes(d.chunks)...)
		for i := range piece {
			piece[i] = '#'
		}
		rest = rest[n:]
		if o.Ended && len(rest) > 0 {
			d.keepAlive = false // as the connection's owner finds out
		}
	}
	if !o.Ended {
		err = d.eof(nil)
	}
	o.Done, o.KeepAlive = d.done, d.keepAlive
	var failure *Error
	switch {
	case errors.As(err, &failure):
		o.Kind, o.Err = failure.Kind.String(), failure.Error()
	case err != nil:
		o.Err = err.Error()
	}
	return o
}

// withoutBytes are chunks without the length of their events, which tests of what
// events say leave out.
func withoutBytes(chunks []Chunk) []Chunk {
	without := slices.Clone(chunks)
	for i := range without {
		without[i].Bytes = 0
	}
	return without
}

func whole(left int) int { return left }

// It is long because it is one table.
func TestDecoderReadsResponses(t *testing.T) {
	long := strings.Repeat("x", testMaxEvent)
	ok := func(chunks ...Chunk) outcome {
		return outcome{Chunks: chunks, Ended: true, Done: true, KeepAlive: true}
	}
	tokens := func(n int) Chunk { return Chunk{Tokens: n, Content: n > 0} }
	last := func(n int) Chunk { return Chunk{Tokens: n, Last: true} }
	content := Chunk{Tokens: -1, Content: true}
	for _, test := range []struct {
		name, response string
		want           outcome
	}{
		{
			"as vLLM writes it",
			eventStreamHead + inChunks(roleEvent, tokenEvent("a", 1), tokenEvent("b", 2), finalEvent(2), doneEvent) + lastChunk,
			ok(tokens(0), tokens(1), tokens(2), last(2)),
		},
		{
			"several events in a chunk, one over two chunks, several tokens at once",
			eventStreamHead + inChunks(roleEvent+tokenEvent("a", 1)+tokenEvent("b", 4)[:50], tokenEvent("b", 4)[50:]+finalEvent(4)+doneEvent) + lastChunk,
			ok(tokens(0), tokens(1), tokens(4), last(4)),
		},
		{
			"the key inside the text",
			eventStreamHead + inChunks(tokenEvent(`"completion_tokens":9`, 1), `data: {"choices":[{"delta":{"content":"\"completion_tokens\":7}"}}]}`+"\n\n", doneEvent) + lastChunk,
			ok(tokens(1), content),
		},
		{
			"no usage: role, content, reasoning, tool call, empty, final with usage and details",
			eventStreamHead + inChunks(
				`data: {"choices":[{"delta":{"role":"assistant","content":""}}],"usage":null}`+"\n\n",
				`data: {"choices":[{"delta":{"content":"a"}}]}`+"\n\n",
				`data: {"choices":[{"delta":{"reasoning_content":"a"}}]}`+"\n\n",
				`data: {"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}`+"\n\n",
				`data: {"choices":[{"delta":{},"finish_reason":"stop"}]}`+"\n\n",
				`data: {"choices":[],"usage":{"completion_tokens": 3,"completion_tokens_details":{"reasoning_tokens":1}}}`+"\n\n",
				doneEvent) + lastChunk,
			ok(Chunk{Tokens: -1}, content, content, content, last(-1), last(3)),
		},
		{
			"comments, other fields, CRLF, no space, several data lines, extensions and trailers",
			eventStreamHead + "a;name=value\r\n: comment\n\r\n" + inChunks("event: message\r\nid: 1\r\nretry: 5\r\n",
				"data:{\"choices\":[],\r\n", "data: \"usage\":{\"completion_tokens\":3}}\r\n\r\n", "data: [DONE]\r\n\r\n") + "00\r\nTrailer: x\r\n\r\n",
			ok(last(3)),
		},
		{
			"interim responses",
			"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + eventStreamHead + inChunks(doneEvent) + lastChunk,
			ok(),
		},
		{
			"a body of known length",
			"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 14\r\n\r\n" + doneEvent,
			ok(),
		},
		{
			"a body that ends with the connection",
			"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + tokenEvent("a", 1) + doneEvent,
			outcome{Chunks: []Chunk{tokens(1)}, Done: true},
		},
		{
			"a connection that is not kept",
			"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + inChunks(doneEvent) + lastChunk,
			outcome{Ended: true, Done: true},
		},
		{
			"bytes behind the end",
			eventStreamHead + inChunks(doneEvent) + lastChunk + "HTTP/1.1 200 OK\r\n",
			outcome{Ended: true, Done: true},
		},
		{
			"cut after the last event", eventStreamHead + inChunks(doneEvent), outcome{Done: true},
		},
		{
			"an end without [DONE]",
			eventStreamHead + inChunks(tokenEvent("a", 1)) + lastChunk,
			outcome{Chunks: []Chunk{tokens(1)}, Ended: true, KeepAlive: true, Kind: "no_done", Err: "streaming completion failed (no_done): the response ended without data: [DONE]"},
		},
		{
			"an end in the middle of [DONE]",
			eventStreamHead + inChunks("data: [DONE]") + lastChunk,
			outcome{Ended: true, KeepAlive: true, Kind: "no_done", Err: "streaming completion failed (no_done): the response ended without data: [DONE]"},
		},
		{
			"cut in an event",
			eventStreamHead + inChunks(tokenEvent("a", 1)) + "100\r\n" + tokenEvent("b", 2)[:20],
			outcome{Chunks: []Chunk{tokens(1)}, Kind: "cut", Err: "streaming completion failed (cut): the server closed the connection in the middle of the response"},
		},
		{
			"cut in the head", "HTTP/1.1 200",
			outcome{Kind: "cut", Err: "streaming completion failed (cut): the server closed the connection before it answered"},
		},
		{
			"an error event",
			eventStreamHead + inChunks(tokenEvent("a", 1), `data: {"error":{"message":"out of memory","type":"InternalServerError","code":500}}`+"\n\n", doneEvent) + lastChunk,
			outcome{Chunks: []Chunk{tokens(1)}, Ended: true, Kind: "error_event", Err: "streaming completion failed (error_event): out of memory"},
		},
		{
			"an error event of older servers",
			eventStreamHead + inChunks(`data: {"object":"error","message":"too long","code":400}`+"\n\n"),
			outcome{Ended: true, Kind: "error_event", Err: "streaming completion failed (error_event): too long"},
		},
		{
			"an event that is no JSON",
			eventStreamHead + inChunks("data: {\"choi\n\n"),
			outcome{Ended: true, Kind: "malformed", Err: `streaming completion failed (malformed): event "{\"choi": unexpected end of JSON input`},
		},
		{
			"what the standard passes over: unknown fields, no fields, empty events",
			eventStreamHead + inChunks("trace: 5\n"+tokenEvent("a", 1), "data:\n\n", "data: \n\ndata\n\n", "\x00\xff\xfe garbage\n\n", "event: ping\n\n",
				"event: surprise\nbogus\n\n", tokenEvent("b", 2), doneEvent) + lastChunk,
			ok(tokens(1), tokens(2)),
		},
		{
			"a byte-order mark, CR alone, several data lines",
			eventStreamHead + inChunks("\ufeff"+strings.ReplaceAll(tokenEvent("a", 1), "\n", "\r"), "data: {\rdata: \"choices\":[],\rdata: \"usage\":{\"completion_tokens\":3}}\r\r",
				"data: [DONE]\r\r") + lastChunk,
			ok(tokens(1), last(3)),
		},
		{
			"an event without an empty line behind it",
			eventStreamHead + inChunks(tokenEvent("a", 1), "data: [DONE]\n") + lastChunk,
			outcome{Chunks: []Chunk{tokens(1)}, Ended: true, KeepAlive: true, Kind: "no_done", Err: "streaming completion failed (no_done): the response ended without data: [DONE]"},
		},
		{
			"events of other types",
			eventStreamHead + inChunks("event: ping\ndata: 2026-11-25\n\n", "event: heartbeat\ndata: {}\n\n", "event: completion.chunk\n"+tokenEvent("a", 1),
				"event: message\n"+tokenEvent("b", 2), "event: done\n"+doneEvent) + lastChunk,
			ok(Chunk{Tokens: -1}, tokens(1), tokens(2)),
		},
		{
			"data that is no JSON",
			eventStreamHead + inChunks("data: ping\n\n"),
			outcome{Ended: true, Kind: "malformed", Err: `streaming completion failed (malformed): event "ping": invalid character 'p' looking for beginning of value`},
		},
		{
			"data that is no object",
			eventStreamHead + inChunks("data: [1]\n\n"),
			outcome{Ended: true, Kind: "malformed", Err: `streaming completion failed (malformed): event "[1]", want a JSON object`},
		},
		{
			"choices that are none",
			eventStreamHead + inChunks(`data: {"choices":"none"}`+"\n\n"),
			outcome{Ended: true, Kind: "malformed", Err: `streaming completion failed (malformed): event "{\"choices\":\"none\"}", its choices must be a list`},
		},
		{
			"events that are nothing",
			eventStreamHead + inChunks("data: null\n\n", "data:  \t\n\n", "data: \"\"\n\n", "data: [ ]\n\n", doneEvent) + lastChunk,
			ok(Chunk{Tokens: -1}, Chunk{Tokens: -1}, Chunk{Tokens: -1}),
		},
		{
			"an absurd number of tokens",
			eventStreamHead + inChunks(tokenEvent("a", 10_000_000), doneEvent) + lastChunk,
			ok(Chunk{Tokens: -1, Content: true, OddUsage: "10000000"}),
		},
		{
			"an answer that is given up, with its last token",
			eventStreamHead + inChunks(tokenEvent("a", 1), strings.Replace(tokenEvent("b", 2), `"finish_reason":null`, `"finish_reason":"abort"`, 1), finalEvent(2), doneEvent) + lastChunk,
			outcome{
				Chunks: []Chunk{tokens(1), {Tokens: 2, Content: true, Last: true}}, Ended: true, Kind: "aborted",
				Err: `streaming completion failed (aborted): the server ended the answer with the finish reason "abort"`,
			},
		},
		{
			"an error beside the usage",
			eventStreamHead + inChunks(tokenEvent("a", 1), strings.Replace(tokenEvent("b", 2), `"usage"`, `"error":{"message":"lost"},"usage"`, 1), doneEvent) + lastChunk,
			outcome{Chunks: []Chunk{tokens(1), tokens(2)}, Ended: true, Kind: "error_event", Err: "streaming completion failed (error_event): lost"},
		},
		{
			"an event of the type error",
			eventStreamHead + inChunks(tokenEvent("a", 1), "event: error\ndata: gone\n\n", doneEvent) + lastChunk,
			outcome{Chunks: []Chunk{tokens(1)}, Ended: true, Kind: "error_event", Err: "streaming completion failed (error_event): gone"},
		},
		{
			"an error field, without an event",
			eventStreamHead + inChunks(tokenEvent("a", 1), `error: {"code":500,"message":"no memory","type":"server_error"}`+"\n\n", doneEvent) + lastChunk,
			outcome{Chunks: []Chunk{tokens(1)}, Ended: true, Kind: "error_event", Err: "streaming completion failed (error_event): no memory"},
		},
		{
			"an error field in words, in an event",
			eventStreamHead + inChunks(`data: {"choices":[]}`+"\nerror: no memory\n\n", doneEvent) + lastChunk,
			outcome{Ended: true, Kind: "error_event", Err: "streaming completion failed (error_event): no memory"},
		},
		{
			"error fields that say that there is none, or come too late",
			eventStreamHead + inChunks("error: null\nerror: false\nerror: {}\nerror:\nerror\n"+tokenEvent("a", 1), doneEvent+"error: x\n\n") + lastChunk,
			ok(tokens(1)),
		},
		{
			"a finish reason that nobody knows",
			eventStreamHead + inChunks(tokenEvent("a", 1), strings.Replace(tokenEvent("b", 2), `"finish_reason":null`, `"finish_reason":"preempted"`, 1), doneEvent) + lastChunk,
			outcome{
				Chunks: []Chunk{tokens(1), {Tokens: 2, Content: true, Last: true}}, Ended: true, Kind: "aborted",
				Err: `streaming completion failed (aborted): the server ended the answer with the finish reason "preempted"`,
			},
		},
		{
			"a line that is too long",
			eventStreamHead + inChunks("data: "+long+"\n\n"),
			outcome{Ended: true, Kind: "malformed", Err: "streaming completion failed (malformed): an event is longer than 4096 bytes"},
		},
		{
			"a line without an end",
			eventStreamHead + inChunks(long, long, long),
			outcome{Ended: true, Kind: "malformed", Err: "streaming completion failed (malformed): an event is longer than 4096 bytes"},
		},
		{
			"an event of many lines",
			eventStreamHead + inChunks("data: "+long[:3000]+"\n", "data: "+long[:3000]+"\n"),
			outcome{Ended: true, Kind: "malformed", Err: "streaming completion failed (malformed): an event is longer than 4096 bytes"},
		},
		{
			"refused, with a reason",
			"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 18\r\n\r\n{\"message\":\"no m\"}",
			outcome{Ended: true, KeepAlive: true, Kind: "status_4xx", Err: `streaming completion failed (status_4xx): status 404 Not Found: {"message":"no m"}`},
		},
		{
			"refused, without a body",
			"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
			outcome{Ended: true, KeepAlive: true, Kind: "status_5xx", Err: `streaming completion failed (status_5xx): status 503 Service Unavailable: `},
		},
		{
			"refused, cut off",
			"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 100\r\n\r\nouch",
			outcome{Kind: "status_5xx", Err: `streaming completion failed (status_5xx): status 500 Internal Server Error: ouch`},
		},
		{
			"refused at length",
			"HTTP/1.1 500 Oh\r\n\r\n" + strings.Repeat("y", maxRefusalBytes+1),
			outcome{Ended: true, Kind: "status_5xx", Err: `streaming completion failed (status_5xx): status 500 Oh: ` + strings.Repeat("y", maxExcerpt) + "…"},
		},
		{
			"elsewhere",
			"HTTP/1.1 307 Temporary Redirect\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n",
			outcome{Ended: true, KeepAlive: true, Kind: "malformed", Err: `streaming completion failed (malformed): status 307 Temporary Redirect, want 200 OK: `},
		},
		{
			"not a stream",
			"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
			outcome{Ended: true, KeepAlive: true, Kind: "malformed", Err: `streaming completion failed (malformed): content type "application/json", want text/event-stream: {}`},
		},
		{
			"compressed",
			"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
			outcome{Ended: true, KeepAlive: true, Kind: "malformed", Err: `streaming completion failed (malformed): content encoding "gzip" was not asked for: {}`},
		},
		{
			"not HTTP",
			"SSH-2.0-OpenSSH_9.6\r\n\r\n",
			outcome{Ended: true, Kind: "malformed", Err: `streaming completion failed (malformed): response head "SSH-2.0-OpenSSH_9.6": malformed HTTP response "SSH-2.0-OpenSSH_9.6"`},
		},
		{
			"a head without an end",
			"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("z", maxHeadBytes),
			outcome{Ended: true, Kind: "malformed", Err: "streaming completion failed (malformed): the response head is longer than 65536 bytes"},
		},
		{
			"a chunk without a size",
			eventStreamHead + "data: ",
			outcome{Ended: true, Kind: "malformed", Err: `streaming completion failed (malformed): the size of a chunk is not a hexadecimal number: found 't'`},
		},
		{
			"a chunk of absurd size",
			eventStreamHead + "ffffffffffffffff\r\n",
			outcome{Ended: true, Kind: "malformed", Err: `streaming completion failed (malformed): the size of a chunk has more than 15 digits`},
		},
		{
			"a chunk longer than its size",
			eventStreamHead + "3\r\n: abc\r\n",
			outcome{Ended: true, Kind: "malformed", Err: `streaming completion failed (malformed): a chunk is longer than its size: 'b' follows it, want CR`},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, split := range []struct {
				name string
				next func(int) int
			}{
				{"in one piece", whole},
				{"byte by byte", func(int) int { return 1 }},
				{"in sevens", func(int) int { return 7 }},
			} {
				got := decode([]byte(test.response), split.next)
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("%s (-want +got):\n%s", split.name, diff)
				}
			}
		})
	}
}

func TestDecoderServesManyResponses(t *testing.T) {
	var d responseDecoder
	response := []byte(eventStreamHead + inChunks(tokenEvent("a", 1), doneEvent) + lastChunk)
	for range 3 {
		d.reset(testMaxEvent)
		ended, err := d.feed(response)
		if want := len(tokenEvent("a", 1)) - len("data: \n\n"); !ended || err != nil || !d.keepAlive || len(d.chunks) != 1 || d.chunks[0].Bytes != want {
			t.Fatalf("ended %v, error %v, keep-alive %v, %d chunks", ended, err, d.keepAlive, len(d.chunks))
		}
	}
}

func FuzzResponseDecoder(f *testing.F) {
	for _, body := range []string{
		inChunks(roleEvent, tokenEvent("a", 1), tokenEvent("b", 3), finalEvent(3), doneEvent) + lastChunk,
		inChunks(": comment\r\ndata: {\r\ndata: }\r\n\r\n", "data: [DONE]\n\n") + "0\r\nA: b\r\n\r\nmore",
		inChunks(`data: {"error":{"message":"x"}}`+"\n\n", "data\n\n"),
		"5;x=y\r\ndata:\r\n100000\r\n" + strings.Repeat("d", 5000),
	} {
		f.Add([]byte(eventStreamHead+body), uint64(1))
	}
	f.Add([]byte("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 500 X\r\nContent-Length: 3\r\n\r\nabcd"), uint64(2))
	f.Add([]byte("HTTP/1.0 200 OK\n\n"+doneEvent), uint64(3))
	f.Fuzz(func(t *testing.T, response []byte, seed uint64) {
		random := rand.New(rand.NewPCG(seed, 0))
		want := decode(response, whole)
		got := decode(response, func(int) int { return 1 + random.IntN(1+int(seed%64)) })
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("in pieces (-whole +pieces):\n%s", diff)
		}
	})
}

func FuzzChunkedDecoder(f *testing.F) {
	f.Add([]byte("some payload"), []byte("rest"), uint64(1))
	f.Add([]byte(""), []byte("\r\n0\r\n\r\n"), uint64(5))
	f.Fuzz(func(t *testing.T, payload, behind []byte, seed uint64) {
		random := rand.New(rand.NewPCG(seed, 0))
		var coded []byte
		for rest := payload; len(rest) > 0; {
			n := 1 + random.IntN(len(rest))
			coded = fmt.Appendf(coded, "%X\r\n%s\r\n", n, rest[:n])
			rest = rest[n:]
		}
		coded = append(coded, "0\r\n\r\n"...)
		end := len(coded)
		coded = append(coded, behind...)
		var c chunkedDecoder
		var got []byte
		used := 0
		for used < len(coded) && c.state != chunkedEnd {
			piece := coded[used:min(used+1+random.IntN(20), len(coded))]
			for len(piece) > 0 && c.state != chunkedEnd {
				p, n, err := c.next(piece)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, p...)
				piece, used = piece[n:], used+n
			}
		}
		if !bytes.Equal(got, payload) || used != end {
			t.Errorf("payload %q after %d bytes, want %q after %d", got, used, payload, end)
		}
	})
}
