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

	"github.com/g2g-agent/g2g-agent/internal/logtest"
)

func TestBundlesAreLoggedOnce(t *testing.T) {
	var log logtest.Buffer
	b := bundling{log: zerolog.New(&log), window: time.Second}
	now := time.Unix(1_700_000_000, 0)
	for tenth := range 1200 {
		w := ITLWindow{Reads: 1000, MultiEventShare: 0.002}
		switch {
		case tenth < 100: // few reads say nothing
			w = ITLWindow{Reads: 4, MultiEventShare: 1}
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
	for _, line := range log.Lines(t) {
		got = append(got, fmt.Sprint(line["level"], " ", line["multi_event_share"]))
		if message := fmt.Sprint(line["message"]); line["level"] == "warn" && (!strings.Contains(message, "percentiles") || !strings.Contains(message, "proxy")) {
			t.Errorf("the warning does not say what it means: %q", message)
		}
	}
	if text := strings.Join(got, "; "); text != "warn 0.3; info 0.002; warn 0.9" {
		t.Errorf("log is %s", text)
	}
}

// With few streams there are few reads in a window.
func TestBundlesOfFewStreamsAreLogged(t *testing.T) {
	for _, test := range []struct {
		name  string
		reads func(second int) int64 // in the window that ends then
		share float64
		want  string // the log
		after int    // seconds
	}{
		{"20 a second", func(int) int64 { return 20 }, 1, "warn 1", 3},
		{"one a second", func(int) int64 { return 1 }, 0.5, "warn 0.5", 50},
		{"one in two seconds", func(s int) int64 { return int64(s % 2) }, 1, "warn 1", 62},
		{"one in four seconds", func(s int) int64 { return int64(s%4) / 3 }, 1, "", 0},
		{"few bundles", func(int) int64 { return 20 }, 0.04, "", 0},
		{"none", func(int) int64 { return 0 }, 0, "", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			var log logtest.Buffer
			b := bundling{log: zerolog.New(&log), window: time.Second}
			begin := time.Unix(1_700_000_000, 0)
			after := 0
			for tenth := range 3000 { // windows overlap
				second := tenth / 10
				if after == 0 && len(log.Lines(t)) > 0 {
					after = second
				}
				w := ITLWindow{Reads: test.reads(second), MultiEventShare: test.share}
				b.look(begin.Add(time.Duration(tenth)*100*ms), &w)
			}
			if text := levelsAndShares(t, &log); text != test.want || after > test.after || after < test.after-2 {
				t.Errorf("the log is %q after %d s, want %q after %d", text, after, test.want, test.after)
			}
			over := ITLWindow{Reads: 20}
			for second := range 10 {
				b.look(begin.Add(time.Duration(400+second)*time.Second), &over)
			}
			if text := levelsAndShares(t, &log); test.want != "" && text != test.want+"; info 0" {
				t.Errorf("in the end the log is %q", text)
			}
		})
	}
}

func levelsAndShares(t *testing.T, log *logtest.Buffer) string {
	t.Helper()
	var got []string
	for _, line := range log.Lines(t) {
		got = append(got, fmt.Sprint(line["level"], " ", line["multi_event_share"]))
	}
	return strings.Join(got, "; ")
}

// Tokens of which no latency can be told are no silence.
func TestTokensWithoutLatencyAreLoggedOnce(t *testing.T) {
	var log logtest.Buffer
	u := unmeasured{log: zerolog.New(&log)}
	begin := time.Unix(1_700_000_000, 0)
	levels := func() (text string) {
		for _, line := range log.Lines(t) {
			text += fmt.Sprint(line["level"], " ")
		}
		return text
	}
	for _, part := range []struct {
		name     string
		from, to int // seconds
		window   func(second int) ITLWindow
		want     string
	}{
		{"idle", 0, 60, func(int) ITLWindow { return ITLWindow{} }, ""},
		{"first tokens, then none", 60, 100, func(s int) ITLWindow { return ITLWindow{Reads: int64(60 / s)} }, ""},
		{"latencies", 100, 101, func(int) ITLWindow { return ITLWindow{Reads: 1, Tokens: 1} }, ""},
		{"whole answers for a while", 101, 111, func(s int) ITLWindow { return ITLWindow{Reads: int64(s % 2)} }, ""},
		{"latencies again", 111, 112, func(int) ITLWindow { return ITLWindow{Reads: 9, Tokens: 1} }, ""},
		{"whole answers", 112, 200, func(s int) ITLWindow { return ITLWindow{Reads: int64(s % 2)} }, "warn "},
		{"once more latencies", 200, 210, func(int) ITLWindow { return ITLWindow{Reads: 9, Tokens: 1} }, "warn info "},
		{"one whole answer in 15 s", 210, 240, func(s int) ITLWindow { return ITLWindow{Reads: int64(s % 15 / 14)} }, "warn info warn "},
	} {
		for second := part.from; second < part.to; second++ {
			w := part.window(second)
			u.look(begin.Add(time.Duration(second)*time.Second), &w)
		}
		if got := levels(); got != part.want {
			t.Errorf("%s: the log is %q, want %q", part.name, got, part.want)
		}
	}
}

// A proxy that holds whole answers back leaves no latency, over a real socket.
func TestWholeAnswersHaveNoLatency(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		var answer strings.Builder
		for n := range 5 {
			fmt.Fprintf(&answer, `data: {"choices":[{"delta":{"content":"x"}}],"usage":{"completion_tokens":%d}}`+"\n\n", n+1)
		}
		_, _ = io.WriteString(w, answer.String()+"data: [DONE]\n\n")
	}))
	defer server.Close()
	var log logtest.Buffer
	g := startLoad(t, Config{BaseURL: server.URL, Concurrency: 1, Log: zerolog.New(&log)})
	begin := time.Now()
	for _, after := range []time.Duration{0, unmeasuredAfter} { // as long as it takes
		before := g.Stats().Completed
		eventually(t, 10*time.Second, "answers", func() bool { return g.Stats().Completed >= before+5 })
		w := g.ITL(time.Now())
		if w.Tokens > 0 || w.Reads == 0 {
			t.Fatalf("the window is %+v, want tokens and no latency", w)
		}
		g.unmeasured.look(begin.Add(after+time.Second), &w)
	}
	warned := 0
	for _, line := range log.Lines(t) {
		if strings.Contains(fmt.Sprint(line["message"]), "the latency is null") {
			warned++
		}
	}
	if warned != 1 {
		t.Errorf("the log is %v, want one line about it", log.Lines(t))
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
	var log logtest.Buffer
	g := startLoad(t, Config{BaseURL: server.URL, Concurrency: 2, Log: zerolog.New(&log)})
	eventually(t, 10*time.Second, "answers", func() bool { return g.Stats().Completed >= 10 })
	if s := g.Stats(); s.OddUsages < 30 || s.Failed() != 0 || s.Tokens < 30 {
		t.Errorf("%d odd usages, %d failures, %d tokens of %d answers of 3", s.OddUsages, s.Failed(), s.Tokens, s.Completed)
	}
	lines := log.Lines(t)
	if len(lines) != 1 || lines[0]["completion_tokens"] != `"many"` {
		t.Errorf("the log is %v, want one line about it", lines)
	}
}
