package sim

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// steady is a model whose iterations all take the same time, whatever runs.
func steady(itl time.Duration) Profile {
	return Profile{Levels: []Level{{1, 400, itl.Seconds()}}, IdleWPerGPU: 100}
}

func startVLLM(t testing.TB, cfg VLLMConfig) *VLLM {
	t.Helper()
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	if cfg.ModelID == "" {
		cfg.ModelID = "m"
	}
	if cfg.Profile.Levels == nil {
		cfg.Profile = steady(2 * time.Millisecond)
	}
	v, err := StartVLLM(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v
}

func chatBody(tokens int) string {
	return fmt.Sprintf(`{"model":"m","messages":[{"role":"user","content":"hi"}],"max_completion_tokens":%d,`+
		`"stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true}}`, tokens)
}

func post(path, body string, headers ...string) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n%s",
		path, len(body), strings.Join(append(headers, ""), "\r\n"), body)
}

// ask starts a stream by hand.
func ask(t *testing.T, v *VLLM, tokens int) (*rawConn, *events) {
	t.Helper()
	c := dial(t, "tcp", v.Addr())
	return c, askAgain(t, c, chatBody(tokens))
}

func askAgain(t *testing.T, c *rawConn, body string) *events {
	t.Helper()
	c.send(t, post("/v1/chat/completions", body))
	resp := c.response(t)
	if resp.status != 200 || resp.header.Get("Content-Type") != "text/event-stream; charset=utf-8" ||
		!slices.Equal(resp.transferEncoding, []string{"chunked"}) {
		t.Fatal(resp.status, resp.header)
	}
	return newEvents(resp)
}

type chunk struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Model   string `json:"model"`
	Choices []struct {
		Delta struct {
			Role    string `json:"role"`
			Content string `json:"content"`
		} `json:"delta"`
		FinishReason *string `json:"finish_reason"`
	} `json:"choices"`
	Usage *struct {
		Prompt     int `json:"prompt_tokens"`
		Total      int `json:"total_tokens"`
		Completion int `json:"completion_tokens"`
	} `json:"usage"`
	Error *struct {
		Code int `json:"code"`
	} `json:"error"`
}

// all reads a stream to its end; the last payload is what ended it.
func (e *events) all(t *testing.T) (chunks []chunk, payloads []string, err error) {
	t.Helper()
	for {
		event, err := e.next()
		if err != nil {
			return chunks, payloads, err
		}
		payload, ok := strings.CutPrefix(event, "data: ")
		if !ok {
			t.Fatalf("no data line: %q", event)
		}
		payloads = append(payloads, payload)
		if payload != "[DONE]" {
			chunks = append(chunks, parse[chunk](t, payload))
		}
	}
}

func TestChatStream(t *testing.T) {
	v := startVLLM(t, VLLMConfig{})
	c, e := ask(t, v, 5)
	chunks, payloads, err := e.all(t)
	if !errors.Is(err, io.EOF) || payloads[len(payloads)-1] != "[DONE]" {
		t.Error(err, payloads)
	}
	if len(chunks) != 7 { // role, five tokens, usage
		t.Fatal(payloads)
	}
	var text strings.Builder
	for i, k := range chunks {
		if k.ID != chunks[0].ID || k.Object != "chat.completion.chunk" || k.Model != "m" || k.Error != nil {
			t.Error(payloads[i])
		}
		want := min(i, 5)
		if k.Usage == nil || k.Usage.Completion != want || k.Usage.Total != k.Usage.Prompt+want || k.Usage.Prompt < 1 {
			t.Error(payloads[i])
		}
		if i == 6 {
			if len(k.Choices) != 0 {
				t.Error(payloads[i])
			}
			continue
		}
		d := k.Choices[0]
		if (d.Delta.Role == "assistant") != (i == 0) || (d.Delta.Content == "") != (i == 0) {
			t.Error(payloads[i])
		}
		if (d.FinishReason != nil) != (i == 5) || i == 5 && *d.FinishReason != "length" {
			t.Error(payloads[i])
		}
		text.WriteString(d.Delta.Content)
	}

	// The connection is kept; without a stream the same comes in one piece.
	c.send(t, post("/v1/chat/completions", `{"messages":[{"role":"user","content":"hi"}],"max_tokens":3}`))
	resp := c.response(t)
	raw, err := io.ReadAll(resp.body)
	if err != nil || resp.status != 200 || !strings.Contains(string(raw), `"completion_tokens":3`) ||
		!strings.Contains(string(raw), `"finish_reason":"length"`) {
		t.Error(err, resp.status, string(raw))
	}
	// Two at once on one connection are answered one after the other.
	request := post("/v1/chat/completions", chatBody(2))
	c.send(t, request+request)
	for range 2 {
		chunks, _, err := newEvents(c.response(t)).all(t)
		if !errors.Is(err, io.EOF) || len(chunks) != 4 {
			t.Error(len(chunks), err)
		}
	}
	eventually(t, "all are counted", func() bool { return v.Truth().Finished == 4 })
	truth := v.Truth()
	if truth.Started != 4 || truth.Tokens != 12 || truth.Chunks != 9 || truth.ITL.Tokens != 6 || truth.Failed+truth.Aborted != 0 {
		t.Errorf("%+v", truth)
	}
	// Asked to close, it closes.
	c.send(t, post("/v1/chat/completions", chatBody(1), "Connection: close"))
	if _, _, err := newEvents(c.response(t)).all(t); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	if _, err := c.r.ReadByte(); !errors.Is(err, io.EOF) {
		t.Error("still open:", err)
	}
}

