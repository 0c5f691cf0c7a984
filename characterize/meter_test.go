package characterize

import (
	"context"
	"errors"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/g2g-agent/g2g-agent/power"
	"github.com/g2g-agent/g2g-agent/rig"
)

// slowCounter is the energy counter of a GPU that draws 300 W, renewed now and then. Each
// answer takes 2 ms.
type slowCounter struct {
	power.Source // only asked for its counter
	began        time.Time
	phase, every time.Duration
	failing      bool
}

const counterPowerW = 300

func (c *slowCounter) EnergyJ(ctx context.Context, indices []int) (map[int]float64, error) {
	const way = time.Millisecond
	if err := waitFor(ctx, way); err != nil {
		return nil, err
	}
	shownAt := (time.Since(c.began) + c.phase).Truncate(c.every) - c.phase
	if c.failing {
		return nil, errors.New("no counter today")
	}
	answer := map[int]float64{}
	for _, i := range indices {
		answer[i] = 1e6 + counterPowerW*shownAt.Seconds()
	}
	return answer, waitFor(ctx, way)
}

func waitFor(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// meteredPoint is a point of two GPUs of such a counter, measured for so long.
func meteredPoint(t *testing.T, c *slowCounter, measure time.Duration) *Point {
	t.Helper()
	began := time.Now()
	c.began = began.Add(-time.Minute)
	m := startMeters(t.Context(), &Config{Measure: measure, stepEvery: stepEvery}, []rig.GPU{{Source: c, Index: 3}, {Source: c, Index: 5}})
	if err := waitFor(t.Context(), measure); err != nil {
		t.Fatal(err)
	}
	p := &Point{Spec: Spec{GPUsPerReplica: 2}, Spans: []Span{{FromNS: 0, ToNS: int64(measure)}}}
	for _, counts := range m.end() {
		g := GPUCourse{AtNS: []int64{0}, PowerW: []float64{counterPowerW}}
		for _, n := range counts {
			g.EnergyAtNS, g.EnergyJ = append(g.EnergyAtNS, int64(n.at.Sub(began))), append(g.EnergyJ, n.energyJ)
		}
		p.GPUs = append(p.GPUs, g)
	}
	return p
}

// TestSlowCounters: how seldom a counter is renewed, and when, is no error of the power,
// even of the shortest measurement.
func TestSlowCounters(t *testing.T) {
	for _, every := range []time.Duration{time.Microsecond, 10 * time.Millisecond, 20 * time.Millisecond, 70 * time.Millisecond, 100 * time.Millisecond, 130 * time.Millisecond, 230 * time.Millisecond} {
		for phase := time.Duration(0); phase < 100*time.Millisecond; phase += 7 * time.Millisecond {
			synctest.Test(t, func(t *testing.T) {
				p := meteredPoint(t, &slowCounter{phase: phase, every: every}, leastSteady*stepEvery)
				w, ok := p.energyPowerW()
				if off := w/(2*counterPowerW) - 1; !ok || math.Abs(off) > 0.004 {
					t.Errorf("renewed every %v, from %v on: %v W, %v: %+.2f %%", every, phase, w, ok, 100*off)
				}
			})
		}
	}
}

// TestCountersThatStandStill are taken as they are, at most once a step, and those that do
// not tell not at all.
func TestCountersThatStandStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := meteredPoint(t, &slowCounter{every: time.Hour}, 10*stepEvery)
		for _, g := range p.GPUs {
			if n := len(g.EnergyJ); n < 9 || n > 11 {
				t.Errorf("%d counts in 10 steps", n)
			}
		}
		p = meteredPoint(t, &slowCounter{every: time.Second, failing: true}, 10*stepEvery)
		if _, ok := p.energyPowerW(); ok || len(p.GPUs[0].EnergyJ) > 0 {
			t.Errorf("a counter that fails tells %v", p.GPUs[0].EnergyJ)
		}
	})
}
