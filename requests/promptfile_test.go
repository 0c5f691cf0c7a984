package requests

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// promptsOf returns all prompts of a file in its order, each as ROW role=text …
func promptsOf(t *testing.T, name, content string) ([]string, error) {
	t.Helper()
	source, err := OpenFile(filepath.Join(dataDir(t, map[string][]byte{name: []byte(content)}), name), "question")
	if err != nil {
		return nil, err
	}
	prompts, _, err := source.Sample(t.Context(), 1000, 0)
	slices.SortFunc(prompts, func(a, b Prompt) int { return a.Row - b.Row })
	var all []string
	for _, p := range prompts {
		line := fmt.Sprint(p.Row)
		for _, m := range p.Messages {
			line += " " + m.Role + "=" + m.Text
		}
		all = append(all, line)
	}
	return all, err
}

func TestPromptFiles(t *testing.T) {
	for _, c := range []struct {
		name, content string
		want          []string
	}{
		{"x.txt", "\ufeffa b\r\n\n  \n c \"d\"\nlast", []string{"1 user=a b", "4 user= c \"d\"", "5 user=last"}},
		{"prompts", "{}\n", []string{"1 user={}"}},
		{"x.CSV", "id,question\n1,\"a\nb\"\n\n2,c\n", []string{"1 user=a\nb", "2 user=c"}},
		{"x.jsonl", `"a"` + "\n\n" + `{"prompt": "b\u00e9\ud83d\ude00\\ud83d", "id": 5}` + "\n" + `{"messages": [{"role": "system", "content": "s", "name": "x"}, ` +
			`{"role": "user", "content": [{"type": "text", "text": "c"}, {"type": "text", "text": "d"}]}]}`,
			[]string{"1 user=a", `3 user=bé😀\ud83d`, "4 system=s user=cd"}},
		{"x.ndjson", `{"prompt": "."}`, []string{"1 user=."}},
	} {
		if got, err := promptsOf(t, c.name, c.content); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %q (%v), want %q", c.name, got, err, c.want)
		}
	}
}

