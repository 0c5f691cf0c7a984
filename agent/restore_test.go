package agent

import (
	"errors"
	"fmt"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/sim"
)

// TestRestoreInAReplay: batch sizes and shifts are those of the start, leases have
// ended, and the watchers are told as by commands.
func TestRestoreInAReplay(t *testing.T) {
	s, events := lockstep(t, nil)
	apply(t, s, datacenter.SetBatchSize{BatchSizeByModel: map[string]int{"a": 16}, LeaseS: 20})
	apply(t, s, shift("a", -4))
	apply(t, s, datacenter.ShiftReplicas{ModelLabel: "b", ReplicaDelta: 1, LeaseS: 20})
	states := advance(t, s, 3)
	if got := states[2].FreeGPUs; got != (datacenter.FreeGPUs{N: 40 - 4*2 - 5*4, Known: true}) {
		t.Errorf("%+v GPUs are free, want 12", got)
	}
	*events = nil
	apply(t, s, datacenter.Restore{})
	status := s.Status()
	for m := range status.Models {
		got := &status.Models[m]
		if got.BatchSize != got.Spec.InitialBatchSize || got.ReplicaShift != 0 || !math.IsNaN(got.BatchSizeLeaseS) || !math.IsNaN(got.ReplicaLeaseS) ||
			got.BatchSizeSeq != 3 || got.ShiftSeq != 3 {
			t.Errorf("the status is %+v", got)
		}
	}
	var told []string
	for _, e := range *events {
		told = append(told, fmt.Sprintf("%v %s %+v", e.TimeS, e.Topic, e.Data))
	}
	want := []string{
		"3 datacenter.replicas.shifted {ModelLabel:b ReplicaDelta:-1 EffectiveReplicas:4}",
		"3 datacenter.replicas.shifted {ModelLabel:a ReplicaDelta:4 EffectiveReplicas:8}",
		"3 datacenter.batch_size.updated {BatchSizeByModel:[{ModelLabel:a Value:8} {ModelLabel:b Value:16} {ModelLabel:idle Value:8}]}",
	}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("the events (-want +got):\n%s", diff)
	}
	*events = nil
	states = advance(t, s, 30)
	if got := states[0]; got.Models[0].BatchSize != 8 || got.Models[0].AchievedBatchSize != 8 || got.Models[1].AchievedBatchSize != 16 || got.FreeGPUs.N != 8 {
		t.Errorf("the state is %s", got.AppendJSON(nil))
	}
	if len(*events) > 0 {
		t.Errorf("leases that have ended are told of: %+v", *events)
	}
	apply(t, s, datacenter.Restore{}) // there is nothing to restore
}

// TestRestoreWithoutRoom: the schedule, or the script, needs what a shift left it.
func TestRestoreWithoutRoom(t *testing.T) {
	s, events := lockstep(t, func(cfg *ReplayConfig) {
		cfg.Commands = []datacenter.ScriptedCommand{at(t, "1", shift("a", -4)), at(t, "20", shift("b", 2))}
	})
	advance(t, s, 5)
	before, told := s.Status(), len(*events)
	err := s.Apply(t.Context(), datacenter.Restore{})
	var refused *datacenter.CommandError
	if !errors.As(err, &refused) || !errors.Is(err, datacenter.ErrNotPossible) || refused.Field != "command" {
		t.Errorf("it is answered with %v", err)
	}
	if diff := cmp.Diff(before.Models, s.Status().Models, cmp.AllowUnexported(datacenter.ReplicaSchedule{}), sameNumber); diff != "" || len(*events) != told {
		t.Errorf("a refused command changed this (-before +after):\n%s", diff)
	}
}

// TestFreeGPUsAreOfTheNextStep, as the status has them.
func TestFreeGPUsAreOfTheNextStep(t *testing.T) {
	s, _ := lockstep(t, nil)
	seen := map[int]bool{}
	for range 70 {
		state := advance(t, s, 1)[0]
		if want := s.Status().FreeGPUs; state.FreeGPUs != (datacenter.FreeGPUs{N: want, Known: true}) {
			t.Fatalf("at %v s %+v are free, the status says %d", state.TimeS, state.FreeGPUs, want)
		}
		seen[state.FreeGPUs.N] = true
	}
	if !seen[8] || !seen[0] || len(seen) != 5 {
		t.Errorf("the ramp shows in %v", seen)
	}
}

