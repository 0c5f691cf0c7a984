package guard

import (
	"net/http"
	"path"
	"strings"
)

// access is what a request needs.
type access int

const (
	accessOpen    access = iota // nothing
	accessRead                  // the read token or the control token, if there is a read token
	accessControl               // the control token, if there is one
)

// accessOf decides what a request needs: whatever may change something, the
// control token; the API's data and metrics, a token for reading; the page, the
// API's description and the health checks, none.
func accessOf(method, requestPath string) access {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
	default:
		return accessControl
	}
	// The path as a router would clean it, so that no detour leads around this.
	p := path.Clean("/" + requestPath)
	if p == "/v1/lockstep" {
		return accessControl // what comes over that WebSocket are commands
	}
	for _, room := range []string{"/v1", "/metrics"} {
		if p == room || strings.HasPrefix(p, room+"/") {
			return accessRead
		}
	}
	return accessOpen
}

// isHealthCheck reports whether the request asks how the agent is. Supervisors
// that are refused would restart a healthy agent.
func isHealthCheck(r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return false
	}
	switch r.URL.Path {
	case "/livez", "/healthz", "/readyz":
		return true
	}
	return false
}

// commandName names the command that a refused request asked for, without
// repeating whatever else a client may have written into a path.
func commandName(requestPath string) string {
	name, ok := strings.CutPrefix(requestPath, "/v1/")
	if !ok || len(name) > 32 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz-") != "" {
		return "unknown"
	}
	return name
}
