package agent

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

func discard(*datacenter.State) error { return nil }

// lockstep serves a replay that a test drives, and collects its events.
func lockstep(t testing.TB, change func(*ReplayConfig)) (*LockstepReplay, *[]datacenter.Event) {
	t.Helper()
	cfg := twoModels(t)
	var events []datacenter.Event
	cfg.OnEvent = func(e datacenter.Event) { events = append(events, e) }
	if change != nil {
		change(&cfg)
	}
	replay, err := NewReplay(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return NewLockstepReplay(&Setup{Replay: replay}, LockstepHooks{Emit: discard}), &events
}

// steps advances a replay by n steps and returns their states.
func steps(ctx context.Context, s *LockstepReplay, n int) (states []*datacenter.State, err error) {
	_, err = s.Advance(ctx, Advance{Steps: n}, func(state *datacenter.State) error {
		states = append(states, state)
		return nil
	})
	return states, err
}

func advance(t testing.TB, s *LockstepReplay, n int) []*datacenter.State {
	t.Helper()
	states, err := steps(context.Background(), s, n) //nolint:usetesting // rapid's runs have no context of their own
	if err != nil {
		t.Fatal(err)
	}
	return states
}

func apply(t testing.TB, s Controllable, command datacenter.Command) {
	t.Helper()
	if err := s.Apply(context.Background(), command); err != nil { //nolint:usetesting // rapid's runs have no context of their own
		t.Fatalf("%+v: %v", command, err)
	}
}

// TestCommandsBetweenStepsAreTheScript: whatever is commanded at whichever steps,
// the states are those of the same commands in the script.
func TestCommandsBetweenStepsAreTheScript(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		noisy := func(cfg *ReplayConfig) {
			cfg.Augmentation = datacenter.Augmentation{AmplitudeScaleRange: [2]float64{0.9, 1.1}, NoiseFraction: 0.02}
		}
		commanded, _ := lockstep(t, noisy)
		var script []datacenter.ScriptedCommand
		var got []*datacenter.State
		dt := seconds(t, "1")
		for range rapid.IntRange(0, 8).Draw(r, "commands") {
			got = append(got, advance(t, commanded, rapid.IntRange(0, 30).Draw(r, "steps"))...)
			label := rapid.SampledFrom([]string{"a", "b", "idle"}).Draw(r, "model")
			var command datacenter.Command = datacenter.ShiftReplicas{ModelLabel: label, ReplicaDelta: rapid.IntRange(-6, 3).Draw(r, "delta")}
			if rapid.Bool().Draw(r, "set") {
				command = batch(label, rapid.SampledFrom([]int{8, 16}).Draw(r, "batch size"))
			}
			err := commanded.Apply(t.Context(), command)
			if errors.Is(err, datacenter.ErrNotPossible) {
				continue // there is no room for the shift, or the replay is over
			} else if err != nil {
				r.Fatal(err)
			}
			at, err := datacenter.SecondsOf(float64(len(got)) * dt.Float64())
			if err != nil {
				r.Fatal(err)
			}
			script = append(script, datacenter.ScriptedCommand{T: at, Command: command})
		}
		got = append(got, advance(t, commanded, 100)...)
		scripted, _ := lockstep(t, func(cfg *ReplayConfig) { noisy(cfg); cfg.Commands = script })
		want := advance(t, scripted, 100)
		if len(got) != len(want) || len(want) != 100 {
			r.Fatalf("%d states with commands, %d with the script, want 100", len(got), len(want))
		}
		for i := range want {
			if g, w := string(got[i].AppendJSON(nil)), string(want[i].AppendJSON(nil)); g != w {
				r.Fatalf("step %d differs\ncommanded %s\nscripted  %s", i, g, w)
			}
		}
	})
}

// TestCommandsLeaveRoomForTheScript: a shift that would take the room of a later
// scripted one is refused, and nothing of the run fails.
func TestCommandsLeaveRoomForTheScript(t *testing.T) {
	s, _ := lockstep(t, func(cfg *ReplayConfig) {
		cfg.Commands = []datacenter.ScriptedCommand{at(t, "20", shift("b", -2)), at(t, "30", shift("b", 2))}
	})
	advance(t, s, 25)
	// Two servers are free from 20 s on, one of them is taken back at 30 s; the
	// other is for the ramp at 50 s.
	if err := s.Apply(t.Context(), shift("b", 1)); !errors.Is(err, datacenter.ErrNotPossible) {
		t.Errorf("a shift that leaves no room for the script gives %v", err)
	}
	if states := advance(t, s, 100); len(states) != 75 {
		t.Errorf("the run went on for %d steps, want 75", len(states))
	}
}

