package requests

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/g2g-agent/g2g-agent/internal/pyjson"
	"github.com/g2g-agent/g2g-agent/internal/textfile"
)

// promptFile is any file of prompts.
type promptFile struct {
	path string
	read func(r io.Reader, name string) promptReader
}

// promptReader reads prompts one after the other; [io.EOF] says that there is none.
type promptReader interface {
	next() (Prompt, error)
}

// OpenFile returns the prompts of a file, whose ending says what it is:
//
//   - .jsonl or .ndjson: a JSON value a line, which is a text, or an object with prompt, a
//     text, or with messages, a list of {role, content} whose contents are texts or lists
//     of parts {"type": "text", "text"};
//   - .csv: a row each, with the prompt in the column of the given name;
//   - anything else: a line of text each.
//
// Blank lines are passed over.
func OpenFile(path, column string) (Source, error) {
	if _, err := dataFile(path, ""); err != nil {
		return nil, err
	}
	source := promptFile{path: path}
	switch strings.ToLower(filepath.Ext(path)) {
	case ".csv":
		source.read = func(r io.Reader, name string) promptReader { return &csvPrompts{in: r, name: name, column: column} }
	case ".jsonl", ".ndjson":
		source.read = func(r io.Reader, name string) promptReader { return newLinePrompts(r, name, jsonPrompt) }
	case ".json", parquetEnding:
		return nil, invalidf("%s: want prompts as .jsonl (a JSON value a line), .csv or lines of text", path)
	default:
		source.read = func(r io.Reader, name string) promptReader { return newLinePrompts(r, name, textPrompt) }
	}
	return source, nil
}

