package augment

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"slices"
	"sort"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func readJSON[T any](t *testing.T, path string) T {
	t.Helper()
	raw, err := os.ReadFile("../testdata/golden/" + path)
	if err != nil {
		t.Fatal(err)
	}
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestAllocationMatchesOpenG2G(t *testing.T) {
	cases := readJSON[[]struct {
		NumServers      int                `json:"num_servers"`
		GPUsPerServer   int                `json:"gpus_per_server"`
		PhaseList       []datacenter.Phase `json:"phase_list"`
		ModelPriorities map[string][]int32 `json:"model_priorities"`
		Results         []struct {
			Demand  map[string]int     `json:"demand"`
			Servers map[string][]int32 `json:"servers"`
			Error   string             `json:"error"`
		} `json:"results"`
	}](t, "components/server_allocation.json")
	for _, c := range cases {
		var labels []string
		for label := range c.ModelPriorities {
			labels = append(labels, label)
		}
		sort.Sort(sort.Reverse(sort.StringSlice(labels))) // config order is not label order
		pool := &Pool{
			cfg:    PoolConfig{NumServers: c.NumServers, GPUsPerServer: c.GPUsPerServer, ModelLabels: labels},
			phases: c.PhaseList,
		}
		gpusPerReplica := make([]int, len(labels))
		for m, label := range labels {
			pool.amplitudeScales = make([]float64, c.NumServers)
			pool.preferences = append(pool.preferences, byPhase(c.ModelPriorities[label], c.PhaseList))
			gpusPerReplica[m] = 1 // so that replicas are GPUs
		}
		a := NewAugmenter(pool, gpusPerReplica, new(constant), 0)
		if len(c.Results) == 0 {
			t.Fatal("no golden results")
		}
		for _, r := range c.Results {
			replicas := make([]int, len(labels))
			for m, label := range labels {
				replicas[m] = r.Demand[label]
			}
			power, err := a.Augment(replicas)
			if over := (*OversubscribedError)(nil); r.Error != "" {
				if !errors.As(err, &over) || !strings.Contains(r.Error, "'"+over.ModelLabel+"'") {
					t.Errorf("demand %v: error %v, want %s", r.Demand, err, r.Error)
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			for m, label := range labels {
				if got := power.Models[m].Servers; !slices.Equal(got, r.Servers[label]) {
					t.Errorf("demand %v: model %s gets servers %v, want %v", r.Demand, label, got, r.Servers[label])
				}
			}
		}
	}
}

// constant reads the same power everywhere.
type constant float64

func watts(w constant) *constant { return &w }

func (c *constant) Assign(int, []int32) {}

func (c *constant) PerGPUPower(_ int, perGPUW []float64) {
	for i := range perGPUW {
		perGPUW[i] = float64(*c)
	}
}

func testPool(servers int, noise float64, labels ...string) *Pool {
	return NewPool(PoolConfig{
		Seed: 3, NumServers: servers, GPUsPerServer: 8, Stagger: StaggerSteps(100), ModelLabels: labels,
		Augmentation: datacenter.Augmentation{AmplitudeScaleRange: [2]float64{0.9, 1.1}, NoiseFraction: noise},
	})
}

// TestAllocationIsThatOfAFreshPool changes demands at random and holds the
// servers, which are only assigned anew where something changed, to those of an
// augmenter that never held any.
func TestAllocationIsThatOfAFreshPool(t *testing.T) {
	pool := testPool(50, 0, "b", "a", "c")
	gpusPerReplica := []int{1, 4, 16}
	rapid.Check(t, func(t *rapid.T) {
		a := NewAugmenter(pool, gpusPerReplica, watts(100), 1)
		for range rapid.IntRange(1, 8).Draw(t, "steps") {
			replicas := []int{
				rapid.IntRange(-2, 200).Draw(t, "b"), rapid.IntRange(0, 50).Draw(t, "a"), rapid.IntRange(0, 12).Draw(t, "c"),
			}
			got, gotErr := a.Augment(replicas)
			want, wantErr := NewAugmenter(pool, gpusPerReplica, watts(100), 1).Augment(replicas)
			if (gotErr == nil) != (wantErr == nil) {
				t.Fatalf("%v: error %v, a fresh pool says %v", replicas, gotErr, wantErr)
			}
			if gotErr != nil {
				if gotErr.Error() != wantErr.Error() {
					t.Fatalf("%v: %v, a fresh pool says %v", replicas, gotErr, wantErr)
				}
				continue
			}
			owner := map[int32]int{}
			for m := range want.Models {
				if !slices.Equal(got.Models[m].Servers, want.Models[m].Servers) || got.Models[m].PhaseShare != want.Models[m].PhaseShare ||
					got.Models[m].PowerW != want.Models[m].PowerW || got.Models[m].ActiveReplicas != want.Models[m].ActiveReplicas {
					t.Fatalf("%v: model %d has %+v, on a fresh pool %+v", replicas, m, got.Models[m], want.Models[m])
				}
				for _, s := range got.Models[m].Servers {
					if other, taken := owner[s]; taken {
						t.Fatalf("server %d serves models %d and %d", s, other, m)
					}
					owner[s] = m
				}
			}
		}
	})
}

func TestOversubscribedPool(t *testing.T) {
	a := NewAugmenter(testPool(3, 0.1, "b", "a"), []int{8, 8}, watts(500), 1)
	_, err := a.Augment([]int{2, 2})
	var over *OversubscribedError
	if !errors.As(err, &over) || *over != (OversubscribedError{"b", 2, 1}) {
		t.Fatalf("error %v, want model b (after a) wanting 2 of 1 servers", err)
	}
	before, err := a.Augment([]int{1, 2})
	if err != nil {
		t.Fatalf("after a refused step: %v", err)
	}
	fresh, err := NewAugmenter(testPool(3, 0.1, "b", "a"), []int{8, 8}, watts(500), 1).Augment([]int{1, 2})
	if err != nil || fresh.PhaseW != before.PhaseW {
		t.Errorf("the refused step drew noise: %v, want %v (%v)", before.PhaseW, fresh.PhaseW, err)
	}
}

func TestPowerIsNeverNegative(t *testing.T) {
	a := NewAugmenter(testPool(30, 5, "a"), []int{8}, watts(100), 1) // noise of five times the power
	for range 50 {
		p, err := a.Augment([]int{30})
		if err != nil {
			t.Fatal(err)
		}
		if w := p.PhaseW; w.A < 0 || w.B < 0 || w.C < 0 || math.Abs(w.Total()-p.Models[0].PowerW) > 1e-6 {
			t.Fatalf("phases %v of a model with %v W", w, p.Models[0].PowerW)
		}
	}
}

func TestResetRepeatsTheRun(t *testing.T) {
	power := watts(0)
	a := NewAugmenter(testPool(40, 0.05, "a", "b"), []int{1, 4}, power, 9)
	run := func() (out []datacenter.ThreePhase) {
		for i := range 20 {
			*power = constant(300 + i)
			p, err := a.Augment([]int{100 - i, 20 + i})
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, p.PhaseW)
		}
		return out
	}
	first := run()
	a.Reset()
	if again := run(); !slices.Equal(first, again) {
		t.Errorf("after a reset: %v, want %v", again, first)
	}
	if slices.Equal(first[:1], first[1:2]) {
		t.Error("two steps gave the same noise")
	}
}

func TestAugmentDoesNotAllocate(t *testing.T) {
	a := NewAugmenter(testPool(1000, 0.05, "a", "b"), []int{1, 4}, watts(300), 9)
	replicas := []int{3000, 900}
	step := func() {
		replicas[0] = 3000 - (replicas[0]+7)%64
		if _, err := a.Augment(replicas); err != nil {
			t.Fatal(err)
		}
	}
	step()
	replicas[0] = 3010
	step()
	if n := testing.AllocsPerRun(200, step); n != 0 {
		t.Errorf("%v allocations a step, want none", n)
	}
}
