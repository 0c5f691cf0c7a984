package vllm

import (
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/internal/credential"
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
			c, err := credential.Renewable(file.read, 0)
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
			if err := call(t.Context(), s); err == nil || !strings.Contains(err.Error(), http.StatusText(status)) {
				t.Errorf("%s: with the old key: %v", name, err)
			}
			if n := len(f.requests()) - asked; n != 1 {
				t.Errorf("%s: %d requests with the old key, want 1", name, n)
			}
			file.set("two", nil)
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
			wantMessage(t, name, call(t.Context(), s), http.StatusText(status), "the API key was to be read again: the file is gone")
		}
	}
}
