package requests

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/atomicfile"
	"github.com/g2g-agent/g2g-agent/internal/pyjson"
)

// prompts is a source of given ones.
type prompts struct {
	texts []string
	err   error
}

func (p prompts) Sample(ctx context.Context, n int, _ uint64) (all []Prompt, _ []string, _ error) {
	for i, text := range p.texts[:min(n, len(p.texts))] {
		all = append(all, Prompt{[]Message{{roleUser, text}}, "x.txt", i + 1})
	}
	return all, nil, errors.Join(p.err, ctx.Err())
}

func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func config(n int) Config { return Config{NumRequests: n, MaxCompletionTokens: 8} }

// TestNothingHalfWritten: whatever fails, neither a directory nor a file is there
// after, and what was there stays.
func TestNothingHalfWritten(t *testing.T) {
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	long := strings.Repeat("\x01", maxRequestBytes/6)
	for name, c := range map[string]struct {
		ctx    context.Context
		models []Model
		source Source
		want   string
	}{
		"cancelled":       {cancelled, []Model{{Label: "a"}}, prompts{texts: []string{"x"}}, "canceled"},
		"no prompt":       {t.Context(), []Model{{Label: "a"}}, prompts{}, "holds no prompt"},
		"source fails":    {t.Context(), []Model{{Label: "a"}}, prompts{err: io.ErrUnexpectedEOF}, "EOF"},
		"a long request":  {t.Context(), []Model{{Label: "a"}}, prompts{texts: []string{"x", long}}, "x.txt: row 2: its request has 16777"},
		"label twice":     {t.Context(), []Model{{Label: "a"}, {Label: "a"}}, prompts{texts: []string{"x"}}, `"a" is there twice`},
		"label of a path": {t.Context(), []Model{{Label: "../a"}}, prompts{texts: []string{"x"}}, `"../a" names the model's file`},
		"extra n":         {t.Context(), []Model{{Label: "a", ExtraBody: pyjson.Object{{Name: "n", Value: int64(2)}}}}, prompts{texts: []string{"x"}}, "n must be 1"},
		"extra messages":  {t.Context(), []Model{{Label: "a", ExtraBody: pyjson.Object{{Name: "messages", Value: "x"}}}}, prompts{texts: []string{"x"}}, "messages must be a list"},
		"extra nan":       {t.Context(), []Model{{Label: "a", ExtraBody: pyjson.Object{{Name: "k", Value: []any{math.NaN()}}}}}, prompts{texts: []string{"x"}}, "k: [0]: NaN"},
	} {
		t.Run(name, func(t *testing.T) {
			parent := t.TempDir()
			there := filepath.Join(parent, "there")
			if err := os.Mkdir(there, 0o777); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(there, "a.jsonl"), []byte("old"), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, dir := range []string{filepath.Join(parent, "new"), there} {
				if _, _, err := Generate(c.ctx, dir, c.models, c.source, config(2)); err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v, want %q", err, c.want)
				}
			}
			if got := names(t, parent); !slices.Equal(got, []string{"there"}) {
				t.Errorf("the parent holds %q", got)
			}
			raw, err := os.ReadFile(filepath.Join(there, "a.jsonl"))
			if got := names(t, there); err != nil || string(raw) != "old" || !slices.Equal(got, []string{"a.jsonl"}) {
				t.Errorf("the directory holds %q, a.jsonl %q (%v)", got, raw, err)
			}
		})
	}
	for _, cfg := range []Config{{0, 1, 0, ""}, {1, 0, 0, ""}} {
		if _, _, err := Generate(t.Context(), filepath.Join(t.TempDir(), "x"), nil, nil, cfg); !errors.Is(err, datacenter.ErrInvalidInput) {
			t.Errorf("%v: %v", cfg, err)
		}
	}
}

