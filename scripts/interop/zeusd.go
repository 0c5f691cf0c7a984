package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net"
	"net/http"
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
	staleAfter = 2 * time.Second
	poll       = 50 * time.Millisecond  // zeusd's, by default
	step       = 100 * time.Millisecond // of the run
	// late is what a loaded machine may add.
	late = 300 * time.Millisecond

	steadyMW  = 423_457
	clockMW   = 100_000 // and a milliwatt for each millisecond of
	clockSpan = 600_000 // ten minutes, from the start of which on

	gpuLost = 15 // NVML's code for a GPU that fell off the bus
)

// gpu is what the stand-in makes of a GPU.
type gpu struct {
	power   string // in milliwatts, or "clock"
	failure int
	hang    time.Duration
}

// site is a real daemon, simulated vLLM servers and an agent that reads them.
type site struct {
	agent, daemon, library, version string
	unix, verbose                   bool

	dir     string
	gpuFile string
	zeusd   *exec.Cmd
	address string // of the daemon: a port, or a socket
	relay   *relay // in front of it
	api     string

	lost []span // of GPU 0
	hung []span
}

// span is a time in which something was wrong.
type span struct{ from, to time.Time }

func (s *site) String() string {
	if s.unix {
		return "zeusd " + s.version + " by Unix socket"
	}
	return "zeusd " + s.version + " by TCP"
}

func (s *site) check(ctx context.Context, r *report) error {
	dir, err := os.MkdirTemp("", "g2g-interop-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // what is left is temporary
	s.dir, s.gpuFile = dir, filepath.Join(dir, "gpus")
	if err := s.setGPUs(gpu{power: "clock"}, gpu{power: strconv.Itoa(steadyMW)}); err != nil {
		return err
	}
	if err := s.startDaemon(ctx); err != nil {
		return err
	}
	defer func() { _ = s.zeusd.Process.Kill(); _ = s.zeusd.Wait() }()
	if err := s.checkFaults(ctx, r); err != nil {
		return err
	}
	// The daemon takes a listener that is gone for one as long as it has nothing to say.
	return errors.Join(s.checkAnotherListener(ctx, r, true), s.checkAnotherListener(ctx, r, false))
}

// setGPUs changes what the driver does, at once.
func (s *site) setGPUs(gpus ...gpu) error {
	var b strings.Builder
	for _, g := range gpus {
		fmt.Fprintf(&b, "%s %d %d\n", g.power, g.failure, g.hang.Milliseconds())
	}
	next := s.gpuFile + ".next"
	if err := os.WriteFile(next, []byte(b.String()), 0o600); err != nil {
		return err
	}
	return os.Rename(next, s.gpuFile)
}

func (s *site) startDaemon(ctx context.Context) error {
	args := []string{"serve", "--enable", "gpu-read"}
	if s.unix {
		s.address = filepath.Join(s.dir, "zeusd.sock")
		args = append(args, "--mode", "uds", "--socket-path", s.address)
	} else {
		port, err := measuring.FreePort(ctx)
		if err != nil {
			return err
		}
		s.address = port
		args = append(args, "--mode", "tcp", "--tcp-bind-address", "127.0.0.1:"+port)
	}
	s.zeusd = exec.CommandContext(ctx, s.daemon, args...)
	// A thread that hangs in the driver is lost to the daemon; a GPU host has many.
	s.zeusd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+s.library, "NVML_STANDIN_FILE="+s.gpuFile, "TOKIO_WORKER_THREADS=16", "RUST_LOG=error")
	s.zeusd.Stderr = os.Stderr
	if err := s.zeusd.Start(); err != nil {
		return err
	}
	return waitFor(ctx, 10*time.Second, "zeusd to listen", func() bool {
		conn, err := s.dial(ctx)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
}

func (s *site) dial(ctx context.Context) (net.Conn, error) {
	if s.unix {
		return (&net.Dialer{}).DialContext(ctx, "unix", s.address)
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", "127.0.0.1:"+s.address)
}

// descriptors counts the daemon's open files.
func (s *site) descriptors() int {
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.zeusd.Process.Pid))
	if err != nil {
		return -1
	}
	return len(files)
}

// run runs the agent while script lasts, and returns its states and log.
func (s *site) run(ctx context.Context, script func(context.Context) error) ([]state, string, error) {
	port, err := measuring.FreePort(ctx)
	if err != nil {
		return nil, "", err
	}
	s.api = "http://127.0.0.1:" + port
	var servers []string
	for range labels() {
		server, err := sim.StartVLLM(sim.VLLMConfig{Listen: "127.0.0.1:0", ModelID: "org/Llama-3.1-8B"}) //nolint:contextcheck // it lives until it is closed
		if err != nil {
			return nil, "", err
		}
		defer server.Close()
		servers = append(servers, server.URL())
	}
	configFile, out := filepath.Join(s.dir, "run.yaml"), filepath.Join(s.dir, "states.jsonl")
	if err := os.WriteFile(configFile, []byte(s.config(port, servers)), 0o600); err != nil {
		return nil, "", err
	}
	// The agent keeps what is there, and would write beside it.
	if err := os.Remove(out); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, "", err
	}
	var log bytes.Buffer
	agent := exec.CommandContext(ctx, s.agent, "run", "--config", configFile, "--out", out)
	agent.Stderr = &log
	if s.verbose {
		agent.Stderr = io.MultiWriter(&log, os.Stderr)
	}
	if err := agent.Start(); err != nil {
		return nil, "", err
	}
	ended := make(chan error, 1)
	go func() { ended <- agent.Wait() }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	scripted := make(chan error, 1)
	go func() {
		err := waitFor(ctx, 40*time.Second, "the agent to step", func() bool { return s.phase(ctx) == "stepping" })
		if err == nil {
			err = script(ctx)
		}
		scripted <- err
	}()
	var scriptErr error
	select {
	case err := <-ended:
		cancel()
		return nil, "", fmt.Errorf("the agent ended: %w\n%s", errors.Join(err, <-scripted), log.String())
	case scriptErr = <-scripted:
	}
	if err := agent.Process.Signal(syscall.SIGTERM); err != nil {
		return nil, "", err
	}
	if err := errors.Join(scriptErr, <-ended); err != nil {
		return nil, "", fmt.Errorf("%w\n%s", err, log.String())
	}
	states, err := readStates(out)
	return states, log.String(), err
}

