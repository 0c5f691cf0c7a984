package vllm

import (
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// renewEvery is the least time between two looks for a new key.
const renewEvery = time.Second

// Credential is the API key of a server. One that is kept in a file may be
// replaced while it is in use: whoever is refused (401, 403) calls
// [Credential.Renew], and [Credential.Key] then gives what the file holds now. All
// who speak to a server share one. A nil Credential is that of a server that wants
// no key. Its methods may be called from any goroutine.
type Credential struct {
	key  atomic.Pointer[string]
	read func() (string, error) // nil: the key stays as it is

	reading sync.Mutex // held while the key is read
	readAt  time.Time
	readErr error
}

// NewCredential returns a key that stays as it is; empty is none.
func NewCredential(key string) *Credential {
	c := &Credential{}
	c.key.Store(&key)
	return c
}

// NewRenewableCredential returns the key that read gives, now and after the server
// has refused it. Its error is that of read, or says that the key cannot be sent.
func NewRenewableCredential(read func() (string, error)) (*Credential, error) {
	key, err := read()
	if err == nil {
		err = checkKey(key)
	}
	if err != nil {
		return nil, err
	}
	c := NewCredential(key)
	c.read, c.readAt = read, time.Now()
	return c, nil
}

// checkKey returns why a key cannot be sent, without naming it.
func checkKey(key string) error {
	if strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("the API key has a space, a line break or another character that cannot be sent; want printable ASCII")
	}
	return nil
}

// Key is the key as it is now, empty for none. It never waits.
func (c *Credential) Key() string {
	if c == nil {
		return ""
	}
	return *c.key.Load()
}

// Renew looks for a new key after the server has refused one, and reports whether
// there is another now. The key is read once a second at most; the error, of the
// latest reading, says why it could not be.
func (c *Credential) Renew(refused string) (renewed bool, err error) {
	if c == nil || c.read == nil {
		return false, nil
	}
	c.reading.Lock()
	defer c.reading.Unlock()
	if c.Key() != refused {
		return true, nil // somebody else was refused just before
	}
	if now := time.Now(); now.Sub(c.readAt) >= renewEvery {
		c.readAt = now
		var key string
		if key, c.readErr = c.read(); c.readErr == nil {
			c.readErr = checkKey(key)
		}
		if c.readErr == nil {
			c.key.Store(&key)
		}
	}
	return c.Key() != refused, c.readErr
}

// refusesKey reports whether an answer's status says that the key was not right.
func refusesKey(status int) bool {
	return status == http.StatusUnauthorized || status == http.StatusForbidden
}