func TestChatUsageIsAsAskedFor(t *testing.T) {
	for name, test := range map[string]struct {
		options         string
		ignore          bool
		inChunks, atEnd bool
	}{
		"none":       {options: `null`},
		"at the end": {options: `{"include_usage":true}`, atEnd: true},
		"continuous": {options: `{"include_usage":true,"continuous_usage_stats":true}`, inChunks: true, atEnd: true},
		"ignored":    {options: `{"include_usage":true,"continuous_usage_stats":true}`, ignore: true, atEnd: true},
	} {
		t.Run(name, func(t *testing.T) {
			v := startVLLM(t, VLLMConfig{IgnoreContinuousUsage: test.ignore})
			e := askAgain(t, dial(t, "tcp", v.Addr()),
				`{"messages":[{}],"max_tokens":9,"max_completion_tokens":2,"stream":true,"stream_options":`+test.options+`}`)
			chunks, payloads, _ := e.all(t)
			last := chunks[len(chunks)-1]
			if (len(last.Choices) == 0 && last.Usage.Completion == 2) != test.atEnd {
				t.Error(payloads)
			}
			for _, k := range chunks[:3] {
				if (k.Usage != nil) != test.inChunks || len(k.Choices) != 1 {
					t.Error(payloads)
				}
			}
		})
	}
}

func TestChatRequestsAreChecked(t *testing.T) {
	v := startVLLM(t, VLLMConfig{APIKey: "key"})
	c := client(t, "tcp", v.Addr())
	for _, test := range []struct {
		method, path, body, key string
		want                    int
	}{
		{"POST", "/v1/chat/completions", `{"messages":[{}],"max_tokens":1}`, "Bearer key", 200},
		{"POST", "/v1/chat/completions", `{"messages":[{}],"max_tokens":1}`, "", 401},
		{"POST", "/v1/chat/completions", `{"messages":[{}],"max_tokens":1}`, "Bearer no", 401},
		{"POST", "/v1/chat/completions", ``, "Bearer key", 400},
		{"POST", "/v1/chat/completions", `{"messages":[]}`, "Bearer key", 400},
		{"POST", "/v1/chat/completions", `{"messages":[{}],"max_tokens":0}`, "Bearer key", 400},
		{"POST", "/v1/chat/completions", `{"messages":[{}],"max_tokens":"x"}`, "Bearer key", 400},
		{"POST", "/v1/chat/completions", `{"messages":[{}],"max_tokens":99999999}`, "Bearer key", 400},
		{"POST", "/v1/chat/completions", `{"messages":[{}],"stream_options":{}}`, "Bearer key", 400},
		{"POST", "/v1/chat/completions", `{"messages":[{}],"model":"other"}`, "Bearer key", 404},
		{"GET", "/v1/chat/completions", ``, "Bearer key", 405},
		{"GET", "/v1/models", ``, "", 401},
		{"GET", "/v1/models", ``, "Bearer key", 200},
		{"GET", "/health", ``, "", 200},
		{"HEAD", "/health", ``, "", 200},
		{"GET", "/metrics", ``, "", 200},
		{"GET", "/nothing", ``, "", 404},
	} {
		if got, _, body := do(t, c, test.method, test.path, test.body, "Authorization", test.key); got != test.want {
			t.Errorf("%+v: %d %s", test, got, body)
		}
	}
	_, _, body := do(t, c, "GET", "/v1/models", "", "Authorization", "Bearer key")
	models := parse[struct {
		Data []struct{ ID string }
	}](t, body)
	if len(models.Data) != 1 || models.Data[0].ID != "m" {
		t.Error(body)
	}
}