func TestAdvance(t *testing.T) {
	s, _ := lockstep(t, nil)
	if p := s.Status(); p.Phase != PhaseWaiting || len(p.Unready(p.LastStepAt)) != 0 {
		t.Errorf("before the first step: %+v", p)
	}
	// Calls at once take turns, and together they give each step once.
	var mu sync.Mutex
	seen := map[int64]bool{}
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for _, state := range advance(t, s, 10) {
				mu.Lock()
				if seen[state.Seq] {
					t.Errorf("step %d came twice", state.Seq)
				}
				seen[state.Seq] = true
				mu.Unlock()
			}
			_ = s.Status()
		})
	}
	group.Wait()
	if len(seen) != 80 || s.Status().Steps != 80 || s.Status().TimeS != 80 {
		t.Errorf("%d steps, status %+v, want 80", len(seen), s.Status())
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if states, err := steps(ended, s, 5); len(states) != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("without a context: %d states, %v", len(states), err)
	}
	if states := advance(t, s, 20); len(states) != 20 || s.Status().Phase != PhaseEnded {
		t.Errorf("%d states at the end, want 20; phase %s", len(states), s.Status().Phase)
	}
	if err := s.Apply(t.Context(), batch("a", 8)); err != nil {
		t.Errorf("a command right after the last step gives %v", err)
	}
	if states := advance(t, s, 5); len(states) != 0 || s.Status().Phase != PhaseEnded {
		t.Errorf("after the end: %d states, phase %s", len(states), s.Status().Phase)
	}
	s.End()
	if err := s.Apply(t.Context(), batch("a", 8)); !errors.Is(err, datacenter.ErrRunOver) {
		t.Errorf("a command after it was ended gives %v", err)
	}
	if states := advance(t, s, 5); len(states) != 0 {
		t.Errorf("%d states after it was ended", len(states))
	}
	full := errors.New("disk full")
	replay, err := NewReplay(twoModels(t))
	if err != nil {
		t.Fatal(err)
	}
	failing := NewLockstepReplay(&Setup{Replay: replay}, LockstepHooks{Emit: func(*datacenter.State) error { return full }})
	if states, err := steps(t.Context(), failing, 5); len(states) != 0 || !errors.Is(err, full) {
		t.Errorf("with an output that fails: %d states, %v", len(states), err)
	}
}

func TestStatus(t *testing.T) {
	s, _ := lockstep(t, func(cfg *ReplayConfig) { cfg.Models[0].FailsafeBatchSize = 16 })
	apply(t, s, datacenter.ShiftReplicas{ModelLabel: "b", ReplicaDelta: -1, LeaseS: 30})
	apply(t, s, datacenter.SetBatchSize{BatchSizeByModel: map[string]int{"a": 16}, LeaseS: 5})
	advance(t, s, 3)
	status := s.Status()
	// 40 GPUs in 5 servers: a has 8 replicas of 2 GPUs in 2 of them, b 3 of 4 in 2.
	if status.TimeS != 3 || status.FreeGPUs != 40-16-12 {
		t.Errorf("at %v s %d GPUs are free", status.TimeS, status.FreeGPUs)
	}
	a, b, idle := &status.Models[0], &status.Models[1], &status.Models[2]
	if a.Replicas != 8 || a.FreeReplicas != 4 || a.BatchSize != 16 || a.AchievedBatchSize != 16 || a.Spec.Failsafe() != 16 || a.BatchSizeLeaseS != 2 || !math.IsNaN(a.ReplicaLeaseS) {
		t.Errorf("a is %+v", a)
	}
	if b.Replicas != 3 || b.ReplicaShift != -1 || b.FreeReplicas != 3 || b.ReplicaLeaseS != 27 || !math.IsNaN(b.BatchSizeLeaseS) {
		t.Errorf("b is %+v", b)
	}
	if idle.Replicas != 0 || idle.FreeReplicas != 8 {
		t.Errorf("idle is %+v", idle)
	}
}

// batchSizesOf are model a's batch sizes in the states.
func batchSizesOf(states []*datacenter.State) []int {
	var sizes []int
	for _, s := range states {
		sizes = append(sizes, s.Models[0].BatchSize)
	}
	return sizes
}

