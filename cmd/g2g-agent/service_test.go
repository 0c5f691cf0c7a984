//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
)

// serviceManager is the socket of a service manager, which reads when it is told
// to.
type serviceManager struct {
	conn *net.UnixConn
	path string
}

func startServiceManager(t *testing.T) *serviceManager {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &serviceManager{conn, path}
}

// next waits for a message and returns its lines.
func (m *serviceManager) next(t *testing.T) []string {
	t.Helper()
	if err := m.conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	n, err := m.conn.Read(buf)
	if err != nil {
		t.Fatalf("no message: %v", err)
	}
	return strings.Split(strings.TrimSpace(string(buf[:n])), "\n")
}

// await reads until a message has the line, and returns the message.
func (m *serviceManager) await(t *testing.T, line string) []string {
	t.Helper()
	for {
		if message := m.next(t); slices.Contains(message, line) {
			return message
		}
	}
}

// fill fills the socket's queue, so that the next write has to wait.
func (m *serviceManager) fill(t *testing.T) {
	t.Helper()
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: m.path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for err == nil {
		if err = conn.SetWriteDeadline(time.Now().Add(50 * time.Millisecond)); err == nil {
			_, err = conn.Write([]byte("FILLING=1"))
		}
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
}

// runService runs s; end ends it and returns its error.
func runService(t *testing.T, s *service, reload func() error) (end func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.run(ctx, reload) }()
	end = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { end() })
	return end
}

func newTestService(t *testing.T, log zerolog.Logger, environ ...string) *service {
	t.Helper()
	s, err := newService(environ, log)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestServiceTellsTheManager(t *testing.T) {
	manager := startServiceManager(t)
	s := newTestService(t, zerolog.Nop(), "NOTIFY_SOCKET="+manager.path)
	end := runService(t, s, nil)

	expect := func(want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, manager.next(t)); diff != "" {
			t.Errorf("message (-want +got):\n%s", diff)
		}
	}
	s.starting(2*time.Minute, time.Second/10)
	expect("EXTEND_TIMEOUT_USEC=120000000", "STATUS=Starting")
	s.status("Warming up:\n2 of 3 models\n")
	expect("STATUS=Warming up: 2 of 3 models")
	s.ready()
	expect("READY=1")
	s.status("Stepping")
	expect("STATUS=Stepping")
	s.stopping()
	stopping := []string{"STOPPING=1", "STATUS=Stopping: initial batch sizes are set again, outputs are completed"}
	expect(stopping...)
	s.status("Stepping") // comes too late
	if err := end(); err != nil {
		t.Error(err)
	}
	manager.conn.SetReadDeadline(time.Now())
	if n, err := manager.conn.Read(make([]byte, 100)); err == nil {
		t.Errorf("%d bytes more were told after the end", n)
	}

	again := newTestService(t, zerolog.Nop(), "NOTIFY_SOCKET="+manager.path)
	if err := runService(t, again, nil)(); err != nil {
		t.Error(err)
	}
	expect(stopping...)
}

// syncBuffer is a log that a test looks at while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) text() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestServiceReloads(t *testing.T) {
	manager := startServiceManager(t)
	var log syncBuffer
	s := newTestService(t, zerolog.New(&log), "NOTIFY_SOCKET="+manager.path)
	reloads := make(chan error) // what the next reload gives
	runService(t, s, func() error { return <-reloads })
	hangUp := func(result error) {
		t.Helper()
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		reloads <- result
	}

	s.starting(time.Minute, time.Second)
	manager.await(t, "STATUS=Starting") // from now on SIGHUP is taken
	hangUp(nil)
	s.ready()
	if message := manager.next(t); !slices.Equal(message, []string{"READY=1"}) {
		t.Errorf("a reload before the run was ready told the manager %q", message)
	}
	for _, result := range []error{nil, errors.New("config.yaml: seed: want a whole number")} {
		hangUp(result)
		begun := manager.await(t, "RELOADING=1")
		if !regexp.MustCompile(`^RELOADING=1 MONOTONIC_USEC=[1-9][0-9]+$`).MatchString(strings.Join(begun, " ")) {
			t.Errorf("a reload begins with %q", begun)
		}
		if message := manager.next(t); !slices.Equal(message, []string{"READY=1"}) {
			t.Errorf("a reload ends with %q", message)
		}
	}
	if text := log.text(); strings.Count(text, "the config was not reloaded") != 1 || strings.Count(text, "want a whole number") != 1 {
		t.Errorf("the log:\n%s", text)
	}
}