func TestTokensPerChunk(t *testing.T) {
	increments := func(seed uint64) []int {
		v := startVLLM(t, VLLMConfig{TokensPerChunk: []float64{1, 0, 1}, Profile: steady(100 * time.Microsecond), Seed: seed})
		_, e := ask(t, v, 400)
		chunks, _, _ := e.all(t)
		var incs []int
		last := 0
		for _, k := range chunks[1 : len(chunks)-1] {
			incs = append(incs, k.Usage.Completion-last)
			last = k.Usage.Completion
		}
		if last != 400 {
			t.Error(last)
		}
		eventually(t, "it is counted", func() bool { return v.Truth().Finished == 1 })
		if truth := v.Truth(); truth.ITL.Tokens != int64(400-incs[0]) || truth.ITL.Chunks != int64(len(incs)-1) {
			t.Errorf("%+v", truth.ITL)
		}
		return incs
	}
	one, same, other := increments(1), increments(1), increments(2)
	if diff := cmp.Diff(one, same); diff != "" {
		t.Error("the same seed, other chunks:", diff)
	}
	if cmp.Equal(one, other) {
		t.Error("another seed, the same chunks")
	}
	counts := map[int]int{}
	for _, inc := range one[:len(one)-1] {
		counts[inc]++
	}
	if len(counts) != 2 || counts[1] < 60 || counts[3] < 60 {
		t.Error(counts)
	}
}

// TestEarlyStop: answers end by themselves, and say so, unless they may not.
func TestEarlyStop(t *testing.T) {
	v := startVLLM(t, VLLMConfig{EarlyStop: true, Profile: steady(20 * time.Microsecond), Seed: 3})
	c := dial(t, "tcp", v.Addr())
	lengths := map[int]bool{}
	stopped := 0
	for range 20 {
		chunks, payloads, err := askAgain(t, c, chatBody(100)).all(t)
		if !errors.Is(err, io.EOF) || payloads[len(payloads)-1] != "[DONE]" {
			t.Fatal(err, payloads)
		}
		n, reason := chunks[len(chunks)-1].Usage.Completion, *chunks[len(chunks)-2].Choices[0].FinishReason
		if want := map[bool]string{true: "length", false: "stop"}[n == 100]; n < 1 || n > 100 || reason != want {
			t.Errorf("an answer of %d tokens ended with %q", n, reason)
		}
		lengths[n] = true
		if reason == "stop" {
			stopped++
		}
	}
	if len(lengths) < 10 {
		t.Errorf("the lengths are %v", lengths)
	}
	body := strings.Replace(chatBody(100), `"stream":true`, `"ignore_eos":true,"stream":true`, 1)
	chunks, _, _ := askAgain(t, c, body).all(t)
	if n := chunks[len(chunks)-1].Usage.Completion; n != 100 {
		t.Errorf("an answer that may not stop has %d tokens", n)
	}
	eventually(t, "all are counted", func() bool { return v.Truth().Finished == 21 })
	_, _, page := do(t, client(t, "tcp", v.Addr()), "GET", "/metrics", "")
	if want := fmt.Sprintf(`finished_reason="stop",model_name="m"} %d.0`, stopped); !strings.Contains(page, want) {
		t.Errorf("the metrics lack %s", want)
	}
}

func setCap(t *testing.T, v *VLLM, query string) (int, string) {
	t.Helper()
	status, _, body := do(t, client(t, "tcp", v.Addr()), "POST", "/set_max_num_seqs"+query, "")
	return status, body
}

func TestBatchFollowsTheCap(t *testing.T) {
	gpu := NewGPU("H100", 0)
	p := Profile{Levels: []Level{{1, 300, 0.001}, {4, 600, 0.001}}, IdleWPerGPU: 70}
	v := startVLLM(t, VLLMConfig{MaxNumSeqs: 4, Profile: p, GPUs: []*GPU{gpu}})
	if gpu.PowerW() != 70 {
		eventually(t, "it idles", func() bool { return gpu.PowerW() == 70 })
	}
	conns := make([]*rawConn, 6)
	streams := make([]*events, 6)
	for i := range conns {
		conns[i], streams[i] = ask(t, v, maxOutputTokens)
		eventually(t, "it is in", func() bool { now := v.Truth(); return now.Running+now.Waiting == i+1 })
	}
	state := func() [2]int { now := v.Truth(); return [2]int{now.Running, now.Waiting} }
	eventually(t, "four run, two wait", func() bool { return state() == [2]int{4, 2} && gpu.PowerW() == 600 })

	if status, body := setCap(t, v, "?max_num_seqs=2"); status != 200 {
		t.Fatal(status, body)
	}
	iterations := v.Truth().Iterations
	eventually(t, "time passes", func() bool { return v.Truth().Iterations > iterations+5 })
	if got := state(); got != [2]int{4, 2} || v.Truth().MaxNumSeqs != 2 {
		t.Error("a lower cap has ended running requests:", got)
	}
	conns[0].Close()
	conns[3].Close()
	eventually(t, "two have left, nobody moved up", func() bool { return state() == [2]int{2, 2} && gpu.PowerW() == 400 })
	conns[1].Close()
	eventually(t, "the next one moved up", func() bool { return state() == [2]int{2, 1} })
	streams[4].data(t) // the first in the queue is served
	conns[5].Close()
	eventually(t, "one left while waiting", func() bool { return state() == [2]int{2, 0} })
	conns[2].Close()
	conns[4].Close()
	eventually(t, "all have left", func() bool { return state() == [2]int{0, 0} && gpu.PowerW() == 70 })
	if truth := v.Truth(); truth.Aborted != 6 || truth.Started != 6 || truth.Finished+truth.Failed != 0 {
		t.Errorf("%+v", truth)
	}
}

