package agent

import (
	"testing"
	"time"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/sim"
)

// TestPowerStepIsSeenAtTheRightTime: a GPU's power jumps behind a daemon whose
// clock is three seconds off. The jump must be in the power history soon, and
// there at the time it happened.
func TestPowerStepIsSeenAtTheRightTime(t *testing.T) {
	for name, offset := range map[string]time.Duration{"ahead": 3 * time.Second, "behind": -3 * time.Second} {
		t.Run(name, func(t *testing.T) {
			gpu := sim.NewGPU("simulated", 300)
			// The daemon looks often, so that its own delay does not count.
			_, daemon := startDaemon(t, sim.ZeusdConfig{GPUs: []*sim.GPU{gpu}, ClockOffset: offset, PollInterval: 2 * time.Millisecond})
			s := newLiveSite(t, func(cfg *siteConfig) {
				for m := range cfg.Hardware {
					cfg.gpus[m][0] = []gpuAt{{daemon, 0}}
				}
			})
			s.start(t)
			s.await(t, "the first state", func(*datacenter.State) bool { return true })
			history := s.live.rig.Feed().History(0)
			ticker := time.NewTicker(time.Millisecond)
			defer ticker.Stop()
			watts := 300.0
			late := 0
			for range 10 {
				was := watts
				watts += 50
				at := s.live.rig.Feed().ClockS(time.Now())
				gpu.SetPowerW(watts)
				for history.At(s.live.rig.Feed().ClockS(time.Now())) != watts {
					<-ticker.C
					if s.live.rig.Feed().ClockS(time.Now())-at > 5 {
						t.Fatalf("the jump to %v W was not seen in 5 s", watts)
					}
				}
				seen := s.live.rig.Feed().ClockS(time.Now()) - at
				for s.live.rig.Feed().ClockS(time.Now())-at < 0.05 { // until the next jump
					<-ticker.C
				}
				if before, after := history.At(at-0.02), history.At(at+0.02); seen > 0.1 || before != was || after != watts {
					// The machine may be busy elsewhere for once.
					late++
					t.Logf("a jump from %v to %v W was seen after %.3f s; 20 ms before it the history has %v W, 20 ms after it %v W", was, watts, seen, before, after)
				}
			}
			if late > 2 {
				t.Errorf("%d of 10 jumps were not seen within 100 ms at the right time", late)
			}
			s.stop(t)
		})
	}
}
