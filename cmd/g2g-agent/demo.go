package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/g2g-agent/g2g-agent/agent"
	"github.com/g2g-agent/g2g-agent/config"
	"github.com/g2g-agent/g2g-agent/sim"
)

type demoCmd struct {
	liveFlags
	Faults bool `help:"Let the simulated hosts fail now and then: daemons and servers die, hang, and talk nonsense."`
}

//go:embed demo.yaml
var demoConfig string

// demoPlace holds the place of a simulated host's address in the config.
func demoPlace(name string) string { return "{" + name + "}" }

func (cmd demoCmd) Run(ctx context.Context, term terminal) (err error) {
	unwatch, err := cmd.watchParent(term, false)
	if err != nil {
		return err
	}
	defer unwatch()
	hosts, err := startDemoHosts() //nolint:contextcheck // they live until they are closed
	if err != nil {
		return fmt.Errorf("the simulated hosts did not start: %w", err)
	}
	defer func() { err = errors.Join(err, hosts.close()) }()
	load := func() (*config.Config, error) {
		return config.Parse("built-in config of the demo", []byte(hosts.fillIn(demoConfig)), term.environ, config.ForLive)
	}
	c, err := load()
	if err != nil {
		return err
	}
	run := liveRun{config: c, name: "demo", load: load}
	if isTerminal(term.stdout) && cmd.Out != stdoutPath {
		specs, err := c.LiveModelSpecs()
		if err != nil {
			return err
		}
		table := startLiveTable(term.stdout.(*os.File), specs)
		run.onState, run.onPage = table.show, table.showPage
		run.log = newLiveLog(c.Log, readable(table, false), table.end)
	} else {
		run.log = newLiveLogger(c.Log, term.stderr)
	}
	run.log.Info().Int("models", len(c.Models)).
		Msg("three models on simulated hosts; Ctrl-C ends it. The servers are loaded first, until they are warm")
	script := demoScript{changed: make(chan struct{}, 1)}
	run.onCommand = script.onCommand
	run.beside = func(ctx context.Context, live *agent.Live) {
		var group sync.WaitGroup
		group.Go(func() { script.follow(ctx, live, run.log.Logger) })
		if cmd.Faults {
			group.Go(func() { hosts.causeFaults(ctx, c.Seed, run.log.Logger) })
		}
		group.Wait()
	}
	return cmd.runLive(ctx, term, run)
}

// demoHosts are the simulated hosts of the demo.
type demoHosts struct {
	zeusds map[string]*sim.Zeusd
	vllms  map[string]*sim.VLLM
}

// startDemoHosts starts two GPU hosts. On node1, eight GPUs: one for the 8B model,
// four for the 70B, three idle; on node2, eight for the 405B.
func startDemoHosts() (*demoHosts, error) {
	h := &demoHosts{zeusds: map[string]*sim.Zeusd{}, vllms: map[string]*sim.VLLM{}}
	const gpusPerHost = 8
	gpus := map[string][]*sim.GPU{}
	for i, host := range []string{"node1", "node2"} {
		for range gpusPerHost {
			gpus[host] = append(gpus[host], sim.NewGPU("NVIDIA H100 80GB HBM3 (simulated)", 70))
		}
		version := []sim.ZeusdVersion{sim.Zeusd05, sim.Zeusd04}[i]
		z, err := sim.StartZeusd(sim.ZeusdConfig{Listen: "127.0.0.1:0", GPUs: gpus[host], Version: version, NoiseFraction: 0.01, Seed: uint64(i)})
		if err != nil {
			return nil, errors.Join(err, h.close())
		}
		h.zeusds[host] = z
	}
	for i, m := range []struct {
		name, modelID string
		gpus          []*sim.GPU
		actuator      sim.VLLMActuator
	}{
		{"vllm-8b", "meta-llama/Llama-3.1-8B-Instruct", gpus["node1"][:1], sim.SetMaxNumSeqs},
		{"vllm-70b", "meta-llama/Llama-3.1-70B-Instruct", gpus["node1"][1:5], sim.SetMaxNumSeqs},
		{"vllm-405b", "meta-llama/Llama-3.1-405B-Instruct-FP8", gpus["node2"], sim.StockVLLM},
	} {
		profile, _ := sim.LookUpProfile(m.modelID)
		v, err := sim.StartVLLM(sim.VLLMConfig{
			Listen: "127.0.0.1:0", ModelID: m.modelID, Profile: profile, GPUs: m.gpus, Actuator: m.actuator, EarlyStop: true,
			TruthChunks: 1, // nobody asks for it
			Seed:        uint64(i),
		})
		if err != nil {
			return nil, errors.Join(err, h.close())
		}
		h.vllms[m.name] = v
	}
	return h, nil
}

// fillIn puts the hosts' addresses into a config.
func (h *demoHosts) fillIn(text string) string {
	var pairs []string
	for _, name := range slices.Sorted(maps.Keys(h.zeusds)) {
		host, port, _ := net.SplitHostPort(h.zeusds[name].Addr())
		pairs = append(pairs, demoPlace(name), "host: "+host+", port: "+port)
	}
	for _, name := range slices.Sorted(maps.Keys(h.vllms)) {
		pairs = append(pairs, demoPlace(name), h.vllms[name].URL())
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

func (h *demoHosts) close() error {
	var errs []error
	for _, v := range h.vllms {
		errs = append(errs, v.Close())
	}
	for _, z := range h.zeusds {
		errs = append(errs, z.Close())
	}
	return errors.Join(errs...)
}
