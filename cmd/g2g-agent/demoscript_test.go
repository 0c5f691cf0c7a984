package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/agent"
	"github.com/g2g-agent/g2g-agent/datacenter"
)

// observedRun is a run that counts its commands and tells of each, as a live one
// does.
type observedRun struct {
	commands  int
	err       error
	onCommand func(datacenter.Command, error)
}

func (r *observedRun) Apply(_ context.Context, command datacenter.Command) error {
	r.commands++
	r.onCommand(command, r.err)
	return r.err
}

func (*observedRun) Status() agent.Status { return agent.Status{} }

// TestDemoScriptMakesWay: the script goes on over its own commands, whatever comes
// of them, and over those that are refused, and ends at the first of someone else.
func TestDemoScriptMakesWay(t *testing.T) {
	for name, outcome := range map[string]error{"taken": nil, "failed": errors.New("no answer"), "refused": &datacenter.CommandError{}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				script := demoScript{changed: make(chan struct{}, 1)}
				run := &observedRun{err: outcome, onCommand: script.onCommand}
				var log bytes.Buffer
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					script.follow(t.Context(), run, zerolog.New(&log))
				}()
				<-time.After(4*demoScriptInterval + time.Second)
				synctest.Wait()
				script.onCommand(datacenter.SetBatchSize{}, &datacenter.CommandError{})
				<-time.After(demoScriptInterval)
				synctest.Wait()
				if run.commands != 5 {
					t.Errorf("the script sent %d commands in %v, want 5", run.commands, 5*demoScriptInterval)
				}
				script.onCommand(datacenter.SetBatchSize{}, nil)
				synctest.Wait()
				select {
				case <-ended:
				default:
					t.Fatal("the script goes on although someone else has commanded")
				}
				if !strings.Contains(log.String(), "the demo's own script ends") {
					t.Errorf("the log does not tell of the end:\n%s", log.String())
				}
			})
		})
	}
}
