package characterize

import (
	"context"
	"fmt"
	"math"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/g2g-agent/g2g-agent/sim"
)

// accuracyVariable names the environment variable that says for how many seconds each
// point is measured to tell how exact a characterization is. It takes some minutes, and
// a machine that is not busy elsewhere.
const accuracyVariable = "G2GTEST_CHARACTERIZE_S"

// How far off power and latencies may be.
const (
	powerAccuracy   = 0.01
	latencyAccuracy = 0.03
)

// TestAccuracy compares power and the quantiles of latencies with the truth of a
// simulated server, undisturbed and while one thing after another is amiss.
func TestAccuracy(t *testing.T) {
	seconds, err := strconv.ParseFloat(os.Getenv(accuracyVariable), 64)
	if err != nil {
		t.Skipf("set %s to the seconds of each point, such as 25", accuracyVariable)
	}
	for _, faulty := range []bool{false, true} {
		t.Run(fmt.Sprintf("faults=%v", faulty), func(t *testing.T) {
			s := newSimSite(t)
			s.vllms = s.vllms[:1]
			s.cfg = only(s.cfg, 0)
			s.cfg.Measure, s.cfg.Steady, s.cfg.SettleTimeout = time.Duration(seconds*float64(time.Second)), 4*time.Second, 2*time.Minute
			ctx, stop := context.WithCancel(t.Context())
			var faults sync.WaitGroup
			defer faults.Wait()
			defer stop()
			if faulty {
				faults.Go(func() { s.causeFaults(ctx) })
			}
			measured, err := Run(t.Context(), s.cfg)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range measured.Points {
				s.checkAccuracy(t, p)
			}
		})
	}
}

// checkAccuracy compares all that counts of a point with what the server did then.
func (s *simSite) checkAccuracy(t *testing.T, p *Point) {
	t.Helper()
	var stretches []sim.Stretch
	for _, i := range p.intervals() {
		stretches = append(stretches, sim.Stretch{From: p.BeganUTC.Add(time.Duration(i.from)), To: p.BeganUTC.Add(time.Duration(i.to))})
	}
	truth := s.vllms[0].ITLWithin(stretches)
	r, profile := p.report(), simProfile()
	text := fmt.Sprintf("batch size %d, %.1f s in %d stretches, %d cut out for %.1f s:", p.BatchSize, r.MeasuredS, len(stretches), r.Gaps, r.ElapsedS-r.MeasuredS)
	for _, c := range []struct {
		name           string
		got            *float64
		want, accuracy float64
	}{
		{"power", &r.PowerW, 2 * profile.PowerWPerGPU(p.BatchSize), powerAccuracy},
		{"power by readings", &r.ReadingsPowerW, 2 * profile.PowerWPerGPU(p.BatchSize), powerAccuracy},
		{"p50", r.ITLP50S, truth.P50S, latencyAccuracy},
		{"p90", r.ITLP90S, truth.P90S, latencyAccuracy},
		{"p95", r.ITLP95S, truth.P95S, latencyAccuracy},
		{"p99", r.ITLP99S, truth.P99S, latencyAccuracy},
	} {
		if c.got == nil {
			t.Errorf("batch size %d: %s is not known", p.BatchSize, c.name)
			continue
		}
		off := *c.got/c.want - 1
		text += fmt.Sprintf("  %s %+.2f %%", c.name, 100*off)
		if !(math.Abs(off) <= c.accuracy) {
			t.Errorf("batch size %d: %s is %v, want %v to within %v %%", p.BatchSize, c.name, *c.got, c.want, 100*c.accuracy)
		}
	}
	t.Log(text)
}
