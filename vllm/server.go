package vllm

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-retryablehttp"
	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/internal/baseurl"
	"github.com/g2g-agent/g2g-agent/internal/credential"
	"github.com/g2g-agent/g2g-agent/internal/excerpt"
)

// Limits of what is read and quoted, and of how often is asked.
const (
	defaultTimeout = 5 * time.Second

	maxAnswerBytes  = 4 << 20 // of a list of models or a configuration; usual are some kilobytes
	maxDetailBytes  = 200     // of what a server says, in an error
	maxServedQuoted = 10      // of the models a server has, in an error

	tries       = 3
	minWait     = 50 * time.Millisecond  // times the number of tries so far, and jittered
	maxWait     = 150 * time.Millisecond // likewise
	idleTimeout = 30 * time.Second       // a connection is kept that long for the next question
)

// Config says which server, and how to speak to it.
type Config struct {
	// BaseURL is where the server listens, such as http://node1:8000, with http or
	// https. It may have a path, which all calls then begin with, and a slash at
	// the end.
	BaseURL string
	// ModelID is the model that the server must serve, as in its /v1/models.
	ModelID string
	// Credential is the key that is sent as bearer token with every request; nil is
	// none.
	Credential *credential.Credential
	// Timeout bounds each call, with its repetitions and the reading of the answer;
	// 0 stands for 5 s.
	Timeout time.Duration
	// TLS is for https; nil stands for the system's certificate authorities.
	TLS *tls.Config
	// Log gets, at debug level, each failed try of a question that is tried several
	// times, and is told of new keys. What fails for good is returned, not logged.
	Log zerolog.Logger
}

// Server is one vLLM server. Its methods may be called by several goroutines at
// once. It uses no proxy, whatever the environment says: control must take the
// same way as the load, which has connections of its own.
type Server struct {
	base       string // without a slash at the end
	modelID    string
	credential *credential.Credential
	timeout    time.Duration

	log      zerolog.Logger
	reads    *http.Client
	retrying *retryablehttp.Client
	commands *http.Client
}

// NewServer checks cfg and returns the server; it does not connect yet. The
// server must be closed in the end.
func NewServer(cfg Config) (*Server, error) {
	base, err := checkBaseURL(cfg.BaseURL)
	if err != nil {
		return nil, err
	}
	switch {
	case cfg.ModelID == "":
		return nil, errors.New("vLLM server " + base + ": the model ID is empty; want one of those that its /v1/models lists")
	case cfg.Timeout < 0:
		return nil, fmt.Errorf("vLLM server %s: the timeout is %v; want more than 0, or 0 for %v", base, cfg.Timeout, defaultTimeout)
	case cfg.Timeout == 0:
		cfg.Timeout = defaultTimeout
	}
	if err := cfg.Credential.Check(); err != nil {
		return nil, fmt.Errorf("vLLM server %s: %w", base, err)
	}
	s := &Server{base: base, modelID: cfg.ModelID, credential: cfg.Credential, timeout: cfg.Timeout, log: cfg.Log}
	s.reads = newHTTPClient(cfg.TLS)
	s.retrying = &retryablehttp.Client{
		HTTPClient:   s.reads,
		RetryWaitMin: minWait,
		RetryWaitMax: maxWait,
		RetryMax:     tries - 1,
		CheckRetry:   s.checkRetry,
		Backoff:      retryablehttp.LinearJitterBackoff,
		ErrorHandler: retryablehttp.PassthroughErrorHandler, // the last answer is worth quoting
	}
	// A command goes over a connection of its own. Over one that was used before,
	// net/http may send a request a second time when it finds the connection dead.
	s.commands = newHTTPClient(cfg.TLS)
	s.commands.Transport.(*http.Transport).DisableKeepAlives = true
	return s, nil
}

