package augment

import (
	"fmt"
	"testing"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// templates reads a template per model at the servers' stagger offsets, as a
// replay does.
type templates struct {
	stagger []int32
	power   [][]float64
	offsets [][]int32
	step    int32
}

func (t *templates) Assign(model int, servers []int32) {
	t.offsets[model] = t.offsets[model][:0]
	for _, s := range servers {
		t.offsets[model] = append(t.offsets[model], t.stagger[s])
	}
}

func (t *templates) PerGPUPower(model int, perGPUW []float64) {
	power := t.power[model]
	n := int32(len(power))
	for i, offset := range t.offsets[model] {
		at := t.step + offset - n
		at += n & (at >> 31)
		perGPUW[i] = power[at]
	}
}

func BenchmarkAugment(b *testing.B) {
	for _, servers := range []int{288, 10_000, 125_000} {
		for _, ramping := range []bool{false, true} {
			b.Run(fmt.Sprintf("servers=%d/ramping=%t", servers, ramping), func(b *testing.B) {
				benchmarkAugment(b, servers, ramping)
			})
		}
	}
}

func benchmarkAugment(b *testing.B, servers int, ramping bool) {
	const steps = 3001
	pool := NewPool(PoolConfig{
		Seed: 7, NumServers: servers, GPUsPerServer: 8, Stagger: StaggerSteps(steps),
		Augmentation: datacenter.Augmentation{AmplitudeScaleRange: [2]float64{0.85, 1.15}, NoiseFraction: 0.03},
		ModelLabels:  []string{"8B", "70B", "405B"},
	})
	src := &templates{stagger: pool.StaggerSteps(), power: make([][]float64, 3), offsets: make([][]int32, 3)}
	a := newSourced(pool, []int{1, 4, 8}, src, 1)
	for m := range src.power {
		src.power[m] = make([]float64, steps)
		for i := range src.power[m] {
			src.power[m][i] = float64(200 + (i*37+m*11)%400)
		}
	}
	// 95 % of the servers are active.
	replicas := []int{servers * 2, servers * 8 / 10, servers * 3 / 10}
	full := replicas[0]
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		src.step = int32(i % steps)
		if ramping {
			replicas[0] = full - 8*(i%64)*servers/10_000 - i%8*8
		}
		if _, err := a.Augment(replicas); err != nil {
			b.Fatal(err)
		}
	}
}
