// Package credential has the keys and tokens that servers want of us, which may be
// replaced while they are in use.
package credential

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/internal/textfile"
)

// Credential is the key or token that a server wants as bearer token. One that is
// kept in a file may be replaced while it is in use: whoever is refused (401, 403)
// calls [Credential.Renew], and [Credential.Key] then gives what the file holds
// now. All who speak to a server share one. A nil Credential is that of a server
// that wants none. Its methods may be called from any goroutine.
type Credential struct {
	key   atomic.Pointer[string]
	read  func() (string, error) // nil: the key stays as it is
	every time.Duration
	log   zerolog.Logger

	reading sync.Mutex // held while the key is read
	readAt  time.Time
	readErr error
}

// Fixed returns a key that stays as it is; empty is none.
func Fixed(key string) *Credential {
	c := &Credential{}
	c.key.Store(&key)
	return c
}

// Renewable returns the key that read gives, now and after a server has refused
// it; read is called again when every has passed at the earliest. The log is told of
// new keys. The error is that of read, or says that the key cannot be sent.
func Renewable(read func() (string, error), every time.Duration, log zerolog.Logger) (*Credential, error) {
	key, err := read()
	if err == nil {
		err = check(key)
	}
	if err != nil {
		return nil, err
	}
	c := Fixed(key)
	c.read, c.every, c.log, c.readAt = read, every, log, time.Now()
	return c, nil
}

// Trim takes away what is around a key or token in a file or a variable and is none
// of it: white space, such as the line break at the end, and a byte-order mark.
func Trim(raw string) string {
	text, err := textfile.Strip([]byte(raw))
	if err != nil {
		return raw // it cannot be sent, which is said later
	}
	return strings.TrimSpace(string(text))
}

// Unsendable returns the index of the first byte of a token or key that cannot stand
// in a header as a part of it, -1 if all are visible ASCII characters.
func Unsendable(text string) int {
	for i := range len(text) {
		if text[i] <= ' ' || text[i] > '~' {
			return i
		}
	}
	return -1
}

// check returns why a key cannot be sent, without naming it.
func check(key string) error {
	if Unsendable(key) >= 0 {
		return errors.New("the key has a space, a line break or another character that cannot be sent; want printable ASCII")
	}
	return nil
}

// Check returns why the key as it is now cannot be sent, without naming it; nil if
// it can.
func (c *Credential) Check() error { return check(c.Key()) }

// Key is the key as it is now, empty for none. It never waits.
func (c *Credential) Key() string {
	if c == nil {
		return ""
	}
	return *c.key.Load()
}

// Renew looks for a new key after a server has refused one, and reports whether
// there is another now. The error, of the latest reading, says why it could not be
// read.
func (c *Credential) Renew(refused string) (renewed bool, err error) {
	if c == nil || c.read == nil {
		return false, nil
	}
	c.reading.Lock()
	defer c.reading.Unlock()
	if c.Key() != refused {
		return true, nil // somebody else was refused just before
	}
	if time.Since(c.readAt) >= c.every {
		var key string
		if key, c.readErr = c.read(); c.readErr == nil {
			c.readErr = check(key)
		}
		c.readAt = time.Now() // a reading that took long answers those who waited for it
		if c.readErr == nil && key != refused {
			c.key.Store(&key)
			c.log.Info().Msg("the server refused the key or token; a new one was found and is used from now on")
		}
	}
	return c.Key() != refused, c.readErr
}

// Refuses reports whether the HTTP status of an answer says that the key was not
// right.
func Refuses(status int) bool {
	return status == http.StatusUnauthorized || status == http.StatusForbidden
}

// RenewAfter is [Credential.Renew] after an answer that detail describes. If there
// should be another key and it cannot be read, the detail then says that as well.
func (c *Credential) RenewAfter(refused, detail string) (renewed bool, extended string) {
	renewed, err := c.Renew(refused)
	if err != nil {
		detail += fmt.Sprintf("; the API key was to be read again: %v", err)
	}
	return renewed, detail
}