// labels are those of the models, one to a GPU.
func labels() []string { return []string{"clock", "steady"} }

// config is the agent's, with an API on the port and the model servers.
func (s *site) config(port string, servers []string) string {
	endpoint := fmt.Sprintf("socket: %q", s.address)
	if s.relay != nil {
		endpoint = "host: 127.0.0.1, port: " + s.relay.port
	} else if !s.unix {
		endpoint = "host: 127.0.0.1, port: " + s.address
	}
	config := fmt.Sprintf("dt_s: %v\napi: {listen: \"127.0.0.1:%s\"}\nlive: {stagger_s: 1, stale_after_s: %v}\nmodels:\n",
		step.Seconds(), port, staleAfter.Seconds())
	for i, label := range labels() {
		config += fmt.Sprintf(`  - model_label: %s
    model_id: org/Llama-3.1-8B
    gpus_per_replica: 1
    itl_deadline_s: 0.1
    feasible_batch_sizes: [8]
    live: {vllm_base_url: "%s", simulated_num_replicas: 16, gpu_endpoints: [{%s, gpu_indices: [%d]}]}
`, label, servers[i], endpoint, i)
	}
	return config
}

// state is what matters here of a state.
type state struct {
	WallTime  time.Time          `json:"wall_time"`
	MeasuredW map[string]float64 `json:"measured_power_w_by_model"`
	StaleS    map[string]float64 `json:"stale_by_model"`
}

func (s *state) stale(label string) bool { _, stale := s.StaleS[label]; return stale }

func readStates(file string) ([]state, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var states []state
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var s state
		if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
			return nil, err
		}
		states = append(states, s)
	}
	return states, lines.Err()
}

func (s *site) get(ctx context.Context, path string) (status int, body string) {
	return get(ctx, s.api+path)
}

// get asks for a page; without an answer the status is 0, and the body says why.
func get(ctx context.Context, url string) (status int, body string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err.Error()
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, b.String()
}

func (s *site) phase(ctx context.Context) string {
	var info struct {
		Phase string `json:"phase"`
	}
	if _, body := s.get(ctx, "/v1/info"); json.Unmarshal([]byte(body), &info) != nil {
		return ""
	}
	return info.Phase
}

// connections counts how often a stream was opened, from the agent's metrics.
func (s *site) connections(ctx context.Context) float64 {
	sum := 0.0
	_, page := s.get(ctx, "/metrics")
	for line := range strings.SplitSeq(page, "\n") {
		if strings.HasPrefix(line, "g2g_power_source_reconnects_total{") || strings.Contains(line, `event="reopened_streams"`) {
			value, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
			if err != nil {
				return math.NaN()
			}
			sum += value
		}
	}
	return sum
}

func waitFor(ctx context.Context, within time.Duration, what string, ok func() bool) error {
	for end := time.Now().Add(within); !ok(); {
		if time.Now().After(end) {
			return fmt.Errorf("waited %v for %s", within, what)
		}
		if err := backoff.Sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}
