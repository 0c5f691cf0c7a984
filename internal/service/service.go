// Package service tells the service manager, which is systemd, how a run is going,
// and has its config read again when the manager asks for that.
package service

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// Notifier tells the service manager, which is systemd, how the run is going:
// that it is ready, what it is doing, that its steps go on. Without one (no
// NOTIFY_SOCKET) nothing is told; SIGHUP reloads all the same.
//
// Only run talks to the manager. The other methods leave a note for it, and so
// may be called from the step loop: none of them ever waits or does I/O.
type Notifier struct {
	log zerolog.Logger
	// heard: there is a manager.
	heard bool
	// send hands a message to the manager.
	send func(message string) error
	// watchdog is how long the manager waits for a sign of life before it ends the
	// program; 0: for ever.
	watchdog time.Duration

	// dt is the time between two steps, in nanoseconds.
	dt    atomic.Int64
	began time.Time
	// lastStep is when the last step was, in nanoseconds since began.
	lastStep atomic.Int64
	// wake tells run that there is a note.
	wake chan struct{}

	mu   sync.Mutex // guards what follows
	note note

	sendFailed bool // of run
}

// note is what the manager is to know.
type note struct {
	status string
	// startWithin is how long the start may take, if that is known.
	startWithin     time.Duration
	ready, stopping bool
	// onDemand: steps are computed when they are asked for.
	onDemand bool
}

const (
	// statusInterval is the least time between two status lines: they may change at
	// every step, and the manager has others to listen to.
	statusInterval = time.Second
	// notifyTimeout bounds the wait for a manager that does not read.
	notifyTimeout = time.Second
)

// New returns a notifier for a process with the given environment.
func New(environ []string, log zerolog.Logger) (*Notifier, error) {
	s := &Notifier{log: log, began: time.Now(), wake: make(chan struct{}, 1), send: func(string) error { return nil }}
	variables := map[string]string{}
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		variables[name] = value
	}
	socket := variables["NOTIFY_SOCKET"]
	if socket == "" {
		return s, nil
	}
	if socket[0] != '/' && socket[0] != '@' {
		return nil, fmt.Errorf("%w: NOTIFY_SOCKET is %q, want an absolute path, or @ and a name", datacenter.ErrInvalidInput, socket)
	}
	s.heard = true
	s.send = func(message string) error { return notify(socket, message) }
	// A WATCHDOG_PID that names another process came down to this one by accident.
	usec, pid := variables["WATCHDOG_USEC"], variables["WATCHDOG_PID"]
	if usec == "" || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return s, nil
	}
	n, err := strconv.ParseInt(usec, 10, 64)
	s.watchdog = time.Duration(n) * time.Microsecond
	if err != nil || n < 2 || s.watchdog/time.Microsecond != time.Duration(n) {
		return nil, fmt.Errorf("%w: WATCHDOG_USEC is %q, want a number of microseconds", datacenter.ErrInvalidInput, usec)
	}
	return s, nil
}

// notify is daemon.SdNotify with a time limit: to write to a manager that does
// not read takes for ever.
func notify(socket, message string) error {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetWriteDeadline(time.Now().Add(notifyTimeout)); err != nil {
		return err
	}
	_, err = conn.Write([]byte(message))
	return err
}

// Starting says that the run has begun to start, when it will have given up by
// itself, and how long it is from one step to the next.
func (s *Notifier) Starting(within, dt time.Duration) {
	s.dt.Store(int64(dt))
	s.update(func(n *note) { n.startWithin, n.status = within, "Starting" })
}

// Ready says that the run is fed and steps.
func (s *Notifier) Ready() {
	s.Stepped()
	s.update(func(n *note) { n.ready = true })
}

// OnDemand says that steps are computed when they are asked for, from now on: that
// none is says nothing about the run.
func (s *Notifier) OnDemand() {
	s.update(func(n *note) { n.ready, n.onDemand, n.status = true, true, "Waiting to be told to step" })
}

// Stopping says that the run is about to end.
func (s *Notifier) Stopping() {
	s.update(func(n *note) {
		n.stopping = true
		n.status = "Stopping: initial batch sizes are set again, outputs are completed"
	})
}

// Heard reports whether there is a manager to be told anything.
func (s *Notifier) Heard() bool { return s.heard }

// Status says in one line what the run is doing.
func (s *Notifier) Status(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.note.stopping {
		s.note.status = text // which run looks at now and then
	}
}

