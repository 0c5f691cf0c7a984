package rig

import (
	"context"
	"slices"
	"sync"
	"testing"
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
