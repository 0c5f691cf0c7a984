package sim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// captured is what a real server sent, byte by byte.
func captured(t *testing.T, name string) string {
	t.Helper()
	raw, err := os.ReadFile("../testdata/captures/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// wire is an answer as it is on the wire: its first line, its headers in their
// order and its body.
type wire struct {
	status  string
	headers []string
	body    string
}

func cutWire(raw string) wire {
	head, body, _ := strings.Cut(raw, "\r\n\r\n")
	lines := strings.Split(head, "\r\n")
	return wire{lines[0], lines[1:], body}
}

// without replaces what differs from one answer to the next.
func (w wire) without() wire {
	headers := make([]string, 0, len(w.headers))
	for _, h := range w.headers {
		name, value, _ := strings.Cut(h, ": ")
		switch name {
		case "date":
			value = regexp.MustCompile(`^\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT$`).ReplaceAllString(value, "DATE")
		case "content-length":
			if value == fmt.Sprint(len(w.body)) {
				value = "LENGTH"
			}
		}
		headers = append(headers, name+": "+value)
	}
	return wire{w.status, headers, w.body}
}

// askRaw sends a request and returns the answer's bytes.
func askRaw(t *testing.T, v *VLLM, method, path string, last bool, headers ...string) string {
	t.Helper()
	c := dial(t, "tcp", v.Addr())
	if last {
		headers = append(headers, "Connection: close")
	}
	c.send(t, fmt.Sprintf("%s %s HTTP/1.1\r\nHost: x\r\n%s\r\n", method, path, strings.Join(append(headers, ""), "\r\n")))
	var raw strings.Builder
	length := -1
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		raw.WriteString(line)
		if text, ok := strings.CutPrefix(strings.ToLower(line), "content-length: "); ok {
			if _, err := fmt.Sscan(text, &length); err != nil {
				t.Fatal(err)
			}
		}
		if line == "\r\n" {
			break
		}
	}
	body := make([]byte, length)
	for n := 0; n < length; {
		k, err := c.r.Read(body[n:])
		if err != nil {
			t.Fatal(err)
		}
		n += k
	}
	raw.Write(body)
	return raw.String()
}

// shape is JSON with a word for each value's kind.
func shape(t *testing.T, text string) any {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%s: %q", err, text)
	}
	var of func(any) any
	of = func(v any) any {
		switch v := v.(type) {
		case map[string]any:
			for key := range v {
				v[key] = of(v[key])
			}
			return v
		case []any:
			for i := range v {
				v[i] = of(v[i])
			}
			return v
		default:
			return fmt.Sprintf("%T", v)
		}
	}
	return of(v)
}

// TestAnswersAreThoseOfRealServers compares with vLLM 0.32.0.
func TestAnswersAreThoseOfRealServers(t *testing.T) {
	v := startVLLM(t, VLLMConfig{ModelID: "tiny", Actuator: StockVLLM})
	locked := startVLLM(t, VLLMConfig{ModelID: "tiny", APIKey: "key"})
	for _, c := range []struct {
		v             *VLLM
		path, capture string
	}{
		{v, "/health", "vllm-0.32.0-health.http"},
		{v, "/v1/models", "vllm-0.32.0-models.http"},
		{v, "/v1/runtime_config", "vllm-0.32.0-get-runtime_config.http"},
		{v, "/set_max_num_seqs", "vllm-0.32.0-get-set_max_num_seqs.http"},
		{v, "/set_max_num_seqs", "vllm-0.32.0-dev-set_max_num_seqs.http"},
		{v, "/v1/runtime_config", "vllm-0.32.0-dev-v1_runtime_config.http"},
		{v, "/metrics", "vllm-0.32.0-metrics-idle.http"},
		{locked, "/v1/models", "vllm-0.32.0-models-401.http"},
	} {
		want := cutWire(captured(t, c.capture)).without()
		got := cutWire(askRaw(t, c.v, "GET", c.path, slices.Contains(want.headers, "connection: close"))).without()
		if got.status != want.status {
			t.Errorf("%s: %s, want %s", c.path, got.status, want.status)
		}
		if diff := cmp.Diff(want.headers, got.headers); diff != "" {
			t.Errorf("%s: headers (-vLLM's +ours):\n%s", c.path, diff)
		}
		switch {
		case c.path == "/v1/models" && c.v == v:
			if diff := cmp.Diff(shape(t, want.body), shape(t, got.body)); diff != "" {
				t.Errorf("%s (-vLLM's +ours):\n%s", c.path, diff)
			}
			for _, w := range []wire{want, got} { // members in the same order
				if !regexp.MustCompile(`^{"object":"list","data":\[{"id":"tiny","object":"model","created":\d+,"owned_by":"vllm","root":"[^"]*","parent":null,"max_model_len":\d+,"permission":\[{"id":"modelperm-[0-9a-f]{16}",`).MatchString(w.body) {
					t.Errorf("%s: %s", c.path, w.body)
				}
			}
		case c.path != "/metrics" && got.body != want.body:
			t.Errorf("%s: %q, want %q", c.path, got.body, want.body)
		}
	}
	patched := cutWire(askRaw(t, locked, "GET", "/set_max_num_seqs", false)).without()
	want := wire{"HTTP/1.1 405 Method Not Allowed", []string{"date: DATE", "server: uvicorn", "allow: POST", "content-length: LENGTH", "content-type: application/json", "vary: Origin"}, `{"detail":"Method Not Allowed"}`}
	if diff := cmp.Diff(want, patched, cmp.AllowUnexported(wire{})); diff != "" {
		t.Errorf("405 (-want +got):\n%s", diff)
	}
}

