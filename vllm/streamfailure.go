package vllm

import (
	"bytes"
	"fmt"
	"strings"
	"unicode"
)

// Servers tell of a failure inside an answer whose status is 200 in many ways.
// What is taken for one is gathered here.

// saysFailure tells whether one of the words in text says that something failed.
// Words are parted by anything but letters, and by a capital behind a small
// letter: abort, ENGINE_ERROR, requestTimeout.
func saysFailure(text string) bool {
	var parted strings.Builder
	small := false // the letter before was
	for _, r := range text {
		if small && unicode.IsUpper(r) {
			parted.WriteByte(' ')
		}
		small = unicode.IsLower(r)
		parted.WriteRune(unicode.ToLower(r))
	}
	last := ""
	for word := range strings.FieldsFuncSeq(parted.String(), func(r rune) bool { return !unicode.IsLetter(r) }) {
		if isFailure(word) || word == "out" && (last == "time" || last == "timed") {
			return true
		}
		last = word
	}
	return false
}

func isFailure(word string) bool {
	switch word {
	case "abort", "aborted", "cancel", "canceled", "cancelled", "cancellation", "crashed", "deadline", "error", "errors", "errored",
		"exception", "fail", "failed", "failure", "insufficient", "interrupted", "killed", "oom", "overloaded", "shutdown", "timeout", "unavailable":
		return true
	}
	return false
}

// abortion is the failure of a choice that was given up, nil for one that is
// under way or complete. Reasons that nobody here has heard of are complete.
//
// The reason is a word, or an object with a word as its type and a message.
func abortion(reason []byte) error {
	if !carries(reason) {
		return nil
	}
	word, message := string(textOf(reason)), ""
	if reason[0] == '{' {
		for members := itemsOf(reason, 0); members.next(); {
			text := string(textOf(members.value.in(reason)))
			switch string(members.name()) {
			case "type", "reason":
				if word == "" || saysFailure(text) {
					word = text
				}
			case "message":
				message = text
			}
		}
	}
	if !saysFailure(word) {
		return nil
	}
	failure := &StreamError{Kind: StreamAborted, Detail: fmt.Sprintf("the server ended the answer with the finish reason %q", excerpt([]byte(word)))}
	if message != "" {
		failure.Detail += ": " + inOneLine(message)
	}
	return failure
}

// isError tells whether a value is the string "error".
func isError(value []byte) bool { return bytes.EqualFold(textOf(value), []byte("error")) }

// errorEvent is the failure for an event that reports an error: failure is the
// value that does, if there is one.
func errorEvent(failure, event []byte) error {
	message := messageOf(failure)
	if message == "" && (len(failure) == 0 || failure[0] == 't') { // it says just that there is one
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
	return &StreamError{Kind: StreamErrorEvent, Detail: inOneLine(message)}
}

// messageOf is what a value that reports an error says in words: the value itself
// if it is a string, a member of it that is one; empty without any.
func messageOf(value []byte) string {
	at := skipBlanks(value, 0)
	if at == len(value) || skipValue(value, at, 0) < 0 {
		return ""
	}
	if value[at] != '{' {
		return string(textOf(value[at:skipValue(value, at, 0)]))
	}
	best, text := 0, ""
	for members := itemsOf(value, at); members.next(); {
		rank := 0
		switch string(members.name()) {
		case "message", "error_message":
			rank = 4
		case "msg", "error_msg":
			rank = 3
		case "error":
			rank = 2
		case "detail", "details":
			rank = 1
		}
		if said := messageOf(members.value.in(value)); rank > best && said != "" {
			best, text = rank, said
		}
	}
	return text
}

// resemblesError tells whether an event without choices and without usage, the
// object at data[at], reports an error:
//   - a member is named for it, such as detail or error_msg,
//   - a type, a status or a code is that of a failure,
//   - or there are a message and a code or status, which is not that of success.
func resemblesError(data []byte, at int) bool {
	message, refused := false, false
	for members := itemsOf(data, at); members.next(); {
		value, name := members.value.in(data), string(members.name())
		if !carries(value) {
			continue
		}
		switch name {
		case "id", "model", "created", "system_fingerprint": // what servers and users name as they like
		case "message", "msg":
			message = true
		case "detail", "details", "traceback":
			return true
		case "type", "object", "event", "status", "state", "code", "status_code", "statusCode":
			failed, succeeded := verdict(value)
			if failed {
				return true
			}
			if name == "status" || name == "code" || name == "status_code" || name == "statusCode" {
				refused = refused || !succeeded
			}
		default:
			if saysFailure(name) {
				return true
			}
		}
	}
	return message && refused
}

// verdict is what a status or code says, if it is known: as HTTP has them, or in
// words.
func verdict(value []byte) (failed, succeeded bool) {
	text := string(textOf(value))
	number := value
	if text != "" {
		number = []byte(text)
	}
	if skipNumber(number, 0) == len(number) {
		n, whole := wholeNumber(number, maxTokens)
		return !whole || n >= 400, whole && n < 400
	}
	switch strings.ToLower(text) {
	case "ok", "success", "succeeded", "processing", "pending", "queued", "running", "in_progress", "started":
		return false, true
	}
	return saysFailure(text), false
}

// inOneLine is the start of what a server says, fit for a log line.
func inOneLine(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsGraphic(r):
			return '?'
		}
		return r
	}, excerpt([]byte(text)))
}
