package hub

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/hashicorp/go-retryablehttp"

	"github.com/g2g-agent/g2g-agent/internal/hostname"
)

const (
	// maxRedirects is how many are followed for one request.
	maxRedirects = 5
	// maxAnswerBytes bounds an answer other than a file. A page of the hub's listing has
	// about half a megabyte.
	maxAnswerBytes = 16 << 20
)

var (
	errRedirect = errors.New("a redirect that is not followed")
	errStalled  = errors.New("nothing came for too long")
)

// isHub reports whether a URL is the endpoint's: same scheme, host and port. The token
// goes nowhere else.
func (c *Client) isHub(u *url.URL) bool { return origin(u) == origin(c.endpoint) }

func origin(u *url.URL) string {
	port := cmp.Or(u.Port(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
	return u.Scheme + "://" + hostname.Canonical(u.Hostname()) + ":" + port
}

// setHeader has the token in it for the hub alone.
func (c *Client) setHeader(header http.Header, withToken bool) {
	header.Set("User-Agent", "g2g-agent")
	header.Set("Accept-Encoding", "identity") // sizes and checksums are those of the file
	if key := c.cfg.Token.Key(); key != "" && withToken {
		header.Set("Authorization", "Bearer "+key)
	}
}

// answer is what the hub says about something.
type answer struct {
	*http.Response
	// hops are the headers of the redirects before, the last one first.
	hops []http.Header
	body []byte
}

// header is that of the answer, or of the redirect that led to it.
func (a *answer) header(name string) string {
	value := a.Header.Get(name)
	for _, hop := range a.hops {
		value = cmp.Or(value, hop.Get(name))
	}
	return value
}

// ask asks the hub, again if that fails in a way that may pass. It follows redirects
// that stay with the hub; one that leaves it is an answer to a HEAD request, and an
// error otherwise.
func (c *Client) ask(ctx context.Context, method string, u *url.URL) (*answer, error) {
	a := &answer{}
	for range maxRedirects + 1 {
		req, err := retryablehttp.NewRequestWithContext(ctx, method, u.String(), nil)
		if err != nil {
			return nil, err
		}
		c.setHeader(req.Header, true)
		if err := a.receive(c.retrying.Do(req)); err != nil {
			if ctx.Err() != nil {
				return nil, fmt.Errorf("%s: %w", shown(u), context.Cause(ctx))
			}
			return nil, unreachable(u, err)
		}
		if !isRedirect(a.StatusCode) {
			return a, nil
		}
		to, err := a.Location()
		if err != nil {
			return nil, &Error{Where: shown(u), Status: a.StatusCode, kind: ErrAnswer, detail: "it redirects to nowhere"}
		}
		if !c.isHub(to) {
			if method == http.MethodHead {
				return a, nil
			}
			return nil, &Error{Where: shown(u), Status: a.StatusCode, kind: ErrAnswer,
				detail: "it redirects to " + shown(to), advice: "want an answer of the hub itself; is HF_ENDPOINT right?"}
		}
		a.hops = append([]http.Header{a.Header}, a.hops...)
		u = to
	}
	return nil, &Error{Where: shown(u), kind: ErrAnswer, detail: fmt.Sprintf("it redirects more than %d times", maxRedirects)}
}

// receive takes what a request has come to.
func (a *answer) receive(resp *http.Response, err error) error {
	if err != nil {
		if resp != nil {
			_ = resp.Body.Close()
		}
		return err
	}
	defer resp.Body.Close()
	a.Response = resp
	a.body, err = io.ReadAll(resp.Body) // checkAnswer has bounded it
	return err
}

// checkAnswer decides on another try. It reads the body: one that breaks off is tried
// again like an answer that does not come.
func (c *Client) checkAnswer(ctx context.Context, resp *http.Response, err error) (bool, error) {
	if err == nil {
		var body []byte
		body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes+1))
		if len(body) > maxAnswerBytes {
			err = fmt.Errorf("the answer is longer than %d bytes", maxAnswerBytes)
		}
		_ = resp.Body.Close()
		rest := io.Reader(bytes.NewReader(body))
		if err != nil {
			rest = io.MultiReader(rest, failing{err})
		}
		resp.Body = io.NopCloser(rest)
	}
	again := mayPass(ctx, resp, err)
	if again {
		c.logFailure(resp, err)
	}
	return again, ctx.Err()
}

// logFailure is told what will be tried again.
func (c *Client) logFailure(resp *http.Response, err error) {
	if urlErr := (*url.Error)(nil); errors.As(err, &urlErr) {
		err = urlErr.Err
	}
	event := c.cfg.Log.Debug().AnErr("error", err)
	if resp != nil {
		event = event.Str("url", shown(resp.Request.URL)).Int("status", resp.StatusCode)
	}
	event.Msg("hub: a request failed and is made again")
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// open asks for a file's bytes from the given one on, once, and follows redirects:
// elsewhere without the token, and never from https to http.
func (c *Client) open(ctx context.Context, u *url.URL, from int64) (*http.Response, error) {
	withToken := true
	for range maxRedirects + 1 {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
		if err != nil {
			return nil, err
		}
		withToken = withToken && c.isHub(u) // once it has left, it does not come back
		c.setHeader(req.Header, withToken)
		if from > 0 {
			req.Header.Set("Range", "bytes="+strconv.FormatInt(from, 10)+"-")
		}
		resp, err := c.http.Do(req)
		if err != nil || !isRedirect(resp.StatusCode) {
			return resp, err
		}
		_ = resp.Body.Close()
		to, err := resp.Location()
		switch {
		case err != nil:
			return nil, fmt.Errorf("%w: it leads nowhere", errRedirect)
		case to.Scheme != "https" && (to.Scheme != "http" || u.Scheme == "https"):
			return nil, fmt.Errorf("%w: it leads from %s to %s; want https", errRedirect, u.Scheme, shown(to))
		}
		u = to
	}
	return nil, fmt.Errorf("%w: there are more than %d", errRedirect, maxRedirects)
}

func isRedirect(status int) bool {
	switch status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

// watchful ends what brings nothing for the limit.
type watchful struct {
	next  http.RoundTripper
	limit time.Duration
}

// RoundTrip is next's, watched until the body is closed.
func (w watchful) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	timer := time.AfterFunc(w.limit, func() { cancel(errStalled) })
	body := &watchedBody{timer: timer, limit: w.limit, ctx: ctx, cancel: cancel}
	resp, err := w.next.RoundTrip(req.WithContext(ctx))
	if err != nil {
		err = body.explain(err)
		timer.Stop()
		cancel(nil)
		return nil, err
	}
	timer.Reset(w.limit)
	body.ReadCloser, resp.Body = resp.Body, body
	return resp, nil
}

type watchedBody struct {
	io.ReadCloser
	timer  *time.Timer
	limit  time.Duration
	ctx    context.Context
	cancel context.CancelCauseFunc
}

// Read resets the watch.
func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		return n, b.explain(err)
	}
	b.timer.Reset(b.limit)
	return n, nil
}

// Close ends the watch.
func (b *watchedBody) Close() error {
	b.timer.Stop()
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}

// explain says of an error that it came from the watch.
func (b *watchedBody) explain(err error) error {
	if errors.Is(err, io.EOF) || !errors.Is(context.Cause(b.ctx), errStalled) {
		return err
	}
	return fmt.Errorf("%w (%v)", errStalled, b.limit)
}