func topics(events []datacenter.Event) []string {
	var topics []string
	for _, e := range events {
		topics = append(topics, e.Topic)
	}
	return topics
}

func TestBatchSizeLease(t *testing.T) {
	leased := datacenter.SetBatchSize{BatchSizeByModel: map[string]int{"a": 16}, LeaseS: 3}
	s, events := lockstep(t, nil)
	apply(t, s, leased)
	if got := batchSizesOf(advance(t, s, 5)); !slices.Equal(got, []int{16, 16, 16, 8, 8}) {
		t.Errorf("a lease of 3 steps gives batch sizes %v", got)
	}
	if got, want := topics(*events), []string{"datacenter.batch_size.updated", "datacenter.batch_size.lease_expired", "datacenter.batch_size.updated"}; !slices.Equal(got, want) {
		t.Errorf("events %v, want %v", got, want)
	}
	if e, want := (*events)[1], (datacenter.BatchSizeLeaseExpired{ModelLabel: "a", FailsafeBatchSize: 8}); e.TimeS != 3 || e.Data != want {
		t.Errorf("the event is %+v", e)
	}
	// Renewed in time it holds, the other model's is none of its business.
	apply(t, s, leased)
	for range 4 {
		advance(t, s, 2)
		apply(t, s, leased)
		apply(t, s, batch("b", 8))
	}
	if got := batchSizesOf(advance(t, s, 4)); !slices.Equal(got, []int{16, 16, 16, 8}) {
		t.Errorf("after the last renewal the batch sizes are %v", got)
	}
	// A command without a lease ends it.
	apply(t, s, leased)
	apply(t, s, batch("a", 16))
	if got := batchSizesOf(advance(t, s, 10)); slices.Contains(got, 8) {
		t.Errorf("a command without a lease gives batch sizes %v", got)
	}
	for _, leaseS := range []float64{-1, math.NaN(), math.Inf(1), datacenter.MaxLeaseS + 1} {
		for _, command := range []datacenter.Command{
			datacenter.SetBatchSize{BatchSizeByModel: map[string]int{"a": 8}, LeaseS: leaseS},
			datacenter.ShiftReplicas{ModelLabel: "a", ReplicaDelta: -1, LeaseS: leaseS},
		} {
			var refused *datacenter.CommandError
			if err := s.Apply(t.Context(), command); !errors.As(err, &refused) || refused.Field != "lease_s" {
				t.Errorf("%+v gives %v", command, err)
			}
		}
	}
	if m := s.Status().Models[0]; m.BatchSize != 16 || m.ReplicaShift != 0 {
		t.Errorf("refused commands left %+v", m)
	}
}

func TestFailsafeBatchSize(t *testing.T) {
	s, _ := lockstep(t, func(cfg *ReplayConfig) { cfg.Models[1].InitialBatchSize, cfg.Models[1].FailsafeBatchSize = 16, 8 })
	apply(t, s, datacenter.SetBatchSize{BatchSizeByModel: map[string]int{"b": 16}, LeaseS: 0.5})
	states := advance(t, s, 2)
	if a, b := states[0].Models[1].BatchSize, states[1].Models[1].BatchSize; a != 16 || b != 8 {
		t.Errorf("the batch sizes are %d and %d, want 16 and the failsafe 8", a, b)
	}
	cfg := twoModels(t)
	cfg.Models[0].FailsafeBatchSize = 12
	if _, err := NewReplay(cfg); err == nil || !contains(err, "models[0].failsafe_batch_size: ") {
		t.Errorf("a failsafe batch size without a trace gives %v", err)
	}
}

func TestReplicaLease(t *testing.T) {
	s, events := lockstep(t, nil)
	replicas := func() int { return s.Status().Models[1].Replicas }
	apply(t, s, datacenter.ShiftReplicas{ModelLabel: "b", ReplicaDelta: -2, LeaseS: 3})
	apply(t, s, shift("b", -1)) // for ever
	advance(t, s, 2)
	apply(t, s, datacenter.ShiftReplicas{ModelLabel: "b", LeaseS: 3}) // renews
	if advance(t, s, 2); replicas() != 1 {
		t.Errorf("a renewed lease leaves %d replicas, want 1", replicas())
	}
	if advance(t, s, 2); replicas() != 3 {
		t.Errorf("after the lease there are %d replicas, want 3", replicas())
	}
	if e, want := (*events)[2], (datacenter.ReplicaLeaseExpired{ModelLabel: "b", ReplicaDelta: -2}); e.TimeS != 5 || e.Data != want {
		t.Errorf("the third event is %+v", e)
	}
	if got := topics(*events); len(got) != 4 {
		t.Errorf("the events are %v", got)
	}
}