func TestCapRampsUp(t *testing.T) {
	v := startVLLM(t, VLLMConfig{MaxNumSeqs: 1})
	if status, body := setCap(t, v, "?max_num_seqs=1000&ramp_up_rate=200"); status != 200 {
		t.Fatal(status, body)
	}
	start := time.Now()
	first := v.Truth()
	if most := 2 + int(200*time.Since(start).Seconds()); first.Cap > most+100 || first.MaxNumSeqs != 1000 {
		t.Error(first.Cap, most)
	}
	eventually(t, "it rises", func() bool { return v.Truth().Cap > first.Cap+20 })
	now := v.Truth().Cap
	if took := time.Since(start); took < 90*time.Millisecond || float64(now) > 1+200*took.Seconds()+20 {
		t.Errorf("%d after %v", now, took)
	}
	setCap(t, v, "?max_num_seqs=3&ramp_up_rate=1") // down at once
	truth := v.Truth()
	if truth.Cap != 3 {
		t.Error(truth.Cap)
	}
	want := []Command{{MaxNumSeqs: 1000, RampUpRate: 200}, {MaxNumSeqs: 3, RampUpRate: 1}}
	for i := range truth.Commands {
		if at := truth.Commands[i].At; time.Since(at) > time.Minute {
			t.Error(at)
		}
		truth.Commands[i].At = time.Time{}
	}
	if diff := cmp.Diff(want, truth.Commands); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{"", "?max_num_seqs=", "?max_num_seqs=0", "?max_num_seqs=-1", "?max_num_seqs=1.5", "?max_num_seqs=99999999999999999999",
		"?max_num_seqs=5&ramp_up_rate=", "?max_num_seqs=5&ramp_up_rate=-1", "?max_num_seqs=5&ramp_up_rate=NaN", "?max_num_seqs=5&ramp_up_rate=Inf"} {
		if status, body := setCap(t, v, bad); status != 422 || !strings.Contains(body, "detail") {
			t.Error(bad, status, body)
		}
	}
	v.ResetTruth()
	if truth := v.Truth(); truth.MaxNumSeqs != 3 || len(truth.Commands) != 0 {
		t.Errorf("%+v", truth)
	}
	if err := v.Restart(); err != nil {
		t.Fatal(err)
	}
	if truth := v.Truth(); truth.MaxNumSeqs != 1 {
		t.Error("a restarted server has its first cap, not", truth.MaxNumSeqs)
	}
}

func TestActuators(t *testing.T) {
	for actuator, want := range map[VLLMActuator][5]int{
		SetMaxNumSeqs: {200, 405, 404, 404, 404},
		RuntimeConfig: {404, 404, 200, 200, 405},
		StockVLLM:     {404, 404, 404, 404, 404},
	} {
		v := startVLLM(t, VLLMConfig{MaxNumSeqs: 64, Actuator: actuator})
		c := client(t, "tcp", v.Addr())
		var got [5]int
		for i, call := range [][3]string{
			{"POST", "/set_max_num_seqs?max_num_seqs=8"}, {"OPTIONS", "/set_max_num_seqs"},
			{"GET", "/v1/runtime_config"}, {"PATCH", "/v1/runtime_config", `{"max_num_running_seqs":8}`}, {"OPTIONS", "/v1/runtime_config"},
		} {
			got[i], _, _ = do(t, c, call[0], call[1], call[2])
		}
		if got != want {
			t.Error(actuator, got)
		}
		truth := v.Truth()
		if changed := truth.MaxNumSeqs == 8 && len(truth.Commands) == 1; changed != (actuator != StockVLLM) {
			t.Errorf("%s: %+v", actuator, truth)
		}
		if actuator != RuntimeConfig {
			continue
		}
		for _, bad := range []string{``, `{}`, `{"max_num_running_seqs":0}`, `{"max_num_running_seqs":65}`, `{"max_num_seqs":8}`, `[]`} {
			if status, _, body := do(t, c, "PATCH", "/v1/runtime_config", bad); status != 422 {
				t.Error(bad, status, body)
			}
		}
		if _, _, body := do(t, c, "GET", "/v1/runtime_config", ""); body != `{"max_num_running_seqs":8,"max_num_seqs":64}` {
			t.Error(body)
		}
	}
}

