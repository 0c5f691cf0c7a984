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

	"github.com/g2g-agent/g2g-agent/sim"
)

func TestBundlesAreLoggedOnce(t *testing.T) {
	var log lockedBuffer
	b := bundling{log: zerolog.New(&log)}
	now := time.Unix(1_700_000_000, 0)
	for tenth := range 1200 {
		w := ITLWindow{Reads: 1000, MultiEventShare: 0.002}
		switch {
		case tenth < 100: // few reads say nothing
			w = ITLWindow{Reads: bundlingReads - 1, MultiEventShare: 1}
		case tenth < 200:
			w.MultiEventShare = 0.09
		case tenth >= 300 && tenth < 400, tenth == 430: // and back within the quiet time
			w.MultiEventShare = 0.3
		case tenth >= 400 && tenth < 410:
			w.MultiEventShare = 0.07
		case tenth >= 1000:
			w.MultiEventShare = 0.9
		}
		b.look(now.Add(time.Duration(tenth)*100*ms), &w)
	}
	var got []string
	for _, line := range log.lines(t) {
		got = append(got, fmt.Sprint(line["level"], " ", line["multi_event_share"]))
		if message := fmt.Sprint(line["message"]); line["level"] == "warn" && (!strings.Contains(message, "percentiles") || !strings.Contains(message, "proxy")) {
			t.Errorf("the warning does not say what it means: %q", message)
		}
	}
	if text := strings.Join(got, "; "); text != "warn 0.3; info 0.002; warn 0.9" {
		t.Errorf("log is %s", text)
	}
}

// A server that answers and makes no token can be told from one that is not
// wanted to.
func TestTimeWithoutTokensIsKnown(t *testing.T) {
	t.Parallel()
	server := startServer(t, sim.VLLMConfig{Profile: steady(2 * ms), OutputTokens: 20})
	idle, err := New(Config{BaseURL: server.URL(), ModelID: model})
	if err != nil {
		t.Fatal(err)
	}
	if !idle.LastTokenAt().IsZero() || idle.WithoutTokens(time.Now()) != 0 {
		t.Errorf("before it runs: last token at %v, without tokens for %v", idle.LastTokenAt(), idle.WithoutTokens(time.Now()))
	}
	server.SetFaults(sim.VLLMFaults{FreezeStreams: true})
	began := time.Now()
	g := startLoad(t, Config{BaseURL: server.URL(), Concurrency: 4, MaxOutputTokens: 20})
	without := func() time.Duration { return g.WithoutTokens(time.Now()) }
	eventually(t, 10*time.Second, "no first token", func() bool { return without() > 300*ms })
	if d := without(); d > time.Since(began) || !g.LastTokenAt().IsZero() {
		t.Errorf("without tokens for %v, which is longer than it runs; last token at %v", d, g.LastTokenAt())
	}
	server.SetFaults(sim.VLLMFaults{})
	eventually(t, 10*time.Second, "tokens", func() bool { return without() < 50*ms && time.Since(g.LastTokenAt()) < 50*ms })
	server.SetFaults(sim.VLLMFaults{FreezeStreams: true})
	eventually(t, 10*time.Second, "no more tokens", func() bool { return without() > 300*ms })
	if last := time.Since(g.LastTokenAt()); without() < last-ms {
		t.Errorf("without tokens for %v, the last one came %v ago", without(), last)
	}
	server.SetFaults(sim.VLLMFaults{})
	g.SetConcurrency(0)
	if d := without(); d != 0 {
		t.Errorf("with nothing wanted it is without tokens for %v", d)
	}
	eventually(t, 10*time.Second, "the rest completes", func() bool { return g.Stats().Workers == 0 })
	server.SetFaults(sim.VLLMFaults{FreezeStreams: true})
	began = time.Now()
	g.SetConcurrency(2)
	if d := without(); d > time.Since(began) {
		t.Errorf("without tokens for %v, and wanted for %v", d, time.Since(began))
	}
}

func TestOddUsageIsCountedAndSaidOnce(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for range 3 {
			_, _ = io.WriteString(w, `data: {"choices":[{"delta":{"content":"x"}}],"usage":{"completion_tokens":"many"}}`+"\n\n")
		}
		_, _ = io.WriteString(w, "data: [DONE]\n\n")
	}))
	defer server.Close()
	var log lockedBuffer
	g := startLoad(t, Config{BaseURL: server.URL, Concurrency: 2, Log: zerolog.New(&log)})
	eventually(t, 10*time.Second, "answers", func() bool { return g.Stats().Completed >= 10 })
	if s := g.Stats(); s.OddUsages < 30 || s.Failed() != 0 || s.Tokens < 30 {
		t.Errorf("%d odd usages, %d failures, %d tokens of %d answers of 3", s.OddUsages, s.Failed(), s.Tokens, s.Completed)
	}
	lines := log.lines(t)
	if len(lines) != 1 || lines[0]["completion_tokens"] != `"many"` {
		t.Errorf("the log is %v, want one line about it", lines)
	}
}