// TestFullDisk: the message names the file as it would be.
func TestFullDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "out")
	p, err := openPart(dir)
	if err != nil {
		t.Fatal(err)
	}
	err = p.write("a.jsonl", func(w io.Writer) error {
		_, _ = w.Write([]byte("x"))
		return &fs.PathError{Op: "write", Path: "/somewhere", Err: syscall.ENOSPC}
	})
	if want := "write " + filepath.Join(dir, "a.jsonl") + ": no space left on device"; err == nil || err.Error() != want || errors.Is(err, datacenter.ErrInvalidInput) {
		t.Errorf("%v, want %s", err, want)
	}
	p.remove()
	if got := names(t, filepath.Dir(dir)); len(got) > 0 {
		t.Errorf("there is left %q", got)
	}
}

// TestReplacing leaves what is not of the models.
func TestReplacing(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a.jsonl", "b.jsonl", "notes"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	models := []Model{{Label: "a", ID: "A"}, {Label: "c", ID: "C"}}
	if there, missing, err := There(dir, models); !there || err != nil || !slices.Equal(missing, []string{filepath.Join(dir, "c.jsonl")}) {
		t.Errorf("there is %v, missing %q (%v)", there, missing, err)
	}
	if n, _, err := Generate(t.Context(), dir, models, prompts{texts: []string{"x"}}, config(3)); err != nil || n != 1 {
		t.Fatalf("%d prompts, %v", n, err)
	}
	if there, missing, err := There(dir, models); !there || err != nil || missing != nil {
		t.Errorf("there is %v, missing %q (%v)", there, missing, err)
	}
	if got := names(t, dir); !slices.Equal(got, []string{"a.jsonl", "b.jsonl", "c.jsonl", "notes"}) {
		t.Errorf("there are %q", got)
	}
	for name, lines := range map[string]int{"a.jsonl": 3, "b.jsonl": 0, "c.jsonl": 3} {
		if raw, err := os.ReadFile(filepath.Join(dir, name)); err != nil || bytes.Count(raw, []byte("\n")) != lines {
			t.Errorf("%s holds %q (%v)", name, raw, err)
		}
	}
	if there, _, err := There(filepath.Join(dir, "none"), models); there || err != nil {
		t.Errorf("nothing is there: %v, %v", there, err)
	}
	if _, _, err := There(filepath.Join(dir, "notes"), models); !errors.Is(err, datacenter.ErrInvalidInput) {
		t.Errorf("a file is there: %v", err)
	}
}

