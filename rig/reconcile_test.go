package rig

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/g2g-agent/g2g-agent/vllm"
)

// TestServersAgreeInTheEnd: whatever goes wrong in whatever order, servers that are
// well again run what their owner says, and the initial batch size after the run.
func TestServersAgreeInTheEnd(t *testing.T) {
	seeds := 200
	if testing.Short() {
		seeds = 50
	}
	for seed := range seeds {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(uint64(seed), 1)) //nolint:gosec // a test's schedule
			m := newTestModel(t)
			m.memory[1].fussy = rng.IntN(3) == 0
			upTo := func(d time.Duration) time.Duration { return time.Duration(rng.Int64N(int64(d))) }
			var acts sync.WaitGroup
			for range 30 {
				<-time.After(upTo(1500 * time.Millisecond))
				f := m.memory[rng.IntN(2)]
				switch rng.IntN(8) {
				case 0, 1, 2:
					n, patience := []int{testFailsafe, testInitial, testRefused, 16}[rng.IntN(4)], upTo(6*time.Second)
					acts.Go(func() {
						ctx, cancel := context.WithTimeout(t.Context(), patience)
						defer cancel()
						m.command(ctx, n)
					})
				case 3:
					m.endLease()
				case 4:
					f.restart()
				default:
					f.become(condition(rng.IntN(int(dead) + 1)))
				}
			}
			acts.Wait()
			for _, f := range m.memory {
				if f.is == dead {
					f.restart()
				}
				f.become(well)
			}
			<-time.After(20 * time.Second)
			m.wantAgreement(t)
			if err := m.stop(); err != nil {
				t.Error(err)
			}
			for i, f := range m.memory {
				if runs, told, _ := f.state(); runs.batchSize != testInitial {
					t.Errorf("after the run server %d runs %d and was told %v", i, runs.batchSize, told)
				}
			}
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		})
	}
}

// TestCommandWhileOneIsBeingReset: one server is just being told its failsafe batch
// size, and takes it after a newer command was given up at it and accepted by the
// other, before the owner has heard of that. The newer command stands.
func TestCommandWhileOneIsBeingReset(t *testing.T) {
	for _, patience := range []time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			m := newTestModel(t)
			defer func() { _ = m.stop() }()
			m.command(t.Context(), 16)
			m.memory[1].become(slow)
			m.endLease()
			synctest.Wait()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			r := m.SetBatchSize(ctx, testRefused, 0, func(r Result) {
				<-time.After(time.Second) // others hold him up
				m.commit(testRefused, r)
			})
			if !r.Accepted {
				t.Fatalf("the command was not accepted: %+v", r)
			}
			<-time.After(20 * time.Second)
			m.wantAgreement(t)
			if runs, _, _ := m.memory[0].state(); runs.batchSize != testRefused {
				t.Errorf("given up after %v, the command of %d ended with %d", patience, testRefused, runs.batchSize)
			}
		})
	}
}

// TestLeaseEndsWhileACommandIsAccepted: the newer command stands.
func TestLeaseEndsWhileACommandIsAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newTestModel(t)
		defer func() { _ = m.stop() }()
		m.SetBatchSize(t.Context(), 16, 0, func(r Result) {
			m.endLease()
			<-time.After(2 * time.Second)
			m.commit(16, r)
		})
		<-time.After(20 * time.Second)
		m.wantAgreement(t)
		for i, f := range m.memory {
			if _, told, _ := f.state(); !slices.Equal(told, []int{16}) {
				t.Errorf("server %d was told %v", i, told)
			}
		}
	})
}

// TestLeaseEndsWithAllAway: who comes back is told the failsafe batch size, and not
// once more what was leased.
func TestLeaseEndsWithAllAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newTestModel(t)
		defer func() { _ = m.stop() }()
		m.command(t.Context(), 16)
		synctest.Wait()
		for _, f := range m.memory {
			f.become(failing)
		}
		m.endLease()
		<-time.After(3*time.Second + lookEvery)
		for i, f := range m.memory {
			if _, _, asked := f.state(); asked != 1+4 {
				t.Errorf("server %d was asked %d times to take its failsafe batch size, want once a second", i, asked-1)
			}
			f.become(well)
		}
		<-time.After(20 * time.Second)
		m.wantAgreement(t)
		for i, f := range m.memory {
			if _, told, _ := f.state(); !slices.Equal(slices.Compact(slices.Clone(told[1:])), []int{testFailsafe}) {
				t.Errorf("server %d was told %v", i, told)
			}
		}
	})
}

