package loadgen

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/completion"
	"github.com/g2g-agent/g2g-agent/internal/logtest"
	"github.com/g2g-agent/g2g-agent/sim"
)

// TestAnswersGivenUpAreFailures: an engine that aborts each request must not look
// as if it worked, be asked again without a pause, or go without a word.
func TestAnswersGivenUpAreFailures(t *testing.T) {
	t.Parallel()
	chunk := func(content, finish string, tokens int) string {
		return fmt.Sprintf(`data: {"id":"c","choices":[{"index":0,"delta":{"content":%q},"logprobs":null,"finish_reason":%s}],`+
			`"usage":{"prompt_tokens":9,"total_tokens":%d,"completion_tokens":%d}}`+"\n\n", content, finish, 9+tokens, tokens)
	}
	for name, test := range map[string]struct {
		answer, kind, said string
	}{
		"after a token":     {chunk("x", "null", 1) + chunk("", `"abort"`, 1), "aborted", `"abort"`},
		"after many tokens": {manyChunks(chunk, 50) + chunk(" x", `"ABORT"`, 51), "aborted", `"ABORT"`},
		"with an object":    {chunk("x", "null", 1) + chunk("", `{"type":"abort","message":"out of memory"}`, 1), "aborted", "out of memory"},
		"with an error":     {chunk("x", "null", 1) + "event: error\ndata: {\"message\":\"out of memory\"}\n\n", "error_event", "out of memory"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				_, _ = io.WriteString(w, test.answer+`data: {"choices":[],"usage":{"completion_tokens":1}}`+"\n\ndata: [DONE]\n\n")
			}))
			t.Cleanup(server.Close)
			var log logtest.Buffer
			g := startLoad(t, Config{BaseURL: server.URL, Concurrency: 2, Log: zerolog.New(&log)})
			eventually(t, 10*time.Second, "failures", func() bool {
				s := g.Stats()
				return s.Failed() >= 8
			})
			early := g.Stats()
			start, before := time.Now(), early.Failed()
			wait(t, time.Second)
			s := g.Stats()
			if tries, most := s.Failed()-before, uint64(2*(time.Since(start).Seconds()*2+1)); tries > most {
				t.Errorf("%d requests of 2 workers in 1 s, want at most %d", tries, most)
			}
			if s.Completed != 0 {
				t.Errorf("%d requests count as completed", s.Completed)
			}
			lines := log.Lines(t)
			if len(lines) != 1 || lines[0]["kind"] != test.kind || !strings.Contains(fmt.Sprint(lines[0]["error"]), test.said) {
				t.Errorf("the log is %v, want one line with the kind %s and %s", lines, test.kind, test.said)
			}
		})
	}
}

func manyChunks(chunk func(content, finish string, tokens int) string, n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(chunk(" x", "null", i+1))
	}
	return b.String()
}

// TestErrorEventsFailInEveryShape: none of those that the simulator knows counts as
// anything else.
func TestErrorEventsFailInEveryShape(t *testing.T) {
	t.Parallel()
	server := startServer(t, sim.VLLMConfig{Profile: steady(2 * ms), OutputTokens: 10})
	server.SetFaults(sim.VLLMFaults{ErrorEvents: 18})
	g := startLoad(t, Config{BaseURL: server.URL(), Concurrency: 3, MaxOutputTokens: 10})
	eventually(t, 20*time.Second, "all shapes, twice, and health", func() bool { return server.Faults().ErrorEvents == 0 && g.Stats().Completed > 10 })
	s := g.Stats()
	if failed := s.FailedByKind[completion.KindErrorEvent]; failed != 18 || s.Failed() != 18 {
		t.Errorf("failures by kind %v, want 18 error events", s.FailedByKind)
	}
}
