package agent

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/recording"
)

// seenRecorder notes what it is told.
type seenRecorder struct {
	mu       sync.Mutex
	header   recording.Header
	begun    int64 // step
	states   []int64
	power    int
	itl      int
	commands []recording.Command
	synced   int
	applied  []recording.Event
	inForce  *recording.InForce
	syncErr  error
	started  func()
	wrong    string
}

func (r *seenRecorder) Start(h recording.Header) {
	r.header, r.begun = h, -1
	if r.started != nil {
		r.started()
	}
}

func (r *seenRecorder) BeginStep(seq, wallMs, lateUs int64) {
	if seq != r.begun+1 || wallMs < r.header.StartMs || lateUs < 0 {
		r.wrong = "a step begins out of order"
	}
	r.begun = seq
}

func (r *seenRecorder) Power(gpu int, e recording.PowerEntry) {
	r.power++
	if gpu >= len(r.header.GPUs) || e.Step != r.begun || e.TMs == 0 {
		r.wrong = "a reading is of no GPU, or not of the step"
	}
}

func (r *seenRecorder) ITL(l *recording.ITL) {
	r.itl++
	if l.Seq != r.begun {
		r.wrong = "latencies are not of the step"
	}
}

func (r *seenRecorder) Metrics(l *recording.Metrics) {
	if l.Step != r.begun {
		r.wrong = "metrics are not of the step"
	}
}

func (r *seenRecorder) State(s *datacenter.State) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.Seq != r.begun {
		r.wrong = "a state is not of the step"
	}
	r.states = append(r.states, s.Seq)
}

func (r *seenRecorder) Command(c recording.Command, after *recording.InForce) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.commands = append(r.commands, c)
	r.changed(after)
}

// changed notes what is in force, nil for what was.
func (r *seenRecorder) changed(after *recording.InForce) {
	if after != nil {
		r.inForce = after
	}
}

func (r *seenRecorder) Event(e recording.Event, after *recording.InForce) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.Topic == recording.TopicApplied {
		r.applied = append(r.applied, e)
	}
	r.changed(after)
}

func (r *seenRecorder) SyncCommand(_ context.Context, c recording.Command, after *recording.InForce) error {
	r.Command(c, after)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.synced++
	return r.syncErr
}

// TestLiveRunTellsItsRecorder: what a live run reads, computes and is commanded is told
// in order, and a command with who gave it and what became of it.
func TestLiveRunTellsItsRecorder(t *testing.T) {
	for _, sync := range []bool{false, true} {
		r := &seenRecorder{syncErr: errors.New("the disk is full")}
		s := newLiveSite(t, func(cfg *siteConfig) { cfg.Recorder, cfg.SyncCommands = r, sync })
		r.started = func() { // no command is taken that is not recorded
			if err := s.live.Apply(t.Context(), datacenter.ShiftReplicas{ModelLabel: "stock", ReplicaDelta: -1}); !errors.Is(err, datacenter.ErrNotStarted) {
				t.Errorf("a command before the recording begins: %v", err)
			}
		}
		s.start(t)
		s.await(t, "the first state", func(*datacenter.State) bool { return true })
		ctx := WithOrigin(t.Context(), Origin{Actor: recording.Actor{Via: "api", Role: "control", Address: "10.0.0.1"}, IdempotencyKey: "k", Body: []byte(`{"x": 1}`)})
		if err := s.live.Apply(ctx, datacenter.SetBatchSize{BatchSizeByModel: map[string]int{"patched": 2}, LeaseS: 30}); err != nil {
			t.Fatal(err)
		}
		first := s.await(t, "the batch size", func(s *datacenter.State) bool { return s.Models[0].BatchSize == 2 })
		if err := s.live.Apply(t.Context(), datacenter.ShiftReplicas{ModelLabel: "stock", ReplicaDelta: -3}); err != nil {
			t.Fatal(err)
		}
		if err := s.live.Apply(t.Context(), datacenter.SetBatchSize{BatchSizeByModel: map[string]int{"stock": 3}}); err == nil {
			t.Error("an infeasible batch size was accepted")
		}
		s.stop(t)

		if r.wrong != "" || len(r.states) == 0 || r.power == 0 || r.itl == 0 {
			t.Errorf("%q; %d states, %d readings, %d latencies", r.wrong, len(r.states), r.power, r.itl)
		}
		if r.header.RunID == "" || len(r.header.GPUs) != 4 || r.header.GPUs[0].ModelLabel != "patched" || r.header.ClockZeroNs <= 0 || len(r.header.Models) != 2 {
			t.Errorf("the header is %+v", r.header)
		}
		if len(r.commands) != 3 || sync != (r.synced == 3) {
			t.Fatalf("%d commands were recorded, %d synced: %+v", len(r.commands), r.synced, r.commands)
		}
		set, shift, refused := &r.commands[0], &r.commands[1], &r.commands[2]
		if set.Seq != first.Seq || set.Actor.Address != "10.0.0.1" || set.IdempotencyKey != "k" || string(set.Body) != `{"x": 1}` ||
			string(set.Results) != `[{"model_label":"patched","outcome":"accepted"}]` {
			t.Errorf("a command from step %d on is recorded as %+v", first.Seq, set)
		}
		if shift.Actor.Via != "script" || !strings.Contains(string(shift.Body), "-3") || !strings.Contains(string(shift.Results), `"accepted"`) {
			t.Errorf("a shift is recorded as %+v", shift)
		}
		if !strings.Contains(string(refused.Results), `"refused"`) || !strings.Contains(string(refused.Results), "feasible") {
			t.Errorf("a refused command is recorded as %+v", refused)
		}
		if len(r.applied) < 2 || r.applied[0].Seq != first.Seq || string(r.applied[0].Data) != `{"model_label":"patched","batch_size":2}` ||
			string(r.applied[1].Data) != `{"model_label":"stock","replica_delta":-3}` {
			t.Errorf("what took effect is recorded as %+v", r.applied)
		}
		if in := r.inForce.Models; len(in) != 2 || in[0].BatchSizeUntilS == nil || in[1].ReplicaDelta != -3 {
			t.Errorf("in force is %+v", in)
		}
	}
}

// overtaken is a recorder that gives another command all the time it takes to overtake one.
type overtaken struct {
	seenRecorder
	other func()
	raced atomic.Bool
	done  chan struct{}
}

func (r *overtaken) Command(c recording.Command, after *recording.InForce) {
	if r.raced.CompareAndSwap(false, true) {
		go func() {
			defer close(r.done)
			r.other()
		}()
		select {
		case <-r.done:
		case <-time.After(200 * time.Millisecond):
		}
	}
	r.seenRecorder.Command(c, after)
}

// What is in force is recorded in the order in which it is so, also where commands
// overtake one another.
func TestCommandsDoNotRecordWhatIsNoLongerInForce(t *testing.T) {
	r := &overtaken{done: make(chan struct{})}
	s := newLiveSite(t, func(cfg *siteConfig) { cfg.Recorder = r })
	s.start(t)
	s.await(t, "the first state", func(*datacenter.State) bool { return true })
	shift := func(delta int) {
		if err := s.live.Apply(t.Context(), datacenter.ShiftReplicas{ModelLabel: "stock", ReplicaDelta: delta}); err != nil {
			t.Error(err)
		}
	}
	r.other = func() { shift(-2) }
	shift(-1)
	<-r.done
	s.stop(t)
	if in := r.inForce.Models; len(in) != 2 || in[1].ReplicaDelta != -3 {
		t.Errorf("in force is %+v", in)
	}
}
