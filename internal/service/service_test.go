//go:build unix

package service

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
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

	"github.com/g2g-agent/g2g-agent/internal/logtest"
	"github.com/g2g-agent/g2g-agent/internal/service/managertest"
)

// fill fills the socket's queue, so that the next write has to wait.
func fill(t *testing.T, m *managertest.Manager) {
	t.Helper()
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: m.Path, Net: "unixgram"})
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
func runService(t *testing.T, s *Notifier, reload func() error) (end func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	t.Cleanup(func() { signal.Stop(hangups) })
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, hangups, reload) }()
	end = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { end() })
	return end
}

func newTestService(t *testing.T, log zerolog.Logger, environ ...string) *Notifier {
	t.Helper()
	s, err := New(environ, log)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestServiceTellsTheManager(t *testing.T) {
	manager := managertest.Start(t)
	s := newTestService(t, zerolog.Nop(), "NOTIFY_SOCKET="+manager.Path)
	end := runService(t, s, nil)

	expect := func(want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, manager.Next(t)); diff != "" {
			t.Errorf("message (-want +got):\n%s", diff)
		}
	}
	s.Starting(2*time.Minute, time.Second/10)
	expect("EXTEND_TIMEOUT_USEC=120000000", "STATUS=Starting")
	s.Status("Warming up:\n2 of 3 models\n")
	expect("STATUS=Warming up: 2 of 3 models")
	s.Ready()
	expect("READY=1")
	s.Status("Stepping")
	expect("STATUS=Stepping")
	s.Stopping()
	stopping := []string{"STOPPING=1", "STATUS=Stopping: initial batch sizes are set again, outputs are completed"}
	expect(stopping...)
	s.Status("Stepping") // comes too late
	if err := end(); err != nil {
		t.Error(err)
	}
	if !manager.Silent(t, 0) {
		t.Error("more was told after the end")
	}

	again := newTestService(t, zerolog.Nop(), "NOTIFY_SOCKET="+manager.Path)
	if err := runService(t, again, nil)(); err != nil {
		t.Error(err)
	}
	expect(stopping...)
}

func TestServiceReloads(t *testing.T) {
	manager := managertest.Start(t)
	var log logtest.Buffer
	s := newTestService(t, zerolog.New(&log), "NOTIFY_SOCKET="+manager.Path)
	reloads := make(chan error) // what the next reload gives
	runService(t, s, func() error { return <-reloads })
	hangUp := func(result error) {
		t.Helper()
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		reloads <- result
	}

	s.Starting(time.Minute, time.Second)
	manager.Await(t, "STATUS=Starting") // from now on SIGHUP is taken
	hangUp(nil)
	s.Ready()
	if message := manager.Next(t); !slices.Equal(message, []string{"READY=1"}) {
		t.Errorf("a reload before the run was ready told the manager %q", message)
	}
	for _, result := range []error{nil, errors.New("config.yaml: seed: want a whole number")} {
		hangUp(result)
		begun := manager.Await(t, "RELOADING=1")
		if !regexp.MustCompile(`^RELOADING=1 MONOTONIC_USEC=[1-9][0-9]+$`).MatchString(strings.Join(begun, " ")) {
			t.Errorf("a reload begins with %q", begun)
		}
		if message := manager.Next(t); !slices.Equal(message, []string{"READY=1"}) {
			t.Errorf("a reload ends with %q", message)
		}
	}
	if text := log.String(); strings.Count(text, "the config was not reloaded") != 1 || strings.Count(text, "want a whole number") != 1 {
		t.Errorf("the log:\n%s", text)
	}
}

// A reload that hangs keeps neither the watchdog from being fed nor the run from
// ending.
func TestServiceWithAReloadThatHangs(t *testing.T) {
	manager := managertest.Start(t)
	s := newTestService(t, zerolog.Nop(), "NOTIFY_SOCKET="+manager.Path, "WATCHDOG_USEC=100000")
	begun, release := make(chan struct{}), make(chan struct{})
	ended := make(chan struct{})
	end := runService(t, s, func() error {
		defer close(ended)
		close(begun)
		<-release
		return nil
	})
	s.OnDemand()
	manager.Await(t, "READY=1")
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	<-begun
	manager.Await(t, "RELOADING=1")
	manager.Await(t, "WATCHDOG=1")
	if err := end(); err != nil {
		t.Error(err)
	}
	manager.Await(t, "STOPPING=1")
	close(release)
	<-ended
}