func TestITLFollowsTheProfile(t *testing.T) {
	p := Profile{Levels: []Level{{1, 300, 0.005}, {9, 600, 0.045}}, ITLSigma: 0.05}
	v := startVLLM(t, VLLMConfig{Profile: p, Spread: true})
	var streams []*rawConn
	for _, n := range []int{1, 5} {
		for len(streams) < n {
			c, _ := ask(t, v, maxOutputTokens)
			streams = append(streams, c)
		}
		eventually(t, "all run", func() bool { return v.Truth().Running == n })
		iterations := v.Truth().Iterations
		eventually(t, "they are under way", func() bool { return v.Truth().Iterations > iterations+2 })
		v.ResetTruth()
		from := time.Now()
		eventually(t, "enough samples", func() bool { return v.Truth().ITL.Tokens >= 25*int64(n) })
		all, window := v.Truth().ITL, v.ITLBetween(from, time.Now())
		want := p.ITLS(n)
		for _, itl := range []ITL{all, window} {
			// A busy machine may stall the engine, which is then the truth.
			if itl.MeanS < 0.8*want || math.Abs(itl.P50S/want-1) > 0.25 || !itl.Complete ||
				itl.P99S < itl.P90S || itl.P90S < itl.P50S || math.Abs(itl.SumS/float64(itl.Tokens)-itl.MeanS) > 1e-12 {
				t.Errorf("%d running: %+v, want %v", n, itl, want)
			}
		}
	}
}

func TestPrefillsStall(t *testing.T) {
	p := steady(time.Millisecond)
	p.PrefillS, p.PrefillsPerIteration = 0.05, 1
	v := startVLLM(t, VLLMConfig{Profile: p})
	_, first := ask(t, v, maxOutputTokens)
	for range 10 {
		first.data(t)
	}
	v.ResetTruth()
	ask(t, v, 1)
	ask(t, v, 1)
	eventually(t, "both are done", func() bool { return v.Truth().Finished == 2 })
	eventually(t, "and counted", func() bool { return v.Truth().ITL.Tokens > 2 })
	// The last samples may be the two stalls; none of the others is as long.
	itl := v.Truth().ITL
	if itl.P999S < 0.045 || itl.SumS < 0.1 {
		t.Errorf("%+v", itl)
	}
}

func TestSpread(t *testing.T) {
	for _, spread := range []bool{false, true} {
		v := startVLLM(t, VLLMConfig{Profile: steady(50 * time.Millisecond), Spread: spread})
		for range 10 {
			ask(t, v, maxOutputTokens)
		}
		eventually(t, "all run", func() bool { return v.Truth().Running == 10 })
		v.ResetTruth()
		eventually(t, "there are samples", func() bool { return v.Truth().ITL.Chunks >= 70 })
		// How long each iteration took to write, as the server saw it: nearly all of
		// it, or nothing.
		v.itl.mu.Lock()
		samples := slices.Clone(v.itl.ring)
		v.itl.mu.Unlock()
		var took []time.Duration
		for i := len(samples) - 10; i >= 0 && len(took) < 5; i -= 10 {
			took = append(took, time.Duration(samples[i+9].atNS-samples[i].atNS))
		}
		// A busy machine makes bursts long and delays timers, but not always.
		if spread && slices.Max(took) < 30*time.Millisecond || !spread && slices.Min(took) > 15*time.Millisecond {
			t.Errorf("spread %v: iterations were written over %v", spread, took)
		}
	}
}

func TestSlowClientsDoNotStopTheEngine(t *testing.T) {
	// Many tokens a chunk fill the kernel's buffers soon.
	weights := make([]float64, 1000)
	weights[len(weights)-1] = 1
	v := startVLLM(t, VLLMConfig{Profile: steady(time.Microsecond), TokensPerChunk: weights,
		Listen: "unix:" + filepath.Join(t.TempDir(), "v.sock")})
	stuck := dial(t, "unix", v.Addr())
	askAgain(t, stuck, chatBody(maxOutputTokens))
	other := dial(t, "unix", v.Addr())
	e := askAgain(t, other, chatBody(maxOutputTokens))
	go io.Copy(io.Discard, e.r)
	eventually(t, "the stuck one is thrown out", func() bool { return v.Truth().Aborted == 1 })
	chunks := v.Truth().Chunks
	eventually(t, "the other is served", func() bool { now := v.Truth(); return now.Chunks > chunks || now.Finished == 1 })
}

func TestSlowReaderGetsEverything(t *testing.T) {
	v := startVLLM(t, VLLMConfig{Profile: steady(10 * time.Microsecond), Listen: "unix:" + filepath.Join(t.TempDir(), "v.sock")})
	e := askAgain(t, dial(t, "unix", v.Addr()), chatBody(800))
	eventually(t, "the engine has generated all", func() bool { return v.Truth().Tokens == 800 })
	chunks, payloads, _ := e.all(t)
	if len(chunks) != 802 || payloads[802] != "[DONE]" {
		t.Error(len(chunks))
	}
	eventually(t, "it is finished", func() bool { return v.Truth().Finished == 1 })
}

// sumsOf are the values of a metrics page of the model m, summed over labels.
func sumsOf(t *testing.T, page string) map[string]float64 {
	t.Helper()
	values := map[string]float64{}
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		x, err := strconv.ParseFloat(value, 64)
		if err != nil {
			t.Error(line)
		}
		base, labels, _ := strings.Cut(name, "{")
		if strings.HasPrefix(base, "vllm:num") && !strings.Contains(labels, `model_name="m"`) {
			t.Error(line)
		}
		values[base] += x
	}
	return values
}

