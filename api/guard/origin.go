package guard

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/apirule"
)

// origins are the origins whose pages may use the API, beside the agent's own.
type origins struct {
	allowed    map[string]bool
	protection *http.CrossOriginProtection
}

func newOrigins(allowed []string) (*origins, error) {
	o := &origins{allowed: make(map[string]bool), protection: http.NewCrossOriginProtection()}
	for i, text := range allowed {
		origin, err := parseOrigin(text)
		if err == nil {
			err = o.protection.AddTrustedOrigin(origin)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: api.allowed_origins[%d] %w", datacenter.ErrInvalidInput, i, err)
		}
		o.allowed[origin] = true
	}
	return o, nil
}

// parseOrigin returns the origin as browsers write it. One slash at its end is
// overlooked.
func parseOrigin(text string) (string, error) { return apirule.Origin(strings.TrimSuffix(text, "/")) }

// allow reports whether a browser may make the request for the page that it comes
// from. The method does not matter: a WebSocket starts as a GET, and can do more.
func (o *origins) allow(r *http.Request) bool {
	return o.protection.Check(&http.Request{Method: http.MethodPost, Header: r.Header, Host: r.Host, URL: r.URL}) == nil
}

// isPreflight reports whether a browser asks whether a page may make a request.
func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header.Get("Origin") != "" && r.Header.Get("Access-Control-Request-Method") != ""
}

// share lets pages of allowed origins read the answer.
func (o *origins) share(h http.Header, r *http.Request) {
	if len(o.allowed) == 0 {
		return
	}
	h.Add("Vary", "Origin")
	if origin := r.Header.Get("Origin"); o.allowed[origin] {
		h.Set("Access-Control-Allow-Origin", origin)
		h.Set("Access-Control-Expose-Headers", "Idempotency-Replayed, Retry-After, WWW-Authenticate")
	}
}

// answerPreflight says what pages of allowed origins may send; it reports whether
// the page is of one.
func (o *origins) answerPreflight(w http.ResponseWriter, r *http.Request) bool {
	if !o.allowed[r.Header.Get("Origin")] {
		return false
	}
	h := w.Header()
	h.Set("Access-Control-Allow-Methods", "GET, POST")
	h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, Idempotency-Key")
	h.Set("Access-Control-Max-Age", "600")
	w.WriteHeader(http.StatusNoContent)
	return true
}
