package sim

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
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
			return values["vllm:generation_tokens_total"] >= 6 && values["vllm:inter_token_latency_seconds_count"] >= 3 &&
				values["vllm:time_to_first_token_seconds_count"] >= 3
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