func TestMetricsPage(t *testing.T) {
	for _, old := range []bool{false, true} {
		v := startVLLM(t, VLLMConfig{Engines: 2, MaxNumSeqs: 3, OldMetricNames: old, KVCacheTokens: 1000})
		for range 5 {
			ask(t, v, maxOutputTokens)
		}
		eventually(t, "three run", func() bool { now := v.Truth(); return now.Running == 3 && now.Waiting == 2 && now.ITL.Tokens > 3 })
		var values map[string]float64
		eventually(t, "the page tells of six tokens", func() bool {
			_, header, page := do(t, client(t, "tcp", v.Addr()), "GET", "/metrics", "")
			if got := header.Get("Content-Type"); got != "text/plain; version=1.0.0; charset=utf-8" {
				t.Error(got)
			}
			values = sumsOf(t, page)
			return values["vllm:generation_tokens_total"] >= 6 && values["vllm:inter_token_latency_seconds_count"] >= 3
		})
		kv := map[bool]string{false: "vllm:kv_cache_usage_perc", true: "vllm:gpu_cache_usage_perc"}
		if values["vllm:num_requests_running"] != 3 || values["vllm:num_requests_waiting"] != 2 || values[kv[old]] <= 0 ||
			values[kv[old]] > 2 || values["vllm:generation_tokens_total"] < 6 || values["vllm:time_to_first_token_seconds_count"] != 3 ||
			values["vllm:inter_token_latency_seconds_count"] < 3 {
			t.Error(values)
		}
		if _, there := values[kv[!old]]; there {
			t.Error("old and new names")
		}
		if _, there := values["vllm:num_preemptions_total"]; !there {
			t.Error("no preemptions")
		}
	}
}

func TestVLLMFaults(t *testing.T) {
	v := startVLLM(t, VLLMConfig{})
	c := client(t, "tcp", v.Addr())
	get := func(path string) (int, string) {
		status, _, body := do(t, c, "GET", path, "")
		return status, body
	}

	v.SetFaults(VLLMFaults{Status: 503})
	for _, path := range []string{"/health", "/metrics", "/v1/models"} {
		if status, _ := get(path); status != 503 {
			t.Error(path, status)
		}
	}
	v.SetFaults(VLLMFaults{MetricsStatus: 500})
	if status, _ := get("/metrics"); status != 500 {
		t.Error(status)
	}
	if status, _ := get("/health"); status != 200 {
		t.Error(status)
	}
	v.SetFaults(VLLMFaults{MetricsGone: true})
	if status, page := get("/metrics"); status != 200 || strings.Contains(page, "vllm:") || page == "" {
		t.Error(status, page)
	}
	v.SetFaults(VLLMFaults{Delay: 50 * time.Millisecond})
	start := time.Now()
	get("/health")
	if took := time.Since(start); took < 50*time.Millisecond {
		t.Errorf("answered after %v", took)
	}

	v.SetFaults(VLLMFaults{ErrorEvents: 1, NoDone: 1})
	conn, e := ask(t, v, 3)
	chunks, payloads, err := e.all(t)
	if !errors.Is(err, io.EOF) || len(chunks) != 1 || chunks[0].Error == nil || chunks[0].Error.Code != 500 || payloads[1] != "[DONE]" {
		t.Error(payloads, err)
	}
	chunks, payloads, err = askAgain(t, conn, chatBody(3)).all(t)
	if !errors.Is(err, io.EOF) || len(chunks) != 5 || slices.Contains(payloads, "[DONE]") {
		t.Error(payloads, err)
	}
	if _, payloads, _ = askAgain(t, conn, chatBody(3)).all(t); len(payloads) != 6 {
		t.Error("not healthy again:", payloads)
	}
	eventually(t, "outcomes are counted", func() bool { now := v.Truth(); return now.Failed == 2 && now.Finished == 1 })

	v.ResetTruth()
	v.SetFaults(VLLMFaults{MalformedEvents: 2})
	e = askAgain(t, conn, chatBody(6))
	var good, bad int
	for {
		event, err := e.next()
		if err != nil {
			break
		}
		if strings.HasPrefix(event, `data: {"id"`) && strings.HasSuffix(event, "}") {
			good++
		} else if event != "data: [DONE]" {
			bad++
		}
	}
	if good != 6 || bad != 2 { // the role, four of six, the usage
		t.Error(good, bad)
	}
	eventually(t, "it is counted", func() bool { return v.Truth().Finished == 1 })
	// The first two were lost: the third starts the clock.
	if truth := v.Truth(); truth.ITL.Tokens != 3 || truth.ITL.Chunks != 3 || truth.Chunks != 6 {
		t.Errorf("%+v", truth)
	}

	e = askAgain(t, conn, chatBody(maxOutputTokens))
	e.data(t)
	v.SetFaults(VLLMFaults{DropStreams: true})
	for err = nil; err == nil; {
		_, err = e.next()
	}
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
	eventually(t, "it failed", func() bool { now := v.Truth(); return now.Failed == 1 && now.Running == 0 })
	if v.Faults() != (VLLMFaults{}) {
		t.Error(v.Faults())
	}

	_, e = ask(t, v, maxOutputTokens)
	for range 5 {
		e.data(t)
	}
	v.SetFaults(VLLMFaults{SlowDown: 25})
	v.ResetTruth()
	eventually(t, "slow samples", func() bool { return v.Truth().ITL.Tokens > 2 })
	if itl := v.ITLOver(time.Minute); itl.P999S < 0.04 {
		t.Errorf("%+v", itl)
	}
}

