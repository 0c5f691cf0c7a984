package completion

import (
	"strings"
	"testing"
)

func TestDecodingDoesNotAllocate(t *testing.T) {
	d, event := benchDecoder(t)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := d.feed(event); err != nil || len(d.chunks) != 1 {
			t.Error("not decoded")
		}
	}); n != 0 {
		t.Errorf("%v allocations per event, want 0", n)
	}
}

func benchDecoder(t testing.TB) (*responseDecoder, []byte) {
	d := &responseDecoder{}
	d.reset(testMaxEvent)
	if _, err := d.feed([]byte(eventStreamHead)); err != nil {
		t.Fatal(err)
	}
	return d, []byte(inChunks(tokenEvent(" word", 42)))
}

func BenchmarkDecodeEvent(b *testing.B) {
	d, event := benchDecoder(b)
	b.ReportAllocs()
	b.SetBytes(int64(len(event)))
	for b.Loop() {
		if _, err := d.feed(event); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeSplitEvent(b *testing.B) {
	d, event := benchDecoder(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.feed(event[:100]); err != nil {
			b.Fatal(err)
		}
		if _, err := d.feed(event[100:]); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDecodeEvents is for events of several kinds. Those that change more
// than their text and numbers are read in full.
func BenchmarkDecodeEvents(b *testing.B) {
	const head = `data: {"id":"chatcmpl-9b0499baf6994dcf","object":"chat.completion.chunk","created":1795564952,"model":"tiny","choices":[{"index":0,"delta":{`
	const usage = `}],"usage":{"prompt_tokens":20,"total_tokens":21,"completion_tokens":1,"completion_tokens_details":null}}` + "\n\n"
	for _, kind := range []struct {
		name   string
		events []string
	}{
		{"vLLM 0.32", []string{head + `"content":" word"},"logprobs":null,"finish_reason":null,"token_ids":null` + usage}},
		{"blanks", []string{strings.ReplaceAll(head+`"content":"_word"},"logprobs":null,"finish_reason":null,"token_ids":null`, ":", ": ") + strings.ReplaceAll(usage, ":", ": ")}},
		{"read in full", []string{
			head + `"content":" word"},"logprobs":null,"finish_reason":null,"token_ids":[1]` + usage,
			head + `"content":" word"},"logprobs":null,"finish_reason":null,"token_ids":[2]` + usage,
		}},
	} {
		b.Run(kind.name, func(b *testing.B) {
			d, _ := benchDecoder(b)
			events := make([][]byte, len(kind.events))
			for i, event := range kind.events {
				events[i] = []byte(inChunks(event))
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, err := d.feed(events[i%len(events)]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDecodeEventWithoutUsage(b *testing.B) {
	d, _ := benchDecoder(b)
	event := []byte(inChunks(`data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}]}` + "\n\n"))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.feed(event); err != nil {
			b.Fatal(err)
		}
	}
}
