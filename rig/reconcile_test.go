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

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/vllm"
)

const (
	testInitial, testFailsafe = 4, 2
	// testRefused is a batch size that a fussy server never takes.
	testRefused = 8
	lookEvery   = 200 * time.Millisecond
)

// condition is how a memory server is.
type condition int

const (
	well    condition = iota
	slow              // takes a second for each command
	failing           // answers 500, and does nothing
	hanging           // takes commands, answers none, and carries them out late
	dead
)

// memoryServer stands for a vLLM server, without a network.
type memoryServer struct {
	fussy bool

	mu       sync.Mutex
	is       condition
	runs     setting
	told     []int // accepted
	asked    int
	lost     bool // connections, as by a restart, since the last look
	lateness time.Duration
}

func (f *memoryServer) become(c condition) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.is = c
}

func (f *memoryServer) restart() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.is, f.runs, f.lost = well, setting{batchSize: 256}, true
}

func (f *memoryServer) take(want setting) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.runs = want
	f.told = append(f.told, want.batchSize)
}

func (f *memoryServer) state() (runs setting, told []int, asked int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.runs, slices.Clone(f.told), f.asked
}

// send is what the server does with a command.
func (f *memoryServer) send(ctx context.Context, want setting) error {
	f.mu.Lock()
	is, lateness := f.is, f.lateness
	f.asked++
	f.mu.Unlock()
	fails := func(outcome vllm.Outcome) error {
		return &vllm.CommandError{BatchSize: want.batchSize, Outcome: outcome, Err: ctx.Err()}
	}
	took := time.Millisecond
	switch {
	case is == dead:
		return fails(vllm.OutcomeUnreachable)
	case is == failing:
		return fails(vllm.OutcomeUnknown)
	case f.fussy && want.batchSize == testRefused:
		return fails(vllm.OutcomeRefused)
	case is == hanging:
		<-ctx.Done()
		time.AfterFunc(lateness, func() { f.take(want) })
		return fails(vllm.OutcomeUnknown)
	case is == slow:
		took = time.Second
	}
	select {
	case <-time.After(took):
		f.take(want)
		return nil
	case <-ctx.Done():
		time.AfterFunc(lateness, func() { f.take(want) })
		return fails(vllm.OutcomeUnknown)
	}
}

// look is what a look at the server brings.
func (f *memoryServer) look() look {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.is != well && f.is != slow {
		return look{failed: true}
	}
	l := look{mayForget: f.lost}
	f.lost = false
	return l
}

// testModel is a model of two such servers, and what its owner makes of it, as in
// package agent.
type testModel struct {
	*Model
	memory [2]*memoryServer

	mu        sync.Mutex
	batchSize int
	failsafe  bool // it is to be set

	stopCommands func()
	stop         func() error // ends the run, restoring
}

// newTestModel starts one in a bubble.
func newTestModel(t *testing.T) *testModel {
	t.Helper()
	m := &testModel{batchSize: testInitial}
	r, err := New(Config{
		Models: []ModelConfig{{
			Label: "m", ModelID: "org/m", InitialBatchSize: testInitial, MaxBatchSize: 16,
			Servers: []ServerConfig{{VLLMBaseURL: "http://a:1"}, {VLLMBaseURL: "http://b:1"}},
		}},
		HistoryWindow: time.Second, Log: zerolog.Nop(), OnKept: func(int, bool) { m.kept() },
	})
	if err != nil {
		t.Fatal(err)
	}
	m.Model = r.Model(0)
	commands, stopCommands := context.WithCancel(t.Context())
	reconciling, stopReconciling := context.WithCancel(t.Context())
	r.commands.Store(&commands)
	var loops sync.WaitGroup
	for i, s := range m.servers {
		f := &memoryServer{runs: setting{batchSize: testInitial}, lateness: 3 * time.Second}
		m.memory[i], s.send = f, f.send
		s.applied.accept(f.runs, time.Now())
		s.looping.Store(true)
		loops.Go(func() { s.reconcile(reconciling, commands) })
		loops.Go(func() {
			ticker := time.NewTicker(lookEvery)
			defer ticker.Stop()
			for {
				select {
				case <-reconciling.Done():
					return
				case <-ticker.C:
				}
				select {
				case <-reconciling.Done():
				case s.looks <- f.look():
				}
			}
		})
	}
	m.stopCommands = stopCommands
	m.stop = func() error {
		stopCommands()
		err := r.restore(reconciling, func(int) (string, int, bool) { return "initial", testInitial, true })
		stopReconciling()
		loops.Wait()
		r.Close()
		return err
	}
	return m
}

// command is what the owner does for a command.
func (m *testModel) command(ctx context.Context, n int) Result {
	return m.SetBatchSize(ctx, n, 0, func(r Result) { m.commit(n, r) })
}

func (m *testModel) commit(n int, r Result) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r.Accepted {
		m.batchSize, m.failsafe = n, false
		m.Release()
	}
}

// endLease is what he does when a lease has run out.
func (m *testModel) endLease() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failsafe = true
	m.Keep(testFailsafe)
}

func (m *testModel) kept() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failsafe {
		m.batchSize, m.failsafe = testFailsafe, false
	}
}

// wantAgreement checks that what the owner says is what all servers run.
func (m *testModel) wantAgreement(t *testing.T) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if desired, _, commanded := m.wants(); desired.batchSize != m.batchSize || commanded || m.failsafe {
		t.Errorf("the owner says %d (to be taken back: %v), the model wants %d (a command under way: %v)", m.batchSize, m.failsafe, desired.batchSize, commanded)
	}
	for i, f := range m.memory {
		if runs, told, _ := f.state(); runs.batchSize != m.batchSize && !(f.fussy && m.batchSize == testRefused) {
			t.Errorf("the owner says %d, server %d runs %d and was told %v", m.batchSize, i, runs.batchSize, told)
		}
	}
}

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

// TestResults: what a command brings, by server.
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
