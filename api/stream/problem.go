package stream

import (
	"net/http"

	"github.com/g2g-agent/g2g-agent/api/problem"
)

// refuse answers a request that does not become a WebSocket.
func (s *Sockets) refuse(w http.ResponseWriter, p *problem.Problem) {
	s.hub.refusedRequests.Add(1)
	if p.Status == http.StatusUpgradeRequired {
		p = p.With("Connection", "Upgrade").With("Upgrade", "websocket").With("Sec-WebSocket-Version", "13")
	}
	p.Write(w)
}

// refuseHandshake answers a WebSocket handshake that the library refuses.
func (s *Sockets) refuseHandshake(w http.ResponseWriter, r *http.Request, status int, reason error) {
	switch {
	case status == http.StatusForbidden:
		s.refuse(w, problem.New(status, "pages from %q may not follow this agent; those that may stand in api.allowed_origins",
			problem.Shorten(r.Header.Get("Origin"))).
			At("header.Origin", "is not allowed"))
	case r.Header.Get("Sec-Websocket-Version") != "13":
		s.refuse(w, problem.New(http.StatusUpgradeRequired, "the version of WebSocket is %q, want 13 (RFC 6455)",
			problem.Shorten(r.Header.Get("Sec-Websocket-Version"))).
			At("header.Sec-WebSocket-Version", "must be 13"))
	case status == http.StatusBadRequest:
		s.refuse(w, problem.New(status, "the WebSocket handshake is malformed: %v", reason).
			At("header.Sec-WebSocket-Key", "must be 16 bytes in base64").Coded(problem.CodeMalformedHandshake))
	default:
		s.refuse(w, problem.New(status, "%v", reason))
	}
}
