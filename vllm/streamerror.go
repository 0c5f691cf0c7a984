package vllm

import "fmt"

// StreamErrorKind says in which way a streaming completion failed.
type StreamErrorKind uint8

// The kinds of failures. Each is counted apart, for each has another cause.
const (
	// StreamConnect says that no connection could be opened.
	StreamConnect StreamErrorKind = iota
	// StreamStatus4xx and StreamStatus5xx say that the server refused with such a
	// status.
	StreamStatus4xx
	StreamStatus5xx
	// StreamErrorEvent says that an event that reports an error came after a status
	// of 200.
	StreamErrorEvent
	// StreamNoDone says that the response ended as HTTP asks, but without data: [DONE].
	StreamNoDone
	// StreamIdleTimeout says that the server was silent for the idle timeout.
	StreamIdleTimeout
	// StreamTotalTimeout says that the request took longer than the request
	// timeout.
	StreamTotalTimeout
	// StreamCut says that the connection was lost in the middle of the exchange.
	StreamCut
	// StreamMalformed says that what came is not a streaming completion over HTTP/1.1.
	StreamMalformed
	// StreamNoTokens says that a completion ended as it should, but brought nothing.
	// [Stream.Complete] does not look at that; it is for those who count tokens.
	StreamNoTokens
	// StreamAborted says that the server ended an answer with a finish reason that is
	// no known way to complete one, such as abort.
	StreamAborted
	// NumStreamErrorKinds is the number of kinds.
	NumStreamErrorKinds = iota
)

// String is the kind as counters and logs name it.
func (k StreamErrorKind) String() string {
	switch k {
	case StreamConnect:
		return "connect"
	case StreamStatus4xx:
		return "status_4xx"
	case StreamStatus5xx:
		return "status_5xx"
	case StreamErrorEvent:
		return "error_event"
	case StreamNoDone:
		return "no_done"
	case StreamIdleTimeout:
		return "idle_timeout"
	case StreamTotalTimeout:
		return "total_timeout"
	case StreamCut:
		return "cut"
	case StreamMalformed:
		return "malformed"
	case StreamNoTokens:
		return "no_tokens"
	case StreamAborted:
		return "aborted"
	}
	return fmt.Sprintf("StreamErrorKind(%d)", uint8(k))
}

// StreamError is how a streaming completion failed.
type StreamError struct {
	Kind StreamErrorKind
	// Status is the HTTP status, 0 when none came.
	Status int
	// Detail says what happened, with an excerpt of what the server wrote.
	Detail string
	// Err is the error underneath, if there is one.
	Err error
}

// Error describes the failure in one line.
func (e *StreamError) Error() string {
	text := e.Detail
	if e.Err != nil {
		if text != "" {
			text += ": "
		}
		text += e.Err.Error()
	}
	return "streaming completion failed (" + e.Kind.String() + "): " + text
}

// Unwrap is the error underneath.
func (e *StreamError) Unwrap() error { return e.Err }

func malformed(format string, args ...any) *StreamError {
	return &StreamError{Kind: StreamMalformed, Detail: fmt.Sprintf(format, args...)}
}
