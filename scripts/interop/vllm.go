package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/g2g-agent/g2g-agent/internal/backoff"
	"github.com/g2g-agent/g2g-agent/scripts/internal/measuring"
	"github.com/g2g-agent/g2g-agent/sim"
)

const (
	vllmVersion = "0.32.0"
	vllmBytes   = 7 << 30 // that an installation takes
	inFlight    = 4
	// mostOff is how far the mean latencies that the agent and vLLM measure over one
	// interval may lie apart, as a fraction.
	mostOff = 0.005
)

// vllmServer is a real vLLM server on the CPU, with a tiny model of random weights.
type vllmServer struct {
	process *exec.Cmd
	port    string
	log     *os.File
}

// checkVLLM compares the agent's latencies with the server's own, directly and
// through relays that treat the stream badly, and stops its engine for a while.
func checkVLLM(ctx context.Context, work, agent string, r *report) error {
	python, err := installVLLM(ctx, work)
	if err != nil {
		return err
	}
	for _, args := range [][]string{nil, {"--stream-interval", "5", "--api-server-count", "2"}} {
		server, err := startVLLM(ctx, work, python, args)
		if err != nil {
			return err
		}
		err = server.check(ctx, agent, strings.Join(append([]string{"vLLM", vllmVersion}, args...), " "), args == nil, r)
		server.stop()
		if err != nil {
			return err
		}
	}
	return nil
}

// installVLLM makes an environment of its own for it, unless that is there.
func installVLLM(ctx context.Context, work string) (python string, err error) {
	python = filepath.Join(work, "vllm", "bin", "python")
	if _, err := os.Stat(python); errors.Is(err, os.ErrNotExist) {
		var disk syscall.Statfs_t
		if err := syscall.Statfs(work, &disk); err == nil && disk.Bavail*uint64(disk.Bsize) < vllmBytes {
			return "", fmt.Errorf("%s has %d MB free, vLLM takes %d", work, disk.Bavail*uint64(disk.Bsize)>>20, vllmBytes>>20)
		}
		fmt.Println("installing vLLM", vllmVersion, "for CPUs, which takes some minutes")
		if err := command(ctx, "python3.12", "-m", "venv", filepath.Join(work, "vllm")); err != nil {
			return "", err
		}
	}
	return python, command(ctx, python, "scripts/interop/vllm/install.py", vllmVersion, filepath.Join(work, "tiny-model"))
}

func startVLLM(ctx context.Context, work, python string, args []string) (*vllmServer, error) {
	port, err := measuring.FreePort(ctx)
	if err != nil {
		return nil, err
	}
	s := &vllmServer{port: port}
	if s.log, err = os.Create(filepath.Join(work, "vllm.log")); err != nil {
		return nil, err
	}
	s.process = exec.CommandContext(ctx, filepath.Join(filepath.Dir(python), "vllm"), append([]string{
		"serve", filepath.Join(work, "tiny-model"), "--served-model-name", "tiny", "--enforce-eager",
		"--max-num-seqs", "16", "--max-model-len", "2048", "--host", "127.0.0.1", "--port", port,
	}, args...)...)
	s.process.Dir = work
	s.process.Env = append(os.Environ(), "PATH="+filepath.Dir(python)+string(os.PathListSeparator)+os.Getenv("PATH"),
		"VLLM_CPU_KVCACHE_SPACE=1", "VLLM_CPU_OMP_THREADS_BIND=nobind", "HF_HUB_OFFLINE=1", "VLLM_NO_USAGE_STATS=1")
	s.process.Stdout, s.process.Stderr = s.log, s.log
	s.process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.process.Start(); err != nil {
		return nil, err
	}
	err = waitFor(ctx, 10*time.Minute, "vLLM to listen; its words are in "+s.log.Name(), func() bool {
		status, _ := get(ctx, "http://127.0.0.1:"+port+"/health")
		return status == 200
	})
	if err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// stop ends the server with all of its processes.
func (s *vllmServer) stop() {
	_ = syscall.Kill(-s.process.Process.Pid, syscall.SIGCONT)
	_ = syscall.Kill(-s.process.Process.Pid, syscall.SIGTERM)
	ended := make(chan struct{})
	go func() { _ = s.process.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
	}
	_ = syscall.Kill(-s.process.Process.Pid, syscall.SIGKILL)
	<-ended
	_ = s.log.Close()
}

func (s *vllmServer) dial(ctx context.Context) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", "127.0.0.1:"+s.port)
}

