package characterize

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/power"
)

// TestCourses: a reading holds until the next, whatever comes late.
func TestCourses(t *testing.T) {
	at := func(s float64) time.Time { return time.Unix(0, int64(s*1e9)) }
	c := newCourses(2)
	c.add(0, power.Reading{At: at(1), PowerW: 100})
	c.add(0, power.Reading{At: at(3), PowerW: 200})
	c.add(1, power.Reading{At: at(0), PowerW: 400})
	for _, w := range []struct{ from, to, want float64 }{
		{1, 3, 250}, {3, 4, 300}, {2, 4, 275}, {0, 1, 250}, {0, 4, 262.5}, {9, 10, 300},
	} {
		if got := c.meanW(at(w.from), at(w.to)); math.Abs(got-w.want) > 1e-9 {
			t.Errorf("from %v to %v: %v W, want %v", w.from, w.to, got, w.want)
		}
	}
	c.forget(at(3.5))
	if got := c.since(at(0)); len(got[0]) != 1 || got[0][0].powerW != 200 || len(got[1]) != 1 {
		t.Errorf("kept: %v", got)
	}
}

// TestRepeatsCountAlike: of one repeat a share of the latencies was kept, of the other
// all. Together each counts for the tokens that came.
func TestRepeatsCountAlike(t *testing.T) {
	point := func(n int, itl time.Duration, share float64) *Point {
		p := &Point{Spans: []Span{{FromNS: 0, ToNS: int64(time.Hour)}}, ITL: Latencies{Share: share}}
		for i := range n {
			p.ITL.AtNS, p.ITL.ITLNS, p.ITL.Tokens = append(p.ITL.AtNS, int64(i)), append(p.ITL.ITLNS, int64(itl)), append(p.ITL.Tokens, 1)
		}
		return p
	}
	repeats := []*Point{point(40_000, 20*time.Millisecond, 1), point(10_000, 80*time.Millisecond, 0.25)}
	all := LatenciesS(repeats)
	slow := 0
	for _, v := range all {
		if v == 0.08 {
			slow++
		}
	}
	if share := float64(slow) / float64(len(all)); slow != 10_000 || math.Abs(share-0.5) > 0.02 {
		t.Errorf("%d of %d are of the repeat of which a quarter was kept, want all 10000 and half of all", slow, len(all))
	}
	if diff := cmp.Diff(all, LatenciesS(repeats)); diff != "" {
		t.Error("the same points give others")
	}
	fit := fitLatency(repeats)
	if mean := fit.MeanS(); math.Abs(mean/0.05-1) > 0.2 {
		t.Errorf("the fit's mean is %v s, want about 0.05", mean)
	}
}

// TestDrift: a drift shows above its tolerance, noise does not pass for one, and too
// much noise is not steady.
func TestDrift(t *testing.T) {
	var flat, rising, noisy, wild []float64
	for i := range 20 {
		flat = append(flat, 100)
		rising = append(rising, 100+float64(i)/2)
		noisy = append(noisy, 100+float64(i%2))
		wild = append(wild, 100+60*float64(i%2))
	}
	for name, c := range map[string]struct {
		values []float64
		want   bool
	}{"flat": {flat, true}, "rising": {rising, false}, "noisy": {noisy, true}, "wild": {wild, false}, "few": {flat[:3], false}} {
		if got := driftOf(c.values).steady(powerTolerance); got != c.want {
			t.Errorf("%s: %v, want %v: %+v", name, got, c.want, driftOf(c.values))
		}
	}
	if d := driftOf([]float64{1, 1, 9, 3, 3}); math.Abs(d.Share-2/3.4) > 1e-12 || d.StandardError != 0 {
		t.Errorf("%+v", d)
	}
}

// TestEnergyCountersTell the power where they cover the time that counts, and the
// readings otherwise.
func TestEnergyCountersTell(t *testing.T) {
	const s = int64(time.Second)
	point := func(change func(*GPUCourse)) *Point {
		p := &Point{Spec: Spec{GPUsPerReplica: 2}, Spans: []Span{{FromNS: 0, ToNS: 10 * s}, {FromNS: 10 * s, ToNS: 15 * s, LeftOut: "power stale: x"}, {FromNS: 15 * s, ToNS: 25 * s}}}
		for range 2 {
			g := GPUCourse{AtNS: []int64{0}, PowerW: []float64{300}}
			for k := range 26 {
				g.EnergyAtNS = append(g.EnergyAtNS, int64(k)*s)
				g.EnergyJ = append(g.EnergyJ, 1e6+310*float64(k))
				if k >= 12 { // while it does not count, it draws much
					g.EnergyJ[k] += 5000
				}
			}
			p.GPUs = append(p.GPUs, g)
		}
		change(&p.GPUs[1])
		return p
	}
	for name, c := range map[string]struct {
		change func(*GPUCourse)
		want   float64
	}{
		"all tell":        {func(*GPUCourse) {}, 620},
		"one has none":    {func(g *GPUCourse) { g.EnergyAtNS, g.EnergyJ = nil, nil }, 600},
		"one has too few": {func(g *GPUCourse) { g.EnergyAtNS, g.EnergyJ = g.EnergyAtNS[:10], g.EnergyJ[:10] }, 600},
		"one is reset":    {func(g *GPUCourse) { g.EnergyJ[20] = 0; g.EnergyJ[24] = 1 }, 600},
		"one counts something else": {func(g *GPUCourse) {
			for k := range g.EnergyJ {
				g.EnergyJ[k] *= 10
			}
		}, 600},
	} {
		p := point(c.change)
		if got := p.PowerW(); math.Abs(got-c.want) > 1e-6 || p.ReadingsPowerW() != 600 {
			t.Errorf("%s: %v W, want %v; by the readings %v", name, got, c.want, p.ReadingsPowerW())
		}
	}
}