// TestReplicaLeasesEndTogether: what a lease took from one model for another is
// given back at once, whichever comes first in the config.
func TestReplicaLeasesEndTogether(t *testing.T) {
	for _, labels := range [][2]string{{"a", "b"}, {"b", "a"}} {
		s, _ := lockstep(t, func(cfg *ReplayConfig) {
			cfg.Facility.TotalGPUCapacity = 32
			cfg.Models[0].GPUsPerReplica = 4
			cfg.Models[0].Replicas = cfg.Models[1].Replicas
		})
		// 32 GPUs in 4 servers; a and b have 4 replicas of 4 GPUs each.
		apply(t, s, datacenter.ShiftReplicas{ModelLabel: labels[0], ReplicaDelta: -4, LeaseS: 2})
		apply(t, s, datacenter.ShiftReplicas{ModelLabel: labels[1], ReplicaDelta: 4, LeaseS: 2})
		for _, state := range advance(t, s, 3)[2:] {
			for _, m := range state.Models[:2] {
				if m.ActiveReplicas != 4 {
					t.Errorf("%s for %s: after the leases %s has %d replicas, want 4", labels[0], labels[1], m.ModelLabel, m.ActiveReplicas)
				}
			}
		}
	}
}

// TestReplicaLeaseOfNothing: shifts that were undone leave nothing to expire.
func TestReplicaLeaseOfNothing(t *testing.T) {
	s, events := lockstep(t, nil)
	apply(t, s, datacenter.ShiftReplicas{ModelLabel: "b", ReplicaDelta: -2, LeaseS: 3})
	apply(t, s, datacenter.ShiftReplicas{ModelLabel: "b", ReplicaDelta: 2, LeaseS: 3})
	apply(t, s, datacenter.ShiftReplicas{ModelLabel: "a", LeaseS: 3}) // renews nothing
	for _, m := range s.Status().Models {
		if !math.IsNaN(m.ReplicaLeaseS) {
			t.Errorf("%s has a lease of %v s", m.Spec.ModelLabel, m.ReplicaLeaseS)
		}
	}
	advance(t, s, 6)
	if got := topics(*events); len(got) != 2 {
		t.Errorf("the events are %v, want those of the two shifts", got)
	}
}

// TestLeaseIsOverBetweenSteps: one that the next step ends has no time left.
func TestLeaseIsOverBetweenSteps(t *testing.T) {
	s, _ := lockstep(t, nil)
	apply(t, s, datacenter.SetBatchSize{BatchSizeByModel: map[string]int{"a": 16}, LeaseS: 0.5})
	apply(t, s, datacenter.ShiftReplicas{ModelLabel: "b", ReplicaDelta: -2, LeaseS: 0.5})
	advance(t, s, 1)
	if m := s.Status().Models; m[0].BatchSizeLeaseS != 0 || m[1].ReplicaLeaseS != 0 {
		t.Errorf("the leases have %v and %v s left", m[0].BatchSizeLeaseS, m[1].ReplicaLeaseS)
	}
}

// TestEndInterruptsAdvance: the end does not wait for more than the step begun.
func TestEndInterruptsAdvance(t *testing.T) {
	replay, err := NewReplay(twoModels(t))
	if err != nil {
		t.Fatal(err)
	}
	emitted, goOn := make(chan struct{}), make(chan struct{})
	s := NewLockstepReplay(&Setup{Replay: replay}, LockstepHooks{Emit: func(*datacenter.State) error {
		emitted <- struct{}{}
		<-goOn
		return nil
	}})
	var group sync.WaitGroup
	group.Go(func() {
		if states := advance(t, s, 100); len(states) != 1 {
			t.Errorf("%d states, want the one that was begun", len(states))
		}
	})
	<-emitted
	ended := make(chan struct{})
	go func() { defer close(ended); s.End() }()
	<-s.ended
	select {
	case <-ended:
		t.Error("the end did not wait for the step under way")
	default:
	}
	close(goOn)
	go func() {
		for {
			select {
			case <-emitted:
			case <-ended:
				return
			}
		}
	}()
	<-ended
	group.Wait()
	if status := s.Status(); status.Steps != 1 || status.Phase != PhaseEnded {
		t.Errorf("the status is %+v", status)
	}
}