func (s *vllmServer) check(ctx context.Context, agent, name string, relays bool, r *report) error {
	if err := s.compare(ctx, agent, name, s.port, r, true); err != nil || !relays {
		return err
	}
	for what, treat := range map[string]func(net.Conn, net.Conn) error{
		"cut into pieces":   cutting,
		"bundled, 50 ms":    bundling(50 * time.Millisecond),
		"bundled, 20.06 ms": bundling(20060 * time.Microsecond),
	} {
		relay, err := startRelay(ctx, s.dial)
		if err != nil {
			return err
		}
		relay.treat = treat
		err = s.compare(ctx, agent, name+", "+what, relay.port, r, false)
		relay.close()
		if err != nil {
			return err
		}
	}
	return nil
}

// cutting passes data on in pieces of 1 to 97 bytes.
func cutting(to, from net.Conn) error {
	random := rand.New(rand.NewPCG(1, 2))
	buffer := make([]byte, 16<<10)
	for {
		n, err := from.Read(buffer)
		for data := buffer[:n]; len(data) > 0; {
			k := min(1+random.IntN(97), len(data))
			if _, err := to.Write(data[:k]); err != nil {
				return err
			}
			data = data[k:]
		}
		if err != nil {
			return err
		}
	}
}

// bundling passes on what has come every so often.
func bundling(every time.Duration) func(to, from net.Conn) error {
	return func(to, from net.Conn) error {
		var held bytes.Buffer
		buffer := make([]byte, 16<<10)
		next := time.Now().Add(every)
		for {
			if err := from.SetReadDeadline(next); err != nil {
				return err
			}
			n, err := from.Read(buffer)
			held.Write(buffer[:n])
			if errors.Is(err, os.ErrDeadlineExceeded) {
				next, err = next.Add(every), nil
				if _, writeErr := held.WriteTo(to); writeErr != nil {
					return writeErr
				}
			}
			if err != nil {
				_, _ = held.WriteTo(to) // it ends either way
				return err
			}
		}
	}
}

// compare runs the agent on the server and compares what both measured over the
// same 20 s.
func (s *vllmServer) compare(ctx context.Context, agent, name, port string, r *report, whole bool) error {
	dir, err := os.MkdirTemp("", "g2g-interop-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // what is left is temporary

	daemon, err := sim.StartZeusd(sim.ZeusdConfig{Listen: "127.0.0.1:0", GPUs: []*sim.GPU{sim.NewGPU("simulated", 300)}}) //nolint:contextcheck // it lives until it is closed
	if err != nil {
		return err
	}
	defer daemon.Close()
	_, zeusdPort, err := net.SplitHostPort(daemon.Addr())
	if err != nil {
		return err
	}
	apiPort, err := measuring.FreePort(ctx)
	if err != nil {
		return err
	}
	config := filepath.Join(dir, "run.yaml")
	if err := os.WriteFile(config, []byte(vllmConfig(apiPort, port, zeusdPort)), 0o600); err != nil {
		return err
	}
	if whole {
		err := command(ctx, agent, "check", "--config", config, "--probe")
		r.that(err == nil, "%s: check --probe finds nothing wrong%s", name, butFor(err))
	}
	var log bytes.Buffer
	run := exec.CommandContext(ctx, agent, "run", "--config", config)
	run.Stderr = &log
	if err := run.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- run.Wait() }()
	api := "http://127.0.0.1:" + apiPort
	scriptErr := waitFor(ctx, 90*time.Second, "the agent to be ready", func() bool {
		status, _ := get(ctx, api+"/readyz")
		return status == 200
	})
	if scriptErr == nil {
		scriptErr = s.watch(ctx, api, name, r, whole)
	}
	if err := run.Process.Signal(syscall.SIGTERM); err != nil {
		return errors.Join(scriptErr, err)
	}
	if err := errors.Join(scriptErr, <-ended); err != nil {
		return fmt.Errorf("%w\n%s", err, log.String())
	}
	return nil
}

func vllmConfig(apiPort, port, zeusdPort string) string {
	return fmt.Sprintf(`
dt_s: 0.1
api: {listen: "127.0.0.1:%s"}
live: {stagger_s: 1, max_output_tokens: 400}
models:
  - model_label: tiny
    model_id: tiny
    gpus_per_replica: 1
    itl_deadline_s: 0.1
    feasible_batch_sizes: [%d]
    live:
      vllm_base_url: "http://127.0.0.1:%s"
      simulated_num_replicas: 8
      request_extra_body: {ignore_eos: true}
      gpu_endpoints: [{host: 127.0.0.1, port: %s, gpu_indices: [0]}]
`, apiPort, inFlight, port, zeusdPort)
}

