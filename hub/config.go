package hub

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-retryablehttp"
	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/backoff"
	"github.com/g2g-agent/g2g-agent/internal/baseurl"
	"github.com/g2g-agent/g2g-agent/internal/credential"
)

const (
	// DefaultEndpoint is the public hub.
	DefaultEndpoint = "https://huggingface.co"

	defaultParallel = 8
	defaultStall    = time.Minute
)

// Config says where files come from and where they go.
type Config struct {
	// Endpoint is the hub's URL; empty is [DefaultEndpoint].
	Endpoint string
	// Token is sent to the endpoint and to no other host; nil for none.
	Token *credential.Credential
	// TokenFrom says in messages where the token comes from, such as HF_TOKEN.
	TokenFrom string
	// CacheDirs are caches of the hub's Python client. They are looked into first and
	// never written to.
	CacheDirs []string
	// Dir is where downloaded files are kept.
	Dir string
	// Offline has nothing asked over the network.
	Offline bool
	// Parallel is how many files are under way at once; 0 is 8.
	Parallel int
	// StallTimeout ends a transfer that brings nothing for so long, which is then tried
	// again; 0 is one minute.
	StallTimeout time.Duration
	// Retry spaces attempts that fail, where the hub does not say how long to wait; zero
	// is from 1 s to 16 s.
	Retry backoff.Policy
	// Transport makes the requests; nil for one that obeys the proxy settings of the
	// environment.
	Transport http.RoundTripper
	Log       zerolog.Logger
}

// FromEnviron reads what the hub's Python client reads from an environment, given as
// by [os.Environ]: HF_ENDPOINT; HF_TOKEN, else the file HF_TOKEN_PATH, else
// $HF_HOME/token; HF_HUB_CACHE, else $HF_HOME/hub; HF_HUB_OFFLINE. HF_HOME is
// ~/.cache/huggingface by default. Dir becomes ~/.cache/g2g-agent/hub; XDG_CACHE_HOME
// stands for ~/.cache.
//
// The error wraps [datacenter.ErrInvalidInput], names the variable or file, and does
// not show the token.
func FromEnviron(environ []string) (Config, error) {
	env := newEnvironment(environ)
	cfg := Config{
		Endpoint: env.vars["HF_ENDPOINT"],
		Offline:  isTrue(env.vars["HF_HUB_OFFLINE"]),
	}
	cacheHome := env.path("XDG_CACHE_HOME", env.expand("~/.cache"))
	home := env.path("HF_HOME", join(cacheHome, "huggingface"))
	legacy := env.path("HUGGINGFACE_HUB_CACHE", join(home, "hub"))
	if cache := env.path("HF_HUB_CACHE", legacy); cache != "" {
		cfg.CacheDirs = []string{cache}
	}
	cfg.Dir = join(cacheHome, "g2g-agent/hub")

	token, from := credential.Trim(env.vars["HF_TOKEN"]), "HF_TOKEN"
	if token == "" {
		file := env.path("HF_TOKEN_PATH", join(home, "token"))
		raw, err := readToken(file)
		if err != nil {
			return Config{}, fmt.Errorf("%w: the hub's token: %w", datacenter.ErrInvalidInput, err)
		}
		token, from = credential.Trim(raw), file
	}
	if token != "" {
		cfg.Token, cfg.TokenFrom = credential.Fixed(token), from
		if err := cfg.Token.Check(); err != nil {
			return Config{}, fmt.Errorf("%w: the hub's token in %s: %w", datacenter.ErrInvalidInput, from, err)
		}
	}
	return cfg, nil
}

// maxTokenBytes bounds what is read as a token.
const maxTokenBytes = 64 << 10

// readToken is what the file has; nothing if there is none.
func readToken(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	info, err := os.Stat(file)
	switch {
	case os.IsNotExist(err):
		return "", nil
	case err != nil:
		return "", err
	case !info.Mode().IsRegular() || info.Size() > maxTokenBytes:
		return "", fmt.Errorf("%s is no file with a token", file)
	}
	raw, err := os.ReadFile(file)
	return string(raw), err
}

// environment is a set of variables.
type environment struct{ vars map[string]string }

