package loadgen

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// bodyOf is the body that the generator would send, decoded.
func bodyOf(t *testing.T, line string, extra map[string]any) map[string]any {
	t.Helper()
	requests, err := readRequests(strings.NewReader(line), "test.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	prepared, err := prepare(&Config{ModelID: "org/model", Requests: requests, ExtraBody: extra})
	if err != nil {
		t.Fatal(err)
	}
	var body map[string]any
	if err := json.Unmarshal(prepared[0].body, &body); err != nil {
		t.Fatal(err)
	}
	return body
}

func TestBodiesOfRequests(t *testing.T) {
	forced := map[string]any{
		"model": "org/model", "stream": true,
		"stream_options": map[string]any{"include_usage": true, "continuous_usage_stats": true},
	}
	const messages = `"messages":[{"role":"user","content":"<a> & \"b\""}]`
	for _, test := range []struct {
		name, line string
		extra      map[string]any
		want       map[string]any
	}{
		{"forced keys", `{` + messages + `,"stream":false,"stream_options":{"include_usage":false}}`, nil, map[string]any{}},
		{"a model of its own", `{` + messages + `,"model":"adapter-7"}`, nil, map[string]any{"model": "adapter-7"}},
		{"no model after all", `{` + messages + `,"model":null}`, nil, map[string]any{}},
		{"a model in the extra body", `{` + messages + `,"model":"adapter-7"}`, map[string]any{"model": "adapter-8"}, map[string]any{"model": "adapter-8"}},
		{"max_tokens is the old name", `{` + messages + `,"max_tokens":7}`, nil, map[string]any{"max_completion_tokens": 7.}},
		{"the new name wins", `{` + messages + `,"max_tokens":7,"max_completion_tokens":9}`, nil, map[string]any{"max_completion_tokens": 9.}},
		{"unless it is null", `{` + messages + `,"max_tokens":7,"max_completion_tokens":null}`, nil, map[string]any{"max_completion_tokens": 7.}},
		{
			"extra body", `{` + messages + `,"temperature":1,"top_p":0.5}`,
			map[string]any{"temperature": 0, "chat_template_kwargs": map[string]any{"enable_thinking": false}, "max_tokens": 5, "stream": false},
			map[string]any{"temperature": 0., "top_p": 0.5, "chat_template_kwargs": map[string]any{"enable_thinking": false}, "max_completion_tokens": 5.},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			want := map[string]any{"messages": []any{map[string]any{"role": "user", "content": `<a> & "b"`}}}
			for _, part := range []map[string]any{forced, test.want} {
				for key, value := range part {
					want[key] = value
				}
			}
			if diff := cmp.Diff(want, bodyOf(t, test.line, test.extra)); diff != "" {
				t.Errorf("body (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMinimalRequest(t *testing.T) {
	g, err := New(Config{BaseURL: "http://n:1", ModelID: "m"})
	if err != nil {
		t.Fatal(err)
	}
	const usual = `{"max_completion_tokens":512,"messages":[{"content":"Hello, how are you?","role":"user"}],"model":"m","stream":true,` +
		`"stream_options":{"include_usage":true,"continuous_usage_stats":true}}`
	if len(g.requests) != 1 || string(g.requests[0].body) != usual {
		t.Errorf("the minimal request is %s, want %s", g.requests[0].body, usual)
	}
	requests, err := prepare(&Config{ModelID: "m", MaxOutputTokens: 77, MinimalRequestText: "say \"<b>\""})
	if err == nil {
		var body struct{ Messages []struct{ Content string } }
		if err := json.Unmarshal(requests[0].body, &body); err != nil || len(body.Messages) != 1 || body.Messages[0].Content != "say \"<b>\"" {
			t.Errorf("the body is %s (%v)", requests[0].body, err)
		}
	}
	if err != nil || len(requests) != 1 || !bytes.Contains(requests[0].body, []byte(`"max_completion_tokens":77`)) || !bytes.Contains(requests[0].body, []byte(`"messages":[{`)) {
		t.Errorf("requests %+v (%v)", requests, err)
	}
	if requests[0].maxTokens != 77 {
		t.Errorf("the request is for %d tokens, want 77", requests[0].maxTokens)
	}
}

func TestTokenLimitOfRequests(t *testing.T) {
	for fields, want := range map[string]int{
		``: 0, `,"max_tokens":5`: 5, `,"max_completion_tokens":6`: 6, `,"max_tokens":5,"max_completion_tokens":6`: 6, `,"max_tokens":5,"max_completion_tokens":null`: 5,
		`,"max_tokens":null`: 0, `,"max_tokens":-1`: 0, `,"max_tokens":"5"`: 0, `,"max_tokens":1e99`: 0,
	} {
		requests, err := readRequests(strings.NewReader(`{"messages":[{}]`+fields+`}`), "test.jsonl")
		if err != nil {
			t.Fatal(err)
		}
		prepared, err := prepare(&Config{ModelID: "m", Requests: requests})
		if err != nil || prepared[0].maxTokens != want {
			t.Errorf("%s: the request is for %d tokens (%v), want %d", fields, prepared[0].maxTokens, err, want)
		}
		forced, err := prepare(&Config{ModelID: "m", Requests: requests, ExtraBody: map[string]any{"max_completion_tokens": 9}})
		if err != nil || forced[0].maxTokens != 9 {
			t.Errorf("%s: the request is for %d tokens (%v), want 9", fields, forced[0].maxTokens, err)
		}
	}
}

func TestRequestFilesRefused(t *testing.T) {
	const good = `{"messages":[{"role":"user","content":"a"}]}` + "\n"
	for _, test := range []struct{ name, file, want string }{
		{"not JSON", good + "\n{\"messages\":\n", ":3: not a JSON object: unexpected end of JSON input"},
		{"a list", "[]\n", ":1: not a JSON object: json: cannot unmarshal array into Go value of type map[string]json.RawMessage"},
		{"null", "null\n", ":1: messages is missing, want a list of chat messages"},
		{"no messages", good + good + `{"prompt":"a"}`, ":3: messages is missing, want a list of chat messages"},
		{"messages of another kind", `{"messages":"a"}`, ":1: messages is not a list of at least one object"},
		{"no message", `{"messages":[]}`, ":1: messages is not a list of at least one object"},
		{"several choices", `{"messages":[{}],"n":2}`, ":1: n is 2, want 1: the tokens of several choices cannot be told apart"},
		{"a long line", good + strings.Repeat("x", maxRequestBytes+1), ":2: the line is longer than 16777216 bytes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "requests.jsonl")
			if err := os.WriteFile(path, []byte(test.file), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := LoadRequests(path)
			if want := "invalid input: " + path + test.want; err == nil || err.Error() != want || !errors.Is(err, datacenter.ErrInvalidInput) {
				t.Errorf("error is %v, want %s", err, want)
			}
		})
	}
	for _, empty := range []string{"", "\n \n"} {
		path := filepath.Join(t.TempDir(), "empty.jsonl")
		if err := os.WriteFile(path, []byte(empty), 0o600); err != nil {
			t.Fatal(err)
		}
		if requests, err := LoadRequests(path); err != nil || requests != nil {
			t.Errorf("%q: %d requests, %v", empty, len(requests), err)
		}
	}
	if _, err := LoadRequests(filepath.Join(t.TempDir(), "none.jsonl")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error for no file is %v", err)
	}
}

// TestEncodingsOfRequestFiles: a mark does no harm, and what is no UTF-8 is refused in
// words that can be printed.
func TestEncodingsOfRequestFiles(t *testing.T) {
	const line = `{"messages":[{"role":"user","content":"a"}]}` + "\n"
	for _, text := range []string{"\xef\xbb\xbf" + line, "\xef\xbb\xbf\n" + line, "\xef\xbb\xbf" + strings.ReplaceAll(line+line, "\n", "\r\n")} {
		if requests, err := readRequests(strings.NewReader(text), "f"); err != nil || len(requests) != strings.Count(text, "{\"messages") {
			t.Errorf("%q: %d requests, %v", text, len(requests), err)
		}
	}
	for text, want := range map[string]string{
		"\xff\xfe{\x00":              "f: is text in UTF-16",
		"\x1b[2J" + line:             "f:1: not a JSON object",
		line + "\xef\xbb\xbf" + line: "f:2: not a JSON object",
		`{"messages":[{}],"n":"` + strings.Repeat("x", 60_000) + `"}`: "f:1: n is \"xxx",
	} {
		_, err := readRequests(strings.NewReader(text), "f")
		if !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), want) || len(err.Error()) > 300 || strings.ContainsFunc(err.Error(), unicode.IsControl) {
			t.Errorf("%.40q: the error is %.300v, want %s", text, err, want)
		}
	}
}

func FuzzReadRequests(f *testing.F) {
	f.Add([]byte(`{"messages":[{"role":"user","content":"a"}],"max_tokens":5,"n":1}`+"\n\n"), "m")
	f.Add([]byte(`{"messages":[{}],"n":2}`), "")
	f.Add([]byte("{\"messages\":[{}],\"a\":1e999,\"a\":\"\\ud800\"}\r\n[]"), "\xff")
	f.Fuzz(func(t *testing.T, file []byte, modelID string) {
		requests, err := readRequests(bytes.NewReader(file), "f")
		if err != nil {
			return
		}
		sent, err := prepare(&Config{ModelID: modelID, Requests: requests})
		if err != nil {
			t.Fatal(err)
		}
		for _, prepared := range sent {
			body := prepared.body
			// What was read can be sent, and says again what it said.
			again, err := parseRequest(body)
			if err != nil || bytes.ContainsAny(body, "\n") {
				t.Fatalf("body %q: %v", body, err)
			}
			if string(again.fields["stream"]) != "true" {
				t.Errorf("body %q does not ask for a stream", body)
			}
		}
	})
}