// skeleton is a metrics page without its numbers, and without the families of
// vLLM's web framework, which the simulator lacks.
func skeleton(page string) []string {
	var lines []string
	for line := range strings.Lines(page) {
		line = strings.TrimSuffix(line, "\n")
		if regexp.MustCompile(`^(# \w+ )?http_`).MatchString(line) {
			continue
		}
		if !strings.HasPrefix(line, "#") {
			line = line[:strings.LastIndexByte(line, ' ')]
		}
		line = regexp.MustCompile(`(num_gpu_blocks|kv_cache_size_tokens)="\d+"`).ReplaceAllString(line, `$1="N"`)
		lines = append(lines, line)
	}
	return lines
}

// TestMetricsAreThoseOfRealServers: families, types, labels and their order are
// those of vLLM 0.32.0, also where several API servers share them.
func TestMetricsAreThoseOfRealServers(t *testing.T) {
	page := func(v *VLLM) string {
		_, _, text := do(t, client(t, "tcp", v.Addr()), "GET", "/metrics", "")
		return text
	}
	compare := func(what, capture, got string) {
		t.Helper()
		want := captured(t, capture)
		if strings.HasSuffix(capture, ".http") {
			want = cutWire(want).body
		}
		if diff := cmp.Diff(skeleton(want), skeleton(got)); diff != "" {
			t.Errorf("%s (-vLLM's +ours):\n%s", what, diff)
		}
	}
	one := startVLLM(t, VLLMConfig{ModelID: "tiny"})
	compare("at rest", "vllm-0.32.0-metrics-idle.http", page(one))
	askTiny := func(v *VLLM, tokens int) *events {
		return askAgain(t, dial(t, "tcp", v.Addr()), strings.Replace(chatBody(tokens), `"model":"m"`, `"model":"tiny"`, 1))
	}
	askTiny(one, maxOutputTokens)
	eventually(t, "a request runs", func() bool { return one.Truth().Running == 1 })
	loaded := page(one)
	compare("under load", "vllm-0.32.0-metrics-load.txt", loaded)
	if !strings.Contains(loaded, "\nvllm:num_requests_running{engine=\"0\",model_name=\"tiny\"} 1.0\n") {
		t.Error("nothing runs")
	}

	// The order of counters and histograms is that of the files that they are read
	// from: it differs from page to page.
	several := startVLLM(t, VLLMConfig{ModelID: "tiny", APIServers: 2})
	sorted := func(page string) []string {
		lines := skeleton(page)
		slices.Sort(lines)
		return lines
	}
	gauges := func(page string) []string {
		before, _, _ := strings.Cut(page, "# HELP vllm:estimated")
		return skeleton(before)
	}
	for _, c := range []string{"vllm-0.32.0-metrics-2apiservers.txt", "vllm-0.32.0-metrics-2apiservers-after-load.txt"} {
		got, want := page(several), captured(t, c)
		if diff := cmp.Diff(gauges(want), gauges(got)); diff != "" {
			t.Errorf("%s: gauges (-vLLM's +ours):\n%s", c, diff)
		}
		if diff := cmp.Diff(sorted(want), sorted(got)); diff != "" {
			t.Errorf("%s (-vLLM's +ours):\n%s", c, diff)
		}
		if _, _, err := askTiny(several, 1).all(t); !errors.Is(err, io.EOF) { // the first request
			t.Error(err)
		}
	}
	if err := several.Restart(); err != nil {
		t.Fatal(err)
	}
	if text := page(several); strings.Contains(text, "\nvllm:num_requests_running{") || !strings.Contains(text, "\nvllm:num_preemptions_total{") {
		t.Error("after a restart the gauges are there before the first request")
	}
}

// Two engines have each line twice, one engine after the other.
func TestMetricsOfTwoEngines(t *testing.T) {
	two := startVLLM(t, VLLMConfig{ModelID: `a"b\c`, Engines: 2})
	_, _, text := do(t, client(t, "tcp", two.Addr()), "GET", "/metrics", "")
	if want := "# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{engine=\"0\",model_name=\"a\\\"b\\\\c\"} 0.0\nvllm:num_requests_running{engine=\"1\",model_name=\"a\\\"b\\\\c\"} 0.0\n"; !strings.Contains(text, want) {
		t.Errorf("the page lacks %q", want)
	}
	if n := strings.Count(text, "\nvllm:admission_rejections_total{"); n != 2 {
		t.Errorf("what is not of an engine stands there %d times, want once for each of 2 reasons", n)
	}
	if n := strings.Count(text, "\nvllm:inter_token_latency_seconds_count{"); n != 2 {
		t.Errorf("a histogram stands there %d times, want once for each of 2 engines", n)
	}
}
