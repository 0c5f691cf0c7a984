package vllm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/g2g-agent/g2g-agent/internal/credential"
)

// maxRedirects is how many redirects a question follows.
const maxRedirects = 3

// answer is what a question came to. Its body is to be closed.
type answer struct {
	*http.Response
	// redirects were followed to it.
	redirects int
	// renewErr says why there is no other key, for an answer that refuses this one.
	renewErr error
}

// err is a [StatusError] of the answer to a GET of target.
func (a *answer) err(target string) error {
	e := &StatusError{http.MethodGet, target, a.StatusCode, detail(a.Response)}
	if a.redirects > 0 {
		e.Detail = shorten(fmt.Sprintf("%s (after %d redirects)", e.Detail, a.redirects))
	}
	if a.renewErr != nil {
		return fmt.Errorf("%w; the API key was to be read again: %w", e, a.renewErr)
	}
	return e
}

// ask sends a GET. It follows redirects, but within the server: to the same scheme,
// host and port, so that the key goes nowhere else. If the server refuses the key
// and there is a new one, it asks once more.
func (s *Server) ask(ctx context.Context, do func(*http.Request) (*http.Response, error), target string) (*answer, error) {
	a := &answer{}
	for renewed := false; ; {
		key := s.credential.Key()
		req, err := newRequest(ctx, http.MethodGet, target, nil, key)
		if err != nil {
			return nil, err
		}
		a.Response, err = do(req) //nolint:bodyclose // the caller closes the answer's, and the others are closed below
		if err != nil {
			if a.Response != nil { // if time ran out on the way
				_ = a.Body.Close()
			}
			return nil, err
		}
		switch {
		case credential.Refuses(a.StatusCode) && !renewed:
			if renewed, a.renewErr = s.credential.Renew(key); !renewed {
				return a, nil
			}
		case isRedirect(a.StatusCode) && a.redirects < maxRedirects:
			next, ok := sameServer(req.URL, a.Header.Get("Location"))
			if !ok {
				return a, nil
			}
			target = next
			a.redirects++
		default:
			return a, nil
		}
		_ = a.Body.Close()
	}
}

// isRedirect reports whether a status says that what was asked for is elsewhere.
func isRedirect(status int) bool {
	switch status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	default:
		return false
	}
}

// sameServer is where a redirect leads, ok if that is the same server.
func sameServer(from *url.URL, location string) (target string, ok bool) {
	to, err := from.Parse(location)
	if location == "" || err != nil || to.User != nil || to.Scheme != from.Scheme ||
		!strings.EqualFold(to.Hostname(), from.Hostname()) || portOf(to) != portOf(from) {
		return "", false
	}
	return to.String(), true
}

func portOf(u *url.URL) string {
	return cmp.Or(u.Port(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
}

// get asks for a path and has read look at the body of a 200; everything else is
// an error. read needs to limit what it reads.
func (s *Server) get(ctx context.Context, do func(*http.Request) (*http.Response, error), path string, read func(io.Reader) error) error {
	return s.getAnswer(ctx, do, path, func(a *answer) error {
		if a.StatusCode != http.StatusOK {
			return a.err(s.base + path)
		}
		return read(a.Body)
	})
}

// getAnswer asks for a path and has look see the answer.
func (s *Server) getAnswer(ctx context.Context, do func(*http.Request) (*http.Response, error), path string, look func(*answer) error) error {
	ctx, cancel := s.withTimeout(ctx)
	defer cancel()
	target := s.base + path
	a, err := s.ask(ctx, do, target)
	if err != nil {
		return fmt.Errorf("GET %s: %w", target, reason(ctx, err))
	}
	defer a.Body.Close()
	err = look(a)
	if status := (*StatusError)(nil); err == nil || errors.As(err, &status) {
		return err
	}
	return fmt.Errorf("GET %s: %w", target, reason(ctx, err))
}

// newRequest returns a request that bears the key, unless that is empty.
func newRequest(ctx context.Context, method, target string, body io.Reader, key string) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, err
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	return req, nil
}

// withTimeout bounds a call.
func (s *Server) withTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, s.timeout, fmt.Errorf("no answer within %v: %w", s.timeout, context.DeadlineExceeded))
}

// reason strips the method and URL, which the caller adds in its own way, from an
// error of net/http, and says what time ran out.
func reason(ctx context.Context, err error) error {
	var urlErr *url.Error
	if errors.As(err, &urlErr) {
		err = urlErr.Err
	}
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if text := err.Error(); len(text) > 2*maxDetailBytes { // it quotes the server
		return &shortenedError{shorten(text), err}
	}
	return err
}

// shortenedError is an error with less text.
type shortenedError struct {
	text string
	err  error
}

func (e *shortenedError) Error() string { return e.text }

func (e *shortenedError) Unwrap() error { return e.err }
