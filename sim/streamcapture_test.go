package sim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// answerShape is an answer without what differs from one to the next.
type answerShape struct {
	Status  string
	Headers []string // in their order: names, and the values of those that say what comes
	Frames  []string // what is in each chunk, with JSON as outline has it
}

func shapeOfAnswer(t *testing.T, raw string) answerShape {
	t.Helper()
	head, body, found := strings.Cut(raw, "\r\n\r\n")
	if !found {
		t.Fatalf("no head in %q", raw)
	}
	lines := strings.Split(head, "\r\n")
	shape := answerShape{Status: lines[0]}
	for _, line := range lines[1:] {
		name, _, _ := strings.Cut(line, ": ")
		if name != "date" {
			name = line
		}
		shape.Headers = append(shape.Headers, name)
	}
	for body != "" {
		size, rest, _ := strings.Cut(body, "\r\n")
		n, err := strconv.ParseInt(size, 16, 32)
		if err != nil || int(n)+2 > len(rest) || rest[n:n+2] != "\r\n" {
			t.Fatalf("no chunk: %q", body)
		}
		shape.Frames = append(shape.Frames, outlineEvent(t, rest[:n]))
		body = rest[n+2:]
	}
	return shape
}

// outlineEvent is an event with its JSON in outline.
func outlineEvent(t *testing.T, event string) string {
	t.Helper()
	data, isData := strings.CutPrefix(event, "data: ")
	if !isData || !strings.HasPrefix(data, "{") {
		return event
	}
	data, end, _ := strings.Cut(data, "\n")
	return "data: " + outline(t, data) + "\n" + end
}

// outline is JSON with its members in their order and the kind of most values.
func outline(t *testing.T, text string) string {
	t.Helper()
	var b strings.Builder
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	var value func(key string)
	value = func(key string) {
		token, err := decoder.Token()
		if err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		switch v := token.(type) {
		case json.Delim:
			b.WriteString(v.String())
			for i := 0; decoder.More(); i++ {
				if i > 0 {
					b.WriteString(",")
				}
				name := ""
				if v == '{' {
					if token, err = decoder.Token(); err != nil {
						t.Fatalf("%v in %s", err, text)
					}
					name, _ = token.(string)
					b.WriteString(strconv.Quote(name) + ":")
				}
				value(name)
			}
			if token, err = decoder.Token(); err != nil {
				t.Fatalf("%v in %s", err, text)
			}
			fmt.Fprint(&b, token)
		case string:
			if key == "object" || key == "role" || key == "finish_reason" || key == "type" || key == "param" {
				b.WriteString(strconv.Quote(v))
				return
			}
			b.WriteString("TEXT")
		case json.Number:
			b.WriteString("NUMBER")
		default:
			fmt.Fprint(&b, v) // null as <nil>, true
		}
	}
	value("")
	return b.String()
}

