package completion

import (
	"bytes"
	"fmt"
	"strings"
	"unicode"

	"github.com/g2g-agent/g2g-agent/internal/excerpt"
)

// Servers tell of a failure inside an answer whose status is 200 in many ways.
// What is taken for one is gathered here.

// saysFailure tells whether one of the words in text says that something failed:
// abort, ENGINE_ERROR, requestTimeout.
func saysFailure(text string) bool {
	last := ""
	for _, word := range wordsOf(text) {
		if isFailure(word) || word == "out" && (last == "time" || last == "timed") {
			return true
		}
		last = word
	}
	return false
}

// wordsOf are the words of text in small letters. They are parted by anything but
// letters, and by a capital behind a small letter.
func wordsOf(text string) []string {
	var parted strings.Builder
	small := false // the letter before was
	for _, r := range text {
		if small && unicode.IsUpper(r) {
			parted.WriteByte(' ')
		}
		small = unicode.IsLower(r)
		parted.WriteRune(unicode.ToLower(r))
	}
	return strings.FieldsFunc(parted.String(), func(r rune) bool { return !unicode.IsLetter(r) })
}

func isFailure(word string) bool {
	switch word {
	case "abort", "aborted", "cancel", "canceled", "cancelled", "cancellation", "crashed", "deadline", "error", "errors", "errored",
		"exception", "fail", "failed", "failure", "insufficient", "interrupted", "killed", "oom", "overloaded", "shutdown", "timeout", "unavailable":
		return true
	}
	return false
}

// abortion is the failure of an answer that was given up, nil for one that is under
// way or complete. What is no known way to be complete is none: servers have more
// words for failures than anyone can list.
//
// The reason is a word, or an object with a word as its type and a message.
func abortion(reason []byte) error {
	if !carries(reason) {
		return nil
	}
	word, message := string(textOf(reason)), ""
	if reason[0] == '{' {
		word, message = typedReason(reason)
	}
	if completes(word) {
		return nil
	}
	if word == "" {
		word = string(reason)
	}
	failure := &Error{Kind: KindAborted, Detail: fmt.Sprintf("the server ended the answer with the finish reason %q", cite([]byte(word)))}
	if message != "" {
		failure.Detail += ": " + inOneLine(message)
	}
	return failure
}

// typedReason is what a finish reason that is an object says: its type, unless its
// reason tells of a failure or there is no type.
func typedReason(reason []byte) (word, message string) {
	why := ""
	for members := itemsOf(reason, 0); members.next(); {
		text := string(textOf(members.value.in(reason)))
		switch string(members.name()) {
		case "type":
			word = text
		case "reason":
			why = text
		case "message":
			message = text
		}
	}
	if word == "" || saysFailure(why) {
		word = why
	}
	return word, message
}

// completes tells whether a finish reason, in whatever case, is one of an answer
// that is complete, or of none yet.
func completes(reason string) bool {
	switch strings.TrimPrefix(strings.Join(wordsOf(reason), "_"), "finish_reason_") {
	case "stop", "stopped", "stop_sequence", "stop_token", "stop_token_id", "stop_string", "stop_str", "stop_word", "eos", "eos_token", "eos_token_id",
		"end", "end_turn", "pause_turn", "end_of_text", "end_of_sequence", "endoftext", "repetition",
		"length", "max_length", "max_tokens", "max_new_tokens", "max_output_tokens", "max_completion_tokens", "token_limit", "model_length",
		"model_context_window_exceeded",
		"tool_calls", "tool_call", "tool_use", "function_call", "content_filter", "content_filtered", "safety", "refusal",
		"complete", "completed", "completion", "finish", "finished", "done", "success", "succeeded",
		"null", "none", "unspecified":
		return true
	}
	return false
}

// errorField is the failure for a field "error" of the event stream itself, as some
// servers write it in place of an event; nil if it says that there is none.
func errorField(value []byte) error {
	if skipValue(value, 0, 0) == len(value) && !carries(value) {
		return nil
	}
	return errorEvent(value, nil)
}

// isError tells whether a value is the string "error".
func isError(value []byte) bool { return bytes.EqualFold(textOf(value), []byte("error")) }