// TestResults: what a command brings, by server.
// It is long because it is a table of commands, each with what it brings.
func TestResults(t *testing.T) {
	for name, c := range map[string]struct {
		is             condition
		accepted, told bool
		outcome        vllm.Outcome
		after          time.Duration
	}{
		"both do":       {well, true, true, "", time.Millisecond},
		"one is slow":   {slow, true, true, "", time.Second},
		"one fails":     {failing, true, true, vllm.OutcomeUnknown, time.Millisecond},
		"one is hung":   {hanging, true, true, vllm.OutcomeUnknown, commandTimeout},
		"one is dead":   {dead, true, true, vllm.OutcomeUnreachable, time.Millisecond},
		"both are dead": {dead, false, false, vllm.OutcomeUnreachable, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			m := newTestModel(t)
			m.memory[1].become(c.is)
			failed := []string{"http://b:1"}
			if !c.accepted {
				m.memory[0].become(c.is)
				failed = []string{"http://a:1", "http://b:1"}
			}
			began := time.Now()
			r := m.command(t.Context(), 16)
			if took := time.Since(began); r.Accepted != c.accepted || r.Told != c.told || took != c.after {
				t.Errorf("%s: %+v after %v", name, r, took)
			}
			var servers *ServersError
			switch {
			case c.outcome == "":
				if r.Err != nil {
					t.Errorf("%s: %v", name, r.Err)
				}
			case !errors.As(r.Err, &servers) || servers.Servers != 2 || OutcomeOf(r.Err) != c.outcome:
				t.Errorf("%s: %v", name, r.Err)
			default:
				var urls []string
				for _, f := range servers.Failed {
					urls = append(urls, f.URL)
				}
				if !slices.Equal(urls, failed) {
					t.Errorf("%s: the error is of %v, want %v", name, urls, failed)
				}
			}
			want := testInitial
			if c.accepted {
				want = 16
			}
			if desired, _, _ := m.wants(); desired.batchSize != want {
				t.Errorf("%s: the model wants %d, want %d", name, desired.batchSize, want)
			}
			if _, told, _ := m.memory[0].state(); c.accepted && !slices.Equal(told, []int{16}) {
				t.Errorf("%s: the server that is well was told %v meanwhile", name, told)
			}
			for _, f := range m.memory {
				f.become(well)
			}
			<-time.After(20 * time.Second)
			m.wantAgreement(t)
			_ = m.stop()
		})
	}
}

// TestChangeIsToldOf: another batch size than the model's is said to be new, even if
// the only server that has it had it already.
func TestChangeIsToldOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newTestModel(t)
		defer func() { _ = m.stop() }()
		a, b := m.memory[0], m.memory[1]
		a.become(dead)
		if r := m.command(t.Context(), 16); !r.Accepted || !r.Told {
			t.Errorf("%+v", r)
		}
		a.become(well)
		b.become(dead)
		if r := m.command(t.Context(), testInitial); !r.Accepted || !r.Told || r.Err == nil {
			t.Errorf("the model is back at the initial batch size by a server that never left it: %+v", r)
		}
		if _, told, _ := a.state(); told != nil {
			t.Errorf("the server was told %v", told)
		}
		b.become(well)
		<-time.After(20 * time.Second)
		m.wantAgreement(t)
		if r := m.command(t.Context(), testInitial); !r.Accepted || r.Told || r.Err != nil {
			t.Errorf("the same once more: %+v", r)
		}
	})
}

func TestMayHaveTakenEffect(t *testing.T) {
	failed := func(o vllm.Outcome) error { return &vllm.CommandError{Outcome: o} }
	several := func(errs ...error) error {
		e := &ServersError{Servers: 2}
		for _, err := range errs {
			e.Failed = append(e.Failed, ServerError{"http://a:1", err})
		}
		return e
	}
	refused, unreachable, unknown := failed(vllm.OutcomeRefused), failed(vllm.OutcomeUnreachable), failed(vllm.OutcomeUnknown)
	for _, err := range []error{unknown, several(unknown), several(refused, unknown), several(unknown, refused)} {
		if !MayHaveTakenEffect(err) {
			t.Errorf("%v", err)
		}
	}
	for _, err := range []error{nil, refused, unreachable, several(refused, unreachable), errors.New("not sent")} {
		if MayHaveTakenEffect(err) {
			t.Errorf("%v", err)
		}
	}
}

// TestRefusalIsOfOneSetting: a server that refuses one batch size is still told the
// next that it missed.
func TestRefusalIsOfOneSetting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newTestModel(t)
		defer func() { _ = m.stop() }()
		fussy := m.memory[1]
		fussy.fussy = true
		m.command(t.Context(), testRefused)
		<-time.After(time.Minute)
		if _, _, asked := fussy.state(); asked != 2 {
			t.Errorf("a server that refuses was asked %d times in a minute, want twice", asked)
		}
		// It is not reached for a moment in which nobody looks.
		fussy.become(dead)
		m.command(t.Context(), 16)
		fussy.become(well)
		<-time.After(time.Second)
		m.wantAgreement(t)
	})
}

// TestEndWaitsForNoServerTwice: the end of a run takes no longer than one command,
// whatever is under way, and restores who can be restored.
func TestEndWaitsForNoServerTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newTestModel(t)
		m.command(t.Context(), 16)
		m.memory[1].become(hanging)
		m.endLease()
		synctest.Wait() // both are being told
		results := make(chan Result, 3)
		for _, n := range []int{testRefused, 12, testRefused} { // none of which a server runs already
			go func() { results <- m.command(t.Context(), n) }()
		}
		<-time.After(time.Second)
		began := time.Now()
		err := m.stop()
		if took := time.Since(began); took > commandTimeout+10*time.Millisecond {
			t.Errorf("the end took %v", took)
		}
		var servers *ServersError
		if !errors.As(err, &servers) || len(servers.Failed) != 1 || servers.Failed[0].URL != "http://b:1" {
			t.Errorf("the error is %v, want one of the server that hangs", err)
		}
		if runs, told, _ := m.memory[0].state(); runs.batchSize != testInitial {
			t.Errorf("the other server runs %d and was told %v", runs.batchSize, told)
		}
		for range 3 {
			if r := <-results; r.Err == nil {
				t.Error(fmt.Sprint("a command succeeded: ", r))
			}
		}
	})
}