// newHTTPClient returns a client that follows no redirect by itself: a redirected
// POST becomes a GET or a second request, and a key would go where it was not
// meant to. It speaks HTTP/1.1 only, as vLLM does; with HTTP/2, net/http repeats
// requests on grounds of its own.
func newHTTPClient(config *tls.Config) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Client{
		Transport: &http.Transport{
			DialContext:            (&net.Dialer{}).DialContext,
			TLSClientConfig:        config.Clone(),
			Protocols:              protocols,
			MaxIdleConnsPerHost:    2,
			IdleConnTimeout:        idleTimeout,
			MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// checkBaseURL returns raw without the slashes at its end.
func checkBaseURL(raw string) (string, error) {
	base, err := baseurl.Parse(raw)
	if err != nil {
		return "", fmt.Errorf("the base URL of a vLLM server %w", err)
	}
	return base.String(), nil
}

// Close ends the connections that are kept for the next question. Calls in
// progress go on.
func (s *Server) Close() {
	s.reads.CloseIdleConnections()
	s.commands.CloseIdleConnections()
}

// String returns the base URL, without a slash at the end.
func (s *Server) String() string { return s.base }

// StatusError is a server's answer to a question other than the one hoped for.
type StatusError struct {
	// Method and URL are what was asked.
	Method, URL string
	// Status is the HTTP status.
	Status int
	// Detail is what the server said, shortened to 200 bytes, or where it redirects
	// to.
	Detail string
}

// Error says what was asked and answered.
func (e *StatusError) Error() string {
	return fmt.Sprintf("%s %s: the server answered %s", e.Method, e.URL, statusAndDetail(e.Status, e.Detail))
}

func statusAndDetail(status int, detail string) string {
	text := fmt.Sprintf("%d", status)
	if name := http.StatusText(status); name != "" {
		text += " " + name
	}
	if detail != "" {
		text += fmt.Sprintf(": %q", detail)
	}
	return text
}

// ModelNotServedError is the error of [Server.CheckModel] for a server that lacks
// the model.
type ModelNotServedError struct {
	// URL is the server's base URL.
	URL string
	// ModelID is the model wanted, and Served are the ones there.
	ModelID string
	Served  []string
}

// Error names the model and what is served instead.
func (e *ModelNotServedError) Error() string {
	if len(e.Served) == 0 {
		return fmt.Sprintf("vLLM server %s does not serve model %q; it serves none", e.URL, e.ModelID)
	}
	return fmt.Sprintf("vLLM server %s does not serve model %q; it serves %s", e.URL, e.ModelID, quoteSome(e.Served))
}

// Health returns nil if the server says that it is well. It is tried three times.
func (s *Server) Health(ctx context.Context) error {
	return s.get(ctx, s.retry, "/health", func(io.Reader) error { return nil })
}

// Models returns the IDs of the models served, in the server's order. It is tried
// three times.
func (s *Server) Models(ctx context.Context) ([]string, error) {
	var ids []string
	err := s.get(ctx, s.retry, "/v1/models", func(body io.Reader) error {
		raw, err := readAnswer(body)
		if err != nil {
			return err
		}
		ids, err = parseModels(raw)
		return err
	})
	if err != nil {
		return nil, err
	}
	return ids, nil
}

// parseModels reads a list of models in OpenAI's format.
func parseModels(raw []byte) ([]string, error) {
	var models struct {
		Data *[]struct {
			ID string `json:"id"`
		} `json:"data"`
	}
	if err := json.Unmarshal(raw, &models); err != nil {
		return nil, fmt.Errorf("the answer is no list of models: %w; it is %q", err, shorten(string(raw)))
	}
	if models.Data == nil {
		return nil, fmt.Errorf(`the answer is no list of models, having no "data"; it is %q`, shorten(string(raw)))
	}
	ids := make([]string, len(*models.Data))
	for i, m := range *models.Data {
		if m.ID == "" {
			return nil, fmt.Errorf(`model %d of the list has no "id"`, i)
		}
		ids[i] = m.ID
	}
	return ids, nil
}

// CheckModel returns nil if the server serves its model, and a
// [*ModelNotServedError] if it serves others. It is tried three times.
func (s *Server) CheckModel(ctx context.Context) error {
	ids, err := s.Models(ctx)
	if err != nil {
		return err
	}
	if !slices.Contains(ids, s.modelID) {
		return &ModelNotServedError{s.base, s.modelID, ids}
	}
	return nil
}

// Metrics reads the server's metrics page. It is tried once.
func (s *Server) Metrics(ctx context.Context) (page MetricsPage, err error) {
	err = s.get(ctx, s.reads.Do, "/metrics", func(body io.Reader) error {
		page, err = parseMetrics(body, s.modelID)
		return err
	})
	return page, err
}

// retry sends a request until it is answered, three times at most.
func (s *Server) retry(req *http.Request) (*http.Response, error) {
	wrapped, err := retryablehttp.FromRequest(req)
	if err != nil {
		return nil, err
	}
	return s.retrying.Do(wrapped)
}

// checkRetry decides on another try. The library's own log is silent about a try
// that was answered.
func (s *Server) checkRetry(ctx context.Context, resp *http.Response, err error) (bool, error) {
	again, stop := retryablehttp.DefaultRetryPolicy(ctx, resp, err)
	if again {
		event := s.log.Debug().Str("server", s.base).AnErr("error", err)
		if resp != nil {
			event = event.Str("path", resp.Request.URL.Path).Int("status", resp.StatusCode)
		}
		event.Msg("vLLM server: a try failed")
	}
	return again, stop
}

// readAnswer reads a whole body.
func readAnswer(body io.Reader) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(body, maxAnswerBytes+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > maxAnswerBytes {
		return nil, fmt.Errorf("the answer is longer than %d bytes", maxAnswerBytes)
	}
	return raw, nil
}

// detail returns what an answer other than the one hoped for says.
func detail(resp *http.Response) string {
	if to := resp.Header.Get("Location"); to != "" && resp.StatusCode/100 == 3 {
		return shorten("redirect to " + to)
	}
	// A body that breaks off is worth what came of it.
	raw, _ := io.ReadAll(io.LimitReader(resp.Body, 2*maxDetailBytes))
	return shorten(string(raw))
}

// shorten keeps an excerpt of at most maxDetailBytes bytes, the sign that it is one
// included.
func shorten(text string) string {
	return excerpt.Of(strings.TrimSpace(text), maxDetailBytes-len(excerpt.Sign))
}
