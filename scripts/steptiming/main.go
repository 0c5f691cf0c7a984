// Command steptiming runs the agent and a simulated host on the same cores, with
// many simulated servers and streams, and counts the steps that start late.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/g2g-agent/g2g-agent/scripts/internal/measuring"
)

const (
	servers       = 10_000
	gpusPerServer = 8
	dtS           = 0.1
	running       = 1_000 // sequences the server runs at a time
	// streams are as many again: the agent keeps the server's queue full.
	streams     = 2 * running
	page        = "docs/performance.md"
	beginMarker = "<!-- step timing:begin -->"
	endMarker   = "<!-- step timing:end -->"
)

func main() {
	durationS := flag.Float64("duration-s", 300, "how long the agent steps")
	write := flag.Bool("write", false, "put the result into "+page)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := measure(ctx, *durationS, *write)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "steptiming:", err)
		os.Exit(1)
	}
}

func measure(ctx context.Context, durationS float64, write bool) (err error) {
	dir, err := os.MkdirTemp("", "g2g-steptiming-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // what is left is temporary
	binary, err := measuring.Build(ctx, dir)
	if err != nil {
		return err
	}
	zeusdPort, err := measuring.FreePort(ctx)
	if err != nil {
		return err
	}
	vllmPort, err := measuring.FreePort(ctx)
	if err != nil {
		return err
	}
	config := filepath.Join(dir, "run.yaml")
	if err := os.WriteFile(config, []byte(configOf(zeusdPort, vllmPort)), 0o600); err != nil {
		return err
	}
	ctx, host, err := startHost(ctx, binary, "--zeusd", "127.0.0.1:"+zeusdPort,
		"--vllm", "127.0.0.1:"+vllmPort+"=meta-llama/Llama-3.1-8B-Instruct", "--max-num-seqs", strconv.Itoa(running))
	if err != nil {
		return err
	}
	defer func() { _ = host.Stop() }() // nothing depends on it any more
	text, err := step(ctx, binary, config, durationS)
	if err != nil {
		return err
	}
	fmt.Println(text)
	if !write {
		return nil
	}
	return measuring.Publish(page, beginMarker, endMarker, text)
}

func configOf(zeusdPort, vllmPort string) string {
	return fmt.Sprintf(`
dt_s: %v
datacenter: {gpus_per_server: %d}
augmentation: {amplitude_scale_range: [0.9, 1.1], noise_fraction: 0.02}
models:
  - model_label: Llama-3.1-8B
    model_id: meta-llama/Llama-3.1-8B-Instruct
    gpus_per_replica: 1
    itl_deadline_s: 0.1
    feasible_batch_sizes: [%d]
    replicas: {initial: %d, ramps: [{target: %d, t_start: 10, t_end: 1000}]}
    live:
      vllm_base_url: "http://127.0.0.1:%s"
      simulated_num_replicas: %d
      gpu_endpoints: [{host: 127.0.0.1, port: %s, gpu_indices: [0, 1, 2, 3, 4, 5, 6, 7]}]
live: {warmup_timeout_s: 180}
`, dtS, gpusPerServer, running, servers*gpusPerServer, servers*gpusPerServer*9/10, vllmPort, servers*gpusPerServer, zeusdPort)
}

// timing is what the agent tells of its steps in the end.
type timing struct {
	Message      string   `json:"message"`
	Steps        int64    `json:"steps"`
	LateSteps    int64    `json:"late_steps"`
	MaxLatenessS float64  `json:"max_lateness_s"`
	ElapsedS     *float64 `json:"elapsed_s"` // from the first step's start to the last one's
}

// step has the agent step, and returns the report.
func step(ctx context.Context, binary, config string, durationS float64) (string, error) {
	var last timing
	began := time.Now()
	_, agent, err := measuring.Start(ctx, measuring.Program{
		Binary: binary, Args: []string{"run", "--config", config, "--duration-s", strconv.FormatFloat(durationS, 'g', -1, 64)},
		Env: []string{"G2G_AGENT_API__LISTEN=127.0.0.1:0", "G2G_AGENT_LOG__FORMAT=json"},
		OnLog: func(line []byte) {
			var t timing
			if json.Unmarshal(line, &t) == nil && t.Message == "paced run done" {
				last = t
			}
		},
	})
	if err != nil {
		return "", err
	}
	err = agent.Wait()
	took := time.Since(began)
	switch {
	case ctx.Err() != nil: // the agent was told to end, or lost its host
		return "", context.Cause(ctx)
	case err != nil:
		return "", err
	case last.Steps == 0 || last.ElapsedS == nil:
		return "", errors.New("the agent does not tell how many steps it made in what time")
	}
	return last.report(agent.CPU().Seconds() / took.Seconds()), nil
}

func (t *timing) report(cores float64) string {
	// Steps left out would show as time without them.
	due := int64(math.Round(*t.ElapsedS/dtS)) + 1
	inTime := 100 * (1 - float64(t.LateSteps)/float64(t.Steps))
	verdict := "met"
	if inTime < 99.9 || t.Steps < due-1 || t.Steps > due+1 {
		verdict = "missed"
	}
	return fmt.Sprintf(`| steps | due in their time | started within 5 ms | required | latest | agent's CPU | |
| ---: | ---: | ---: | ---: | ---: | ---: | --- |
| %d | %d | %.2f %% | 99.9 %% | %.1f ms | %.2f cores | %s |

Measured on %s, %d cores, %s: %d simulated servers, %d streams in flight of which %d run, 10 Hz, the simulated host on the same cores.`,
		t.Steps, due, inTime, 1e3*t.MaxLatenessS, cores, verdict,
		time.Now().Format(time.DateOnly), runtime.NumCPU(), runtime.Version(), servers, streams, running)
}

// startHost runs `g2g-agent sim` and returns when all of it listens. The context
// returned ends with it.
func startHost(ctx context.Context, binary string, args ...string) (context.Context, *measuring.Process, error) {
	ready := make(chan struct{})
	ctx, host, err := measuring.Start(ctx, measuring.Program{
		Binary: binary, Args: append([]string{"sim"}, args...),
		OnOutput: func(line []byte) {
			if bytes.HasPrefix(line, []byte("PUT")) { // its last line
				close(ready)
			}
		},
	})
	if err != nil {
		return nil, nil, err
	}
	select {
	case <-ready:
		return ctx, host, nil
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
}