func TestLiveRestore(t *testing.T) {
	s := newLiveSite(t, nil)
	s.start(t)
	s.await(t, "a state", func(*datacenter.State) bool { return true })
	apply(t, s.live, leased(60, 8, 8))
	apply(t, s.live, datacenter.ShiftReplicas{ModelLabel: "patched", ReplicaDelta: -10, LeaseS: 60})
	s.await(t, "the shift", func(state *datacenter.State) bool { return state.Models[0].ActiveReplicas == 92 })
	apply(t, s.live, datacenter.Restore{})
	if got := s.maxNumSeqs(); got != 4 {
		t.Errorf("the server's limit is %d, want the initial 4", got)
	}
	status := s.live.Status()
	for m := range status.Models {
		got := &status.Models[m]
		if got.BatchSize != 4 || got.ReplicaShift != 0 || !math.IsNaN(got.BatchSizeLeaseS) || !math.IsNaN(got.ReplicaLeaseS) {
			t.Errorf("the status is %+v", got)
		}
	}
	state := s.await(t, "what the run began with, and requests that run", func(state *datacenter.State) bool {
		m := state.Models
		return m[0].ActiveReplicas == 100 && m[0].BatchSize == 4 && m[0].AchievedBatchSize == 4 && m[1].AchievedBatchSize == 4
	})
	if first := max(status.Models[0].BatchSizeSeq, status.Models[0].ShiftSeq); state.Seq < first || !state.FreeGPUs.Known {
		t.Errorf("state %d is the first to show it, want %d or later; GPUs %+v", state.Seq, first, state.FreeGPUs)
	}
	s.stop(t)
	if err := s.live.Apply(t.Context(), datacenter.Restore{}); !errors.Is(err, datacenter.ErrNotPossible) {
		t.Errorf("after the run it is answered with %v", err)
	}
}

// TestLiveRestorePartly: a server that refuses keeps what it has, with its lease.
func TestLiveRestorePartly(t *testing.T) {
	s := newLiveSite(t, nil)
	s.start(t)
	s.await(t, "a state", func(*datacenter.State) bool { return true })
	apply(t, s.live, leased(60, 8, 8))
	apply(t, s.live, shift("stock", -5))
	s.vllms[0].SetFaults(sim.VLLMFaults{Status: 500})
	err := s.live.Apply(t.Context(), datacenter.Restore{})
	var failed *ServersError
	if !errors.As(err, &failed) || len(failed.ByModel) != 1 || failed.ByModel["patched"] == nil {
		t.Fatalf("it is answered with %v", err)
	}
	m := s.live.Status().Models
	if m[0].BatchSize != 8 || math.IsNaN(m[0].BatchSizeLeaseS) || m[1].BatchSize != 4 || !math.IsNaN(m[1].BatchSizeLeaseS) || m[1].ReplicaShift != 0 {
		t.Errorf("the status is %+v", m)
	}
	s.vllms[0].SetFaults(sim.VLLMFaults{})
	apply(t, s.live, datacenter.Restore{})
	if got := s.maxNumSeqs(); got != 4 {
		t.Errorf("the server's limit is %d, want the initial 4", got)
	}
	s.stop(t)
}

// TestFirstStatesWithEffect: the status names the first state that shows a command,
// also when it is looked at steps later.
func TestFirstStatesWithEffect(t *testing.T) {
	s, _ := lockstep(t, nil)
	advance(t, s, 7)
	apply(t, s, batch("a", 16))
	advance(t, s, 2)
	apply(t, s, shift("b", -1))
	states := advance(t, s, 2)
	m := s.Status().Models
	if m[0].BatchSizeSeq != 7 || m[0].ShiftSeq != 0 || m[1].ShiftSeq != 9 || m[1].BatchSizeSeq != 0 {
		t.Errorf("the status is %+v", m)
	}
	if states[0].Seq != 9 || states[0].Models[1].ActiveReplicas != 4 && states[0].FreeGPUs.N != 12 {
		t.Errorf("state 9 is %s", states[0].AppendJSON(nil))
	}
}

// sameNumber compares numbers, and all NaN as one.
var sameNumber = cmp.Comparer(func(a, b float64) bool { return a == b || math.IsNaN(a) && math.IsNaN(b) })
