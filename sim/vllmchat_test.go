package sim

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

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
	_, e := ask(t, v, 5)
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
}

func TestChatConnectionsAreKept(t *testing.T) {
	v := startVLLM(t, VLLMConfig{})
	c, e := ask(t, v, 5)
	if _, _, err := e.all(t); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	// Without a stream the same comes in one piece.
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
