//go:build unix

package main

import (
	"syscall"
	"testing"

	"github.com/g2g-agent/g2g-agent/internal/service/managertest"
)

// TestServiceOfAProgram: what a manager hears of a whole run.
func TestServiceOfAProgram(t *testing.T) {
	t.Parallel()
	manager := managertest.Start(t)
	p := startProgram(t, []string{"NOTIFY_SOCKET=" + manager.Path, "WATCHDOG_USEC=2000000", "G2G_AGENT_LIVE__STAGGER_S=1"}, "demo")
	manager.Await(t, "READY=1")
	for range 2 {
		manager.Await(t, "WATCHDOG=1")
	}
	if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	manager.Await(t, "RELOADING=1")
	manager.Await(t, "READY=1")
	manager.Await(t, "WATCHDOG=1")
	p.terminate(t)
	manager.Await(t, "STOPPING=1")
}

// TestServiceOfALockstepReplay: it is ready before anybody steps, and no pause
// between two requests is taken for a hang.
func TestServiceOfALockstepReplay(t *testing.T) {
	t.Parallel()
	manager := managertest.Start(t)
	a := startAPI(t, []string{"NOTIFY_SOCKET=" + manager.Path, "WATCHDOG_USEC=200000"}, "replay", "--config", shippedReplay(t), "--pace", "step")
	manager.Await(t, "READY=1")
	a.advance(t, 5)
	for range 5 { // for twice as long as a step may take
		manager.Await(t, "WATCHDOG=1")
	}
	a.terminate(t)
	manager.Await(t, "STOPPING=1")
}
