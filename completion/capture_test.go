package completion

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// capturedStream is a stream of a real server, and what it means.
type capturedStream struct {
	name   string
	chunks []Chunk
	kind   string // of the failure, if it is one
	detail string // what its message has
	keeps  bool   // the connection serves the next request
}

func capturedStreams() []capturedStream {
	said := func(tokens ...int) (chunks []Chunk) {
		for _, n := range tokens {
			chunks = append(chunks, Chunk{Tokens: n, Content: n > 0})
		}
		// The finish reason is in the last chunk with output.
		return append(chunks, Chunk{Tokens: tokens[len(tokens)-1] + 1, Content: true, Last: true}, Chunk{Tokens: tokens[len(tokens)-1] + 1, Last: true})
	}
	six := said(0, 1, 2, 3, 4, 5)
	// Of a token that ends within a letter, the text comes with a later one.
	held := func(tokens ...int) []Chunk {
		chunks := slices.Clone(six)
		for _, n := range tokens {
			chunks[n].Content = false
		}
		return chunks
	}
	content := Chunk{Tokens: -1, Content: true}
	fives := []Chunk{{Tokens: 0}, {Tokens: 1, Content: true}, {Tokens: 6, Content: true}, {Tokens: 11, Content: true}, {Tokens: 13, Content: true, Last: true}, {Tokens: 13, Last: true}}
	return []capturedStream{
		{name: "vllm-0.32.0-stream", chunks: six, keeps: true},
		{name: "vllm-0.32.0-stream-interval5", chunks: fives, keeps: true},
		{name: "vllm-0.32.0-stream-engine-killed", chunks: []Chunk{{Tokens: 140, Content: true}}, kind: "error_event", detail: "EngineCore encountered an issue. See stack trace (above) for the root cause."},
		{name: "vllm-0.32.0-stream-sigterm-tail", chunks: []Chunk{{Tokens: 360, Content: true}}, kind: "cut", detail: "in the middle of the response"},
		{name: "vllm-0.32.0-400-too-long", kind: "status_4xx", detail: "max_completion_tokens=4000 cannot be greater than max_model_len=2048", keeps: true},
		{name: "vllm-0.32.0-404-model", kind: "status_4xx", detail: "The model `other` does not exist", keeps: true},
		{name: "llm-d-sim-stream", keeps: true, chunks: []Chunk{
			{Tokens: -1}, content, content, content, content, content, {Tokens: -1, Last: true}, {Tokens: 5, Last: true},
		}},
		{name: "nginx-21200-stream", chunks: six, keeps: true},
		{name: "nginx-21201-stream", chunks: six, keeps: true},
		{name: "nginx-21202-stream", chunks: held(5), keeps: true},
		{name: "nginx-21204-stream", chunks: held(1, 2), keeps: true},
		{name: "nginx-21206-stream", chunks: six, keeps: true},
	}
}

// bytes of the capture. Of a stream of which only the tail was kept, what is left
// of its first chunk is taken out.
func (c *capturedStream) bytes(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "testdata", "captures", c.name+".http"))
	if err != nil {
		t.Fatal(err)
	}
	head, body, found := strings.Cut(string(raw), "\r\n\r\n")
	if !found {
		t.Fatalf("%s has no head", c.name)
	}
	if strings.Contains(head, "chunked") && !strings.HasPrefix(body[strings.IndexByte(body, '\n')+1:], "data: ") {
		_, body, _ = strings.Cut(body, "\n\n\r\n")
	}
	return head + "\r\n\r\n" + body
}

// parts of the capture as they came, and when, after the request.
func (c *capturedStream) parts(t *testing.T) (parts []string, after []time.Duration) {
	t.Helper()
	file, err := os.Open(filepath.Join("..", "testdata", "captures", c.name+".http.times"))
	if errors.Is(err, os.ErrNotExist) {
		return []string{c.bytes(t)}, []time.Duration{0}
	}
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	rest := c.bytes(t)
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var afterMS float64
		var n int
		if _, err := fmt.Sscan(lines.Text(), &afterMS, &n); err != nil || n > len(rest) {
			t.Fatalf("%s: %q: %v", c.name, lines.Text(), err)
		}
		parts, rest = append(parts, rest[:n]), rest[n:]
		after = append(after, time.Duration(afterMS*float64(time.Millisecond)))
	}
	if rest != "" {
		t.Fatalf("%s: nobody knows when the last %d bytes came", c.name, len(rest))
	}
	return parts, after
}

// check compares what was made of the capture with what it means.
func (c *capturedStream) check(t *testing.T, how string, chunks []Chunk, err error) {
	t.Helper()
	kind := ""
	if err != nil {
		kind, _, _ = strings.Cut(failureText(err), ":")
	}
	if diff := cmp.Diff(c.chunks, withoutBytes(chunks)); diff != "" {
		t.Errorf("%s, %s: chunks (-want +got):\n%s", c.name, how, diff)
	}
	if kind != c.kind || err != nil && !strings.Contains(err.Error(), c.detail) {
		t.Errorf("%s, %s: %v, want %s with %q", c.name, how, err, c.kind, c.detail)
	}
}

// Real streams are read from a socket as what they are, in whatever pieces and at
// whatever times their bytes come.
func TestCapturedStreams(t *testing.T) {
	for _, c := range capturedStreams() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			raw := c.bytes(t)
			timed, after := c.parts(t)
			ends := func(goOn bool) bool { return goOn && c.kind != "cut" }
			for how, answer := range map[string]exchange{
				"whole": func(conn net.Conn, r *http.Request, body string) bool { return ends(says(raw)(conn, r, body)) },
				"byte by byte": func(conn net.Conn, r *http.Request, body string) bool {
					return ends(says(strings.Split(raw, "")...)(conn, r, body))
				},
				"as it came": func(conn net.Conn, _ *http.Request, _ string) bool {
					began := time.Now()
					for i, part := range timed {
						wait(t, after[i]-time.Since(began))
						if _, err := io.WriteString(conn, part); err != nil {
							return false
						}
					}
					return ends(true)
				},
			} {
				s := newTestStream(t, Config{BaseURL: serveRaw(t, always(answer))})
				for range 2 {
					var chunks []Chunk
					last := time.Duration(0)
					err := s.Complete(t.Context(), []byte(`{}`), func(r *Read) {
						chunks = append(chunks, r.Chunks...)
						if r.At < last {
							t.Errorf("%s, %s: a read at %v after one at %v", c.name, how, r.At, last)
						}
						last = r.At
					})
					c.check(t, how, chunks, err)
				}
				if want := map[bool]int{true: 1, false: 2}[c.keeps]; s.Connects() != want {
					t.Errorf("%s, %s: %d connections for two requests, want %d", c.name, how, s.Connects(), want)
				}
			}
		})
	}
}

// Wherever a captured stream is cut in two, it says the same.
func TestCapturedStreamsCutAnywhere(t *testing.T) {
	for _, c := range capturedStreams() {
		raw := []byte(c.bytes(t))
		want := decode(raw, whole)
		if diff := cmp.Diff(c.chunks, want.Chunks); diff != "" {
			t.Errorf("%s: chunks (-want +got):\n%s", c.name, diff)
		}
		for at := 1; at < len(raw); at++ {
			cuts := []int{at, len(raw)}
			got := decode(raw, func(int) int {
				n := cuts[0]
				cuts = cuts[1:]
				return n
			})
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("%s cut at byte %d (-whole +cut):\n%s", c.name, at, diff)
			}
		}
	}
}
