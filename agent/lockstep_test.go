package agent

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/datacenter"
)

// shipped is the config of the shipped replay, as long as here.
func shipped(t testing.TB, durationS string, change func(*config.Config)) *config.Config {
	t.Helper()
	c, err := config.Load("../configs/replay.yaml", nil, config.ForReplay)
	if err != nil {
		t.Fatal(err)
	}
	c.Replay.Duration = seconds(t, durationS)
	if change != nil {
		change(c)
	}
	return c
}

// driveShipped is a replay in lockstep of a config.
func driveShipped(t testing.TB, c *config.Config, hooks LockstepHooks) *LockstepReplay {
	t.Helper()
	s, err := SetUpReplay(c, nil)
	if err != nil {
		t.Fatal(err)
	}
	if hooks.Emit == nil {
		hooks.Emit = discard
	}
	return NewLockstepReplay(s, hooks)
}

// texts are states as JSON.
func texts(states []*datacenter.State) []string {
	lines := make([]string, len(states))
	for i, s := range states {
		lines[i] = string(s.AppendJSON(nil))
	}
	return lines
}

func wantSame(t *testing.T, what string, want, got []*datacenter.State) {
	t.Helper()
	if diff := cmp.Diff(texts(want), texts(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%.2000s", what, diff)
	}
}

func pointTo[T any](v T) *T { return &v }

// overrides are resets with all there is, each with the change to the config that it
// stands for.
func overrides(t testing.TB) map[string]func(*config.Config) *config.Override {
	const small, large = "Llama-3.1-8B", "Llama-3.1-405B"
	model := func(c *config.Config, label string) *config.Model {
		return &c.Models[slices.IndexFunc(c.Models, func(m config.Model) bool { return m.ModelLabel == label })]
	}
	return map[string]func(*config.Config) *config.Override{
		"nothing": func(*config.Config) *config.Override { return &config.Override{} },
		"seed": func(c *config.Config) *config.Override {
			c.Seed = 7
			return &config.Override{Seed: pointTo(uint64(7))}
		},
		"replicas": func(c *config.Config) *config.Override {
			fewer := &config.Replicas{Initial: pointTo(300), Ramps: []config.Ramp{{Target: pointTo(500), TStart: pointTo(2.0), TEnd: pointTo(4.5)}}}
			model(c, small).Replicas, model(c, large).Replicas = fewer, nil
			return &config.Override{Replicas: map[string]*config.Replicas{small: fewer, large: nil}}
		},
		"batch sizes": func(c *config.Config) *config.Override {
			model(c, small).InitialBatchSize = pointTo(16)
			return &config.Override{InitialBatchSizes: map[string]int{small: 16}}
		},
		"training": func(c *config.Config) *config.Override {
			trace := c.Training[0].Trace
			c.Training = []config.Training{{NGPUs: 800, Trace: trace, TStart: pointTo(1.0), TEnd: pointTo(5.0)}}
			return &config.Override{Training: &[]config.Training{{NGPUs: 800, Trace: "training_trace.csv", TStart: pointTo(1.0), TEnd: pointTo(5.0)}}}
		},
		"no training": func(c *config.Config) *config.Override {
			c.Training = nil
			return &config.Override{Training: &[]config.Training{}}
		},
		"duration": func(c *config.Config) *config.Override {
			c.Replay.Duration = seconds(t, "7.5")
			return &config.Override{Duration: pointTo(seconds(t, "7.5"))}
		},
		"all": func(c *config.Config) *config.Override {
			c.Seed, c.Training, c.Replay.Duration = 99, nil, seconds(t, "3")
			model(c, small).InitialBatchSize, model(c, large).Replicas = pointTo(8), &config.Replicas{Initial: pointTo(10)}
			return &config.Override{
				Seed: pointTo(uint64(99)), Training: &[]config.Training{}, Duration: pointTo(seconds(t, "3")), InitialBatchSizes: map[string]int{small: 8},
				Replicas: map[string]*config.Replicas{large: {Initial: pointTo(10)}},
			}
		},
	}
}

// Whatever a run was and was commanded, a reset gives bit for bit what a new start of the
// changed config gives, and the next reset knows nothing of the one before.
func TestResetIsANewStart(t *testing.T) {
	trained := func(c *config.Config) { c.Training[0].TStart = pointTo(2.0) }
	driven := driveShipped(t, shipped(t, "6", trained), LockstepHooks{})
	plain := advance(t, driven, MaxSteps)
	ids := map[string]bool{driven.Status().RunID: true}
	for name, override := range overrides(t) {
		apply(t, driven, datacenter.SetBatchSize{BatchSizeByModel: map[string]int{"Llama-3.1-70B": 8}, LeaseS: 1})
		apply(t, driven, datacenter.ShiftReplicas{ModelLabel: "Llama-3.1-405B", ReplicaDelta: -30, LeaseS: 1})
		changed := shipped(t, "6", trained)
		if err := driven.Reset(t.Context(), override(changed)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		fresh := driveShipped(t, changed, LockstepHooks{})
		now, want := driven.Status(), fresh.Status()
		if ids[now.RunID] || now.RunID == "" {
			t.Errorf("%s: the run's id %q is not a new one", name, now.RunID)
		}
		ids[now.RunID] = true
		want.RunID = now.RunID
		if diff := cmp.Diff(want, now, cmp.AllowUnexported(datacenter.Seconds{}, datacenter.ReplicaSchedule{}), cmp.Comparer(func(a, b float64) bool { return a == b || math.IsNaN(a) && math.IsNaN(b) })); diff != "" {
			t.Errorf("%s: the status (-new start +reset):\n%s", name, diff)
		}
		got := advance(t, driven, MaxSteps)
		wantSame(t, name, advance(t, fresh, MaxSteps), got)
		if same := slices.Equal(texts(plain), texts(got)); same != (name == "nothing") {
			t.Errorf("%s: the same as the config's own run: %v", name, same)
		}
	}
	if err := driven.Reset(t.Context(), &config.Override{}); err != nil {
		t.Fatal(err)
	}
	wantSame(t, "the config's own run again", plain, advance(t, driven, MaxSteps))
}

// What is wrong with a reset is refused with its place, and the run goes on as if nothing
// had been asked.
func TestResetRefused(t *testing.T) {
	c := shipped(t, "6", func(c *config.Config) { c.Replay.Commands = nil })
	want := advance(t, driveShipped(t, c, LockstepHooks{}), MaxSteps)
	driven := driveShipped(t, c, LockstepHooks{Began: func(Status) { t.Error("a run began") }})
	got := advance(t, driven, 10)
	before := driven.Status()
	refused := func(o *config.Override, reason error, path, message string) {
		t.Helper()
		err := driven.Reset(t.Context(), o)
		var wrong *OverrideError
		var command *datacenter.CommandError
		switch {
		case errors.As(err, &wrong):
			if reason != nil || wrong.Problems[0].Path != path || !strings.Contains(wrong.Problems[0].Message, message) || !errors.Is(err, datacenter.ErrInvalidInput) {
				t.Errorf("it is refused with %v: %v, want %s: %s", err, wrong.Problems, path, message)
			}
		case errors.As(err, &command):
			if !errors.Is(err, reason) || command.Field != path || !strings.Contains(command.Detail, message) {
				t.Errorf("it is refused with %v, want %s: %s", err, path, message)
			}
		default:
			t.Errorf("%+v gives %v", o, err)
		}
	}
	refused(&config.Override{Duration: pointTo(seconds(t, "1e30"))}, nil, "duration_s", "at most")
	refused(&config.Override{InitialBatchSizes: map[string]int{"Llama-3.1-8B": 9}}, nil, "initial_batch_sizes.Llama-3.1-8B", "9 is not one of")
	refused(&config.Override{Replicas: map[string]*config.Replicas{"Llama-3.1-8B": {Initial: pointTo(1_000_000)}}}, datacenter.ErrNoCapacity, "command", "GPUs at the start")
	refused(&config.Override{Training: &[]config.Training{{NGPUs: 1, Trace: "/etc/passwd", TStart: pointTo(0.0), TEnd: pointTo(1.0)}}}, nil, "training[0].trace", "must be one of")
	after := driven.Status()
	if before.RunID != after.RunID || after.Steps != 10 {
		t.Errorf("after refused resets the run is %s at step %d, was %s at 10", after.RunID, after.Steps, before.RunID)
	}
	wantSame(t, "a run with refused resets", want, append(got, advance(t, driven, MaxSteps)...))
}

func TestMayReset(t *testing.T) {
	no := errors.New("no")
	var asked []int64
	var began []Status
	s := driveShipped(t, shipped(t, "6", nil), LockstepHooks{
		MayReset: func(steps int64) error {
			asked = append(asked, steps)
			if steps > 0 {
				return no
			}
			return nil
		},
		Began: func(status Status) { began = append(began, status) },
	})
	if err := s.Reset(t.Context(), &config.Override{Seed: pointTo(uint64(5))}); err != nil {
		t.Fatal(err)
	}
	if len(began) != 1 || began[0].RunID != s.Status().RunID || began[0].Seed != 5 || began[0].TotalSteps != 60 {
		t.Errorf("it is told of %+v, want one run of seed 5", began)
	}
	advance(t, s, 3)
	if err := s.Reset(t.Context(), &config.Override{}); !errors.Is(err, no) {
		t.Errorf("a reset that may not be gives %v", err)
	}
	if s.Status().Steps != 3 || len(began) != 1 || !slices.Equal(asked, []int64{0, 3}) {
		t.Errorf("then there are %d steps, %d runs, and it was asked of %v", s.Status().Steps, len(began), asked)
	}
	s.End()
	if err := s.Reset(t.Context(), &config.Override{}); !errors.Is(err, datacenter.ErrRunOver) {
		t.Errorf("a reset after the end gives %v", err)
	}
}

// Commands of an Advance are all carried out or none: after a refused one the states are
// those of a run without any of them, and no event tells of them.
func TestAdvanceCommandsAllOrNone(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		s, events := lockstep(t, nil)
		plain, plainEvents := lockstep(t, nil)
		compare := func(what string) {
			if diff := cmp.Diff(texts(advance(t, plain, 7)), texts(advance(t, s, 7))); diff != "" {
				r.Fatalf("%s (-apart +together):\n%.1000s", what, diff)
			}
			if diff := cmp.Diff(*plainEvents, *events); diff != "" {
				r.Fatalf("%s: events (-apart +together):\n%.1000s", what, diff)
			}
		}
		command := func() datacenter.Command {
			label := rapid.SampledFrom([]string{"a", "b"}).Draw(r, "label")
			leaseS := rapid.SampledFrom([]float64{0, 3}).Draw(r, "lease")
			if rapid.Bool().Draw(r, "shift") {
				return datacenter.ShiftReplicas{ModelLabel: label, ReplicaDelta: rapid.IntRange(-2, 1).Draw(r, "delta"), LeaseS: leaseS}
			}
			return datacenter.SetBatchSize{BatchSizeByModel: map[string]int{label: rapid.SampledFrom([]int{8, 16}).Draw(r, "size")}, LeaseS: leaseS}
		}
		for range 4 {
			commands := []datacenter.Command{command(), command()}
			var failed error
			for _, c := range commands { // apart, as far as they go
				if failed = plain.Apply(t.Context(), c); failed != nil {
					break
				}
			}
			if failed != nil {
				return // what came before it was carried out: there is nothing to compare with
			}
			if _, err := s.Advance(t.Context(), Advance{Commands: commands}, discard); err != nil {
				r.Fatal(err)
			}
			compare("commands together")
			bad := rapid.SampledFrom([]datacenter.Command{shift("a", 1000), shift("none", 1), batch("a", 9), batch("b", 0)}).Draw(r, "bad")
			_, err := s.Advance(t.Context(), Advance{Commands: append(slices.Clone(commands), bad), Steps: 3}, func(*datacenter.State) error {
				r.Fatal("a step was computed")
				return nil
			})
			var refused *AdvanceError
			if !errors.As(err, &refused) || refused.Index > 2 {
				r.Fatalf("%+v gives %v", bad, err)
			}
			compare("refused commands")
		}
	})
}

