package requests

import (
	"bytes"
	"fmt"

	"github.com/g2g-agent/g2g-agent/internal/pyjson"
)

// encoder writes the requests to one model. What all of them have in common is
// written once.
type encoder struct {
	before, after []byte // of a request's messages
	head          []byte // messages before the prompt's own
	ownSystem     bool   // a prompt's own system message replaces head
	line          []byte
}

const (
	keyMessages = "messages"
	keyN        = "n"
)

func newEncoder(model Model, cfg Config) (*encoder, error) {
	body := pyjson.Object{
		{Name: "model", Value: model.ID},
		{Name: keyMessages},
		{Name: "max_completion_tokens", Value: cfg.MaxCompletionTokens},
		{Name: "stream", Value: true},
		{Name: "stream_options", Value: pyjson.Object{{Name: "include_usage", Value: true}, {Name: "continuous_usage_stats", Value: true}}},
	}
	for _, m := range model.ExtraBody {
		body.Set(m.Name, m.Value)
	}
	e := &encoder{}
	fail := func(format string, args ...any) (*encoder, error) {
		return nil, invalidf("extra body of model %s: %w", quote(model.Label), fmt.Errorf(format, args...))
	}
	if n, found := body.Get(keyN); found && n != nil && n != int64(1) && n != int(1) && n != uint64(1) {
		return fail("n must be 1: the tokens of several choices cannot be told apart")
	}
	if err := e.setHead(model, cfg); err != nil {
		return fail("%w", err)
	}
	body.Set(keyMessages, nil)
	var err error
	at := &e.before
	*at = append(*at, '{')
	for i, m := range body {
		if i > 0 {
			*at = append(*at, ", "...)
		}
		*at = append(pyjson.AppendString(*at, m.Name), ": "...)
		if m.Name == keyMessages {
			at = &e.after
			continue
		}
		if *at, err = pyjson.Append(*at, m.Value); err != nil {
			return fail("%s: %w", m.Name, err)
		}
	}
	e.after = append(e.after, "}\n"...)
	return e, nil
}

// setHead writes the messages before a prompt's own.
func (e *encoder) setHead(model Model, cfg Config) error {
	messages, given := model.ExtraBody.Get(keyMessages)
	if !given {
		if e.ownSystem = true; cfg.SystemPrompt != "" {
			e.head = append(e.head, `{"role": "system", "content": `...)
			e.head = append(pyjson.AppendString(e.head, cfg.SystemPrompt), '}')
		}
		return nil
	}
	list, ok := messages.([]any)
	if !ok {
		return fmt.Errorf("messages must be a list: they are put before the prompt")
	}
	head, err := pyjson.Append(nil, list)
	e.head = bytes.TrimSuffix(bytes.TrimPrefix(head, []byte("[")), []byte("]"))
	return err
}

// encode returns the request for a prompt as a line, which holds until the next call.
func (e *encoder) encode(p Prompt) ([]byte, error) {
	line := append(e.line[:0], e.before...)
	line = append(line, '[')
	begun := len(line)
	if !e.ownSystem || !p.Messages[0].isSystem() {
		line = append(line, e.head...)
	}
	for _, m := range p.Messages {
		if len(line) > begun {
			line = append(line, ", "...)
		}
		line = append(line, `{"role": `...)
		line = pyjson.AppendString(line, m.Role)
		if m.isSystem() { // OpenG2G has system messages as plain strings
			line = append(line, `, "content": `...)
			line = append(pyjson.AppendString(line, m.Text), '}')
			continue
		}
		line = append(line, `, "content": [{"type": "text", "text": `...)
		line = append(pyjson.AppendString(line, m.Text), "}]}"...)
	}
	line = append(append(line, ']'), e.after...)
	e.line = line
	if len(line) >= maxRequestBytes {
		return nil, invalidf("%s: row %d: its request has %d bytes, a line of a request file has at most %d", p.File, p.Row, len(line), maxRequestBytes)
	}
	return line, nil
}
