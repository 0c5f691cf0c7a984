// Command steptiming runs the agent and a simulated host on the same cores, with
// many simulated servers and streams, and counts the steps that start late.
package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
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

func measure(ctx context.Context, durationS float64, write bool) error {
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

	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	stopHost, err := startHost(ctx, fail, binary, "--zeusd", "127.0.0.1:"+zeusdPort,
		"--vllm", "127.0.0.1:"+vllmPort+"=meta-llama/Llama-3.1-8B-Instruct", "--max-num-seqs", strconv.Itoa(running))
	if err != nil {
		return err
	}
	defer stopHost()

	config := filepath.Join(dir, "run.yaml")
	if err := os.WriteFile(config, []byte(fmt.Sprintf(`
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
`, dtS, gpusPerServer, running, servers*gpusPerServer, servers*gpusPerServer*9/10, vllmPort, servers*gpusPerServer, zeusdPort)), 0o600); err != nil {
		return err
	}
	agent := exec.CommandContext(ctx, binary, "run", "--config", config, "--duration-s", strconv.FormatFloat(durationS, 'g', -1, 64))
	agent.Env = append(os.Environ(), "G2G_AGENT_API__LISTEN=127.0.0.1:0")
	agent.Cancel = func() error { return agent.Process.Signal(os.Interrupt) }
	agent.WaitDelay = time.Minute // longer than any orderly end
	var logs bytes.Buffer
	agent.Stderr = &logs
	began := time.Now()
	err = agent.Run()
	if ctx.Err() != nil { // the agent was told to end, or lost its host
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("the agent failed: %w\n%s", err, logs.String())
	}
	took := time.Since(began)
	var timing struct {
		Steps        int64    `json:"steps"`
		LateSteps    int64    `json:"late_steps"`
		MaxLatenessS float64  `json:"max_lateness_s"`
		ElapsedS     *float64 `json:"elapsed_s"` // from the first step's start to the last one's
	}
	for line := range bytes.Lines(logs.Bytes()) {
		if bytes.Contains(line, []byte("paced run done")) {
			if err := json.Unmarshal(line, &timing); err != nil {
				return err
			}
		}
	}
	if timing.Steps == 0 || timing.ElapsedS == nil {
		return fmt.Errorf("the agent does not tell how many steps it made in what time:\n%s", logs.String())
	}
	// Steps left out would show as time without them.
	due := int64(math.Round(*timing.ElapsedS/dtS)) + 1
	inTime := 100 * (1 - float64(timing.LateSteps)/float64(timing.Steps))
	verdict := "met"
	if inTime < 99.9 || timing.Steps < due-1 || timing.Steps > due+1 {
		verdict = "missed"
	}
	cpu := agent.ProcessState.UserTime() + agent.ProcessState.SystemTime()
	text := fmt.Sprintf(`| steps | due in their time | started within 5 ms | required | latest | agent's CPU | |
| ---: | ---: | ---: | ---: | ---: | ---: | --- |
| %d | %d | %.2f %% | 99.9 %% | %.1f ms | %.2f cores | %s |

Measured on %s, %d cores, %s: %d simulated servers, %d streams in flight of which %d run, 10 Hz, the simulated host on the same cores.`,
		timing.Steps, due, inTime, 1e3*timing.MaxLatenessS, cpu.Seconds()/took.Seconds(), verdict,
		time.Now().Format(time.DateOnly), runtime.NumCPU(), runtime.Version(), servers, streams, running)
	fmt.Println(text)
	if !write {
		return nil
	}
	return measuring.Publish(page, beginMarker, endMarker, text)
}

// startHost runs `g2g-agent sim` and returns when all of it listens. If it ends
// before stop is called, it calls fail.
func startHost(ctx context.Context, fail func(error), binary string, args ...string) (stop func(), err error) {
	host := exec.CommandContext(ctx, binary, append([]string{"sim"}, args...)...)
	host.Cancel = func() error { return host.Process.Signal(os.Interrupt) }
	host.WaitDelay = 10 * time.Second
	var complaints bytes.Buffer
	host.Stderr = &complaints
	out, err := host.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := host.Start(); err != nil {
		return nil, err
	}
	ready, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), "PUT") { // its last line
				close(ready)
				break
			}
		}
		_, _ = io.Copy(io.Discard, out)
		err := host.Wait()
		fail(fmt.Errorf("the simulated host ended by itself: %w\n%s", cmp.Or(err, errors.New("no error")), complaints.String()))
	}()
	select {
	case <-ready:
	case <-ended:
		return nil, context.Cause(ctx)
	}
	return func() {
		_ = host.Process.Signal(os.Interrupt) // it may have ended
		<-ended
	}, nil
}
