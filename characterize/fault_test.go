package characterize

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/g2g-agent/g2g-agent/sim"
)

// causeFaults lets one thing after another go wrong at the host until ctx is done, with
// time enough between them for something to be measured.
func (s *simSite) causeFaults(ctx context.Context) {
	faults := []struct{ cause, repair func() }{
		{s.zeusd.Kill, func() { s.zeusd.Restart() }}, //nolint:contextcheck // it lives until it is closed
		{func() { s.zeusd.SetFaults(sim.ZeusdFaults{Freeze: true}) }, func() { s.zeusd.SetFaults(sim.ZeusdFaults{}) }},
		{func() { s.zeusd.SetFaults(sim.ZeusdFaults{GarbageEvents: 20}) }, func() { s.zeusd.SetFaults(sim.ZeusdFaults{}) }},
		{func() { s.zeusd.SetFaults(sim.ZeusdFaults{FailedGPUs: []int{0, 3}}) }, func() { s.zeusd.SetFaults(sim.ZeusdFaults{}) }},
	}
	for _, v := range s.vllms {
		healthy := func() { v.SetFaults(sim.VLLMFaults{}) }
		faults = append(faults, []struct{ cause, repair func() }{
			{v.Kill, func() { v.Restart() }}, //nolint:contextcheck // it lives until it is closed
			{func() { v.SetFaults(sim.VLLMFaults{FreezeStreams: true}) }, healthy},
			{func() { v.SetFaults(sim.VLLMFaults{DropStreams: true}) }, healthy},
			{func() { v.SetFaults(sim.VLLMFaults{SlowDown: 3}) }, healthy},
			{func() { v.SetFaults(sim.VLLMFaults{Status: 500}) }, healthy},
			{func() { v.SetFaults(sim.VLLMFaults{MetricsGone: true}) }, healthy},
			{func() { v.SetFaults(sim.VLLMFaults{ErrorEvents: 5}) }, healthy},
		}...)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	wait := func(d time.Duration) bool {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(d):
			return true
		}
	}
	for wait(3 * time.Second) {
		f := faults[rng.IntN(len(faults))]
		f.cause()
		wait(time.Duration(rng.Int64N(int64(2 * time.Second))))
		f.repair()
	}
}

// TestRecoversTheTruthUnderFaults: what is amiss is cut out, and what is left is the
// truth.
func TestRecoversTheTruthUnderFaults(t *testing.T) {
	t.Parallel()
	s := newSimSite(t)
	ctx, stop := context.WithCancel(t.Context())
	var faults sync.WaitGroup
	defer faults.Wait()
	defer stop()
	faults.Go(func() { s.causeFaults(ctx) })
	measured, err := Run(t.Context(), s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	stop()
	faults.Wait()
	s.checkTruth(t, measured)
	gaps := 0
	for _, p := range measured.Report().Points {
		gaps += p.Gaps
	}
	if gaps == 0 {
		t.Error("no time was cut out: the faults had no effect")
	}
}