func TestPromptFilesRefused(t *testing.T) {
	for _, c := range []struct{ name, content, want string }{
		{"x.txt", "", "x.txt: holds no prompt"},
		{"x.txt", "\n \n", "x.txt: holds no prompt"},
		{"x.txt", "a\n\xff\n", "x.txt:2: is not text in UTF-8"},
		{"x.txt", "a\x00b\x00", "UTF-16"},
		{"x.txt", "a\x00bcd", "or no text at all: one of its first two bytes is NUL"},
		{"x.txt", "a\n" + strings.Repeat("b", maxCellBytes+1), "x.txt:2: the line is longer than"},
		{"x.json", `["a"]`, "x.json: want prompts as .jsonl"},
		{"x.parquet", "", "x.parquet: want prompts as .jsonl"},
		{"x.csv", "id,prompt\n1,a\n", `x.csv: column "question" is missing; there are "id", "prompt"`},
		{"x.csv", "id,question\n1\n", `x.csv: row 1 (line 2): column "question": the row ends before it`},
		{"x.csv", "question\n", "x.csv: holds no prompt"},
		{"x.csv", "id,question\n1,a\n2, \n", "x.csv: row 2: the prompt is empty"},
		{"x.ndjson", "\"a\"\n\n{\"prompt\": \"\"}", "x.ndjson: row 3: the prompt is empty"},
		{"x.jsonl", `"\t\u00a0\n"`, "x.jsonl: row 1: the prompt is empty"},
		{"x.jsonl", `{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": [{"type": "text", "text": " "}]}]}`, "x.jsonl: row 1: the prompt is empty"},
		{"x.jsonl", "\"a\"\n{", "x.jsonl:2: is not JSON: unexpected end"},
		{"x.jsonl", `00\`, "x.jsonl:1: is not JSON"},
		{"x.jsonl", "\"\\ud83d", "half of a pair"},
		{"x.jsonl", "5", "x.jsonl:1: want a text, or an object"},
		{"x.jsonl", "null", "x.jsonl:1: want a text, or an object"},
		{"x.jsonl", `{"text": "a"}`, "x.jsonl:1: prompt is missing, or messages"},
		{"x.jsonl", `{"prompt": ["a"]}`, `x.jsonl:1: prompt is "[\"a\"]", want a text`},
		{"x.jsonl", `{"prompt": null}`, "x.jsonl:1: prompt is"},
		{"x.jsonl", `{"prompt": "a", "messages": []}`, "has both prompt and messages"},
		{"x.jsonl", `{"messages": []}`, "messages must be a list of at least one"},
		{"x.jsonl", `{"messages": [{"content": "a"}]}`, "messages[0].role is missing"},
		{"x.jsonl", `{"messages": [{"role": "user"}]}`, "messages[0].content must be a text"},
		{"x.jsonl", `{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}`, `messages[0].content has part 1 of type "image_url"`},
		{"x.jsonl", `"\ud83d"`, "half of a pair"}, {"x.jsonl", `"\\\uDE00"`, "half of a pair"}, {"x.jsonl", `"\ud83d\ud83d\ude00"`, "half of a pair"},
		{"x.jsonl", "\"\xff\"", "x.jsonl:1: is not text in UTF-8"},
	} {
		if _, err := promptsOf(t, c.name, c.content); !errors.Is(err, datacenter.ErrInvalidInput) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s, %.40q: %v, want %q", c.name, c.content, err, c.want)
		}
	}
	for _, path := range []string{t.TempDir(), "nowhere.txt", "/dev/null"} {
		if _, err := OpenFile(path, ""); !errors.Is(err, datacenter.ErrInvalidInput) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestPromptFileIsSampled: the seed decides which prompts are taken and their order.
func TestPromptFileIsSampled(t *testing.T) {
	var content bytes.Buffer
	for i := range 37 {
		fmt.Fprintln(&content, i)
	}
	source, err := OpenFile(filepath.Join(dataDir(t, map[string][]byte{"x.txt": content.Bytes()}), "x.txt"), "")
	if err != nil {
		t.Fatal(err)
	}
	prompts, _, err := source.Sample(t.Context(), 5, 7)
	if err != nil || len(prompts) != 5 {
		t.Fatalf("%v, %d prompts", err, len(prompts))
	}
	for i, want := range permutation(37, 7)[:5] {
		if got := prompts[i]; got.Messages[0].Text != fmt.Sprint(want) || got.Row != want+1 {
			t.Errorf("prompt %d is %v, want %d", i, got, want)
		}
	}
}

// FuzzPromptLine: what a line of JSON gives can be asked, and each line is a prompt or
// an error.
func FuzzPromptLine(f *testing.F) {
	for _, line := range []string{`"a\ud83d\ude00"`, `{"prompt": "b"}`, `{"messages": [{"role": "user", "content": [{"type": "text", "text": "c"}]}]}`, `"\\ud83d"`, `{"prompt": "\ud83d"}`, `00\`, `"\u0041\\`} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		messages, err := jsonPrompt(line)
		if err != nil {
			return
		}
		if len(messages) == 0 {
			t.Fatal("a prompt has no message")
		}
		for _, m := range messages {
			if m.Role == "" || strings.ContainsRune(m.Text, '\uFFFD') && !bytes.Contains(line, []byte("\uFFFD")) && !bytes.Contains(bytes.ToLower(line), []byte(`\ufffd`)) {
				t.Fatalf("%q becomes %q", line, m)
			}
		}
		e, err := newEncoder(Model{Label: "m", ID: "id"}, Config{MaxCompletionTokens: 1})
		if err != nil {
			t.Fatal(err)
		}
		checkRequest(t, e, Prompt{Messages: messages})
	})
}