// watchedService is a service whose messages come with their time, under
// synctest's clock.
func watchedService(t *testing.T, watchdog time.Duration) (s *Notifier, fed func() []time.Duration) {
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
func stepFor(s *Notifier, dt, long time.Duration) {
	ticker := time.NewTicker(dt)
	defer ticker.Stop()
	for until := time.Now().Add(long); time.Now().Before(until); {
		<-ticker.C
		s.Stepped()
	}
}

func TestWatchdog(t *testing.T) {
	const watchdog = 30 * time.Second
	wait := func(d time.Duration) { <-time.After(d) }
	for name, test := range map[string]struct {
		do   func(s *Notifier)
		want int // messages
	}{
		"fed by steps":                   {func(s *Notifier) { s.Ready(); stepFor(s, time.Second/10, 2*time.Minute) }, 8},
		"fed by a start":                 {func(s *Notifier) { s.Starting(time.Hour, time.Second); wait(121 * time.Second) }, 8},
		"fed while steps are not wanted": {func(s *Notifier) { s.Starting(time.Hour, time.Second); s.OnDemand(); wait(61 * time.Second) }, 4},
		"fed by an end":                  {func(s *Notifier) { s.Ready(); s.Stopping(); wait(61 * time.Second) }, 4},
		"fed between steps far apart":    {func(s *Notifier) { s.Starting(0, time.Minute); s.Ready(); stepFor(s, time.Minute, 10*time.Minute) }, 40},
		"not fed when no step was ever":  {func(s *Notifier) { s.Ready(); wait(time.Hour) }, 1},
		"not fed when steps hang":        {func(s *Notifier) { s.Ready(); stepFor(s, time.Second/10, 61*time.Second); wait(time.Hour) }, 5},
		"not fed when a far step hangs":  {func(s *Notifier) { s.Starting(0, time.Minute); s.Ready(); wait(time.Hour) }, 5},
		"fed again when steps come late": {func(s *Notifier) { s.Ready(); wait(time.Minute); stepFor(s, time.Second, time.Minute) }, 5},
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
	manager := managertest.Start(t)
	s := newTestService(t, zerolog.Nop(), "NOTIFY_SOCKET="+manager.Path, "WATCHDOG_USEC=1000000", fmt.Sprintf("WATCHDOG_PID=%d", os.Getpid()))
	runService(t, s, nil)
	s.Starting(time.Minute, 200*time.Millisecond)
	s.Ready()
	manager.Await(t, "READY=1")
	for range 3 {
		s.Stepped()
		manager.Await(t, "WATCHDOG=1")
	}
	hung := time.Now()
	for heard := 0; !manager.Silent(t, 3*time.Second); heard++ { // silence, in which the manager would end the program
		if heard > 1 {
			t.Fatalf("the watchdog is still fed %v after the last step", time.Since(hung))
		}
	}
}

// TestManagerDoesNotRead: nobody waits for it but run itself, and what it has not
// been told it is told later.
func TestManagerDoesNotRead(t *testing.T) {
	t.Parallel()
	manager := managertest.Start(t)
	fill(t, manager)
	var log logtest.Buffer
	s := newTestService(t, zerolog.New(&log), "NOTIFY_SOCKET="+manager.Path)
	end := runService(t, s, nil)
	began := time.Now()
	s.Starting(time.Minute, time.Second)
	s.Ready()
	for i := range 100_000 {
		s.Stepped()
		s.Status(fmt.Sprint(i))
	}
	if took := time.Since(began); took > notifyTimeout {
		t.Errorf("the step loop waited for %v", took)
	}
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for log.String() == "" {
		select {
		case <-ticker.C:
		case <-t.Context().Done():
			t.Fatal("the log does not tell")
		}
	}
	manager.Await(t, "READY=1")
	s.Status("Stepping")
	manager.Await(t, "STATUS=Stepping")
	if lines := strings.Count(log.String(), "cannot be told"); lines != 1 {
		t.Errorf("%d lines in the log, want 1:\n%s", lines, log.String())
	}

	fill(t, manager)
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
		s, err := New(c.environ, zerolog.Nop())
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

// TestNoServiceManager: without one all is as with one, but nothing is told.
func TestNoServiceManager(t *testing.T) {
	var log logtest.Buffer
	s := newTestService(t, zerolog.New(&log))
	end := runService(t, s, nil)
	s.Starting(time.Minute, time.Second)
	s.Ready()
	s.Stepped()
	s.Status("Stepping")
	s.Stopping()
	if err := end(); err != nil || log.String() != "" {
		t.Errorf("%v, log: %s", err, log.String())
	}
}
