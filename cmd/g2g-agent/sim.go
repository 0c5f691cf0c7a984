package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/g2g-agent/g2g-agent/sim"
)

type simCmd struct {
	Zeusd        string            `default:"127.0.0.1:4938" placeholder:"ADDRESS" help:"Where the simulated zeusd listens: host:port, or unix: and a path."`
	GPUs         int               `name:"gpus" default:"8" help:"GPUs of the host."`
	CPUs         int               `name:"cpus" default:"2" help:"CPUs of the host."`
	ZeusdVersion string            `default:"0.5" enum:"0.4,0.5" help:"Wire format: 0.5 sends one event a GPU, 0.4 snapshots."`
	Token        string            `help:"Bearer token that zeusd asks for."`
	ClockOffsetS float64           `placeholder:"SECONDS" help:"The daemon's clock less the machine's."`
	VLLM         map[string]string `name:"vllm" placeholder:"ADDRESS=MODEL_ID" help:"A simulated vLLM server and its model; may be repeated. Each takes the next GPUs: 8 for a 405B model, 4 for a 70B one, else 1."`
	Actuator     string            `default:"set_max_num_seqs" enum:"set_max_num_seqs,runtime_config,stock" help:"How the servers let their batch size be set."`
	MaxNumSeqs   int               `default:"256" help:"Their batch size at the start."`
	EarlyStop    bool              `help:"Let answers end by themselves before their full length."`
	Spread       bool              `help:"Write an iteration's tokens evenly over it, and not in one burst."`
	Seed         uint64            `help:"Decides noise, iteration times and chunk sizes."`
}

// Run runs a simulated host until it is interrupted.
func (cmd simCmd) Run(ctx context.Context, term terminal) (err error) {
	var closers []func() error
	defer func() {
		for _, c := range slices.Backward(closers) {
			err = errors.Join(err, c())
		}
	}()
	if cmd.GPUs < 0 || cmd.CPUs < 0 || cmd.MaxNumSeqs < 1 {
		return invalidf("--gpus and --cpus must be >= 0 and --max-num-seqs >= 1, got %d, %d and %d", cmd.GPUs, cmd.CPUs, cmd.MaxNumSeqs)
	}
	gpus := make([]*sim.GPU, cmd.GPUs)
	for i := range gpus {
		gpus[i] = sim.NewGPU("NVIDIA H100 80GB HBM3 (simulated)", 70)
	}
	z, err := sim.StartZeusd(sim.ZeusdConfig{ //nolint:contextcheck // it lives until it is closed
		Listen: cmd.Zeusd, GPUs: gpus, CPUs: cmd.CPUs, Version: sim.ZeusdVersion(cmd.ZeusdVersion), Token: cmd.Token,
		ClockOffset: time.Duration(cmd.ClockOffsetS * float64(time.Second)), NoiseFraction: 0.01, Seed: cmd.Seed,
	})
	if err != nil {
		return err
	}
	closers = append(closers, z.Close)
	fmt.Fprintf(term.stdout, "zeusd %s: GPUs 0 to %d\n", z.Addr(), len(gpus)-1)
	next := 0
	for i, address := range slices.Sorted(maps.Keys(cmd.VLLM)) {
		modelID := cmd.VLLM[address]
		if _, known := sim.LookUpProfile(modelID); !known {
			return invalidf("--vllm %s=%s: unknown model; known are those with -8B, 70B or 405B in their name, such as meta-llama/Llama-3.1-8B-Instruct", address, modelID)
		}
		first := next
		if next += gpusOf(modelID); next > len(gpus) {
			return invalidf("--vllm %s=%s needs GPUs %d to %d, but there are %d (--gpus)", address, modelID, first, next-1, len(gpus))
		}
		v, err := sim.StartVLLM(sim.VLLMConfig{ //nolint:contextcheck // likewise
			Listen: address, ModelID: modelID, GPUs: gpus[first:next], Actuator: sim.VLLMActuator(cmd.Actuator),
			MaxNumSeqs: cmd.MaxNumSeqs, Spread: cmd.Spread, EarlyStop: cmd.EarlyStop, Seed: cmd.Seed + uint64(i),
		})
		if err != nil {
			return err
		}
		closers = append(closers, v.Close)
		fmt.Fprintf(term.stdout, "vLLM %s: %s on GPUs %d to %d\n", v.URL(), modelID, first, next-1)
	}
	fmt.Fprintln(term.stdout, `PUT /sim/faults to any of them causes faults, e.g. {"freeze": true}; GET shows what there is`)
	<-ctx.Done()
	return nil
}

// gpusOf is how many GPUs a simulated model runs on.
func gpusOf(modelID string) int {
	switch id := strings.ToLower(modelID); {
	case strings.Contains(id, "405b"):
		return 8
	case strings.Contains(id, "70b"):
		return 4
	default:
		return 1
	}
}
