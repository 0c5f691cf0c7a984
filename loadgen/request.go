package loadgen

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/excerpt"
	"github.com/g2g-agent/g2g-agent/internal/textfile"
)

// Request is one chat completion request as a request file has it.
type Request struct {
	fields map[string]json.RawMessage
}

// maxQuoted bounds what a message repeats of a request, in bytes.
const maxQuoted = 100

// maxRequestBytes bounds a line of a request file.
const maxRequestBytes = 16 << 20

// LoadRequests reads a request file: one OpenAI chat completion request in JSON
// a line; blank lines are passed over, and a file may hold none. Errors name the file
// and the line, and wrap [datacenter.ErrInvalidInput] when its content is at fault.
func LoadRequests(path string) ([]Request, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return readRequests(file, path)
}

// readRequests is [LoadRequests] for what r holds; errors call it name.
func readRequests(r io.Reader, name string) ([]Request, error) {
	lines := bufio.NewScanner(textfile.NewReader(r))
	lines.Buffer(make([]byte, 0, 64<<10), maxRequestBytes)
	var requests []Request
	number := 1
	for ; lines.Scan(); number++ {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		request, err := parseRequest(lines.Bytes())
		if err != nil {
			return nil, fmt.Errorf("%w: %s:%d: %w", datacenter.ErrInvalidInput, name, number, err)
		}
		requests = append(requests, request)
	}
	switch err := lines.Err(); {
	case errors.Is(err, textfile.ErrUTF16):
		return nil, fmt.Errorf("%w: %s: %w", datacenter.ErrInvalidInput, name, err)
	case errors.Is(err, bufio.ErrTooLong):
		return nil, fmt.Errorf("%w: %s:%d: the line is longer than %d bytes", datacenter.ErrInvalidInput, name, number, maxRequestBytes)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return requests, nil
}

// parseRequest reads a request and checks what the measurement depends on; the
// rest is the server's to judge.
func parseRequest(line []byte) (Request, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(line, &fields); err != nil {
		return Request{}, fmt.Errorf("not a JSON object: %w", err)
	}
	var messages []map[string]any
	if raw, found := fields["messages"]; !found {
		return Request{}, errors.New("messages is missing, want a list of chat messages")
	} else if err := json.Unmarshal(raw, &messages); err != nil || len(messages) == 0 {
		return Request{}, errors.New("messages is not a list of at least one object")
	}
	if err := checkChoices(fields); err != nil {
		return Request{}, err
	}
	return Request{fields: fields}, nil
}

// checkChoices refuses several choices: their tokens come interleaved.
func checkChoices(fields map[string]json.RawMessage) error {
	raw, found := fields["n"]
	if !found || string(raw) == "null" {
		return nil
	}
	var n int
	if err := json.Unmarshal(raw, &n); err != nil || n != 1 {
		return fmt.Errorf("n is %s, want 1: the tokens of several choices cannot be told apart", excerpt.Printable(string(raw), maxQuoted))
	}
	return nil
}

// minimalRequest is what is asked when there is no request file.
func minimalRequest(text string, maxOutputTokens int) (Request, error) {
	messages, err := json.Marshal([]map[string]string{{"role": "user", "content": text}})
	return Request{fields: map[string]json.RawMessage{
		"messages":              messages,
		"max_completion_tokens": fmt.Appendf(nil, "%d", maxOutputTokens),
	}}, err
}

// preparedRequest is a request as it is sent.
type preparedRequest struct {
	body      []byte
	maxTokens int // that it asks for, 0 if it does not say
}

// prepare makes the request as it is sent: for a stream with the number of tokens in
// every chunk, with the keys of extra in place of its own, and to modelID unless it
// names a model itself, such as a LoRA adapter of the server's.
func (r Request) prepare(modelID string, extra map[string]json.RawMessage) (preparedRequest, error) {
	body := maps.Clone(r.fields)
	maps.Copy(body, extra)
	if err := checkChoices(body); err != nil {
		return preparedRequest{}, err
	}
	if limit, old := body["max_tokens"]; old {
		if now, found := body["max_completion_tokens"]; !found || string(now) == "null" {
			body["max_completion_tokens"] = limit
		}
		delete(body, "max_tokens")
	}
	if model, own := body["model"]; !own || string(model) == "null" {
		var err error
		if body["model"], err = json.Marshal(modelID); err != nil {
			return preparedRequest{}, err
		}
	}
	body["stream"] = json.RawMessage("true")
	body["stream_options"] = json.RawMessage(`{"include_usage":true,"continuous_usage_stats":true}`)
	encoded, err := json.Marshal(body)
	return preparedRequest{body: encoded, maxTokens: tokenLimit(body["max_completion_tokens"])}, err
}

// tokenLimit is the number of tokens that a request asks for, 0 if it does not say,
// or says something that the server may take as it likes.
func tokenLimit(raw json.RawMessage) int {
	var limit int
	if json.Unmarshal(raw, &limit) != nil {
		return 0
	}
	return max(limit, 0)
}