// watchedService is a service whose messages come with their time, under
// synctest's clock.
func watchedService(t *testing.T, watchdog time.Duration) (s *service, fed func() []time.Duration) {
	t.Helper()
	s = newTestService(t, zerolog.Nop(), "NOTIFY_SOCKET=/nowhere", fmt.Sprintf("WATCHDOG_USEC=%d", watchdog.Microseconds()))
	var mu sync.Mutex
	var times []time.Duration
	s.send = func(message string) error {
		mu.Lock()
		defer mu.Unlock()
		if message == "WATCHDOG=1" {
			times = append(times, time.Since(s.began))
		}
		return nil
	}
	return s, func() []time.Duration {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(times)
	}
}

// stepFor computes a step every dt for so long.
func stepFor(s *service, dt, long time.Duration) {
	ticker := time.NewTicker(dt)
	defer ticker.Stop()
	for until := time.Now().Add(long); time.Now().Before(until); {
		<-ticker.C
		s.stepped()
	}
}

func TestWatchdog(t *testing.T) {
	const watchdog = 30 * time.Second
	wait := func(d time.Duration) { <-time.After(d) }
	for name, test := range map[string]struct {
		do   func(s *service)
		want int // messages
	}{
		"fed by steps":                   {func(s *service) { s.ready(); stepFor(s, time.Second/10, 2*time.Minute) }, 8},
		"fed by a start":                 {func(s *service) { s.starting(time.Hour, time.Second); wait(121 * time.Second) }, 8},
		"fed while steps are not wanted": {func(s *service) { s.starting(time.Hour, time.Second); s.onDemand(); wait(61 * time.Second) }, 4},
		"fed by an end":                  {func(s *service) { s.ready(); s.stopping(); wait(61 * time.Second) }, 4},
		"fed between steps far apart":    {func(s *service) { s.starting(0, time.Minute); s.ready(); stepFor(s, time.Minute, 10*time.Minute) }, 40},
		"not fed when no step was ever":  {func(s *service) { s.ready(); wait(time.Hour) }, 1},
		"not fed when steps hang":        {func(s *service) { s.ready(); stepFor(s, time.Second/10, 61*time.Second); wait(time.Hour) }, 5},
		"not fed when a far step hangs":  {func(s *service) { s.starting(0, time.Minute); s.ready(); wait(time.Hour) }, 5},
		"fed again when steps come late": {func(s *service) { s.ready(); wait(time.Minute); stepFor(s, time.Second, time.Minute) }, 5},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, fed := watchedService(t, watchdog)
				end := runService(t, s, nil)
				test.do(s)
				synctest.Wait()
				end()
				times := fed()
				for _, at := range times {
					if at%(watchdog/2) != 0 {
						t.Errorf("fed after %v, want every %v", at, watchdog/2)
					}
				}
				if len(times) != test.want {
					t.Errorf("fed %d times, at %v, want %d times", len(times), times, test.want)
				}
			})
		})
	}
}

// TestWatchdogOverTheSocket: the real manager stops hearing of a loop that hangs.
func TestWatchdogOverTheSocket(t *testing.T) {
	t.Parallel()
	manager := startServiceManager(t)
	s := newTestService(t, zerolog.Nop(), "NOTIFY_SOCKET="+manager.path, "WATCHDOG_USEC=1000000", fmt.Sprintf("WATCHDOG_PID=%d", os.Getpid()))
	runService(t, s, nil)
	s.starting(time.Minute, 200*time.Millisecond)
	s.ready()
	manager.await(t, "READY=1")
	for range 3 {
		s.stepped()
		manager.await(t, "WATCHDOG=1")
	}
	hung := time.Now()
	manager.conn.SetReadDeadline(hung.Add(3 * time.Second))
	for heard := 0; ; heard++ {
		if _, err := manager.conn.Read(make([]byte, 100)); err != nil {
			return // silence, in which the manager would end the program
		}
		if heard > 1 {
			t.Fatalf("the watchdog is still fed %v after the last step", time.Since(hung))
		}
	}
}