// TestReplicaLeaseWaitsForRoom: what a lease freed is in use when it ends.
func TestReplicaLeaseWaitsForRoom(t *testing.T) {
	s, events := lockstep(t, func(cfg *ReplayConfig) {
		cfg.Facility.TotalGPUCapacity = 32
		cfg.Models[0].Replicas = cfg.Models[1].Replicas
	})
	// 32 GPUs in 4 servers; a has 4 replicas of 2 GPUs, b 4 of 4.
	apply(t, s, datacenter.ShiftReplicas{ModelLabel: "b", ReplicaDelta: -4, LeaseS: 2})
	apply(t, s, shift("a", 12))
	advance(t, s, 6)
	if m := s.Status().Models[1]; m.Replicas != 0 || m.ReplicaShift != -4 {
		t.Errorf("without room b has %+v", m)
	}
	apply(t, s, shift("a", -8))
	advance(t, s, 2)
	if m := s.Status().Models[1]; m.Replicas != 4 || m.ReplicaShift != 0 || !math.IsNaN(m.ReplicaLeaseS) {
		t.Errorf("with room b has %+v", m)
	}
	expired := 0
	for _, e := range *events {
		if e.Topic == (datacenter.ReplicaLeaseExpired{}).Topic() {
			expired++
		}
	}
	if expired != 1 {
		t.Errorf("the end of the lease was told %d times", expired)
	}
}

func TestReadiness(t *testing.T) {
	now := time.Now()
	dt := seconds(t, "1/10")
	stepping := Status{Phase: PhaseStepping, Steps: 5, DT: dt, LastStepAt: now.Add(-time.Second), Models: []ModelStatus{{Spec: datacenter.ModelSpec{ModelLabel: "a"}}}}
	for name, c := range map[string]struct {
		change  func(*Status)
		stalled bool
		unready []string // what each reason is about
	}{
		"all is well":        {func(*Status) {}, false, nil},
		"starting":           {func(s *Status) { s.Phase, s.Steps = PhaseStarting, 0 }, false, []string{"not begun"}},
		"about to step":      {func(s *Status) { s.Steps = 0 }, false, []string{"no step"}},
		"ended":              {func(s *Status) { s.Phase = PhaseEnded }, false, []string{"over"}},
		"waiting, long":      {func(s *Status) { s.Phase, s.LastStepAt = PhaseWaiting, now.Add(-time.Hour) }, false, nil},
		"hangs":              {func(s *Status) { s.LastStepAt = now.Add(-3 * time.Second) }, true, []string{"3.0 s ago"}},
		"slow steps":         {func(s *Status) { s.LastStepAt, s.DT = now.Add(-3*time.Second), seconds(t, "1") }, false, nil},
		"stale":              {func(s *Status) { s.Models[0].Stale = true }, false, []string{`"a" is stale`}},
		"hangs and is stale": {func(s *Status) { s.Models[0].Stale, s.LastStepAt = true, now.Add(-time.Minute) }, true, []string{"60.0 s ago", `"a" is stale`}},
	} {
		s := stepping
		s.Models = slices.Clone(s.Models)
		c.change(&s)
		if got := s.Stalled(now); (got != "") != c.stalled {
			t.Errorf("%s: stalled %q", name, got)
		}
		got := s.Unready(now)
		if len(got) != len(c.unready) {
			t.Errorf("%s: unready %q, want %q", name, got, c.unready)
			continue
		}
		for i := range got {
			if !strings.Contains(got[i], c.unready[i]) {
				t.Errorf("%s: %q, want something of %q", name, got[i], c.unready[i])
			}
		}
	}
}

func TestReadinessTellsOfAStandstill(t *testing.T) {
	dt, err := datacenter.SecondsOf(0.1)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	s := Status{Phase: PhaseStepping, Steps: 1, LastStepAt: now, DT: dt, Models: []ModelStatus{
		{Spec: datacenter.ModelSpec{ModelLabel: "a"}}, {Spec: datacenter.ModelSpec{ModelLabel: "b"}, NoTokenS: 12.3},
	}}
	if got := s.Unready(now); len(got) != 1 || !strings.Contains(got[0], `"b"`) || !strings.Contains(got[0], "no token for 12 s") {
		t.Errorf("the reasons are %q", got)
	}
	s.Models[1].NoTokenS = 0
	if got := s.Unready(now); got != nil {
		t.Errorf("the reasons are %q", got)
	}
}
