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
		a := newSourced(pool, gpusPerReplica, new(constant), 0)
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
		a := newSourced(pool, gpusPerReplica, watts(100), 1)
		for range rapid.IntRange(1, 8).Draw(t, "steps") {
			replicas := []int{
				rapid.IntRange(-2, 200).Draw(t, "b"), rapid.IntRange(0, 50).Draw(t, "a"), rapid.IntRange(0, 12).Draw(t, "c"),
			}
			got, gotErr := a.Augment(replicas)
			want, wantErr := newSourced(pool, gpusPerReplica, watts(100), 1).Augment(replicas)
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
	a := newSourced(testPool(3, 0.1, "b", "a"), []int{8, 8}, watts(500), 1)
	_, err := a.Augment([]int{2, 2})
	var over *OversubscribedError
	if !errors.As(err, &over) || *over != (OversubscribedError{"b", 2, 1}) {
		t.Fatalf("error %v, want model b (after a) wanting 2 of 1 servers", err)
	}
	before, err := a.Augment([]int{1, 2})
	if err != nil {
		t.Fatalf("after a refused step: %v", err)
	}
	fresh, err := newSourced(testPool(3, 0.1, "b", "a"), []int{8, 8}, watts(500), 1).Augment([]int{1, 2})
	if err != nil || fresh.PhaseW != before.PhaseW {
		t.Errorf("the refused step drew noise: %v, want %v (%v)", before.PhaseW, fresh.PhaseW, err)
	}
}

func TestPowerIsNeverNegative(t *testing.T) {
	a := newSourced(testPool(30, 5, "a"), []int{8}, watts(100), 1) // noise of five times the power
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
	a := newSourced(testPool(40, 0.05, "a", "b"), []int{1, 4}, power, 9)
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
	a := newSourced(testPool(1000, 0.05, "a", "b"), []int{1, 4}, watts(300), 9)
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

// TestNoiseFloor: a server that draws next to nothing has the noise of one that
// draws 1 W, not less. The numbers are those of OpenG2G 0.2.0.post1's
// InferencePowerAugmenter with a ServerPool of six servers of 8 GPUs, phases 0 1 2 0
// 1 2, the amplitude scales below, all servers in order, and the seed 7.
func TestNoiseFloor(t *testing.T) {
	type step struct {
		perGPUW float64
		phaseW  datacenter.ThreePhase
		modelW  float64
	}
	for noiseFraction, steps := range map[float64][]step{
		0.25: {
			{0.0, datacenter.ThreePhase{A: 0.00030753833937064356, B: 0.07468638437711747, C: 0.0}, 0.07499392271648811},
			{0.01, datacenter.ThreePhase{A: 0.08703590064935963, B: 0.621514323934933, C: 0.1692217520400152}, 0.8777719766243077},
			{0.12, datacenter.ThreePhase{A: 2.073569967252963, B: 1.3805103483396872, C: 1.7982831041241272}, 5.252363419716778},
			{0.13, datacenter.ThreePhase{A: 1.4885144362664011, B: 1.447125871360857, C: 1.671677623467792}, 4.60731793109505},
			{300, datacenter.ThreePhase{A: 4425.269062393701, B: 4781.438737596218, C: 3357.929565109677}, 12564.637365099596},
		},
		2: {
			{0.0, datacenter.ThreePhase{A: 0.0024603067149651485, B: 0.5974910750169398, C: 0.0}, 0.5999513817319049},
			{0.01, datacenter.ThreePhase{A: 0.19228720519487696, B: 3.8241145914794634, C: 0.7937740163201215}, 4.810175812994462},
			{0.12, datacenter.ThreePhase{A: 3.4845597380237057, B: 0.0, C: 0.9462648329930166}, 4.430824571016722},
			{0.13, datacenter.ThreePhase{A: 0.5785609697328962, B: 0.0, C: 1.6042298663491392}, 2.1827908360820354},
			{300, datacenter.ThreePhase{A: 2837.1646942166526, B: 3811.509900769748, C: 2943.8831328158763}, 9592.557727802277},
		},
	} {
		phases := []datacenter.Phase{0, 1, 2, 0, 1, 2}
		pool := &Pool{
			cfg: PoolConfig{
				NumServers: 6, GPUsPerServer: 8, ModelLabels: []string{"a"},
				Augmentation: datacenter.Augmentation{NoiseFraction: noiseFraction},
			},
			phases:          phases,
			amplitudeScales: []float64{0.9, 0.95, 1.0, 1.05, 1.1, 1.0},
			preferences:     [][datacenter.NumPhases][]int32{byPhase([]int32{0, 1, 2, 3, 4, 5}, phases)},
		}
		power := watts(0)
		a := newSourced(pool, []int{8}, power, 7)
		for i, s := range steps {
			*power = constant(s.perGPUW)
			got, err := a.Augment([]int{6})
			if err != nil {
				t.Fatalf("noise fraction %v, step %d: %v", noiseFraction, i, err)
			}
			if got.PhaseW != s.phaseW || got.Models[0].PowerW != s.modelW {
				t.Errorf("noise fraction %v, step %d, %v W a GPU: phases %v, model %v W, want %v, %v W",
					noiseFraction, i, s.perGPUW, got.PhaseW, got.Models[0].PowerW, s.phaseW, s.modelW)
			}
		}
	}
}

// Below 1 W a server's noise is that of 1 W.
func TestNoiseFloorMatchesOpenG2G(t *testing.T) {
	c := readJSON[struct {
		NumServers      int                `json:"num_servers"`
		GPUsPerServer   int                `json:"gpus_per_server"`
		PhaseList       []datacenter.Phase `json:"phase_list"`
		AmplitudeScales []float64          `json:"amplitude_scales"`
		NoiseFraction   float64            `json:"noise_fraction"`
		Seed            uint64             `json:"seed"`
		Steps           []struct {
			PerGPUW       float64    `json:"per_gpu_w"`
			PowerW        [3]float64 `json:"power_w"`
			PowerByModelW float64    `json:"power_by_model_w"`
		} `json:"steps"`
	}](t, "components/noise_floor.json")
	order := make([]int32, c.NumServers)
	for i := range order {
		order[i] = int32(i)
	}
	pool := &Pool{
		cfg: PoolConfig{
			NumServers: c.NumServers, GPUsPerServer: c.GPUsPerServer, ModelLabels: []string{"m"},
			Augmentation: datacenter.Augmentation{NoiseFraction: c.NoiseFraction},
		},
		phases: c.PhaseList, amplitudeScales: c.AmplitudeScales, preferences: [][datacenter.NumPhases][]int32{byPhase(order, c.PhaseList)},
	}
	source := new(constant)
	a := newSourced(pool, []int{c.GPUsPerServer}, source, c.Seed)
	for i, step := range c.Steps {
		*source = constant(step.PerGPUW)
		power, err := a.Augment([]int{c.NumServers})
		if err != nil {
			t.Fatal(err)
		}
		if power.PhaseW.Array() != step.PowerW || power.Models[0].PowerW != step.PowerByModelW {
			t.Errorf("step %d, %v W a GPU: %v W, %v W in all; want %v, %v", i, step.PerGPUW, power.PhaseW, power.Models[0].PowerW, step.PowerW, step.PowerByModelW)
		}
	}
}
