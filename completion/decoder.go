package completion

import (
	"bufio"
	"bytes"
	"fmt"
	"mime"
	"net/http"

	"github.com/g2g-agent/g2g-agent/internal/sse"
)

// responseDecoder reads one HTTP/1.1 response with a streaming completion, fed
// as its bytes arrive. Where the bytes are cut into pieces does not matter.
type responseDecoder struct {
	state responseState
	head  []byte // the response head so far
	// wrong says why the body is not read as events: the server refused.
	wrong *Error

	framing framing
	chunked chunkedDecoder
	remain  int64 // bytes of a body with a Content-Length still to come

	maxEventBytes int
	events        sse.Splitter
	template      *eventTemplate // of other streams, too, if there is one
	harmless      []byte         // the latest event type, which does not tell of a failure
	chunks        []Chunk        // what the latest feed completed
	done          bool           // data: [DONE] came

	body      []byte // the start of a refusal's body
	bodyBytes int
	// keepAlive tells, after the end, whether the connection may serve another
	// request.
	keepAlive bool
}

type responseState uint8

const (
	inHead responseState = iota
	inEvents
	inRefusal
)

type framing uint8

const (
	framedChunked framing = iota
	framedLength
	framedByClose
)

const (
	maxHeadBytes    = 64 << 10
	maxRefusalBytes = 64 << 10 // beyond it the connection is dropped
)

// reset makes the decoder ready for the next response, with events of up to
// maxEventBytes.
func (d *responseDecoder) reset(maxEventBytes int) {
	d.events.Reset(maxEventBytes)
	*d = responseDecoder{
		head: sse.Keep(d.head), maxEventBytes: maxEventBytes, events: d.events, template: d.template,
		harmless: sse.Keep(d.harmless), chunks: d.chunks[:0], body: sse.Keep(d.body),
	}
}

// feed decodes data. Afterwards chunks holds what data completed. It tells
// whether the response ended; an error, which is a [Error], ends it too.
func (d *responseDecoder) feed(data []byte) (ended bool, err error) {
	d.chunks = d.chunks[:0]
	for len(data) > 0 {
		if d.state == inHead {
			if data, ended, err = d.feedHead(data); err != nil {
				return true, d.fail(err)
			}
			if ended {
				return true, d.end()
			}
			continue
		}
		var payload []byte
		last := false
		switch d.framing {
		case framedChunked:
			var used int
			if payload, used, err = d.chunked.next(data); err != nil {
				return true, d.fail(err)
			}
			data, last = data[used:], d.chunked.state == chunkedEnd
		case framedLength:
			payload = data[:min(int64(len(data)), d.remain)]
			data, d.remain = data[len(payload):], d.remain-int64(len(payload))
			last = d.remain == 0
		case framedByClose:
			payload, data = data, nil
		}
		if err := d.take(payload); err != nil {
			return true, d.fail(err)
		}
		if last {
			// Bytes behind the end answer nothing that was asked.
			d.keepAlive = d.keepAlive && len(data) == 0
			return true, d.end()
		}
	}
	return false, nil
}

// fail keeps a connection whose answer was not understood from being used again.
func (d *responseDecoder) fail(err error) error {
	if err != nil {
		d.keepAlive = false
	}
	return err
}

// end is the outcome of a response that came to its end.
func (d *responseDecoder) end() error {
	switch {
	case d.state == inRefusal:
		return d.refusal()
	case !d.done:
		return &Error{Kind: KindNoDone, Status: http.StatusOK, Detail: "the response ended without data: [DONE]"}
	}
	return nil
}

// eof is the outcome of a response whose connection was closed by the server or
// lost with cause.
func (d *responseDecoder) eof(cause error) error {
	d.keepAlive = false
	switch {
	case d.done:
		return nil
	case d.state == inRefusal:
		return d.refusal()
	case d.state == inEvents && d.framing == framedByClose && cause == nil:
		return d.end()
	}
	detail := "the server closed the connection in the middle of the response"
	if d.state == inHead {
		detail = "the server closed the connection before it answered"
	}
	if cause != nil {
		detail = "the connection was lost"
	}
	return &Error{Kind: KindCut, Detail: detail, Err: cause}
}

func (d *responseDecoder) refusal() error {
	failure := *d.wrong
	failure.Detail += ": " + inOneLine(string(d.body))
	return &failure
}

