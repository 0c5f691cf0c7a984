package guard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/g2g-agent/g2g-agent/api/problem"
	"github.com/g2g-agent/g2g-agent/internal/excerpt"
)

const (
	// maxBody bounds a request's body, in bytes.
	maxBody = 64 << 10
	// defaultBodyTimeout bounds how long a body may take to come.
	defaultBodyTimeout = 10 * time.Second
	// lingerTime is how long the body of a request that was refused is still read.
	lingerTime = time.Second
)

// Wrap returns a handler that hands on to next what passes the checks (see the
// package's description), with the caller in the context, without credentials, and
// with the whole body read. It answers the rest itself, with problems.
func (g *Guard) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		setHeaders(w.Header())
		g.origins.share(w.Header(), r)
		v := g.newVisit(w, r)
		if v.checkHost() && v.checkRoom() && v.checkRate() && v.checkOrigin() && v.checkToken() && v.checkSize() {
			next.ServeHTTP(w, v.r)
		}
	})
}

// setHeaders sets what holds for every answer; handlers may say otherwise. Without
// more ado, nothing is kept by browsers and proxies: states are out of date at
// once. What frames and scripts a page may have is the page's to say.
func setHeaders(h http.Header) {
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
}

// visit is one request on its way through the checks. Each check reports whether
// to go on; if not, it has answered.
type visit struct {
	g      *Guard
	w      http.ResponseWriter
	r      *http.Request // as next will see it
	came   time.Time
	tokens *tokens
	need   access
	caller caller
	// sentToken says that the request carried a token, right or wrong; wait is for
	// how long the client has made too many requests.
	sentToken bool
	wait      time.Duration
	// health and socket are the requests with rules of their own.
	health, socket bool
	// connection is what the request came by, nil for none; reserved says that there
	// is no room for it but in the reserve.
	connection *connection
	reserved   bool
}

func (g *Guard) newVisit(w http.ResponseWriter, r *http.Request) *visit {
	v := &visit{
		g: g, w: w, came: g.cfg.now(), tokens: g.tokens.Load(),
		need: accessOf(r.Method, r.URL.Path), health: isHealthCheck(r), socket: isWebSocket(r),
	}
	counted, address := clientAddress(r.RemoteAddr)
	v.caller = caller{Role: roleAnyone, Address: address, UserAgent: printable(r.UserAgent()), counted: counted}
	sent, found := sentToken(r)
	v.sentToken = found && v.tokens.control != nil
	if v.sentToken {
		v.caller.Role = v.tokens.roleOf(sent)
	}
	v.connection, _ = r.Context().Value(connectionKey{}).(*connection)
	if v.connection != nil {
		v.reserved = v.connection.serve(v.caller.Role != roleAnyone)
	}
	if !v.health {
		g.clients.visit(counted, v.came, func(c *client) { v.wait = g.clients.takeRequest(c, v.caller.Role, v.came) })
	}
	v.r = r.WithContext(context.WithValue(r.Context(), callerKey{}, v.caller))
	v.r.Header = withoutCredentials(r.Header)
	return v
}

// checkHost refuses names that a web page may have pointed at this host. Who sent a
// token of ours is no such page, and probes have nothing to hide.
func (v *visit) checkHost() bool {
	if v.health { // supervisors ask by whatever address they know, or name no host at all
		return true
	}
	host := excerpt.Quote(v.r.Host, maxAuditText)
	switch a := &v.g.address; {
	case v.tokens.control == nil:
		if a.namesThisHost(v.r.Host) {
			return true
		}
		return v.refuse(foreignHost, http.StatusForbidden, fmt.Sprintf(
			"without a control token only requests to localhost or a loopback address are served, this one is to %s: "+
				"use http://127.0.0.1:PORT, or set api.token_file", host))
	case v.tokens.read != nil || v.need != accessRead || v.caller.Role != roleAnyone || v.g.hosts.name(v.r.Host) || a.namesThisHost(v.r.Host):
		return true
	}
	return v.refuse(foreignHost, http.StatusForbidden, fmt.Sprintf(
		"reading needs no token here, so that only requests that name this host are served, or those with a token; this one is to %s: "+
			"list that name in api.allowed_hosts, or set api.read_token_file", host))
}

// checkRoom answers, on connections beyond the limits, probes and those who may
// command or have a token. Such a connection is not used again.
func (v *visit) checkRoom() bool {
	if !v.reserved {
		return true
	}
	v.w.Header().Set("Connection", "close") // an upgrade answers by itself
	if v.health {
		return true
	}
	authorized := v.caller.Role != roleAnyone || v.need == accessControl && v.tokens.suffices(v.caller.Role, v.need)
	if authorized && v.connection.keepBusy() {
		return true
	}
	v.setRetryAfter(time.Second)
	return v.refuse(tooManyConnections, http.StatusTooManyRequests,
		"too many connections are open (api.max_connections, api.max_connections_per_address); those left are for probes, commands and who has a token")
}

func (v *visit) checkRate() bool {
	if v.wait == 0 {
		return true
	}
	v.setRetryAfter(v.wait)
	return v.refuse(tooFast, http.StatusTooManyRequests,
		fmt.Sprintf("each client may make %v requests a second (api.max_requests_per_s); to follow states, use the WebSocket",
			v.g.cfg.MaxRequestsPerS))
}

