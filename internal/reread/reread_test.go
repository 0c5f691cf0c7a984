package reread

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{file, link} {
		if raw, err := File(name, 7); string(raw) != "secret\n" || err != nil {
			t.Errorf("%s: %q, %v", name, raw, err)
		}
	}
	pipe, socket := filepath.Join(dir, "pipe"), filepath.Join(dir, "socket")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Skip("there are no pipes here: ", err)
	}
	l, err := new(net.ListenConfig).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, want := range map[string]string{
		dir: "is no regular file", pipe: "is no regular file", "/dev/zero": "is no regular file", "/dev/null": "is no regular file",
		socket: "socket", filepath.Join(dir, "nothing"): "no such file",
	} {
		began := time.Now()
		if raw, err := File(name, 7); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %q, %v; want an error with %q and the name", name, raw, err, want)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("%s took %v", name, took)
		}
	}
	if _, err := File(file, 6); err == nil || !strings.Contains(err.Error(), "more than 6 bytes") {
		t.Errorf("a file that is too long: %v", err)
	}
}

// A reading that hangs is given up; the next one waits for it, and then reads anew.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Patience[string]
		release := make(chan struct{})
		var begun atomic.Int32
		read := func() (string, error) {
			if begun.Add(1) == 1 {
				<-release
				return "old", nil
			}
			return "new", nil
		}
		for range 3 {
			began := time.Now()
			if value, err := p.Within(Limit, read); value != "" || !errors.Is(err, ErrHangs) {
				t.Errorf("a reading that hangs gives %q, %v", value, err)
			}
			if took := time.Since(began); took != Limit {
				t.Errorf("it was waited for for %v, want %v", took, Limit)
			}
		}
		if n := begun.Load(); n != 1 {
			t.Errorf("%d readings hang, want 1", n)
		}
		close(release)
		if value, err := p.Within(Limit, read); value != "new" || err != nil {
			t.Errorf("after it has ended: %q, %v", value, err)
		}
	})
}
