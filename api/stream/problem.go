package stream

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// problem is the answer to a request that is refused, after RFC 9457.
type problem struct {
	Title  string         `json:"title"`
	Status int            `json:"status"`
	Detail string         `json:"detail"`
	Errors []problemField `json:"errors,omitempty"`
}

// problemField is what is wrong with one part of a request.
type problemField struct {
	Message  string `json:"message"`
	Location string `json:"location"`
	Value    string `json:"value,omitempty"`
}

// shown is the number of bytes of a client's value that are shown back.
const shown = 100

func shorten(value string) string {
	if len(value) > shown {
		return value[:shown] + "…"
	}
	return value
}

func (s *Sockets) refuse(w http.ResponseWriter, status int, detail string, fields ...problemField) {
	s.hub.refusedRequests.Add(1)
	body, _ := json.Marshal(problem{http.StatusText(status), status, detail, fields}) // strings always marshal
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	if status == http.StatusUpgradeRequired {
		h.Set("Connection", "Upgrade")
		h.Set("Upgrade", "websocket")
		h.Set("Sec-WebSocket-Version", "13")
	}
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // a client that is gone misses nothing
}

// refuseHandshake answers a WebSocket handshake that the library refuses.
func (s *Sockets) refuseHandshake(w http.ResponseWriter, r *http.Request, status int, reason error) {
	switch {
	case status == http.StatusForbidden:
		origin := shorten(r.Header.Get("Origin"))
		s.refuse(w, status, fmt.Sprintf("pages from %q may not follow this agent; those that may stand in api.allowed_origins", origin),
			problemField{"is not allowed", "header.Origin", origin})
	case r.Header.Get("Sec-Websocket-Version") != "13":
		version := shorten(r.Header.Get("Sec-Websocket-Version"))
		s.refuse(w, http.StatusUpgradeRequired, fmt.Sprintf("the version of WebSocket is %q, want 13 (RFC 6455)", version),
			problemField{"must be 13", "header.Sec-WebSocket-Version", version})
	case status == http.StatusBadRequest:
		key := shorten(r.Header.Get("Sec-Websocket-Key"))
		s.refuse(w, status, "the WebSocket handshake is malformed: "+reason.Error(),
			problemField{"must be 16 bytes in base64", "header.Sec-WebSocket-Key", key})
	default:
		s.refuse(w, status, reason.Error())
	}
}