// watch is what is measured while the agent runs.
func (s *vllmServer) watch(ctx context.Context, api, name string, r *report, whole bool) error {
	page := "http://127.0.0.1:" + s.port + "/metrics"
	if err := backoff.Sleep(ctx, 3*time.Second); err != nil {
		return err
	}
	theirs := latency(ctx, page, "vllm:inter_token_latency_seconds")
	ours := latency(ctx, api+"/metrics", "g2g_model_itl_seconds")
	var medians []float64
	for range 20 {
		if err := backoff.Sleep(ctx, time.Second); err != nil {
			return err
		}
		median, err := medianITL(ctx, api)
		if err != nil {
			return err
		}
		medians = append(medians, median)
	}
	theirs = latency(ctx, page, "vllm:inter_token_latency_seconds").since(theirs)
	ours = latency(ctx, api+"/metrics", "g2g_model_itl_seconds").since(ours)
	ratio := ours.mean() / theirs.mean()
	r.that(math.Abs(ratio-1) <= mostOff, "%s: mean latency %.4f ms over %.0f tokens, vLLM's own histogram has %.4f ms over %.0f: ratio %.4f",
		name, 1e3*ours.mean(), ours.count, 1e3*theirs.mean(), theirs.count, ratio)
	// A median of nothing would say that most tokens came together with others.
	median := measuring.Median(medians)
	r.that(median > ours.mean()/2 && median < 2*ours.mean(), "%s: median latency %.4f ms", name, 1e3*median)
	if !whole {
		return nil
	}
	return s.hang(ctx, api, name, r)
}

// medianITL is the median latency that the agent tells now, in seconds.
func medianITL(ctx context.Context, api string) (float64, error) {
	status, body := get(ctx, api+"/v1/state")
	var state struct {
		Percentiles map[string]struct {
			P50 float64 `json:"p50"`
		} `json:"itl_percentiles_s_by_model"`
	}
	if err := json.Unmarshal([]byte(body), &state); status != 200 || err != nil {
		return 0, fmt.Errorf("the agent's state: status %d: %s", status, body)
	}
	return state.Percentiles["tiny"].P50, nil
}

// butFor adds an error to a sentence, if there is one.
func butFor(err error) string {
	if err == nil {
		return ""
	}
	return ", but: " + err.Error()
}

// hang stops the engine for a while: the server answers and makes no token.
func (s *vllmServer) hang(ctx context.Context, api, name string, r *report) error {
	engines := s.engines()
	if len(engines) == 0 {
		return errors.New("no process of vLLM's engine was found")
	}
	began := time.Now()
	for _, pid := range engines {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			return err
		}
	}
	said := ""
	err := waitFor(ctx, 20*time.Second, "readiness to go", func() bool {
		status, body := get(ctx, api+"/readyz")
		said = body
		return status == 503
	})
	r.that(err == nil && strings.Contains(said, "token"), "%s: its engine hangs: unready after %.1f s", name, time.Since(began).Seconds())
	for _, pid := range engines {
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			return err
		}
	}
	began = time.Now()
	err = waitFor(ctx, 20*time.Second, "readiness to come back", func() bool {
		status, _ := get(ctx, api+"/readyz")
		return status == 200
	})
	r.that(err == nil, "%s: its engine goes on: ready after %.1f s", name, time.Since(began).Seconds())
	return nil
}

// engines are the server's processes that compute.
func (s *vllmServer) engines() []int {
	var pids []int
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil
	}
	for _, dir := range processes {
		words, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		pid, numErr := strconv.Atoi(filepath.Base(dir))
		if err != nil || numErr != nil || !bytes.Contains(words, []byte("EngineCore")) {
			continue
		}
		if group, err := syscall.Getpgid(pid); err == nil && group == s.process.Process.Pid {
			pids = append(pids, pid)
		}
	}
	return pids
}

// sums are the parts of a histogram that make its mean.
type sums struct{ seconds, count float64 }

func (s sums) since(before sums) sums {
	return sums{s.seconds - before.seconds, s.count - before.count}
}
func (s sums) mean() float64 { return s.seconds / s.count }

// latency reads a histogram's sums from a metrics page, over all its series.
func latency(ctx context.Context, page, name string) sums {
	var s sums
	_, text := get(ctx, page)
	for line := range strings.SplitSeq(text, "\n") {
		value, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
		switch {
		case err != nil:
		case strings.HasPrefix(line, name+"_sum"):
			s.seconds += value
		case strings.HasPrefix(line, name+"_count"):
			s.count += value
		}
	}
	return s
}