// Stepped says that a step was computed.
func (s *Notifier) Stepped() { s.lastStep.Store(int64(time.Since(s.began))) }

// update changes the note, and has run tell of it at once.
func (s *Notifier) update(change func(*note)) {
	s.mu.Lock()
	change(&s.note)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default: // it is awake
	}
}

// Run talks to the manager until ctx is done, which it takes for the end of the
// run. It calls reload at each of hangups, which are the SIGHUPs that came or nil for
// none, one after the other; one under way at the end is left to itself. The error is
// that of the last message.
func (s *Notifier) Run(ctx context.Context, hangups <-chan os.Signal, reload func() error) error {
	var watchdog <-chan time.Time // nil: it is not fed
	if s.watchdog > 0 {
		ticker := time.NewTicker(s.watchdog / 2)
		defer ticker.Stop()
		watchdog = ticker.C
	}
	statuses := time.NewTicker(statusInterval)
	defer statuses.Stop()
	var sent note
	var reloading chan error // the outcome of the reload under way, nil for none
	wanted := hangups        // nil meanwhile
	for {
		select {
		case <-ctx.Done():
			s.Stopping()
			_, err := s.tellNote(sent)
			return err
		case <-s.wake:
			sent = s.retell(sent)
		case <-statuses.C:
			sent = s.retell(sent)
		case <-watchdog:
			if s.alive() {
				s.tell(daemon.SdNotifyWatchdog)
			}
		case <-wanted:
			reloading, wanted = make(chan error, 1), nil
			s.tellReloading(sent.ready)
			go func() { reloading <- reload() }()
		case err := <-reloading:
			reloading, wanted = nil, hangups
			s.reloaded(err, sent.ready)
		}
	}
}

// retell is tellNote for messages after which others follow: what did not arrive
// is sent again.
func (s *Notifier) retell(sent note) note {
	now, err := s.tellNote(sent)
	if err != nil || now != sent { // else there was nothing to tell
		s.logFailure(err)
	}
	return now
}

// tellNote sends what has changed since the note that was sent, and returns what is
// sent then.
func (s *Notifier) tellNote(sent note) (note, error) {
	s.mu.Lock()
	now := s.note
	s.mu.Unlock()
	var lines []string
	if now.startWithin != sent.startWithin && !now.ready {
		lines = append(lines, fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", now.startWithin.Microseconds()))
	}
	if now.ready && !sent.ready {
		lines = append(lines, daemon.SdNotifyReady)
	}
	if now.stopping && !sent.stopping {
		lines = append(lines, daemon.SdNotifyStopping)
	}
	if now.status != sent.status {
		lines = append(lines, statusLine(now.status))
	}
	if len(lines) == 0 {
		return now, nil
	}
	if err := s.send(strings.Join(lines, "\n")); err != nil {
		return sent, err
	}
	return now, nil
}

// statusLine is the message for a status, which is one line whatever is in it.
func statusLine(text string) string {
	return "STATUS=" + strings.Join(strings.Fields(text), " ")
}

// alive reports whether steps go on. Those of a start are not due at any time; it
// has limits of its own, and so has the end. Nor are those that are asked for.
func (s *Notifier) alive() bool {
	s.mu.Lock()
	due := s.note.ready && !s.note.stopping && !s.note.onDemand
	s.mu.Unlock()
	idle := time.Since(s.began) - time.Duration(s.lastStep.Load())
	return !due || idle <= time.Duration(s.dt.Load())+s.watchdog/2
}

// tellReloading says that SIGHUP is being followed. A manager takes no word of it
// before it has heard that the service is ready.
func (s *Notifier) tellReloading(ready bool) {
	if ready {
		s.tell(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
	}
}

// reloaded says that it was; reload itself has logged what it changed.
func (s *Notifier) reloaded(err error, ready bool) {
	if err != nil {
		s.log.Error().Err(err).Msg("SIGHUP: the config was not reloaded, all stays as it was")
	}
	if ready {
		s.tell(daemon.SdNotifyReady)
	}
}

// tell sends a message that is not told again.
func (s *Notifier) tell(message string) { s.logFailure(s.send(message)) }

// logFailure logs the first of several failures in a row.
func (s *Notifier) logFailure(err error) {
	if err != nil && !s.sendFailed {
		s.log.Warn().Err(err).Msg("the service manager cannot be told how the run is going")
	}
	s.sendFailed = err != nil
}
