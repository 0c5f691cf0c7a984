//go:build unix

package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestReloadOfWhatHangs: whatever has come in place of a file that is read again,
// the reload fails with words, the next one works, and the run ends.
func TestReloadOfWhatHangs(t *testing.T) {
	t.Parallel()
	config, token := shippedReplay(t), writeToken(t, "control-0123456789")
	a := startAPI(t, []string{"G2G_AGENT_API__TOKEN_FILE=" + token}, "replay", "--config", config, "--pace", "step")
	hangUp := func(want string) {
		t.Helper()
		if err := a.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		a.await(t, &a.stderr, want)
	}
	const failed, reloaded = "is no regular file", `"config reloaded"`
	for name, replace := range map[string]func(file string) error{
		"a pipe":   func(file string) error { return syscall.Mkfifo(file, 0o600) },
		"a folder": func(file string) error { return os.Mkdir(file, 0o700) },
		"a device": func(file string) error { return os.Symlink("/dev/zero", file) },
	} {
		for _, file := range []string{token, config} {
			aside := file + ".aside"
			if err := os.Rename(file, aside); err != nil {
				t.Fatal(err)
			}
			if err := replace(file); err != nil {
				t.Skip(name, ": ", err)
			}
			hangUp(failed)
			hangUp(failed)
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(aside, file); err != nil {
				t.Fatal(err)
			}
			hangUp(reloaded)
		}
	}
	if err := os.Remove(token); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(token, 0o600); err != nil {
		t.Skip(err)
	}
	hangUp(failed)
	a.terminate(t)
}

// TestCheckReadsAPipe, which can be read once, for all that it checks.
func TestCheckReadsAPipe(t *testing.T) {
	dir := checkFolder(t)
	pipe := filepath.Join(dir, "pipe.yaml")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Skip(err)
	}
	text := fmt.Sprintf(liveModelForCheck, "{host: n, gpu_indices: [0]}", "", "req", "")
	written := make(chan error, 1)
	go func() { written <- os.WriteFile(pipe, []byte(text), 0) }()
	out, _, err := runArgs(t.Context(), "check", "--config", pipe)
	if err != nil || !strings.Contains(out, "ok for run") {
		t.Errorf("%q, %v", out, err)
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
}

// TestHangupDuringSetup: SIGHUP is a reload from the moment on that anything is set up.
func TestHangupDuringSetup(t *testing.T) {
	t.Parallel()
	token := filepath.Join(t.TempDir(), "token")
	if err := syscall.Mkfifo(token, 0o600); err != nil {
		t.Skip(err)
	}
	p := startProgram(t, []string{"G2G_AGENT_API__TOKEN_FILE=" + token}, "replay", "--config", shippedReplay(t), "--pace", "step")
	w, err := os.OpenFile(token, os.O_WRONLY, 0) // waits until the program reads it
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, "control-0123456789"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	p.await(t, &p.stderr, "SIGHUP: the config was not reloaded")
	p.terminate(t)
}

// TestNothingIsRead: a run ends in time with both outputs blocked, and with clients
// that do not read.
func TestNothingIsRead(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{"stdout": {"--out", "-"}, "a file": {"--out", filepath.Join(t.TempDir(), "states.csv")}, "nowhere": nil} {
		t.Run("to "+name, func(t *testing.T) {
			t.Parallel()
			p := startDemo(t, fullPipe(t), fullPipe(t), args...)
			// It tells nobody that it steps: its first rows are late by 2 s at most.
			warm := time.NewTimer(5 * time.Second)
			defer warm.Stop()
			<-warm.C
			if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			p.wait(t, 10*time.Second)
		})
	}
}

// TestClientsDoNotRead: those who ask for everything and take nothing do not keep a
// run from ending.
func TestClientsDoNotRead(t *testing.T) {
	t.Parallel()
	a := startAPI(t, []string{"G2G_AGENT_LIVE__STAGGER_S=1"}, "demo")
	a.awaitProbe(t, "/readyz", http.StatusOK)
	for range 20 {
		for _, path := range []string{"/v1/history?n=3000", "/v1/events?n=1000", "/metrics"} {
			a.askWithoutReading(t, path)
		}
	}
	a.terminate(t)
}

// askWithoutReading sends a request and never looks at the answer.
func (a *apiProgram) askWithoutReading(t *testing.T, path string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, a.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Transport{ReadBufferSize: 1}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
}

// TestFewFilesMayBeOpen: that there are too few is said at the start, and when they
// have run out a probe is answered all the same: what idles gives up its own.
func TestFewFilesMayBeOpen(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `ulimit -n 64 && exec g2g-agent "$@"`, "sh", "replay", "--config", shippedReplay(t), "--pace", "step")
	a := &apiProgram{program: startCommand(t, cmd, nil), client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: soon}}
	a.await(t, &a.stderr, "fewer files may be open")
	a.url = a.apiURL(t)
	address := strings.TrimPrefix(a.url, "http://")
	for range 80 {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
	}
	began := time.Now()
	if got, err := a.send(t, http.MethodGet, "/livez", ""); err != nil || got.status != http.StatusOK {
		t.Errorf("a probe with no files left: %v, %v", got, err)
	}
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("it took %v", took)
	}
	a.await(t, &a.stderr, "connections cannot be accepted")
	a.terminate(t)
}