func newEnvironment(environ []string) environment {
	env := environment{map[string]string{}}
	for _, entry := range environ {
		if name, value, ok := strings.Cut(entry, "="); ok {
			env.vars[name] = value
		}
	}
	return env
}

// path is the variable's value as a path; without a value, instead.
func (e environment) path(name, instead string) string {
	if e.vars[name] == "" {
		return instead
	}
	return e.expand(e.vars[name])
}

// expand replaces a ~ at the start and variables, as the Python client does; it is
// empty if there is no home.
func (e environment) expand(path string) string {
	path = os.Expand(path, func(name string) string { return e.vars[name] })
	if rest, isHome := strings.CutPrefix(path, "~"); isHome && (rest == "" || rest[0] == '/') {
		return join(e.vars["HOME"], rest)
	}
	return path
}

// join is [filepath.Join], but nothing below nothing.
func join(dir, name string) string {
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, name)
}

func isTrue(value string) bool {
	return slices.Contains([]string{"1", "ON", "YES", "TRUE"}, strings.ToUpper(value))
}

// Client speaks to one hub. Its methods may be called by several goroutines at once.
type Client struct {
	cfg      Config
	endpoint *url.URL // without a slash at the end
	http     *http.Client
	retrying *retryablehttp.Client
	close    func()

	// What tests replace: how long a wait really is, the room on a disk, a write.
	shorten func(time.Duration) time.Duration
	free    func(dir string) (bytes uint64, known bool)
	write   func(*os.File, []byte) (int, error)
}

// New checks cfg and returns the client; it does not connect yet. The error wraps
// [datacenter.ErrInvalidInput].
func New(cfg Config) (*Client, error) {
	if cfg.Endpoint == "" {
		cfg.Endpoint = DefaultEndpoint
	}
	endpoint, err := baseurl.Parse(cfg.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("%w: the hub's endpoint (HF_ENDPOINT) %w", datacenter.ErrInvalidInput, err)
	}
	if cfg.Dir == "" {
		return nil, fmt.Errorf("%w: there is no directory to keep files of the hub in; name one, or set HOME", datacenter.ErrInvalidInput)
	}
	if err := cfg.Token.Check(); err != nil {
		return nil, fmt.Errorf("%w: the hub's token: %w", datacenter.ErrInvalidInput, err)
	}
	if cfg.Parallel <= 0 {
		cfg.Parallel = defaultParallel
	}
	if cfg.StallTimeout <= 0 {
		cfg.StallTimeout = defaultStall
	}
	if cfg.Retry == (backoff.Policy{}) {
		cfg.Retry = backoff.Policy{First: time.Second, Most: 16 * time.Second, Factor: 2, Jitter: 0.5}
	}
	if cfg.TokenFrom == "" {
		cfg.TokenFrom = "HF_TOKEN"
	}
	c := &Client{
		cfg:      cfg,
		endpoint: endpoint,
		close:    func() {},
		shorten:  func(d time.Duration) time.Duration { return d },
		free:     freeBytes,
		write:    (*os.File).Write,
	}
	transport := cfg.Transport
	if transport == nil {
		own := newTransport(cfg)
		transport, c.close = own, own.CloseIdleConnections
	}
	c.http = &http.Client{
		Transport: watchful{transport, cfg.StallTimeout},
		// Redirects are followed here, by hand: what may go where is decided for each.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	c.retrying = &retryablehttp.Client{
		HTTPClient: c.http,
		RetryMax:   maxRetries,
		CheckRetry: c.checkAnswer,
		Backoff: func(_, _ time.Duration, failures int, resp *http.Response) time.Duration {
			return c.wait(failures, resp)
		},
		ErrorHandler: retryablehttp.PassthroughErrorHandler, // the last answer says why
	}
	return c, nil
}

func newTransport(cfg Config) *http.Transport {
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true,
		MaxIdleConnsPerHost:    cfg.Parallel,
		IdleConnTimeout:        defaultStall,
		MaxResponseHeaderBytes: 256 << 10,
	}
}

// Close ends the connections that are kept for the next request.
func (c *Client) Close() { c.close() }