// errorEvent is the failure for an event that reports an error: failure is the
// value that does, if there is one.
func errorEvent(failure, event []byte) error {
	message := messageOf(failure)
	if message == "" && (len(failure) == 0 || string(failure) == "true") { // it says just that there is one
		message = messageOf(event)
	}
	switch {
	case message != "":
	case len(failure) > 0:
		message = string(failure)
	case len(event) > 0:
		message = string(event)
	default:
		message = "the server does not say what is wrong"
	}
	return &Error{Kind: KindErrorEvent, Detail: inOneLine(message)}
}

// messageOf is what a value that reports an error says in words: the value itself
// if it is a string, a member of it that is one; empty without any.
func messageOf(value []byte) string { return messageWithin(value, 0) }

// maxMessageDepth is how deep in each other the objects may be that a message is
// looked for in. Each of them is gone through anew.
const maxMessageDepth = 8

func messageWithin(value []byte, depth int) string {
	at := skipBlanks(value, 0)
	if depth > maxMessageDepth || at == len(value) {
		return ""
	}
	end := skipValue(value, at, 0)
	if end < 0 {
		return ""
	}
	if value[at] != '{' {
		return string(textOf(value[at:end]))
	}
	best, text := 0, ""
	for members := itemsOf(value, at); members.next(); {
		rank := messageRank(members.name())
		if rank <= best {
			continue
		}
		if said := messageWithin(members.value.in(value), depth+1); said != "" {
			best, text = rank, said
		}
	}
	return text
}

// messageRank is how well a member of that name says what is wrong, 0 for one that
// says something else.
func messageRank(name []byte) int {
	switch string(name) {
	case "message", "error_message":
		return 4
	case "msg", "error_msg", "errmsg", "err_msg", "faultstring":
		return 3
	case "error", "err", "fault":
		return 2
	case "detail", "details":
		return 1
	}
	return 0
}

// resemblesError tells whether an event without choices, the object at data[at],
// reports an error:
//   - a member is named for it, such as detail or error_msg,
//   - a type, a status or a code is that of a failure, or a success is none,
//   - or there is a message, and nothing that says that all is well.
func resemblesError(data []byte, at int) bool {
	message, well := false, false
	for members := itemsOf(data, at); members.next(); {
		value, name := members.value.in(data), members.name()
		switch string(name) {
		// What servers and users name as they like, and what every answer has.
		case "id", "model", "created", "choices", "usage", "system_fingerprint", "service_tier":
		case "success", "succeeded", "ok":
			if value[0] == 'f' || bytes.EqualFold(textOf(value), []byte("false")) {
				return true
			}
			well = well || carries(value)
		case "type", "object", "event", "status", "state", "code", "status_code", "statusCode":
			says := verdict(value)
			if says == saysFailed {
				return true
			}
			well = well || says == saysWell
		case "message", "msg":
			message = message || carries(value) && verdict(value) != saysWell
		case "err", "errmsg", "err_msg", "fault", "faultstring", "faultcode":
			if carries(value) && verdict(value) != saysWell {
				return true
			}
		case "detail", "details", "traceback":
			if carries(value) {
				return true
			}
		default:
			if carries(value) && saysFailure(string(name)) {
				return true
			}
		}
	}
	return message && !well
}

// said is what a status, a code or the like says.
type said uint8

const (
	saysNothing said = iota
	saysFailed
	saysWell
)

// verdict is what a status or code says, if it is known: as HTTP has them, 0, or in
// words.
func verdict(value []byte) said {
	text := textOf(value)
	number := value
	if len(text) > 0 {
		number = text
	}
	if skipNumber(number, 0) == len(number) {
		n, whole := wholeNumber(number, maxTokens)
		switch {
		case !whole || n >= 400:
			return saysFailed
		case n == 0 || n >= 100:
			return saysWell
		}
		return saysNothing // 14 may be a failure of gRPC's
	}
	switch strings.ToLower(string(text)) {
	case "ok", "success", "succeeded", "processing", "pending", "queued", "running", "in_progress", "started",
		"ping", "pong", "heartbeat", "keepalive", "keep_alive", "keep-alive", "info", "progress":
		return saysWell
	}
	if saysFailure(string(text)) {
		return saysFailed
	}
	return saysNothing
}

// inOneLine is the start of what a server says, fit for a log line.
func inOneLine(text string) string {
	return excerpt.Printable(strings.Join(strings.Fields(text), " "), maxExcerpt)
}
