package vllm

import (
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
)

// keyFile is a file with a key.
type keyFile struct {
	mu    sync.Mutex
	key   string
	err   error
	reads int
}

func (f *keyFile) read() (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads++
	return f.key, f.err
}

func (f *keyFile) set(key string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.key, f.err = key, err
}

func TestCredential(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := &keyFile{key: "one"}
		c, err := NewRenewableCredential(file.read)
		if err != nil || c.Key() != "one" {
			t.Fatalf("%q (%v)", c.Key(), err)
		}
		renew := func(refused string, want bool, wantKey string, wantReads int) {
			t.Helper()
			if got, _ := c.Renew(refused); got != want || c.Key() != wantKey || file.reads != wantReads {
				t.Errorf("refused %q: renewed %v, the key is %q, read %d times; want %v, %q, %d", refused, got, c.Key(), file.reads, want, wantKey, wantReads)
			}
		}
		file.set("two", nil)
		renew("one", false, "one", 1) // it was read just now
		<-time.After(renewEvery)
		renew("one", true, "two", 2)
		renew("one", true, "two", 2) // somebody who had the old one still
		renew("two", false, "two", 2)
		<-time.After(renewEvery)
		renew("two", false, "two", 3) // it is the same
		<-time.After(renewEvery)

		gone := errors.New("gone")
		file.set("", gone)
		renew("two", false, "two", 4)
		if _, err := c.Renew("two"); !errors.Is(err, gone) {
			t.Errorf("the error is %v", err)
		}
		<-time.After(renewEvery)
		file.set("geheim\n", nil)
		renew("two", false, "two", 5)
		if _, err := c.Renew("two"); err == nil || strings.Contains(err.Error(), "geheim") {
			t.Errorf("the error is %v", err)
		}
		<-time.After(renewEvery)
		file.set("three", nil)
		renew("two", true, "three", 6)
	})
	for _, fixed := range []*Credential{nil, NewCredential(""), NewCredential("key")} {
		if renewed, err := fixed.Renew(fixed.Key()); renewed || err != nil {
			t.Errorf("%q was renewed (%v)", fixed.Key(), err)
		}
	}
	for _, bad := range []*keyFile{{err: errors.New("gone")}, {key: "a b"}} {
		if _, err := NewRenewableCredential(bad.read); err == nil {
			t.Errorf("%q was taken", bad.key)
		}
	}
}

// A server's key is replaced, there and in the file.
func TestKeyThatIsReplaced(t *testing.T) {
	for name, call := range calls() {
		for _, status := range []int{401, 403} {
			var mu sync.Mutex
			right := "one"
			f := newFake(t, func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				refused := r.Header.Get("Authorization") != "Bearer "+right
				mu.Unlock()
				switch {
				case refused:
					answerWith(status, `{"error":"Unauthorized"}`)(w, r)
				case r.Method != http.MethodGet:
					answerWith(200, "")(w, r)
				default:
					wellServer(w, r)
				}
			})
			file := &keyFile{key: "one"}
			c, err := NewRenewableCredential(file.read)
			if err != nil {
				t.Fatal(err)
			}
			var logged strings.Builder
			s := newTestServer(t, Config{BaseURL: f.URL, Credential: c, Log: zerolog.New(&logged)})
			if err := call(t.Context(), s); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			asked := len(f.requests())
			mu.Lock()
			right = "two"
			mu.Unlock()
			c.readAt = time.Time{} // long ago
			if err := call(t.Context(), s); err == nil || !strings.Contains(err.Error(), http.StatusText(status)) {
				t.Errorf("%s: with the old key: %v", name, err)
			}
			if n := len(f.requests()) - asked; n != 1 {
				t.Errorf("%s: %d requests with the old key, want 1", name, n)
			}
			file.set("two", nil)
			c.readAt = time.Time{}
			if err := call(t.Context(), s); err != nil {
				t.Errorf("%s: with the new key: %v", name, err)
			}
			if n := len(f.requests()) - asked; n != 2+asked {
				t.Errorf("%s: %d requests, want one with each refused key and %d", name, n, asked)
			}
			if log := logged.String(); strings.Count(log, "a new one was found") != 1 || strings.Contains(log, "two") {
				t.Errorf("%s: the log is %s", name, log)
			}
			file.set("", errors.New("the file is gone"))
			mu.Lock()
			right = "three"
			mu.Unlock()
			c.readAt = time.Time{}
			wantMessage(t, name, call(t.Context(), s), http.StatusText(status), "the API key was to be read again: the file is gone")
		}
	}
}
