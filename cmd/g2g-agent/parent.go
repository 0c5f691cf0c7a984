package main

import (
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"golang.org/x/sys/unix"

	"github.com/g2g-agent/g2g-agent/internal/excerpt"
)

// processFlags are those of verbs that other programs start.
type processFlags struct {
	ExitWithParent parentFlag `placeholder:"PID" help:"End in order when the process that started this one is gone: when its parent is another one than at first (than PID, if that is given), or standard input is a pipe that ends."`
}

// parentFlag is a flag that may have the parent's process id as its value.
type parentFlag struct {
	given bool
	pid   int // 0: whoever is the parent at the start
}

// IsBool lets the flag do without a value.
func (*parentFlag) IsBool() bool { return true }

// Decode implements kong.MapperValue.
func (f *parentFlag) Decode(ctx *kong.DecodeContext) error {
	f.given, f.pid = true, 0
	if ctx.Scan.Peek().Type != kong.FlagValueToken {
		return nil
	}
	text := ctx.Scan.Pop().String()
	pid, err := strconv.Atoi(text)
	if err != nil || pid <= 0 {
		return fmt.Errorf("want the id of the parent process, a whole number > 0, got %s", excerpt.Quote(text, maxQuoted))
	}
	f.pid = pid
	return nil
}

// parentLookedAt is how often it is looked whether the parent is there.
const parentLookedAt = 100 * time.Millisecond

// watchParent ends the program in order, as a signal does, once the parent is gone; not
// if the flag was not given. It is an error if it is gone already. The returned function
// ends the watching. stdinUsed tells that standard input has another use than to be
// watched.
func (f processFlags) watchParent(term terminal, stdinUsed bool) (stop func(), err error) {
	if !f.ExitWithParent.given {
		return func() {}, nil
	}
	p := parent{pid: f.ExitWithParent.pid, watchStdin: !stdinUsed && isPipe(os.Stdin)}
	if p.pid == 0 {
		p.pid = os.Getppid()
	}
	if reason := p.gone(); reason != "" {
		return nil, fmt.Errorf("--exit-with-parent: %s already", reason)
	}
	// Standard output and error may be pipes to the parent. That they are closed must
	// not kill the program before it has ended in order.
	signal.Ignore(syscall.SIGPIPE)
	done := make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() {
		ticker := time.NewTicker(parentLookedAt)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
			}
			if reason := p.gone(); reason != "" {
				term.end()
				_ = tell(term.stderr, "g2g-agent: "+reason+"; ending in order (--exit-with-parent)\n") // it may have been read by the parent
				return
			}
		}
	})
	return func() { close(done); watcher.Wait() }, nil
}

// parent is the process that started this one.
type parent struct {
	pid        int
	watchStdin bool
}

// gone says why the parent is taken to have ended, nothing as long as it is there. An
// orphan gets another parent: the first process, or one that has asked for orphans.
func (p parent) gone() string {
	if now := os.Getppid(); now != p.pid {
		return fmt.Sprintf("the parent is process %d and not %d, which is gone", now, p.pid)
	}
	if p.watchStdin && hungUp(os.Stdin) {
		return "standard input, a pipe, has ended"
	}
	return ""
}

// isPipe reports whether f is something that has an other end: a pipe or a socket.
func isPipe(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&(os.ModeNamedPipe|os.ModeSocket) != 0
}

// hungUp reports whether the other end of a pipe or socket is closed. Nothing is read:
// what is written there may be for somebody else.
func hungUp(f *os.File) bool {
	poll := []unix.PollFd{{Fd: int32(f.Fd()), Events: hangUp}}
	n, err := unix.Poll(poll, 0)
	return err == nil && n > 0 && poll[0].Revents&(hangUp|unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0
}
