package completion

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/g2g-agent/g2g-agent/internal/excerpt"
)

// Chunk is what one event of a streaming completion says of its tokens.
type Chunk struct {
	// Tokens is the number of output tokens so far (usage.completion_tokens), -1
	// for an event without usage, or with one that makes no sense.
	Tokens int
	// Content tells that the event carries output: a text that is not empty, or the
	// like.
	Content bool
	// Last tells that the event is one that ends an answer: it has a finish reason,
	// or usage and no choices.
	Last bool
	// OddUsage is what stood in place of a number of tokens and is none, empty
	// otherwise. Such an event counts as one without usage.
	OddUsage string
	// Bytes is the length of the event's data.
	Bytes int
}

// maxTokens is more than any answer has; a larger number is nonsense that would
// spoil the measurement.
const maxTokens = 9_999_999

// maxUsageNumbers bounds the numbers of a usage that are told apart from its other
// members.
const maxUsageNumbers = 8

// chatEvent is an event of a streaming completion. Its parts lie in data.
type chatEvent struct {
	data        []byte
	chunk       Chunk
	id, created span

	hasUsage   bool
	completion span // the number of tokens
	numbers    [maxUsageNumbers]span
	numNumbers int

	hasChoices bool
	output     bool
	text       span // of the string that the output is, without its quotes
	otherText  bool // there is output beside it
}

// parse reads data. What it fails for is a [Error]: no chat event, or one
// that says that the answer failed. The chunk holds even then, if there was one.
func (e *chatEvent) parse(data []byte) error {
	*e = chatEvent{data: data, chunk: Chunk{Tokens: -1}}
	at := skipBlanks(data, 0)
	if at == len(data) || data[at] != '{' {
		if end := skipValue(data, at, 0); end > 0 && skipBlanks(data, end) == len(data) && !carries(data[at:end]) {
			return nil // null, or the like
		}
		return e.malformed("want a JSON object")
	}
	var failure, usage, choices, kind, object, finish span
	members := itemsOf(data, at)
	for members.next() {
		switch string(members.name()) {
		case "error":
			failure = members.value
		case "usage":
			usage = members.value
		case "choices":
			choices = members.value
		case "type":
			kind = members.value
		case "object":
			object = members.value
		case "finish_reason":
			finish = members.value
		case "id":
			e.id = members.value
		case "created":
			e.created = members.value
		}
	}
	if members.bad || skipBlanks(data, members.at) != len(data) {
		return e.malformed(fmt.Sprintf("its values may lie at most %d deep in each other", maxNesting))
	}
	e.readUsage(usage)
	aborted, err := e.readChoices(choices)
	if err != nil {
		return err
	}
	e.chunk.Content = e.output
	e.chunk.Last = e.chunk.Last || e.hasUsage && !e.hasChoices
	switch {
	case carries(failure.in(data)):
		return errorEvent(failure.in(data), data)
	case isError(kind.in(data)) || isError(object.in(data)):
		return errorEvent(nil, data)
	case aborted != nil:
		return aborted
	case !e.hasChoices && resemblesError(data, at):
		return errorEvent(nil, data)
	}
	return abortion(finish.in(data))
}

// tells says whether an event that tells of a failure has brought tokens, too.
func (e *chatEvent) tells() bool { return e.chunk.Tokens >= 0 || e.chunk.Content }

// malformed is the failure for an event that cannot be read, and says nothing.
func (e *chatEvent) malformed(want string) error {
	e.chunk = Chunk{Tokens: -1}
	failure := &Error{Kind: KindMalformed, Detail: fmt.Sprintf("event %q", cite(e.data))}
	// The library says best what is amiss with JSON.
	if failure.Err = json.Unmarshal(e.data, new(json.RawMessage)); failure.Err == nil {
		failure.Detail += ", " + want
	}
	return failure
}

// readUsage reads how many tokens there are. It is best effort: a server that
// says nothing that makes sense has its chunks counted.
func (e *chatEvent) readUsage(usage span) {
	value := usage.in(e.data)
	switch {
	case !carries(value):
		return
	case value[0] != '{':
		e.chunk.OddUsage = excerpt.Of(string(value), maxOddUsage)
		return
	}
	e.hasUsage = true
	members := itemsOf(e.data, usage.from)
	for members.next() {
		value := members.value.in(e.data)
		if e.numNumbers < len(e.numbers) && skipNumber(value, 0) == len(value) {
			e.numbers[e.numNumbers] = members.value
			e.numNumbers++
		}
		if string(members.name()) == "completion_tokens" {
			e.completion = members.value
		}
	}
	value = e.completion.in(e.data)
	if n, ok := wholeNumber(value, maxTokens); ok {
		e.chunk.Tokens = n
	} else if len(value) > 0 && value[0] != 'n' { // null says that it is not known
		e.chunk.OddUsage = excerpt.Of(string(value), maxOddUsage)
	}
}

const maxOddUsage = 40

// readChoices reads whether there is output, and how it ended: aborted is the
// failure of a choice.
func (e *chatEvent) readChoices(choices span) (aborted, err error) {
	value := choices.in(e.data)
	switch {
	case len(value) == 0 || value[0] == 'n':
		return nil, nil
	case value[0] != '[':
		return nil, e.malformed("its choices must be a list")
	}
	elements := itemsOf(e.data, choices.from)
	for elements.next() {
		e.hasChoices = true
		if e.data[elements.value.from] != '{' {
			return nil, e.malformed("each of its choices must be an object")
		}
		if failure := e.readChoice(elements.value); aborted == nil {
			aborted = failure
		}
	}
	return aborted, nil
}

func (e *chatEvent) readChoice(choice span) error {
	var failure, finish, delta span
	members := itemsOf(e.data, choice.from)
	for members.next() {
		switch string(members.name()) {
		case "text":
			e.readOutput(members.value)
		case "delta":
			delta = members.value
		case "finish_reason":
			finish = members.value
		case "error":
			failure = members.value
		}
	}
	if value := delta.in(e.data); len(value) > 0 && value[0] == '{' {
		members := itemsOf(e.data, delta.from)
		for members.next() {
			switch string(members.name()) {
			case "content", "reasoning", "reasoning_content", "tool_calls", "function_call", "refusal":
				e.readOutput(members.value)
			case "error":
				failure = members.value
			}
		}
	}
	reason := finish.in(e.data)
	e.chunk.Last = e.chunk.Last || carries(reason)
	if carries(failure.in(e.data)) {
		return errorEvent(failure.in(e.data), e.data)
	}
	return abortion(reason)
}

// readOutput takes in a value that is output of the model.
func (e *chatEvent) readOutput(value span) {
	raw := value.in(e.data)
	holds := carries(raw)
	switch {
	case raw[0] == '"' && !e.output:
		e.text = span{value.from + 1, value.to - 1}
	case holds:
		e.otherText = true
	}
	e.output = e.output || holds
}

// maxExcerpt bounds what is cited of what a server wrote, so that it fits a log line.
const maxExcerpt = 512

func cite(b []byte) string { return excerpt.Of(strings.TrimSpace(string(b)), maxExcerpt) }
