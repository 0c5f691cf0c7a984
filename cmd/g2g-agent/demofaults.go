package main

import (
	"context"
	"math"
	"math/rand/v2"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/sim"
)

// fault is something that goes wrong at a simulated host and is repaired later.
type fault struct {
	name          string
	cause, repair func() error
}

// faults are all that can happen to the hosts.
func (h *demoHosts) faults() []fault {
	var all []fault
	for _, name := range []string{"node1", "node2"} {
		z := h.zeusds[name]
		set := func(f sim.ZeusdFaults) func() error { return func() error { z.SetFaults(f); return nil } }
		healthy := set(sim.ZeusdFaults{})
		all = append(all,
			fault{name + ": zeusd dies", func() error { z.Kill(); return nil }, z.Restart},
			fault{name + ": zeusd hangs", set(sim.ZeusdFaults{Freeze: true}), healthy},
			fault{name + ": zeusd's streams hang", set(sim.ZeusdFaults{FreezeStream: true}), healthy},
			fault{name + ": zeusd sends garbage", set(sim.ZeusdFaults{GarbageEvents: 50}), healthy},
			fault{name + ": zeusd cuts an event", set(sim.ZeusdFaults{TruncateEvent: true}), healthy},
			fault{name + ": zeusd answers 500", set(sim.ZeusdFaults{Status: 500}), healthy},
			fault{name + ": zeusd refuses the token", set(sim.ZeusdFaults{Status: 401, DropStreams: true}), healthy},
			fault{name + ": a GPU falls off the bus", set(sim.ZeusdFaults{FailedGPUs: []int{0}}), healthy},
			fault{name + ": a GPU's driver hangs", set(sim.ZeusdFaults{HungGPUs: []int{0}}), healthy},
			fault{name + ": a GPU's sensor gives no value", set(sim.ZeusdFaults{OddMW: map[int]int64{0: math.MaxUint32}}), healthy},
			fault{
				name + ": zeusd's clock is set forward by 3 s",
				func() error { z.SetClockOffset(3 * time.Second); return nil },
				func() error { z.SetClockOffset(0); return nil },
			},
		)
	}
	for _, name := range []string{"vllm-8b", "vllm-70b", "vllm-405b"} {
		v := h.vllms[name]
		set := func(f sim.VLLMFaults) func() error { return func() error { v.SetFaults(f); return nil } }
		healthy := set(sim.VLLMFaults{})
		all = append(all,
			fault{name + ": dies", func() error { v.Kill(); return nil }, v.Restart},
			fault{name + ": hangs", set(sim.VLLMFaults{Freeze: true}), healthy},
			fault{name + ": answers 500", set(sim.VLLMFaults{Status: 500}), healthy},
			fault{name + ": has no metrics", set(sim.VLLMFaults{MetricsGone: true}), healthy},
			fault{name + ": is slow", set(sim.VLLMFaults{SlowDown: 3}), healthy},
			fault{name + ": cuts its streams", set(sim.VLLMFaults{DropStreams: true}), healthy},
			fault{name + ": sends malformed events", set(sim.VLLMFaults{MalformedEvents: 50}), healthy},
			fault{name + ": sends errors", set(sim.VLLMFaults{ErrorEvents: 20}), healthy},
			fault{name + ": ends streams early", set(sim.VLLMFaults{NoDone: 20}), healthy},
		)
	}
	return all
}

// causeFaults lets one fault after another happen until ctx is done: each lasts
// up to 4 s, with up to 4 s of health after it.
func (h *demoHosts) causeFaults(ctx context.Context, seed uint64, log zerolog.Logger) {
	const longest = 4 * time.Second
	all := h.faults()
	rng := rand.New(rand.NewPCG(seed, 0))
	timer := time.NewTimer(0)
	defer timer.Stop()
	wait := func() bool {
		timer.Reset(time.Duration(rng.Int64N(int64(longest))))
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return true
		}
	}
	note := func(what string, f *fault, err error) {
		if err != nil {
			log.Error().Err(err).Str("fault", f.name).Msg("a simulated fault did not work out")
			return
		}
		log.Info().Str("fault", f.name).Msg(what)
	}
	for wait() {
		f := &all[rng.IntN(len(all))]
		note("simulated fault", f, f.cause())
		over := !wait()
		note("simulated fault repaired", f, f.repair())
		if over {
			return
		}
	}
}