func readCapture(t *testing.T, name string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "testdata", "captures", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// rawStream asks for a stream and returns what comes, byte by byte.
func rawStream(t *testing.T, v *VLLM, tokens int) string {
	t.Helper()
	c := dial(t, "tcp", v.Addr())
	c.send(t, post("/v1/chat/completions", chatBody(tokens)))
	var raw bytes.Buffer
	for !strings.HasSuffix(raw.String(), "\r\n"+lastChunk) {
		b, err := c.r.ReadByte()
		if err != nil {
			t.Fatalf("%v after %q", err, raw.String())
		}
		raw.WriteByte(b)
	}
	return raw.String()
}

// A stream is, but for its words, ids and times, what vLLM 0.32.0 sends.
func TestStreamsAreThoseOfRealServers(t *testing.T) {
	v := startVLLM(t, VLLMConfig{})
	want := shapeOfAnswer(t, readCapture(t, "vllm-0.32.0-stream.http"))
	if diff := cmp.Diff(want, shapeOfAnswer(t, rawStream(t, v, 6))); diff != "" {
		t.Errorf("a token a chunk (-captured +simulated):\n%s", diff)
	}
	weights := make([]float64, 5)
	weights[4] = 1
	several := startVLLM(t, VLLMConfig{TokensPerChunk: weights})
	want = shapeOfAnswer(t, readCapture(t, "vllm-0.32.0-stream-interval5.http"))
	// The first chunk of the real one has one token, so that 13 take a chunk more.
	if diff := cmp.Diff(want, shapeOfAnswer(t, rawStream(t, several, 18))); diff != "" {
		t.Errorf("five tokens a chunk (-captured +simulated):\n%s", diff)
	}

	v.SetFaults(VLLMFaults{ErrorEvents: 1})
	killed := readCapture(t, "vllm-0.32.0-stream-engine-killed.http")
	_, end, found := strings.Cut(killed, "\r\na9\r\n")
	if !found {
		t.Fatal("the capture has no error event")
	}
	got := rawStream(t, v, 6)
	if head, body, _ := strings.Cut(got, "\r\n\r\n"); body != "a9\r\n"+end || !strings.HasPrefix(head, "HTTP/1.1 200 OK\r\n") {
		t.Errorf("an error event is %q, captured %q", body, end)
	}

	v.SetFaults(VLLMFaults{Aborts: 1})
	frames := shapeOfAnswer(t, rawStream(t, v, 6)).Frames
	complete := shapeOfAnswer(t, readCapture(t, "vllm-0.32.0-stream.http")).Frames
	aborted := slices.Concat(complete[:2], []string{strings.Replace(complete[6], `"length"`, `"abort"`, 1)}, complete[7:])
	if diff := cmp.Diff(aborted, frames); diff != "" {
		t.Errorf("given up after a token (-want +simulated):\n%s", diff)
	}
}

func TestRefusalsAreThoseOfRealServers(t *testing.T) {
	v := startVLLM(t, VLLMConfig{ModelID: "tiny"})
	c := client(t, "tcp", v.Addr())
	for capture, body := range map[string]string{
		"vllm-0.32.0-404-model.http":    `{"model":"other","messages":[{}],"max_completion_tokens":4}`,
		"vllm-0.32.0-400-too-long.http": `{"model":"tiny","messages":[{}],"max_completion_tokens":99999999}`,
	} {
		head, want, _ := strings.Cut(readCapture(t, capture), "\r\n\r\n")
		status, header, got := do(t, c, "POST", "/v1/chat/completions", body)
		if line := fmt.Sprintf("HTTP/1.1 %d %s\r\n", status, http.StatusText(status)); !strings.HasPrefix(head, line) || header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: the simulator answers with %s %v, captured %s", capture, line, header, head)
		}
		if diff := cmp.Diff(outline(t, want), outline(t, got)); diff != "" {
			t.Errorf("%s (-captured +simulated):\n%s", capture, diff)
		}
		if status == http.StatusNotFound && got != want {
			t.Errorf("%s: the simulator says %s, captured %s", capture, got, want)
		}
	}
}

// Every shape of error events fails at once, and they take turns.
func TestErrorEventsTakeTurns(t *testing.T) {
	v := startVLLM(t, VLLMConfig{})
	seen := map[string]bool{}
	v.SetFaults(VLLMFaults{ErrorEvents: 9})
	for i := range 9 {
		_, body, _ := strings.Cut(rawStream(t, v, 3), "\r\n\r\n")
		if !strings.Contains(body, "EngineCore encountered an issue") || strings.Contains(body, "[DONE]") != (i%2 == 0) {
			t.Errorf("error event %d: %q", i, body)
		}
		seen[body] = true
	}
	if len(seen) != 9 {
		t.Errorf("%d shapes, want 9", len(seen))
	}
	if body := rawStream(t, v, 3); !strings.Contains(body, `"finish_reason":"length"`) {
		t.Errorf("not healthy again: %q", body)
	}
	eventually(t, "outcomes are counted", func() bool { now := v.Truth(); return now.Failed == 9 && now.Finished == 1 })
}

func TestUsageIsMissingInPart(t *testing.T) {
	v := startVLLM(t, VLLMConfig{Profile: steady(20 * time.Microsecond), Seed: 5})
	missing := func(part float64) (missing []int) {
		v.SetFaults(VLLMFaults{MissingUsage: part})
		_, e := ask(t, v, 1000)
		chunks, payloads, err := e.all(t)
		if !errors.Is(err, io.EOF) || len(chunks) != 1002 || chunks[0].Usage == nil || chunks[1001].Usage == nil {
			t.Fatalf("%v, %d chunks, %q", err, len(chunks), payloads[len(payloads)-1])
		}
		for i, c := range chunks[1:1001] {
			switch {
			case c.Usage == nil:
				missing = append(missing, i)
			case c.Usage.Completion != i+1:
				t.Errorf("chunk %d says %d tokens", i, c.Usage.Completion)
			}
		}
		return missing
	}
	if n := len(missing(0)); n != 0 {
		t.Errorf("%d of 1000 chunks have no usage", n)
	}
	if n := len(missing(1)); n != 1000 {
		t.Errorf("%d of 1000 chunks have no usage, want all", n)
	}
	half := missing(0.5)
	if n := len(half); n < 400 || n > 600 {
		t.Errorf("%d of 1000 chunks have no usage, want about half", n)
	}
	eventually(t, "all are counted", func() bool { return v.Truth().Finished == 3 })
	if truth := v.Truth(); truth.ITL.Tokens != 3*999 {
		t.Errorf("the truth has %d latencies, want all", truth.ITL.Tokens)
	}
}
