package completion

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/internal/credential"
	"github.com/g2g-agent/g2g-agent/internal/credential/credentialtest"
)

// lockedServer answers those who send its key, and refuses all others with status.
type lockedServer struct {
	url string

	mu    sync.Mutex
	right string
	asked int
}

func newLockedServer(t *testing.T, status int, key string) *lockedServer {
	l := &lockedServer{right: key}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.mu.Lock()
		refused := r.Header.Get("Authorization") != "Bearer "+l.right
		l.asked++
		l.mu.Unlock()
		if refused {
			http.Error(w, `{"error":"Unauthorized"}`, status)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, roleEvent+tokenEvent("x", 1)+finalEvent(1)+doneEvent)
	}))
	t.Cleanup(server.Close)
	l.url = server.URL
	return l
}

func (l *lockedServer) setRight(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.right = key
}

func (l *lockedServer) requests() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asked
}

// A server's key is replaced, there and in the file.
func TestKeyThatIsReplaced(t *testing.T) {
	for _, status := range []int{401, 403} {
		l := newLockedServer(t, status, "one")
		file := credentialtest.NewFile("one", nil)
		var logged strings.Builder
		c, err := credential.Renewable(file.Read, 0, zerolog.New(&logged))
		if err != nil {
			t.Fatal(err)
		}
		s := newTestStream(t, Config{BaseURL: l.url, Credential: c})
		call := func(wantRequests int, wantInError ...string) {
			t.Helper()
			before := l.requests()
			_, err := tokensOf(t, s)
			if (err != nil) != (len(wantInError) > 0) {
				t.Errorf("the error is %v, want %q", err, wantInError)
			}
			for _, part := range wantInError {
				if err != nil && !strings.Contains(err.Error(), part) {
					t.Errorf("the error is %q, which lacks %q", err, part)
				}
			}
			if n := l.requests() - before; n != wantRequests {
				t.Errorf("%d requests, want %d", n, wantRequests)
			}
		}
		call(1)
		l.setRight("two")
		call(1, http.StatusText(status))
		file.Set("two", nil)
		call(2) // one that is refused
		if log := logged.String(); strings.Count(log, "a new one was found") != 1 || strings.Contains(log, "two") {
			t.Errorf("the log is %s", log)
		}
		file.Set("", errors.New("the file is gone"))
		l.setRight("three")
		call(1, http.StatusText(status), "the API key was to be read again: the file is gone")
	}
}