func TestVLLMFreezes(t *testing.T) {
	v := startVLLM(t, VLLMConfig{})
	_, e := ask(t, v, maxOutputTokens)
	e.data(t)
	c := client(t, "tcp", v.Addr())

	v.SetFaults(VLLMFaults{FreezeStreams: true})
	var chunks int64
	eventually(t, "the engine stands", func() bool {
		before := chunks
		chunks = v.Truth().Chunks
		return before == chunks
	})
	if status, _, _ := do(t, c, "GET", "/health", ""); status != 200 {
		t.Error(status)
	}
	v.SetFaults(VLLMFaults{Freeze: true})
	asked := dial(t, "tcp", v.Addr()) // is accepted
	asked.send(t, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
	asked.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := asked.r.Peek(1); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("a frozen server answered:", err)
	}
	asked.SetReadDeadline(time.Now().Add(10 * time.Second))
	if status, _, _ := do(t, c, "PUT", "/sim/faults", `{}`); status != 200 {
		t.Error(status)
	}
	if resp := asked.response(t); resp.status != 200 {
		t.Error(resp.status)
	}
	eventually(t, "it goes on", func() bool { return v.Truth().Chunks > chunks })
	// The gap was real.
	eventually(t, "the gap is known", func() bool { return v.ITLOver(time.Minute).P999S > 0.045 })
	v.SetFaults(VLLMFaults{Freeze: true}) // Close must not wait for the thaw
}

func TestVLLMDiesAndComesBack(t *testing.T) {
	gpu := NewGPU("H100", 0)
	v := startVLLM(t, VLLMConfig{MaxNumSeqs: 1, GPUs: []*GPU{gpu}})
	_, running := ask(t, v, maxOutputTokens)
	running.data(t)
	_, waiting := ask(t, v, maxOutputTokens)
	eventually(t, "one runs, one waits", func() bool { now := v.Truth(); return now.Running == 1 && now.Waiting == 1 })
	v.Kill()
	for _, e := range []*events{running, waiting} {
		var err error
		for err == nil {
			_, err = e.next()
		}
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Error(err)
		}
	}
	if truth := v.Truth(); truth.Failed != 2 || truth.Running+truth.Waiting != 0 || gpu.PowerW() != 100 {
		t.Errorf("%+v, %v W", truth, gpu.PowerW())
	}
	if c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", v.Addr()); err == nil {
		c.Close()
		t.Error("a dead server accepts")
	}
	if err := v.Restart(); err != nil {
		t.Fatal(err)
	}
	_, e := ask(t, v, 2)
	if _, payloads, _ := e.all(t); len(payloads) != 5 {
		t.Error(payloads)
	}
	eventually(t, "it is counted", func() bool { return v.Truth().Finished == 1 })
	_, _, page := do(t, client(t, "tcp", v.Addr()), "GET", "/metrics", "")
	if !strings.Contains(page, `vllm:generation_tokens_total{engine="0",model_name="m"} 2.0`) {
		t.Error("the counters of a new life:", page)
	}
	v.Close()
	if err := v.Restart(); !errors.Is(err, errClosed) {
		t.Error(err)
	}
}

func TestVLLMOnASocket(t *testing.T) {
	v := startVLLM(t, VLLMConfig{Listen: "unix:" + filepath.Join(t.TempDir(), "v.sock")})
	status, _, body := do(t, client(t, "unix", v.Addr()), "POST", "/v1/chat/completions", chatBody(3))
	if status != 200 || !strings.HasSuffix(body, "data: [DONE]\n\n") {
		t.Error(status, body)
	}
}