func TestAdvanceUntil(t *testing.T) {
	s := driveShipped(t, shipped(t, "2000", func(c *config.Config) { c.Replay.Commands = nil }), LockstepHooks{})
	until := func(untilS float64) (steps int, lastS float64) {
		t.Helper()
		lastS = math.NaN()
		n, err := s.Advance(t.Context(), Advance{UntilS: &untilS}, func(state *datacenter.State) error {
			lastS = state.TimeS
			return nil
		})
		if err != nil {
			t.Fatalf("until %v s: %v", untilS, err)
		}
		return n, lastS
	}
	for _, c := range []struct {
		untilS, lastS float64
		steps         int
	}{
		{0, 0, 1}, {0, math.NaN(), 0}, {0.3, 0.3, 3}, {0.39, math.NaN(), 0}, {0.4, 0.4, 1}, {0.1, math.NaN(), 0}, {1, 1, 6}, {1000, 1000, 9990},
	} {
		if n, lastS := until(c.untilS); n != c.steps || lastS != c.lastS && !(math.IsNaN(lastS) && math.IsNaN(c.lastS)) {
			t.Errorf("until %v s there are %d steps, the last at %v s; want %d, %v", c.untilS, n, lastS, c.steps, c.lastS)
		}
	}
	far := 2000.1 - 1e-9
	_, err := s.Advance(t.Context(), Advance{UntilS: &far}, discard)
	var refused *datacenter.CommandError
	if err != nil {
		t.Errorf("the 9999 steps that are left: %v", err)
	}
	if err := s.Reset(t.Context(), &config.Override{}); err != nil {
		t.Fatal(err)
	}
	_, err = s.Advance(t.Context(), Advance{Commands: []datacenter.Command{batch("Llama-3.1-8B", 8)}, UntilS: pointTo(1000.0)}, discard)
	if !errors.As(err, &refused) || refused.Field != "until_s" || !errors.Is(err, datacenter.ErrOutOfRange) {
		t.Errorf("10001 steps give %v", err)
	}
	if status := s.Status(); status.Steps != 0 || status.Models[0].BatchSize != 128 {
		t.Errorf("then there are %d steps, at batch size %d", status.Steps, status.Models[0].BatchSize)
	}
	if n, _ := until(999.9); n != MaxSteps {
		t.Errorf("as many as may be are %d", n)
	}
}