// feedHead takes the response head off data and returns the rest of it.
func (d *responseDecoder) feedHead(data []byte) (rest []byte, ended bool, err error) {
	before := len(d.head)
	d.head = append(d.head, data[:min(len(data), maxHeadBytes+1-before)]...)
	end := headEnd(d.head, before)
	if end < 0 {
		if len(d.head) > maxHeadBytes {
			return nil, true, malformed("the response head is longer than %d bytes", maxHeadBytes)
		}
		return nil, false, nil
	}
	response, err := http.ReadResponse(bufio.NewReaderSize(bytes.NewReader(d.head[:end]), 1024), nil)
	if err != nil {
		return nil, true, &Error{Kind: KindMalformed, Detail: fmt.Sprintf("response head %q", cite(d.head[:end])), Err: err}
	}
	// The body is read here, not by the library; its reader holds nothing.
	_ = response.Body.Close()
	rest = data[end-before:]
	d.head = d.head[:0]
	if response.StatusCode < 200 {
		if response.StatusCode == http.StatusSwitchingProtocols {
			return nil, true, malformed("the server switched protocols, want HTTP/1.1")
		}
		return rest, false, nil // an interim response; the real one follows
	}
	d.setFraming(response)
	d.wrong = refusalOf(response)
	d.state = inEvents
	if d.wrong != nil {
		d.state = inRefusal
	}
	if d.framing == framedLength && d.remain == 0 {
		d.keepAlive = d.keepAlive && len(rest) == 0
		return nil, true, nil
	}
	return rest, false, nil
}

func (d *responseDecoder) setFraming(response *http.Response) {
	d.keepAlive = !response.Close
	switch {
	case len(response.TransferEncoding) > 0:
		d.framing = framedChunked // the library refuses any other coding
	case response.ContentLength >= 0:
		d.framing, d.remain = framedLength, response.ContentLength
	default:
		d.framing, d.keepAlive = framedByClose, false
	}
}

// refusalOf says why a response is no event stream, nil if it is one.
func refusalOf(response *http.Response) *Error {
	status := response.StatusCode
	failure := &Error{Kind: KindMalformed, Status: status, Detail: "status " + response.Status}
	switch {
	case status >= 500:
		failure.Kind = KindStatus5xx
	case status >= 400:
		failure.Kind = KindStatus4xx
	case status != http.StatusOK:
		failure.Detail += ", want 200 OK"
	default:
		contentType := response.Header.Get("Content-Type")
		media, _, _ := mime.ParseMediaType(contentType)
		coding := response.Header.Get("Content-Encoding")
		switch {
		case media != "text/event-stream" && contentType != "":
			failure.Detail = fmt.Sprintf("content type %q, want text/event-stream", contentType)
		case coding != "" && coding != "identity":
			failure.Detail = fmt.Sprintf("content encoding %q was not asked for", coding)
		default:
			return nil
		}
	}
	return failure
}

// take reads a piece of the body.
func (d *responseDecoder) take(payload []byte) error {
	if d.state == inEvents {
		return d.takeEvents(payload)
	}
	d.body = append(d.body, payload[:min(len(payload), 2*maxExcerpt-len(d.body))]...)
	if d.bodyBytes += len(payload); d.bodyBytes > maxRefusalBytes {
		return d.refusal()
	}
	return nil
}

func (d *responseDecoder) takeEvents(payload []byte) error {
	for len(payload) > 0 {
		data, rest, found := d.events.Next(payload)
		payload = rest
		switch found {
		case sse.Whole:
			if err := d.event(data, d.events.Type()); err != nil {
				return err
			}
		case sse.ErrorField:
			if err := errorField(data); err != nil && !d.done {
				return err
			}
		case sse.TooLong:
			return malformed("an event is longer than %d bytes", d.maxEventBytes)
		}
	}
	return nil
}

// event reads one event.
func (d *responseDecoder) event(data, kind []byte) error {
	if d.done {
		return nil
	}
	if !bytes.Equal(kind, d.harmless) {
		if saysFailure(string(kind)) {
			return errorEvent(nil, data)
		}
		d.harmless = append(d.harmless[:0], kind...)
	}
	if n := len(data); n > 0 && (data[0] != '{' || data[n-1] != '}') {
		data = bytes.TrimSpace(data)
	}
	if d.template == nil {
		d.template = &eventTemplate{}
	}
	if chunk, ok := d.template.match(data); ok {
		d.add(chunk, data)
		return nil
	}
	switch {
	case len(data) == 0: // something to keep the connection alive
		return nil
	case string(data) == "[DONE]":
		d.done = true
		return nil
	case data[0] != '{' && len(kind) > 0 && string(kind) != "message":
		return nil // it is for others
	}
	var full chatEvent
	if err := full.parse(data); err != nil {
		if full.tells() {
			d.add(full.chunk, data)
		}
		return err
	}
	d.add(full.chunk, data)
	d.template.take(&full)
	return nil
}

// add adds what an event says.
func (d *responseDecoder) add(chunk Chunk, data []byte) {
	chunk.Bytes = len(data)
	d.chunks = append(d.chunks, chunk)
}