// Sample implements [Source]. The file is read twice, so that only what is taken is
// kept.
func (f promptFile) Sample(ctx context.Context, n int, seed uint64) ([]Prompt, []string, error) {
	count := 0
	if err := f.each(ctx, func(int, Prompt) error { count++; return nil }); err != nil {
		return nil, nil, err
	}
	if count == 0 {
		return nil, nil, invalidf("%s: holds no prompt", f.path)
	}
	order := permutation(count, seed)
	prompts := make([]Prompt, min(n, count))
	places := make(map[int]int, len(prompts))
	for place, at := range order[:len(prompts)] {
		places[at] = place
	}
	var left budget
	err := f.each(ctx, func(at int, p Prompt) error {
		place, taken := places[at]
		if !taken {
			return nil
		}
		delete(places, at)
		prompts[place] = p
		for _, m := range p.Messages {
			if err := left.take(m.Text); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && len(places) > 0 {
		err = fmt.Errorf("%s: changed while it was read", f.path)
	}
	return prompts, nil, err
}

// each calls do with each prompt and its number, counted from 0.
func (f promptFile) each(ctx context.Context, do func(at int, p Prompt) error) error {
	file, err := os.Open(f.path)
	if err != nil {
		return err
	}
	defer file.Close()
	reader := f.read(file, f.path)
	for at := 0; ; at++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		p, err := reader.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil && p.isBlank() {
			err = invalidf("%s: row %d: the prompt is empty: there is nothing to ask", p.File, p.Row)
		}
		if err == nil {
			err = do(at, p)
		}
		if err != nil {
			return err
		}
	}
}

// csvPrompts has a prompt in a column.
type csvPrompts struct {
	in           io.Reader
	name, column string
	rows         *csvReader // nil: not begun
	at           int
}

func (c *csvPrompts) next() (p Prompt, err error) {
	if c.rows == nil {
		if c.rows, err = newCSVReader(c.in, c.name); err != nil {
			return p, err
		}
		if c.at, err = c.rows.column(c.column); err != nil {
			return p, err
		}
	}
	if err := c.rows.next(); err != nil {
		return p, err
	}
	text, err := c.rows.text(c.at)
	return Prompt{[]Message{{roleUser, text}}, c.name, c.rows.row}, err
}

// linePrompts has a prompt a line.
type linePrompts struct {
	lines *bufio.Scanner
	name  string
	row   int
	parse func(line []byte) ([]Message, error)
}

func newLinePrompts(r io.Reader, name string, parse func(line []byte) ([]Message, error)) *linePrompts {
	lines := bufio.NewScanner(textfile.NewReader(r))
	lines.Buffer(make([]byte, 0, 64<<10), maxCellBytes)
	return &linePrompts{lines: lines, name: name, parse: parse}
}

func (l *linePrompts) next() (Prompt, error) {
	for l.lines.Scan() {
		l.row++
		line := l.lines.Bytes()
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		messages, err := l.parse(line)
		if err != nil {
			return Prompt{}, invalidf("%s:%d: %w", l.name, l.row, err)
		}
		return Prompt{messages, l.name, l.row}, nil
	}
	switch err := l.lines.Err(); {
	case errors.Is(err, textfile.ErrUTF16):
		return Prompt{}, invalidf("%s: %w", l.name, err)
	case errors.Is(err, bufio.ErrTooLong):
		return Prompt{}, invalidf("%s:%d: the line is longer than %d bytes", l.name, l.row+1, maxCellBytes)
	case err != nil:
		return Prompt{}, fmt.Errorf("%s: %w", l.name, err)
	}
	return Prompt{}, io.EOF
}

func textPrompt(line []byte) ([]Message, error) {
	if !utf8.Valid(line) {
		return nil, fmt.Errorf("is not text in UTF-8: %s", quote(string(line)))
	}
	return []Message{{roleUser, string(line)}}, nil
}

// jsonPrompt reads a line of JSON.
func jsonPrompt(line []byte) ([]Message, error) {
	if !utf8.Valid(line) {
		return nil, fmt.Errorf("is not text in UTF-8: %s", quote(string(line)))
	}
	if pyjson.HasHalfPair(line) {
		return nil, pyjson.ErrHalfPair
	}
	var text *string
	if json.Unmarshal(line, &text) == nil && text != nil {
		return []Message{{roleUser, *text}}, nil
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(line, &members); err != nil || members == nil {
		if !json.Valid(line) {
			return nil, fmt.Errorf("is not JSON: %w", json.Unmarshal(line, new(any)))
		}
		return nil, errors.New("want a text, or an object with prompt or messages")
	}
	prompt, hasPrompt := members["prompt"]
	messages, hasMessages := members[keyMessages]
	switch {
	case hasPrompt && hasMessages:
		return nil, errors.New("has both prompt and messages: which one is meant?")
	case hasMessages:
		return conversationOf(messages)
	case !hasPrompt:
		return nil, errors.New("prompt is missing, or messages")
	}
	if err := json.Unmarshal(prompt, &text); err != nil || text == nil {
		return nil, fmt.Errorf("prompt is %s, want a text", quote(string(prompt)))
	}
	return []Message{{roleUser, *text}}, nil
}

func conversationOf(raw json.RawMessage) ([]Message, error) {
	var list []struct {
		Role    string          `json:"role"`
		Content json.RawMessage `json:"content"`
	}
	if err := json.Unmarshal(raw, &list); err != nil || len(list) == 0 {
		return nil, errors.New("messages must be a list of at least one {role, content}")
	}
	messages := make([]Message, len(list))
	for i, m := range list {
		text, err := textOf(m.Content)
		if err != nil {
			return nil, fmt.Errorf("messages[%d].content %w", i, err)
		}
		if m.Role == "" {
			return nil, fmt.Errorf("messages[%d].role is missing, want %s, %s or %s", i, roleUser, roleAssistant, roleSystem)
		}
		messages[i] = Message{m.Role, text}
	}
	return messages, nil
}

// textOf reads a content: a text, or parts that are texts.
func textOf(raw json.RawMessage) (string, error) {
	var text *string
	if err := json.Unmarshal(raw, &text); err == nil && text != nil {
		return *text, nil
	}
	var parts []struct {
		Type string  `json:"type"`
		Text *string `json:"text"`
	}
	err := json.Unmarshal(raw, &parts)
	if err != nil || len(parts) == 0 {
		return "", errors.New("must be a text, or a list of parts that are texts")
	}
	var all strings.Builder
	for i, p := range parts {
		if p.Type != "text" || p.Text == nil {
			return "", fmt.Errorf("has part %d of type %s; only texts can be asked", i+1, quote(p.Type))
		}
		all.WriteString(*p.Text)
	}
	return all.String(), nil
}