func TestVLLMAdmin(t *testing.T) {
	v := startVLLM(t, VLLMConfig{})
	c := client(t, "tcp", v.Addr())
	want := VLLMFaults{Status: 500, SlowDown: 2, NoDone: 3, Delay: time.Millisecond}
	if status, _, body := do(t, c, "PUT", "/sim/faults", `{"status":500,"slow_down":2,"no_done":3,"delay_s":0.001}`); status != 200 ||
		parse[VLLMFaults](t, body) != want || v.Faults() != want {
		t.Error(status, body)
	}
	for _, bad := range []string{``, `{"slow_down":-1}`, `{"no_done":-1}`, `{"metrics_status":7}`, `{"freezes":true}`, `{"delay_s":-1}`} {
		if status, _, body := do(t, c, "PUT", "/sim/faults", bad); status != 400 || v.Faults() != want {
			t.Error(bad, status, body)
		}
	}
	if status, _, body := do(t, c, "GET", "/sim/truth", ""); status != 200 || parse[Truth](t, body).MaxNumSeqs != 256 {
		t.Error(status, body)
	}
	if status, _, _ := do(t, c, "POST", "/sim/restart", `{"down_s":0}`); status != 202 {
		t.Error(status)
	}
}

func TestVLLMConfigIsChecked(t *testing.T) {
	ok := func(f func(*VLLMConfig)) VLLMConfig {
		cfg := VLLMConfig{Listen: "127.0.0.1:0", ModelID: "m", Profile: steady(time.Millisecond)}
		f(&cfg)
		return cfg
	}
	for want, cfg := range map[string]VLLMConfig{
		"listen address":      ok(func(c *VLLMConfig) { c.Listen = "" }),
		"profile is known":    ok(func(c *VLLMConfig) { c.Profile = Profile{} }),
		"model ID":            ok(func(c *VLLMConfig) { c.ModelID = "" }),
		"max_num_seqs":        ok(func(c *VLLMConfig) { c.MaxNumSeqs = -1 }),
		"engines":             ok(func(c *VLLMConfig) { c.Engines = -1 }),
		"output tokens":       ok(func(c *VLLMConfig) { c.OutputTokens = -1 }),
		"KV cache":            ok(func(c *VLLMConfig) { c.KVCacheTokens = -1 }),
		"actuator":            ok(func(c *VLLMConfig) { c.Actuator = "x" }),
		"GPU 0 is nil":        ok(func(c *VLLMConfig) { c.GPUs = []*GPU{nil} }),
		"of 2 tokens":         ok(func(c *VLLMConfig) { c.TokensPerChunk = []float64{1, -1} }),
		"add up to nothing":   ok(func(c *VLLMConfig) { c.TokensPerChunk = []float64{0} }),
		"level 1: batch size": ok(func(c *VLLMConfig) { c.Profile.Levels = []Level{{2, 1, 1}, {2, 1, 1}} }),
		"level 0: power":      ok(func(c *VLLMConfig) { c.Profile.Levels = []Level{{2, math.NaN(), 1}} }),
		"level 0: ITL":        ok(func(c *VLLMConfig) { c.Profile.Levels = []Level{{2, 1, 0}} }),
		"idle power":          ok(func(c *VLLMConfig) { c.Profile.IdleWPerGPU = -1 }),
		"prefill -1":          ok(func(c *VLLMConfig) { c.Profile.PrefillS = -1 }),
		"prefills per":        ok(func(c *VLLMConfig) { c.Profile.PrefillsPerIteration = -1 }),
		"sigma":               ok(func(c *VLLMConfig) { c.Profile.ITLSigma = math.NaN() }),
	} {
		if v, err := StartVLLM(cfg); err == nil {
			v.Close()
			t.Errorf("no error, want something about %q", want)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want something about %q", err, want)
		}
	}
}

// The engine must keep its schedule, and the truth its sums, while many clients
// come and go at once.
func TestManyClients(t *testing.T) {
	v := startVLLM(t, VLLMConfig{MaxNumSeqs: 64, Profile: steady(time.Millisecond), TokensPerChunk: []float64{3, 1}})
	var wg sync.WaitGroup
	defer wg.Wait()
	tr := &http.Transport{MaxIdleConnsPerHost: 100}
	t.Cleanup(tr.CloseIdleConnections)
	c := &http.Client{Transport: tr}
	for range 100 {
		wg.Go(func() {
			for i := range 3 {
				req, err := http.NewRequestWithContext(t.Context(), "POST", v.URL()+"/v1/chat/completions", strings.NewReader(chatBody(10+i)))
				if err != nil {
					t.Error(err)
					return
				}
				resp, err := c.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				raw, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || !strings.HasSuffix(string(raw), "data: [DONE]\n\n") {
					t.Errorf("%v: %q", err, raw)
				}
			}
		})
	}
	wg.Wait()
	eventually(t, "all are counted", func() bool { return v.Truth().Finished == 300 })
	truth := v.Truth()
	if truth.Tokens != 100*(10+11+12) || truth.Started != 300 || truth.Running+truth.Waiting != 0 {
		t.Errorf("%+v", truth)
	}
	v.engine.mu.Lock()
	defer v.engine.mu.Unlock()
	if kv := v.engine.load.kvTokens; kv != 0 {
		t.Errorf("%d tokens are left in the cache", kv)
	}
}