// After the last step of a replay in lockstep commands are accepted, as OpenG2G does; it can
// be reset then.
func TestCommandsAfterTheLastStep(t *testing.T) {
	s, events := lockstep(t, nil)
	advance(t, s, MaxSteps)
	if s.Status().Phase != PhaseEnded || len(*events) != 0 {
		t.Fatalf("phase %s, events %v", s.Status().Phase, *events)
	}
	if _, err := s.Advance(t.Context(), Advance{Commands: []datacenter.Command{batch("a", 16), shift("b", -1)}, Steps: 1}, discard); err != nil {
		t.Errorf("commands with steps after the last: %v", err)
	}
	apply(t, s, batch("a", 8))
	if len(*events) != 3 {
		t.Errorf("%d events tell of them, want 3", len(*events))
	}
	s.End()
	_, err := s.Advance(t.Context(), Advance{Commands: []datacenter.Command{batch("a", 16)}}, discard)
	if !errors.Is(err, datacenter.ErrRunOver) {
		t.Errorf("a command after it was ended gives %v", err)
	}
}

// Several who step and reset at once have their turns one after the other: each batch is
// of one run, its steps follow one another, and no step of a run is somebody else's too.
func TestManyDriveAtOnce(t *testing.T) {
	s := driveShipped(t, shipped(t, "60", func(c *config.Config) { c.Replay.Commands = nil }), LockstepHooks{})
	var mu sync.Mutex
	seen := map[int64]int{} // by seq, of all runs
	resets := 0
	var all sync.WaitGroup
	for worker := range 4 {
		all.Go(func() {
			for i := range 40 {
				if worker == 3 && i%20 == 19 {
					if err := s.Reset(context.WithoutCancel(t.Context()), &config.Override{Seed: pointTo(uint64(i))}); err != nil {
						t.Error(err)
					}
					mu.Lock()
					resets++
					mu.Unlock()
					continue
				}
				states, err := steps(context.WithoutCancel(t.Context()), s, 1+worker)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				for k, state := range states {
					seen[state.Seq]++
					if state.Seq != states[0].Seq+int64(k) {
						t.Errorf("the step %d follows %d", state.Seq, states[0].Seq)
					}
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	for seq, times := range seen {
		if times > resets+1 {
			t.Errorf("step %d came %d times in %d runs", seq, times, resets+1)
		}
	}
}

func BenchmarkReset(b *testing.B) {
	s := driveShipped(b, shipped(b, "300", nil), LockstepHooks{})
	seed := uint64(0)
	for b.Loop() {
		seed++
		if err := s.Reset(b.Context(), &config.Override{Seed: &seed}); err != nil {
			b.Fatal(err)
		}
	}
}

// A replay in real time that is over takes no more commands.
func TestNoCommandsAfterARunInRealTime(t *testing.T) {
	replay, err := NewReplay(twoModels(t))
	if err != nil {
		t.Fatal(err)
	}
	served := NewServedReplay(replay)
	if _, err := RunFast(t.Context(), served, discard); err != nil {
		t.Fatal(err)
	}
	if err := served.Apply(t.Context(), batch("a", 8)); !errors.Is(err, datacenter.ErrRunOver) {
		t.Errorf("a command after the end gives %v", err)
	}
}