// TestManagerDoesNotRead: nobody waits for it but run itself, and what it has not
// been told it is told later.
func TestManagerDoesNotRead(t *testing.T) {
	t.Parallel()
	manager := startServiceManager(t)
	manager.fill(t)
	var log syncBuffer
	s := newTestService(t, zerolog.New(&log), "NOTIFY_SOCKET="+manager.path)
	end := runService(t, s, nil)
	began := time.Now()
	s.starting(time.Minute, time.Second)
	s.ready()
	for i := range 100_000 {
		s.stepped()
		s.status(fmt.Sprint(i))
	}
	if took := time.Since(began); took > notifyTimeout {
		t.Errorf("the step loop waited for %v", took)
	}
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for log.text() == "" {
		select {
		case <-ticker.C:
		case <-t.Context().Done():
			t.Fatal("the log does not tell")
		}
	}
	manager.await(t, "READY=1")
	s.status("Stepping")
	manager.await(t, "STATUS=Stepping")
	if lines := strings.Count(log.text(), "cannot be told"); lines != 1 {
		t.Errorf("%d lines in the log, want 1:\n%s", lines, log.text())
	}

	manager.fill(t)
	began = time.Now()
	if err := end(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the end was told to nobody: %v", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the end took %v", took)
	}
}

func TestServiceEnvironment(t *testing.T) {
	other := fmt.Sprintf("WATCHDOG_PID=%d", os.Getppid())
	for _, c := range []struct {
		environ  []string
		watchdog time.Duration
		err      string
	}{
		{nil, 0, ""},
		{[]string{"NOTIFY_SOCKET=", "WATCHDOG_USEC=x"}, 0, ""},
		{[]string{"NOTIFY_SOCKET=/run/notify"}, 0, ""},
		{[]string{"NOTIFY_SOCKET=@abstract", "WATCHDOG_USEC=30000000"}, 30 * time.Second, ""},
		{[]string{"NOTIFY_SOCKET=/run/notify", "WATCHDOG_USEC=30000000", other}, 0, ""},
		{[]string{"NOTIFY_SOCKET=vsock:2:1"}, 0, `NOTIFY_SOCKET is "vsock:2:1", want an absolute path`},
		{[]string{"NOTIFY_SOCKET=/run/notify", "WATCHDOG_USEC=soon"}, 0, `WATCHDOG_USEC is "soon", want a number`},
		{[]string{"NOTIFY_SOCKET=/run/notify", "WATCHDOG_USEC=0"}, 0, `WATCHDOG_USEC is "0"`},
		{[]string{"NOTIFY_SOCKET=/run/notify", "WATCHDOG_USEC=9223372036854775807"}, 0, `WATCHDOG_USEC is "9223372036854775807"`},
	} {
		s, err := newService(c.environ, zerolog.Nop())
		switch {
		case c.err != "":
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%q: %v, want %s", c.environ, err, c.err)
			}
		case err != nil:
			t.Errorf("%q: %v", c.environ, err)
		case s.watchdog != c.watchdog:
			t.Errorf("%q: watchdog %v, want %v", c.environ, s.watchdog, c.watchdog)
		}
	}
}

// TestServiceOfAProgram: what a manager hears of a whole run.
func TestServiceOfAProgram(t *testing.T) {
	t.Parallel()
	manager := startServiceManager(t)
	p := startProgram(t, []string{"NOTIFY_SOCKET=" + manager.path, "WATCHDOG_USEC=2000000", "G2G_AGENT_LIVE__STAGGER_S=1"}, "demo")
	manager.await(t, "READY=1")
	for range 2 {
		manager.await(t, "WATCHDOG=1")
	}
	if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	manager.await(t, "RELOADING=1")
	manager.await(t, "READY=1")
	manager.await(t, "WATCHDOG=1")
	p.terminate(t)
	manager.await(t, "STOPPING=1")
}

// TestServiceOfALockstepReplay: it is ready before anybody steps, and no pause
// between two requests is taken for a hang.
func TestServiceOfALockstepReplay(t *testing.T) {
	t.Parallel()
	manager := startServiceManager(t)
	a := startAPI(t, []string{"NOTIFY_SOCKET=" + manager.path, "WATCHDOG_USEC=200000"}, "replay", "--config", shippedReplay(t), "--pace", "step")
	manager.await(t, "READY=1")
	a.advance(t, 5)
	for range 5 { // for twice as long as a step may take
		manager.await(t, "WATCHDOG=1")
	}
	a.terminate(t)
	manager.await(t, "STOPPING=1")
}

// TestNoServiceManager: without one all is as with one, but nothing is told.
func TestNoServiceManager(t *testing.T) {
	var log syncBuffer
	s := newTestService(t, zerolog.New(&log))
	end := runService(t, s, nil)
	s.starting(time.Minute, time.Second)
	s.ready()
	s.stepped()
	s.status("Stepping")
	s.stopping()
	if err := end(); err != nil || log.text() != "" {
		t.Errorf("%v, log: %s", err, log.text())
	}
}
