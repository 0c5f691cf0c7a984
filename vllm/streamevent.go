package vllm

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// StreamChunk is what one event of a streaming completion says of its tokens.
type StreamChunk struct {
	// Tokens is the number of output tokens so far (usage.completion_tokens), -1
	// for an event without usage.
	Tokens int
	// Content tells, for an event without usage, that it carries output.
	Content bool
}

// eventSplitter finds the events of a server-sent event stream that arrives in
// pieces. Only data matters here: other fields and comments are passed over.
// Lines end with LF or CRLF.
type eventSplitter struct {
	max  int    // bytes a line, and the data of an event, may have
	line []byte // the start of a line whose end has not come yet
	data []byte // the data of the event whose end has not come yet
	open bool   // whether that event has data
}

func (s *eventSplitter) reset(maxBytes int) {
	*s = eventSplitter{max: maxBytes, line: keep(s.line), data: keep(s.data)}
}

// keep empties a buffer for the next use, unless it has grown beyond what an
// ordinary event needs.
func keep(b []byte) []byte {
	if cap(b) > 64<<10 {
		return nil
	}
	return b[:0]
}

// push calls event with the data of each event that p completes. The data is
// valid during the call only.
func (s *eventSplitter) push(p []byte, event func(data []byte) error) error {
	var inPlace []byte // the data of an open event, while it is one line of p
	for {
		end := bytes.IndexByte(p, '\n')
		if end < 0 {
			break
		}
		line, stays := p[:end], true
		p = p[end+1:]
		if len(s.line) > 0 {
			line, stays = append(s.line, line...), false
			s.line = line[:0]
		}
		if len(line) > s.max {
			return s.tooLong()
		}
		if n := len(line); n > 0 && line[n-1] == '\r' {
			line = line[:n-1]
		}
		if len(line) == 0 { // the end of an event
			if !s.open {
				continue
			}
			data := inPlace
			if data == nil {
				data = s.data
			}
			inPlace, s.data, s.open = nil, s.data[:0], false
			if err := event(data); err != nil {
				return err
			}
			continue
		}
		value, isData, err := dataField(line)
		switch {
		case err != nil:
			return err
		case !isData:
		case !s.open && stays:
			inPlace, s.open = value, true
		default:
			if inPlace != nil {
				s.data = append(s.data, inPlace...)
				inPlace = nil
			}
			if s.open {
				s.data = append(s.data, '\n')
			}
			s.data, s.open = append(s.data, value...), true
			if len(s.data) > s.max {
				return s.tooLong()
			}
		}
	}
	if inPlace != nil {
		s.data = append(s.data, inPlace...)
	}
	if len(s.line)+len(p) > s.max {
		return s.tooLong()
	}
	s.line = append(s.line, p...)
	return nil
}

func (s *eventSplitter) tooLong() error {
	return malformed("an event is longer than %d bytes", s.max)
}

// dataField is the value of a line's data field. The value of an empty field is
// empty but not nil.
func dataField(line []byte) (value []byte, isData bool, err error) {
	if rest, found := bytes.CutPrefix(line, []byte("data:")); found {
		if len(rest) > 0 && rest[0] == ' ' {
			rest = rest[1:]
		}
		return rest, true, nil
	}
	name, _, _ := bytes.Cut(line, []byte(":"))
	switch string(name) {
	case "data":
		return line[:0], true, nil
	case "", "event", "id", "retry":
		return nil, false, nil
	}
	return nil, false, malformed("found %q, want a line of an event stream such as data: …", excerpt(line))
}

const (
	completionTokensKey = `"completion_tokens":`
	// maxTokens is more than any answer has; a larger number is nonsense that
	// would spoil the measurement.
	maxTokens       = 9_999_999
	maxTokensDigits = 7
)

// completionTokens finds the number of output tokens in an event from its end,
// where the usage stands. It looks for the key with its quotes, which cannot
// occur inside a JSON string: there the quotes are escaped.
func completionTokens(event []byte) (tokens int, ok bool) {
	if len(event) < 2 || event[0] != '{' || event[len(event)-1] != '}' {
		return 0, false
	}
	for end := len(event) - 1; end >= len(completionTokensKey); end-- {
		if event[end-1] != ':' || event[end-2] != '"' || string(event[end-len(completionTokensKey):end]) != completionTokensKey {
			continue
		}
		at := end
		if event[at] == ' ' {
			at++
		}
		start := at
		for at < len(event) && event[at] >= '0' && event[at] <= '9' {
			tokens = tokens*10 + int(event[at]-'0')
			at++
		}
		// More digits than any output has, or not a plain number: left to the
		// JSON library.
		ok = at > start && at-start <= maxTokensDigits && at < len(event) && (event[at] == ',' || event[at] == '}')
		return tokens, ok
	}
	return 0, false
}

// parseEvent reads an event of a streaming completion with the JSON library. It
// fails for one that reports an error.
func parseEvent(data []byte) (StreamChunk, error) {
	var event struct {
		Error   json.RawMessage `json:"error"`
		Object  string          `json:"object"`
		Message string          `json:"message"`
		Choices []struct {
			Text  string                     `json:"text"`
			Delta map[string]json.RawMessage `json:"delta"`
		} `json:"choices"`
		Usage *struct {
			CompletionTokens *int `json:"completion_tokens"`
		} `json:"usage"`
	}
	if err := json.Unmarshal(data, &event); err != nil {
		return StreamChunk{}, &StreamError{Kind: StreamMalformed, Detail: fmt.Sprintf("event %q", excerpt(data)), Err: err}
	}
	if carries(event.Error) || event.Object == "error" {
		return StreamChunk{}, &StreamError{Kind: StreamErrorEvent, Detail: errorMessage(event.Error, event.Message, data)}
	}
	chunk := StreamChunk{Tokens: -1}
	if event.Usage != nil && event.Usage.CompletionTokens != nil {
		chunk.Tokens = *event.Usage.CompletionTokens
		if chunk.Tokens < 0 || chunk.Tokens > maxTokens {
			return StreamChunk{}, malformed("completion_tokens is %d, want 0 to %d", chunk.Tokens, maxTokens)
		}
	}
	for _, choice := range event.Choices {
		chunk.Content = chunk.Content || choice.Text != ""
		for _, key := range []string{"content", "reasoning", "reasoning_content", "tool_calls", "refusal"} {
			chunk.Content = chunk.Content || carries(choice.Delta[key])
		}
	}
	return chunk, nil
}

// carries tells whether a JSON value is there and holds something.
func carries(value json.RawMessage) bool {
	switch string(value) {
	case "", "null", `""`, "[]", "{}":
		return false
	}
	return true
}

// errorMessage is what an error event says: the message of its error object,
// else the event itself.
func errorMessage(object json.RawMessage, message string, event []byte) string {
	var fields struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(object, &fields) == nil && fields.Message != "" {
		message = fields.Message
	}
	if message == "" {
		return excerpt(event)
	}
	return excerpt([]byte(message))
}

const maxExcerpt = 512

// excerpt is the start of what a server wrote, short enough for a log line.
func excerpt(b []byte) string {
	b = bytes.TrimSpace(b)
	if len(b) > maxExcerpt {
		return string(bytes.ToValidUTF8(b[:maxExcerpt], []byte("?"))) + "…"
	}
	return string(bytes.ToValidUTF8(b, []byte("?")))
}