// TestLeftoversAndOthers: what a killed program left is taken up, what another one is
// writing is let alone.
func TestLeftoversAndOthers(t *testing.T) {
	parent := t.TempDir()
	dir, left := filepath.Join(parent, "out"), filepath.Join(parent, ".out.part")
	if err := os.Mkdir(left, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(left, "old.jsonl"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	other, err := os.Open(left)
	if err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Lock(other); err != nil {
		t.Fatal(err)
	}
	models := []Model{{Label: "a", ID: "A"}}
	if _, _, err := Generate(t.Context(), dir, models, prompts{texts: []string{"x"}}, config(1)); err == nil || !strings.Contains(err.Error(), "another program is making "+dir) {
		t.Errorf("beside another program: %v", err)
	}
	if got := names(t, left); !slices.Equal(got, []string{"old.jsonl"}) {
		t.Errorf("the other's files are %q", got)
	}
	other.Close()
	if _, _, err := Generate(t.Context(), dir, models, prompts{texts: []string{"x"}}, config(1)); err != nil {
		t.Fatal(err)
	}
	if got := append(names(t, parent), names(t, dir)...); !slices.Equal(got, []string{"out", "a.jsonl"}) {
		t.Errorf("there are %q", got)
	}
}

// checkRequest: the request is a JSON object in ASCII, with the messages of the prompt.
func checkRequest(t *testing.T, e *encoder, p Prompt) {
	t.Helper()
	line, err := e.encode(p)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range line {
		if b >= 0x7f || b < ' ' && b != '\n' {
			t.Fatalf("%q holds the byte %#x", line, b)
		}
	}
	var request struct {
		Messages []struct {
			Role    string
			Content json.RawMessage
		}
	}
	if err := json.Unmarshal(line, &request); err != nil || len(request.Messages) != len(p.Messages) {
		t.Fatalf("%q: %v", line, err)
	}
	for i, m := range request.Messages {
		want := p.Messages[i]
		text, err := textOf(m.Content)
		if isPlain := m.Content[0] == '"'; err != nil || m.Role != want.Role || text != want.Text || isPlain != want.isSystem() {
			t.Fatalf("message %d is %v, want %v (%v)", i, m, want, err)
		}
	}
}

// TestMessagesBefore: whose system message counts.
func TestMessagesBefore(t *testing.T) {
	own := Prompt{Messages: []Message{{roleSystem, "own"}, {roleUser, "x"}}}
	plain := Prompt{Messages: []Message{{roleUser, "x"}}}
	extra := pyjson.Object{{Name: "messages", Value: []any{"e"}}}
	const ownText, userText = `{"role": "system", "content": "own"}`, `{"role": "user", "content": [{"type": "text", "text": "x"}]}`
	const system = `{"role": "system", "content": "s\u00e9"}`
	for _, c := range []struct {
		system string
		extra  pyjson.Object
		prompt Prompt
		want   string
	}{
		{"sé", nil, plain, system + ", " + userText},
		{"", nil, plain, userText},
		{"sé", nil, own, ownText + ", " + userText},
		{"sé", extra, plain, `"e", ` + userText},
		{"sé", extra, own, `"e", ` + ownText + ", " + userText},
		{"sé", pyjson.Object{{Name: "messages", Value: []any{}}}, plain, userText},
	} {
		e, err := newEncoder(Model{"m", "id", c.extra}, Config{MaxCompletionTokens: 5, SystemPrompt: c.system})
		if err != nil {
			t.Fatal(err)
		}
		want := `{"model": "id", "messages": [` + c.want +
			`], "max_completion_tokens": 5, "stream": true, "stream_options": {"include_usage": true, "continuous_usage_stats": true}}` + "\n"
		if got, err := e.encode(c.prompt); err != nil || string(got) != want {
			t.Errorf("got %s (%v), want %s", got, err, want)
		}
	}
}

// TestBlankPrompts: OpenG2G asks them, and so do we, with a warning.
func TestBlankPrompts(t *testing.T) {
	source := prompts{texts: []string{"x", " \t", "y", ""}}
	for n, want := range map[int][]string{
		1: nil,
		3: {"x.txt: row 2: the prompt is empty; it is asked all the same, as OpenG2G does"},
		4: {"x.txt: row 2: the prompt is empty; it is asked all the same, as OpenG2G does; so it is with 2 prompts in all"},
	} {
		_, warnings, err := Generate(t.Context(), filepath.Join(t.TempDir(), "out"), []Model{{Label: "m", ID: "id"}}, source, config(n))
		if err != nil || !slices.Equal(warnings, want) {
			t.Errorf("of %d: %v, %q, want %q", n, err, warnings, want)
		}
	}
}

// BenchmarkWrite writes 1000 requests of 2 kB.
func BenchmarkWrite(b *testing.B) {
	texts := make([]string, 1000)
	for i := range texts {
		texts[i] = fmt.Sprint(i, strings.Repeat(" a line of text, with \"quotes\" and ümläuts\n", 45))
	}
	all, _, _ := prompts{texts: texts}.Sample(b.Context(), len(texts), 0)
	e, err := newEncoder(Model{Label: "m", ID: "id"}, Config{MaxCompletionTokens: 512, SystemPrompt: "You are a helpful AI assistant."})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := writeAll(b.Context(), io.Discard, e, all, config(len(all))); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(len(all) * len(e.line)))
}

// BenchmarkSample draws 1000 prompts from the golden conversations.
func BenchmarkSample(b *testing.B) {
	source := openDataset(b, "lm-arena-chat")
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := source.Sample(b.Context(), 1000, 0); err != nil {
			b.Fatal(err)
		}
	}
}
