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
)

const (
	// maxBody bounds a request's body, in bytes.
	maxBody = 64 << 10
	// defaultBodyTimeout bounds how long a body may take to come.
	defaultBodyTimeout = 10 * time.Second
)

// Wrap returns a handler that hands on to next what passes the checks (see the
// package's description), with the caller in the context, without credentials, and
// with the whole body read. It answers the rest itself, with problems.
func (g *Guard) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		setHeaders(w.Header())
		g.origins.share(w.Header(), r)
		v := g.newVisit(w, r)
		if v.checkHost() && v.checkRate() && v.checkOrigin() && v.checkToken() && v.checkSize() {
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
}

func (g *Guard) newVisit(w http.ResponseWriter, r *http.Request) *visit {
	v := &visit{
		g: g, w: w, came: g.cfg.now(), tokens: g.tokens.Load(),
		need: accessOf(r.Method, r.URL.Path), health: isHealthCheck(r), socket: isWebSocket(r),
	}
	counted, address := clientAddress(r.RemoteAddr)
	v.caller = caller{Role: roleAnyone, Address: address, UserAgent: printable(r.UserAgent())}
	sent, found := credential(r)
	v.sentToken = found && v.tokens.control != nil
	g.clients.visit(counted, v.came, func(c *client) {
		if v.sentToken {
			v.caller.Role = c.identify(v.tokens, sent, v.came)
		}
		if !v.health {
			v.wait = g.clients.takeRequest(c, v.caller.Role != roleAnyone, v.came)
		}
	})
	v.r = r.WithContext(context.WithValue(r.Context(), callerKey{}, v.caller))
	v.r.Header = withoutCredentials(r.Header)
	return v
}

func (v *visit) checkHost() bool {
	// Supervisors ask by whatever address they know, or name no host at all. A page
	// that gets here by a name of its own learns no more than whether all is well.
	if v.health || v.tokens.control != nil || v.g.address.namesThisHost(v.r.Host) {
		return true
	}
	return v.refuse(foreignHost, http.StatusForbidden, fmt.Sprintf(
		"without a control token only requests to localhost or a loopback address are served, this one is to %q: "+
			"use http://127.0.0.1:PORT, or set api.token_file", printable(v.r.Host)))
}

func (v *visit) checkRate() bool {
	if v.wait == 0 {
		return true
	}
	v.setRetryAfter(v.wait)
	return v.refuse(tooFast, http.StatusTooManyRequests,
		fmt.Sprintf("each client may make %v requests a second (api.max_requests_per_s); to follow states, use the WebSocket", v.g.cfg.MaxRequestsPerS))
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
	counted, _ := clientAddress(v.r.RemoteAddr)
	v.g.clients.visit(counted, v.came, func(c *client) { wait = take(c.failures, v.came) })
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
		v.r.Body, v.r.ContentLength, v.r.TransferEncoding = io.NopCloser(bytes.NewReader(content)), int64(len(content)), nil
		return true
	case errors.As(err, &large):
		return v.refuseTooLarge()
	}
	// Not refused, but failed: the client is gone or has stopped sending.
	v.w.Header().Set("Connection", "close")
	if errors.Is(err, os.ErrDeadlineExceeded) {
		problem.New(http.StatusRequestTimeout, "the body did not come within %v", v.g.cfg.bodyTimeout).At("body", "did not come in time").Write(v.w)
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
		v.limitReading() // net/http reads what little is left of the body before it answers
	}
	problem.New(status, "%s", detail).Write(v.w)
	return false
}
