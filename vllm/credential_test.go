package vllm

import (
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/internal/credential"
	"github.com/g2g-agent/g2g-agent/internal/credential/credentialtest"
)

// A server's key is replaced, there and in the file.
func TestKeyThatIsReplaced(t *testing.T) {
	for name, call := range calls() {
		testReplacedKey(t, name, func(url string, c *credential.Credential) func() error {
			s := newTestServer(t, Config{BaseURL: url, Credential: c})
			return func() error { return call(t.Context(), s) }
		})
	}
}

// testReplacedKey replaces the key of a server that is called as open wants it.
func testReplacedKey(t *testing.T, name string, open func(url string, c *credential.Credential) (call func() error)) {
	for _, status := range []int{401, 403} {
		var mu sync.Mutex
		right := "one"
		setRight := func(key string) {
			mu.Lock()
			defer mu.Unlock()
			right = key
		}
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
		file := credentialtest.NewFile("one", nil)
		var logged strings.Builder
		c, err := credential.Renewable(file.Read, 0, zerolog.New(&logged))
		if err != nil {
			t.Fatal(err)
		}
		call := open(f.URL, c)
		if err := call(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		asked := len(f.requests())
		setRight("two")
		if err := call(); err == nil || !strings.Contains(err.Error(), http.StatusText(status)) {
			t.Errorf("%s: with the old key: %v", name, err)
		}
		withOld := 1
		if name == "ProbeActuator" {
			withOld = 2 // it asks whether the server is well otherwise
		}
		if n := len(f.requests()) - asked; n != withOld {
			t.Errorf("%s: %d requests with the old key, want %d", name, n, withOld)
		}
		file.Set("two", nil)
		if err := call(); err != nil {
			t.Errorf("%s: with the new key: %v", name, err)
		}
		if n := len(f.requests()) - asked; n != withOld+1+asked {
			t.Errorf("%s: %d requests, want %d with the old key, one that is refused and %d", name, n, withOld, asked)
		}
		if log := logged.String(); strings.Count(log, "a new one was found") != 1 || strings.Contains(log, "two") {
			t.Errorf("%s: the log is %s", name, log)
		}
		file.Set("", errors.New("the file is gone"))
		setRight("three")
		wantMessage(t, name, call(), http.StatusText(status), "the API key was to be read again: the file is gone")
	}
}
