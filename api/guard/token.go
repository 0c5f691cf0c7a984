package guard

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/apirule"
	"github.com/g2g-agent/g2g-agent/internal/credential"
)

const (
	// goodTokenLength is the characters below which a token is warned about.
	goodTokenLength = 16
	// maxTokenLength bounds tokens, in characters: more is the wrong file.
	maxTokenLength = 1024
	// bearerProtocol comes before a token, in unpadded base64url, in the name of a
	// WebSocket sub-protocol.
	bearerProtocol = "g2g-agent.bearer."
)

// digest stands for a token: digests are of one length, so that comparing them
// takes the same time whatever was sent.
type digest [sha256.Size]byte

func digestOf(secret string) digest { return sha256.Sum256([]byte(secret)) }

func (d digest) equal(other digest) bool { return subtle.ConstantTimeCompare(d[:], other[:]) == 1 }

// token is what is kept of a configured token.
type token struct {
	digest digest
	length int
}

// tokens are those in force; they are replaced as a whole.
type tokens struct {
	control, read *token // nil: not configured
}

// newTokens checks the tokens. Its errors tell nothing of what is in them.
func newTokens(control, read string) (*tokens, error) {
	err := errors.Join(checkToken("api.token_file", control), checkToken("api.read_token_file", read))
	if err != nil {
		return nil, err
	}
	switch err := apirule.ControlWithRead(control, read); {
	case err != nil:
		return nil, fmt.Errorf("%w: api.token_file %w", datacenter.ErrInvalidInput, err)
	case read != "" && digestOf(read).equal(digestOf(control)):
		return nil, fmt.Errorf("%w: api.read_token_file holds the same token as api.token_file: who may read could command; "+
			"use two tokens", datacenter.ErrInvalidInput)
	}
	return &tokens{control: newToken(control), read: newToken(read)}, nil
}

func newToken(secret string) *token {
	if secret == "" {
		return nil
	}
	return &token{digest: digestOf(secret), length: len(secret)}
}

// checkToken returns why no client could send the token in a header.
func checkToken(key, secret string) error {
	if len(secret) > maxTokenLength {
		return fmt.Errorf("%w: %s: the token has %d characters, at most %d are allowed; is it the right file?",
			datacenter.ErrInvalidInput, key, len(secret), maxTokenLength)
	}
	if i := credential.Unsendable(secret); i >= 0 {
		return fmt.Errorf("%w: %s: character %d of the token cannot be sent in a header; a token is of visible ASCII characters, without spaces",
			datacenter.ErrInvalidInput, key, i+1)
	}
	return nil
}

// roleOf returns the role that comes with the token sent. It compares with both
// tokens whatever the outcome of the first.
func (t *tokens) roleOf(sent digest) string {
	isControl := t.control != nil && t.control.digest.equal(sent)
	isRead := t.read != nil && t.read.digest.equal(sent)
	switch {
	case isControl:
		return roleControl
	case isRead:
		return roleRead
	default:
		return roleAnyone
	}
}

// suffices reports whether the role has the access.
func (t *tokens) suffices(role string, need access) bool {
	switch need {
	case accessControl:
		return t.control == nil || role == roleControl
	case accessRead:
		return t.read == nil || role == roleRead || role == roleControl
	default:
		return true
	}
}

// sentToken returns the digest of the token that the request carries, and whether
// it carries one at all. What is meant as a token and is none, or several, gives
// the digest of nothing, which no token has.
func sentToken(r *http.Request) (sent digest, found bool) {
	secret, found := bearerToken(r.Header.Values("Authorization"))
	if !found && isWebSocket(r) {
		secret, found = protocolToken(r.Header.Values("Sec-WebSocket-Protocol"))
	}
	if len(secret) > maxTokenLength {
		secret = ""
	}
	return digestOf(secret), found
}

// bearerToken reads Authorization headers. Credentials of another scheme, which a
// proxy may have added, are not found.
func bearerToken(headers []string) (secret string, found bool) {
	for _, header := range headers {
		scheme, rest, _ := strings.Cut(header, " ")
		if !strings.EqualFold(scheme, "Bearer") {
			continue
		}
		if found {
			return "", true
		}
		secret, found = strings.Trim(rest, " "), true
	}
	return secret, found
}

// protocolToken reads the sub-protocols that a WebSocket client offers.
func protocolToken(headers []string) (secret string, found bool) {
	for _, name := range listed(headers) {
		encoded, ok := strings.CutPrefix(name, bearerProtocol)
		if !ok {
			continue
		}
		if found {
			return "", true
		}
		found = true
		decoded, err := base64.RawURLEncoding.DecodeString(encoded)
		// Each token has one spelling: the decoder would overlook line breaks and
		// bits to spare.
		if err == nil && base64.RawURLEncoding.EncodeToString(decoded) == encoded {
			secret = string(decoded)
		}
	}
	return secret, found
}

// withoutCredentials takes what credential reads out of a copy of the headers, so
// that nothing behind the guard can log or echo it.
func withoutCredentials(h http.Header) http.Header {
	if len(h.Values("Authorization")) == 0 && len(h.Values("Sec-WebSocket-Protocol")) == 0 {
		return h
	}
	h = h.Clone()
	h.Del("Authorization")
	var kept []string
	for _, name := range listed(h.Values("Sec-WebSocket-Protocol")) {
		if !strings.HasPrefix(name, bearerProtocol) {
			kept = append(kept, name)
		}
	}
	h.Del("Sec-WebSocket-Protocol")
	if len(kept) > 0 {
		h.Set("Sec-WebSocket-Protocol", strings.Join(kept, ", "))
	}
	return h
}

// isWebSocket reports whether the request asks for a WebSocket.
func isWebSocket(r *http.Request) bool {
	return r.Method == http.MethodGet && lists(r.Header.Values("Connection"), "upgrade") && lists(r.Header.Values("Upgrade"), "websocket")
}

// lists reports whether a header that is a list has the element, in any case.
func lists(headers []string, element string) bool {
	for _, e := range listed(headers) {
		if strings.EqualFold(e, element) {
			return true
		}
	}
	return false
}

// listed splits headers that are comma-separated lists.
func listed(headers []string) []string {
	var elements []string
	for _, header := range headers {
		for e := range strings.SplitSeq(header, ",") {
			if e = strings.Trim(e, " \t"); e != "" {
				elements = append(elements, e)
			}
		}
	}
	return elements
}