func (v *visit) checkOrigin() bool {
	o := v.g.origins
	switch {
	case isPreflight(v.r):
		if o.answerPreflight(v.w, v.r) {
			return false
		}
	case !v.socket && (v.r.Method == http.MethodGet || v.r.Method == http.MethodHead || v.r.Method == http.MethodOptions):
		return true // pages of other origins cannot see the answer
	case o.allow(v.r):
		return true
	}
	return v.refuse(foreignOrigin, http.StatusForbidden,
		"a browser sent this for a web page of another origin; if the page is to be trusted, list its origin in api.allowed_origins")
}

func (v *visit) checkToken() bool {
	if v.tokens.suffices(v.caller.Role, v.need) {
		return true
	}
	const realm = `Bearer realm="g2g-agent"`
	const how = "; send it as Authorization: Bearer TOKEN"
	which := "the control token"
	if v.need == accessRead {
		which = "the read token or the control token"
	}
	challenge := func(value string) { v.w.Header().Set("WWW-Authenticate", value) }
	switch {
	case v.caller.Role == roleRead:
		challenge(realm + `, error="insufficient_scope"`)
		return v.refuse(forbidden, http.StatusForbidden, "the read token does not permit this: it needs "+which)
	case !v.sentToken:
		challenge(realm)
		return v.refuse(unauthorized, http.StatusUnauthorized, "this needs "+which+how)
	}
	var wait time.Duration
	v.g.clients.visit(v.caller.counted, v.came, func(c *client) { wait = take(c.failures, v.came) })
	if wait > 0 {
		v.setRetryAfter(wait)
		v.w.Header().Set("Connection", "close")
		return v.refuse(tooFast, http.StatusTooManyRequests, "too many wrong tokens have come from this address; wait, then send "+which)
	}
	challenge(realm + `, error="invalid_token"`)
	return v.refuse(unauthorized, http.StatusUnauthorized, "the token sent is not accepted: this needs "+which+how)
}

// checkSize reads the body, so that one that is too large, too slow or cut short is
// told the same way whoever it was meant for.
func (v *visit) checkSize() bool {
	if v.r.Body == nil || v.r.Body == http.NoBody {
		return true
	}
	if len(v.r.TransferEncoding) > 0 {
		// It may have had a Content-Length as well, which net/http hides: what follows it
		// may be no request then (RFC 9112, section 6.1).
		v.w.Header().Set("Connection", "close")
	}
	if v.r.ContentLength > maxBody {
		v.w.Header().Set("Connection", "close") // rather than read on to the next request
		return v.refuseTooLarge()
	}
	body := http.MaxBytesReader(v.w, v.r.Body, maxBody)
	if v.socket {
		v.r.Body = body // the upgrade refuses clients that send anything yet
		return true
	}
	v.limitReading()
	content, err := io.ReadAll(body)
	var large *http.MaxBytesError
	switch {
	case err == nil:
		v.r.Body = io.NopCloser(bytes.NewReader(content))
		v.r.ContentLength = int64(len(content))
		v.r.TransferEncoding = nil
		return true
	case errors.As(err, &large):
		return v.refuseTooLarge()
	}
	// Not refused, but failed: the client is gone or has stopped sending.
	v.w.Header().Set("Connection", "close")
	if errors.Is(err, os.ErrDeadlineExceeded) {
		problem.New(http.StatusRequestTimeout, "the body did not come within %v", v.g.cfg.bodyTimeout).
			At("body", "did not come in time").Write(v.w)
	} else {
		problem.New(http.StatusBadRequest, "the body could not be read to its end").At("body", "did not come whole").Write(v.w)
	}
	return false
}

// limitReading bounds how long the body may take; net/http lifts the bound when the
// body has come to its end.
func (v *visit) limitReading() {
	_ = http.NewResponseController(v.w).SetReadDeadline(time.Now().Add(v.g.cfg.bodyTimeout)) // what is no socket needs none
}

func (v *visit) refuseTooLarge() bool {
	return v.refuse(tooLarge, http.StatusRequestEntityTooLarge, fmt.Sprintf("a request's body may have at most %d bytes", maxBody))
}

func (v *visit) setRetryAfter(wait time.Duration) {
	v.w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
}

// refuse counts, logs and answers. Refused commands are audited, other requests
// noted now and then. It returns false, for the checks to return.
func (v *visit) refuse(why reason, status int, detail string) bool {
	g := v.g
	g.rejected[why].Add(1)
	if v.need == accessControl {
		if unlogged, ok := g.refusedAudit.allow(v.came); ok {
			g.audit(v.caller, AuditEntry{
				Command: commandName(v.r.URL.Path), Status: status, Result: why.String(), Took: g.cfg.now().Sub(v.came),
			}, unlogged)
		}
	} else if unlogged, ok := g.throttles[why].allow(v.came); ok {
		g.cfg.Log.Warn().Str("reason", why.String()).Int("status", status).Str("address", v.caller.Address).
			Str("user_agent", v.caller.UserAgent).Uint64("unlogged", unlogged).Msg("request refused")
	}
	if v.r.Body != nil && v.r.Body != http.NoBody {
		// The answer does not wait for a body that may be slow to come. What of it comes
		// soon is read, so that the client gets to see the answer.
		v.w.Header().Set("Connection", "close")
		_ = http.NewResponseController(v.w).SetReadDeadline(time.Now().Add(min(lingerTime, v.g.cfg.bodyTimeout))) // what is no socket needs none
	}
	problem.New(status, "%s", detail).Write(v.w)
	return false
}
