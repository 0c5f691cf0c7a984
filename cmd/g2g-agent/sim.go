package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/g2g-agent/g2g-agent/sim"
)

type simCmd struct {
	Zeusd        string   `default:"127.0.0.1:4938" placeholder:"ADDRESS" help:"Where the simulated zeusd listens: host:port, or unix: and a path."`
	GPUs         int      `name:"gpus" default:"8" help:"GPUs of the host."`
	CPUs         int      `name:"cpus" default:"2" help:"CPUs of the host."`
	ZeusdVersion string   `default:"0.5" enum:"0.4,0.5" help:"Wire format: 0.5 sends one event a GPU, 0.4 snapshots."`
	Token        string   `help:"Bearer token that zeusd asks for."`
	ClockOffsetS float64  `placeholder:"SECONDS" help:"The daemon's clock less the machine's."`
	VLLM         []string `name:"vllm" sep:"none" placeholder:"ADDRESS=MODEL_ID" help:"A simulated vLLM server and its model; may be repeated. Each in turn takes the next GPUs: 8 for a 405B model, 4 for a 70B one, else 1."`
	Actuator     string   `default:"set_max_num_seqs" enum:"set_max_num_seqs,runtime_config,stock" help:"How the servers let their batch size be set."`
	MaxNumSeqs   int      `default:"256" help:"Their batch size at the start."`
	APIServers   int      `name:"api-server-count" default:"1" help:"Their API servers: with more than one, the gauges of their load are on the metrics page only after the first request."`
	EarlyStop    bool     `help:"Let answers end by themselves before their full length."`
	Spread       bool     `help:"Write an iteration's tokens evenly over it, and not in one burst."`
	Seed         uint64   `help:"Decides noise, iteration times and chunk sizes."`
	processFlags
}

// Run runs a simulated host until it is interrupted.
func (cmd simCmd) Run(ctx context.Context, term terminal) (err error) {
	if cmd.GPUs < 0 || cmd.CPUs < 0 || cmd.MaxNumSeqs < 1 || cmd.APIServers < 1 {
		return invalidf("--gpus and --cpus must be >= 0, --max-num-seqs and --api-server-count >= 1, got %d, %d, %d and %d",
			cmd.GPUs, cmd.CPUs, cmd.MaxNumSeqs, cmd.APIServers)
	}
	servers, err := cmd.servers()
	if err != nil {
		return err
	}
	unwatch, err := cmd.watchParent(term, false)
	if err != nil {
		return err
	}
	defer unwatch()
	var closers []func() error
	defer func() {
		for _, c := range slices.Backward(closers) {
			err = errors.Join(err, c())
		}
	}()
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
	fmt.Fprintf(term.stdout, "zeusd %s: %s\n", z.Addr(), gpuRange(0, len(gpus)))
	for i, server := range servers {
		v, err := sim.StartVLLM(sim.VLLMConfig{ //nolint:contextcheck // it lives until it is closed
			Listen: server.address, ModelID: server.modelID, GPUs: gpus[server.firstGPU:server.endGPU], Actuator: sim.VLLMActuator(cmd.Actuator),
			MaxNumSeqs: cmd.MaxNumSeqs, APIServers: cmd.APIServers, Spread: cmd.Spread, EarlyStop: cmd.EarlyStop, TruthChunks: 1 << 16, Seed: cmd.Seed + uint64(i),
		})
		if err != nil {
			return err
		}
		closers = append(closers, v.Close)
		fmt.Fprintf(term.stdout, "vLLM %s: %s on %s\n", v.URL(), server.modelID, gpuRange(server.firstGPU, server.endGPU))
	}
	fmt.Fprintln(term.stdout, `PUT /sim/faults to any of them causes faults, e.g. {"freeze": true}; GET shows what there is`)
	<-ctx.Done()
	return nil
}

// simServer is a vLLM server to be simulated, on the GPUs from firstGPU to before
// endGPU.
type simServer struct {
	address, modelID string
	firstGPU, endGPU int
}

// servers reads the --vllm flags and gives each server its GPUs.
func (cmd simCmd) servers() ([]simServer, error) {
	var servers []simServer
	next := 0
	for _, flag := range cmd.VLLM {
		address, modelID, _ := strings.Cut(flag, "=")
		if address == "" || modelID == "" {
			return nil, invalidf("--vllm %s: want ADDRESS=MODEL_ID, such as 127.0.0.1:8000=meta-llama/Llama-3.1-8B-Instruct", flag)
		}
		if _, known := sim.LookUpProfile(modelID); !known {
			return nil, invalidf("--vllm %s: unknown model; known are those with -8B, 70B or 405B in their name, such as "+
				"meta-llama/Llama-3.1-8B-Instruct", flag)
		}
		s := simServer{address, modelID, next, next + gpusOf(modelID)}
		if next = s.endGPU; next > cmd.GPUs {
			return nil, invalidf("--vllm %s needs %s, but there are %d (--gpus)", flag, gpuRange(s.firstGPU, s.endGPU), cmd.GPUs)
		}
		servers = append(servers, s)
	}
	return servers, nil
}

// gpuRange names the GPUs from first to before end.
func gpuRange(first, end int) string {
	switch end - first {
	case 0:
		return "no GPUs"
	case 1:
		return fmt.Sprintf("GPU %d", first)
	default:
		return fmt.Sprintf("GPUs %d to %d", first, end-1)
	}
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
