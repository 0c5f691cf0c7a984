package completion

import "fmt"

// ErrorKind says in which way a streaming completion failed.
type ErrorKind uint8

// The kinds of failures. Each is counted apart, for each has another cause.
const (
	// KindConnect says that no connection could be opened.
	KindConnect ErrorKind = iota
	// KindStatus4xx and KindStatus5xx say that the server refused with such a
	// status.
	KindStatus4xx
	KindStatus5xx
	// KindErrorEvent says that an event that reports an error came after a status
	// of 200.
	KindErrorEvent
	// KindNoDone says that the response ended as HTTP asks, but without data: [DONE].
	KindNoDone
	// KindIdleTimeout says that the server was silent for the idle timeout.
	KindIdleTimeout
	// KindTotalTimeout says that the request took longer than the request
	// timeout.
	KindTotalTimeout
	// KindCut says that the connection was lost in the middle of the exchange.
	KindCut
	// KindMalformed says that what came is not a streaming completion over HTTP/1.1.
	KindMalformed
	// KindNoTokens says that a completion ended as it should, but brought nothing.
	// [Stream.Complete] does not look at that; it is for those who count tokens.
	KindNoTokens
	// KindAborted says that the server ended an answer with a finish reason that is
	// no known way to complete one, such as abort.
	KindAborted
	// NumErrorKinds is the number of kinds.
	NumErrorKinds = iota
)

// String is the kind as counters and logs name it.
func (k ErrorKind) String() string {
	switch k {
	case KindConnect:
		return "connect"
	case KindStatus4xx:
		return "status_4xx"
	case KindStatus5xx:
		return "status_5xx"
	case KindErrorEvent:
		return "error_event"
	case KindNoDone:
		return "no_done"
	case KindIdleTimeout:
		return "idle_timeout"
	case KindTotalTimeout:
		return "total_timeout"
	case KindCut:
		return "cut"
	case KindMalformed:
		return "malformed"
	case KindNoTokens:
		return "no_tokens"
	case KindAborted:
		return "aborted"
	}
	return fmt.Sprintf("ErrorKind(%d)", uint8(k))
}

// Error is how a streaming completion failed.
type Error struct {
	Kind ErrorKind
	// Status is the HTTP status, 0 when none came.
	Status int
	// Detail says what happened, with an excerpt of what the server wrote.
	Detail string
	// Err is the error underneath, if there is one.
	Err error
}

// Error describes the failure in one line.
func (e *Error) Error() string {
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
func (e *Error) Unwrap() error { return e.Err }

func malformed(format string, args ...any) *Error {
	return &Error{Kind: KindMalformed, Detail: fmt.Sprintf(format, args...)}
}
