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
