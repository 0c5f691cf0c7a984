// Package baseurl has the rule of what the base URL of a vLLM server may be: config,
// control and load hold to the same one.
package baseurl

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path"
	"strconv"
	"strings"

	"github.com/g2g-agent/g2g-agent/internal/excerpt"
	"github.com/g2g-agent/g2g-agent/internal/hostname"
)

// Flaw is a kind of what may be wrong with a base URL.
type Flaw uint8

const (
	// NoAddress says that it names no host by http or https.
	NoAddress Flaw = iota
	// WithUser says that there is a user name in it, or a password.
	WithUser
	// TooMuch says that its host is good and that something else in it is not: the
	// port, a query, a fragment, the /v1 of OpenAI's clients.
	TooMuch
)

// Error is what is wrong with a base URL.
type Error struct {
	Flaw Flaw
	// text goes on where "the base URL" ends.
	text string
	err  error
}

// Error says what is wrong and what would be right, as what follows the words "the
// base URL". No password is in it.
func (e *Error) Error() string { return e.text }

// Unwrap is the error of reading the URL, if there was one.
func (e *Error) Unwrap() error { return e.err }

// maxQuoted bounds what a message repeats of a base URL, in bytes.
const maxQuoted = 200

// Parse reads a base URL such as http://node1:8000: with http or https and a host,
// and, if it likes, a port and a path that all requests then begin with. It returns
// it without slashes at its end. The error is an [*Error].
func Parse(raw string) (*url.URL, error) {
	const want = "want http://HOST:PORT or https://HOST:PORT"
	flawed := func(flaw Flaw, format string, args ...any) (*url.URL, error) {
		return nil, &Error{Flaw: flaw, text: fmt.Sprintf(format, args...)}
	}
	shown := excerpt.Quote(raw, maxQuoted)
	if raw == "" {
		return flawed(NoAddress, "is empty; %s", want)
	}
	u, err := url.Parse(raw)
	switch {
	// First, because the others quote it.
	case strings.Contains(raw, "@") && (err != nil || u.User != nil || u.Host == ""):
		flaw := NoAddress
		if err == nil && isWeb(u) && u.Hostname() != "" {
			flaw = WithUser
		}
		return flawed(flaw, "has a user name or password in it; want it without, and the key as API key")
	case strings.HasPrefix(raw, "unix:"):
		return flawed(NoAddress, "is %s, a socket; %s", shown, want)
	case !strings.Contains(raw, "://") && !strings.HasPrefix(raw, "http"):
		return flawed(NoAddress, "is %s, without a scheme; is it http://%s?", shown, excerpt.Printable(strings.TrimLeft(raw, "/"), maxQuoted))
	case err != nil:
		var parseErr *url.Error
		if errors.As(err, &parseErr) {
			err = parseErr.Err
		}
		return nil, &Error{NoAddress, fmt.Sprintf("is %s: %s; %s", shown, excerpt.Printable(err.Error(), maxQuoted), want), err}
	case !isWeb(u):
		return flawed(NoAddress, "is %s, with scheme %s; %s", shown, excerpt.Quote(u.Scheme, maxQuoted), want)
	case u.Hostname() == "":
		return flawed(NoAddress, "is %s, without a host; %s", shown, want)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.HasSuffix(raw, "#"):
		return flawed(TooMuch, "is %s, with a query or a fragment; want it to end before the ? or #", shown)
	}
	if port, err := strconv.Atoi(cmp.Or(u.Port(), "80")); err != nil || port < 1 || port > 65535 {
		return flawed(TooMuch, "is %s, with port %s; want one from 1 to 65535", shown, excerpt.Of(u.Port(), maxQuoted))
	}
	u.RawPath = strings.TrimRight(u.EscapedPath(), "/")
	u.Path, _ = url.PathUnescape(u.RawPath) // what was unescaped before can be again
	if base := u.String(); strings.HasSuffix(u.Path, "/v1") {
		// The base URL of OpenAI's clients; health, metrics and commands lie beside it.
		return flawed(TooMuch, "is %s; want it without the /v1: %s", shown, excerpt.Of(strings.TrimSuffix(base, "/v1"), maxQuoted))
	}
	return u, nil
}

// Identity is what two base URLs have in common if they lead to one server, however
// they are spelled; raw itself for what is no base URL.
func Identity(raw string) string {
	u, err := Parse(raw)
	if err != nil {
		return raw
	}
	port := map[string]string{"http": "80", "https": "443"}[u.Scheme]
	return net.JoinHostPort(hostname.Identity(u.Hostname()), cmp.Or(strings.TrimLeft(u.Port(), "0"), port)) + path.Clean("/"+u.Path)
}

func isWeb(u *url.URL) bool { return u.Scheme == "http" || u.Scheme == "https" }
