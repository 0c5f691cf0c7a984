package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// endSignals are those that ask for an orderly end. A terminal that is closed says
// so by SIGHUP, and servers are to be restored then too; without a terminal it
// asks for a reload.
func endSignals() []os.Signal {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if isTerminal(os.Stderr) && !signal.Ignored(syscall.SIGHUP) {
		signals = append(signals, syscall.SIGHUP)
	}
	return signals
}

// askToEnd does what the first signal does, if none came.
func askToEnd(signals chan<- os.Signal) {
	select {
	case signals <- syscall.SIGTERM:
	default: // one came just now
	}
}

// endWithin is what an orderly end may take, so that with the words about it all has
// ended within 10 s. What has to be written or told in it has limits of its own, which
// together are less as a rule.
const endWithin = 9500*time.Millisecond - noticeTimeout

// endBySignal ends the run in order at the first signal. An orderly end is bounded in
// time and worth waiting for, so that it takes a third one to cut it short.
func endBySignal(signals <-chan os.Signal, end context.CancelFunc) {
	<-signals
	end()
	time.AfterFunc(endWithin, func() {
		say(fmt.Errorf("it did not end in order within %v, and is ended as it is", endWithin))
		os.Exit(exitFailed)
	})
	<-signals
	_ = tell(os.Stderr, "g2g-agent: it is ending in order, which takes 10 s at most; once more ends it at once\n")
	<-signals
	os.Exit(exitFailed)
}
