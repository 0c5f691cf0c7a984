package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/record"
)

// soon bounds what a program does at once, on a machine that may be busy elsewhere.
const soon = 20 * time.Second

// lines are what a program has written so far.
type lines struct {
	mu      sync.Mutex
	all     []string
	changed chan struct{} // closed and replaced at each line
}

// read takes in a program's output to its end.
func (l *lines) read(r io.Reader) {
	in := bufio.NewScanner(r)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		l.mu.Lock()
		l.all = append(l.all, in.Text())
		close(l.changed)
		l.changed = make(chan struct{})
		l.mu.Unlock()
	}
	_, _ = io.Copy(io.Discard, r) // an overlong line
}

func (l *lines) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.all, "\n")
}

// program is a running g2g-agent.
type program struct {
	cmd            *exec.Cmd
	stdout, stderr lines
	done           chan struct{}
	seen           int // lines of stderr that await has passed over
}

func startProgram(t *testing.T, env []string, args ...string) *program {
	t.Helper()
	p := &program{cmd: exec.CommandContext(t.Context(), "g2g-agent", args...), done: make(chan struct{})}
	p.stdout.changed, p.stderr.changed = make(chan struct{}), make(chan struct{})
	// Under the race detector a program waits a second before it exits.
	p.cmd.Env = slices.Concat(os.Environ(), []string{"GORACE=atexit_sleep_ms=0", "G2G_AGENT_API__LISTEN=127.0.0.1:0"}, env)
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		var readers sync.WaitGroup
		readers.Go(func() { p.stdout.read(stdout) })
		readers.Go(func() { p.stderr.read(stderr) })
		readers.Wait()
		_ = p.cmd.Wait() // the status is looked at by those who care
	}()
	t.Cleanup(p.kill)
	return p
}

// kill is kill -9.
func (p *program) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.done
}

// wait returns the exit status.
func (p *program) wait(t *testing.T, within time.Duration) int {
	t.Helper()
	timeout := time.NewTimer(within)
	defer timeout.Stop()
	select {
	case <-p.done:
	case <-timeout.C:
		t.Errorf("%q runs on after %v; its log:\n%s", p.cmd.Args, within, p.stderr.text())
		p.kill()
	}
	return p.cmd.ProcessState.ExitCode()
}

// terminate sends SIGTERM and wants the program to end well, and soon.
func (p *program) terminate(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if status := p.wait(t, 10*time.Second); status != exitDone {
		t.Errorf("%q exited with status %d; its log:\n%s", p.cmd.Args, status, p.stderr.text())
	}
}

// await waits for a line with the text, on stderr after those it waited for
// before, or from the start on stdout.
func (p *program) await(t *testing.T, from *lines, text string) string {
	t.Helper()
	timeout := time.NewTimer(soon)
	defer timeout.Stop()
	next := 0
	if from == &p.stderr {
		next = p.seen
	}
	for {
		from.mu.Lock()
		all, changed := from.all, from.changed
		from.mu.Unlock()
		for ; next < len(all); next++ {
			if strings.Contains(all[next], text) {
				if from == &p.stderr {
					p.seen = next + 1
				}
				return all[next]
			}
		}
		select {
		case <-changed:
		case <-p.done:
			if from.mu.Lock(); len(from.all) == next {
				from.mu.Unlock()
				t.Fatalf("%q ended without %q; its log:\n%s", p.cmd.Args, text, p.stderr.text())
			}
			from.mu.Unlock()
		case <-timeout.C:
			t.Fatalf("%q does not say %q; its log:\n%s", p.cmd.Args, text, p.stderr.text())
		}
	}
}

// simHost is `g2g-agent sim` as another process: a daemon with two GPUs and a server.
type simHost struct {
	*program
	zeusd, vllm string // host:port
	extra       []string
}

const simModel = "meta-llama/Llama-3.1-8B-Instruct"

func startSim(t *testing.T, extra ...string) *simHost {
	t.Helper()
	h := &simHost{zeusd: "127.0.0.1:0", vllm: "127.0.0.1:0", extra: extra}
	h.start(t)
	return h
}

// start starts it, after the first time at the same addresses.
func (h *simHost) start(t *testing.T) {
	t.Helper()
	args := append([]string{"sim", "--zeusd", h.zeusd, "--gpus", "2", "--vllm", h.vllm + "=" + simModel}, h.extra...)
	h.program = startProgram(t, nil, args...)
	_, h.zeusd = cutBetween(h.await(t, &h.stdout, "zeusd "), "zeusd ", ": GPUs")
	_, h.vllm = cutBetween(h.await(t, &h.stdout, "vLLM "), "http://", ": "+simModel)
	h.setFaults(t, h.vllm, `{"slow_down": 5}`) // it has a machine to share
}

// cutBetween returns what stands before and after, up to end, the first begin.
func cutBetween(text, begin, end string) (before, between string) {
	before, rest, _ := strings.Cut(text, begin)
	between, _, _ = strings.Cut(rest, end)
	return before, between
}

// setFaults tells one of the host's servers what to do wrong.
func (h *simHost) setFaults(t *testing.T, address, faults string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+address+"/sim/faults", strings.NewReader(faults))
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("PUT /sim/faults: %s", resp.Status)
	}
}

const simReplicas = 80

// writeConfig writes the config of a live run on the host; live is further keys of
// that section.
func (h *simHost) writeConfig(t *testing.T, live string) (file string) {
	t.Helper()
	host, port, err := net.SplitHostPort(h.zeusd)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "live.yaml")
	text := fmt.Sprintf(`
seed: 1
dt_s: "1/10"
models:
  - model_label: small
    model_id: %s
    gpus_per_replica: 1
    itl_deadline_s: 0.1
    feasible_batch_sizes: [8, 16]
    live:
      vllm_base_url: http://%s
      simulated_num_replicas: %d
      gpu_endpoints: [{host: %s, port: %s, gpu_indices: [0]}]
live: {prometheus_poll_interval_s: 0.2, max_output_tokens: 20, %s}
`, simModel, h.vllm, simReplicas, host, port, live)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

const quickStart = "stagger_s: 0.5, stale_after_s: 1"

// What the agent logs at the turns of a run.
const (
	logSetUp = "vLLM server set up"
	logWarm  = "warm: the steps begin"
	logStale = "power is stale"
	logFresh = "power is fresh again"
	logTold  = "forgotten its batch size and was told again"
)

// readRun reads the states of a run and checks what holds for all runs: they are
// complete and in step, and there is power in each.
func readRun(t *testing.T, file string) []datacenter.State {
	t.Helper()
	if diff := cmp.Diff([]string{filepath.Base(file)}, names(t, filepath.Dir(file))); diff != "" {
		t.Error(diff)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if len(raw) == 0 || raw[len(raw)-1] != '\n' {
		t.Error("the file does not end with a whole line")
	}
	states, err := record.ReadAll(file)
	if err != nil {
		t.Fatal(err)
	}
	for i := range states {
		s := &states[i]
		if s.Seq != int64(i) || s.TimeS != float64(i)/10 || s.Source != datacenter.SourceLive {
			t.Fatalf("state %d is number %d at %v s, %s", i, s.Seq, s.TimeS, s.Source)
		}
		if late := s.WallTime.Sub(states[0].WallTime).Seconds() - s.TimeS; late < -0.1 || late > 0.1 {
			t.Errorf("state %d has the time %v, %v s off", i, s.WallTime, late)
		}
		for m := range s.Models {
			// The simulated GPUs draw 70 W or more.
			if w := s.Models[m].PowerW / float64(max(s.Models[m].ActiveReplicas, 1)); w < 60 || w > 8*700 {
				t.Errorf("state %d: a replica of %s draws %v W", i, s.Models[m].ModelLabel, w)
			}
		}
	}
	return states
}

func outFile(t *testing.T) string { return filepath.Join(t.TempDir(), "states.jsonl") }

// TestLiveDemo runs the demo for 2 s of steps and looks at each line it writes.
func TestLiveDemo(t *testing.T) {
	t.Parallel()
	out := outFile(t)
	// By then the first prefills, which stall the largest model, are over.
	p := startProgram(t, []string{"G2G_AGENT_LIVE__STAGGER_S=3"}, "demo", "--duration-s", "2", "--out", out)
	if status := p.wait(t, time.Minute); status != exitDone {
		t.Fatalf("exited with status %d:\n%s", status, p.stderr.text())
	}
	if stdout := p.stdout.text(); !strings.HasPrefix(stdout, "20 steps in ") || strings.ContainsAny(stdout, "\r\x1b") {
		t.Errorf("stdout: %s", stdout)
	}
	if states := readRun(t, out); len(states) != 20 {
		t.Errorf("%d states, want 20", len(states))
	}
	raw, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	labels := []string{"Llama-3.1-8B", "Llama-3.1-70B", "Llama-3.1-405B"}
	for line := range strings.Lines(string(raw)) {
		var state map[string]json.RawMessage
		if err := json.Unmarshal([]byte(line), &state); err != nil {
			t.Fatal(err)
		}
		for _, member := range []string{"seq", "time_s", "wall_time", "source", "power_w", "measured_power_w"} {
			if raw, ok := state[member]; !ok || string(raw) == "null" {
				t.Errorf("a state has %q as its %s", raw, member)
			}
			delete(state, member)
		}
		for _, member := range []string{
			"power_by_model_w", "batch_size_by_model", "active_replicas_by_model", "observed_itl_s_by_model", "phase_share_by_model",
			"measured_power_w_by_model", "augmented_power_w_by_model", "augmentation_factor_by_model", "prometheus_metrics_by_model",
			"itl_percentiles_s_by_model", "stale_by_model",
		} {
			var byModel map[string]any
			if err := json.Unmarshal(state[member], &byModel); err != nil {
				t.Fatalf("%s is %q: %v", member, state[member], err)
			}
			for label, value := range byModel {
				if !slices.Contains(labels, label) || value == nil {
					t.Errorf("%s has %v for %q", member, value, label)
				}
			}
			if member != "stale_by_model" && len(byModel) != len(labels) {
				t.Errorf("%s has %d models: %s", member, len(byModel), state[member])
			}
			delete(state, member)
		}
		for member := range state {
			t.Errorf("a state has a member %q, which is not in the contract", member)
		}
	}
}

// TestLiveRunSurvivesItsHost kills the whole simulated host while a run is on,
// starts it again, and ends the run with SIGTERM.
func TestLiveRunSurvivesItsHost(t *testing.T) {
	t.Parallel()
	host, out := startSim(t), outFile(t)
	p := startProgram(t, nil, "run", "--config", host.writeConfig(t, quickStart), "--out", out)
	p.await(t, &p.stderr, logWarm)
	host.kill()
	killed := time.Now()
	p.await(t, &p.stderr, logStale)
	if took := time.Since(killed); took > 4*time.Second {
		t.Errorf("the data was stale after %v, want 1 s", took)
	}
	host.start(t)
	back := time.Now()
	mark := p.seen
	p.await(t, &p.stderr, logFresh)
	p.seen = mark // they come in any order
	p.await(t, &p.stderr, logTold)
	if took := time.Since(back); took > 5*time.Second {
		t.Errorf("the run had recovered after %v, want 2 s", took)
	}
	p.seen = mark
	host.setFaults(t, host.vllm, `{}`)
	p.terminate(t)
	host.terminate(t)

	states := readRun(t, out)
	episodes, was := 0, false
	for i := range states {
		m := &states[i].Models[0]
		if m.Live.Stale && !was {
			episodes++
		}
		was = m.Live.Stale
		if m.BatchSize != 8 || m.ActiveReplicas != simReplicas {
			t.Errorf("state %d: %+v", i, m)
		}
	}
	if episodes != 1 || was {
		t.Errorf("the data was stale %d times, want 1; at the end: %v", episodes, was)
	}
	if stdout := p.stdout.text(); !strings.HasPrefix(stdout, fmt.Sprintf("%d steps in ", len(states))) {
		t.Errorf("%d states; stdout: %s", len(states), stdout)
	}
}

// TestLiveRunEndsWhileServersHang: nothing answers any more, and the run is told
// to end.
func TestLiveRunEndsWhileServersHang(t *testing.T) {
	t.Parallel()
	host, out := startSim(t), outFile(t)
	p := startProgram(t, nil, "run", "--config", host.writeConfig(t, quickStart), "--out", out)
	p.await(t, &p.stderr, logWarm)
	host.setFaults(t, host.zeusd, `{"freeze": true}`)
	host.setFaults(t, host.vllm, `{"freeze": true}`)
	p.await(t, &p.stderr, logStale)
	p.terminate(t)
	if states := readRun(t, out); !states[len(states)-1].Models[0].Live.Stale {
		t.Error("the last state is not stale")
	}
}

// TestLiveRunEndsInTheHealthCheck: a server accepts and never answers, and the run
// is told to end.
func TestLiveRunEndsInTheHealthCheck(t *testing.T) {
	t.Parallel()
	for _, mute := range []string{"zeusd", "vLLM"} {
		host, out := startSim(t), outFile(t)
		ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		servers := simHost{zeusd: host.zeusd, vllm: host.vllm}
		if mute == "zeusd" {
			servers.zeusd = ln.Addr().String()
		} else {
			servers.vllm = ln.Addr().String()
		}
		p := startProgram(t, nil, "run", "--config", servers.writeConfig(t, quickStart), "--out", out)
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
			t.Error(err)
		}
		began := time.Now()
		p.terminate(t)
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("mute %s: the run took %v to end", mute, took)
		}
		if left := names(t, filepath.Dir(out)); left != nil {
			t.Errorf("mute %s: the run left %q", mute, left)
		}
	}
}

// TestLiveRunEndsBeforeItsFirstStep: in the warm-up.
func TestLiveRunEndsBeforeItsFirstStep(t *testing.T) {
	t.Parallel()
	host, out := startSim(t), outFile(t)
	p := startProgram(t, nil, "run", "--config", host.writeConfig(t, "stagger_s: 50"), "--out", out)
	p.await(t, &p.stderr, logSetUp)
	p.terminate(t)
	if left := names(t, filepath.Dir(out)); left != nil {
		t.Errorf("the run left %q", left)
	}
	if strings.Contains(p.stdout.text(), "NaN") {
		t.Errorf("stdout: %s", p.stdout.text())
	}
}

// TestLiveRunFails: data is missing for longer than is allowed. What was
// measured before is kept.
func TestLiveRunFails(t *testing.T) {
	t.Parallel()
	host, out := startSim(t), outFile(t)
	p := startProgram(t, nil, "run", "--config", host.writeConfig(t, quickStart+", stale_error_after_s: 1.5"), "--out", out)
	p.await(t, &p.stderr, logWarm)
	host.kill()
	status := p.wait(t, soon)
	if log := p.stderr.text(); status != exitFailed || !strings.Contains(log, "g2g-agent: ") || !strings.Contains(log, `the power of model "small" has been stale`) {
		t.Errorf("exited with status %d:\n%s", status, log)
	}
	if states := readRun(t, out); len(states) == 0 || !states[len(states)-1].Models[0].Live.Stale {
		t.Errorf("%d states, the last one not stale", len(states))
	}
}

func TestLiveProbe(t *testing.T) {
	t.Parallel()
	const token = "sesame-open"
	host := startSim(t, "--token", token)
	config := host.writeConfig(t, quickStart)
	probe := func(env []string, wantStatus int, wants ...string) {
		t.Helper()
		p := startProgram(t, env, "check", "--config", config, "--probe")
		status := p.wait(t, soon)
		stdout, stderr := p.stdout.text(), p.stderr.text()
		if status != wantStatus || strings.Contains(stdout+stderr, token) {
			t.Errorf("exited with status %d, want %d\n%s\n%s", status, wantStatus, stdout, stderr)
		}
		for _, want := range wants {
			if !strings.Contains(stdout, want) {
				t.Errorf("stdout lacks %q:\n%s", want, stdout)
			}
		}
		for line := range strings.Lines(stdout) {
			if (wantStatus == exitDone) == strings.HasPrefix(line, "FAILED") && !strings.HasPrefix(line, "ok") {
				t.Errorf("with status %d: %s", wantStatus, line)
			}
		}
		if last := stderr[strings.LastIndex(stderr, "\n")+1:]; wantStatus != exitDone && !strings.HasPrefix(last, "g2g-agent: 1 of 2 servers") {
			t.Errorf("the last line on stderr is %q", last)
		}
	}
	env := []string{"ZEUSD_TOKEN=" + token}
	zeusdOK, vllmOK := "ok      zeusd "+host.zeusd, `ok      model "small", vLLM http://`+host.vllm
	probe(env, exitDone, zeusdOK, vllmOK, "token accepted", "set_max_num_seqs")
	probe([]string{"ZEUSD_TOKEN=wrong"}, exitFailed, "FAILED  zeusd "+host.zeusd, "401", vllmOK)
	probe(nil, exitFailed, "FAILED  zeusd "+host.zeusd, "token", vllmOK)
	host.setFaults(t, host.vllm, `{"status": 503}`)
	probe(env, exitFailed, zeusdOK, `FAILED  model "small", vLLM http://`+host.vllm, "503")
	host.setFaults(t, host.vllm, `{"freeze": true}`)
	probe(env, exitFailed, zeusdOK, `FAILED  model "small", vLLM http://`+host.vllm, "no answer")
	host.setFaults(t, host.vllm, `{}`)
	probe(append(env, "G2G_AGENT_MODELS__0__MODEL_ID=org/other"), exitFailed, zeusdOK, "FAILED", "org/other", simModel)
	probe(append(env, "G2G_AGENT_MODELS__0__LIVE__GPU_ENDPOINTS__0__GPU_INDICES=[0, 5]"), exitFailed, "FAILED  zeusd "+host.zeusd, "5", vllmOK)

	// A run would not start either.
	p := startProgram(t, []string{"ZEUSD_TOKEN=wrong"}, "run", "--config", config)
	if status, log := p.wait(t, soon), p.stderr.text(); status != exitFailed || !strings.Contains(log, "401") || strings.Contains(log, logSetUp) {
		t.Errorf("a run without the right token exited with status %d:\n%s", status, log)
	}
}

// TestLiveProbeOfMetrics: what a server's metrics lack fails the probe only if a
// run would not start, and the way out is named.
func TestLiveProbeOfMetrics(t *testing.T) {
	t.Parallel()
	const wayOut = "live.prometheus_poll_interval_s is 0"
	probe := func(host *simHost, env []string, wantStatus int, verdict string, wants ...string) {
		t.Helper()
		p := startProgram(t, env, "check", "--config", host.writeConfig(t, quickStart), "--probe")
		if status := p.wait(t, soon); status != wantStatus {
			t.Errorf("exited with status %d, want %d:\n%s\n%s", status, wantStatus, p.stdout.text(), p.stderr.text())
		}
		line := p.await(t, &p.stdout, `model "small"`)
		for _, want := range wants {
			if !strings.Contains(line, want) {
				t.Errorf("the line lacks %q: %s", want, line)
			}
		}
		if !strings.HasPrefix(line, verdict+"  ") {
			t.Errorf("want %s: %s", verdict, line)
		}
	}
	without := []string{"G2G_AGENT_LIVE__PROMETHEUS_POLL_INTERVAL_S=0"}
	host := startSim(t)
	probe(host, nil, exitDone, "ok    ", "0 running, 0 waiting, KV cache 0 % used")
	host.setFaults(t, host.vllm, `{"metrics_gone": true}`)
	probe(host, nil, exitFailed, "FAILED", "vllm:num_requests_running: metric is missing", wayOut)
	probe(host, without, exitDone, "ok    ", wayOut)
	host.setFaults(t, host.vllm, `{"metrics_status": 404}`)
	probe(host, nil, exitFailed, "FAILED", "404", wayOut)

	// Before its first request such a server tells nothing of its load, and a run
	// starts.
	several := startSim(t, "--api-server-count", "2", "--actuator", "stock")
	probe(several, nil, exitDone, "warn  ", "warning: vllm:num_requests_running: metric is missing", "warning: a run starts only if", wayOut, "unknown running", "batch sizes by concurrency")
	out := outFile(t)
	p := startProgram(t, nil, "run", "--config", several.writeConfig(t, quickStart), "--out", out)
	p.await(t, &p.stderr, logWarm)
	p.terminate(t)
	if states := readRun(t, out); len(states) > 0 && states[0].Models[0].Live.Server == nil {
		t.Error("the first state has no metrics")
	}
}

// TestLiveProbeInterrupted: the servers are not blamed for what they were not
// given the time to answer.
func TestLiveProbeInterrupted(t *testing.T) {
	t.Parallel()
	host := startSim(t)
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	mute := simHost{zeusd: host.zeusd, vllm: ln.Addr().String()}
	p := startProgram(t, nil, "check", "--probe", "--config", mute.writeConfig(t, quickStart))
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Error(err)
	}
	status := p.wait(t, soon)
	if stdout, stderr := p.stdout.text(), p.stderr.text(); status != exitFailed || stdout != "" || stderr != "g2g-agent: interrupted" {
		t.Errorf("exited with status %d\n%s\n%s", status, stdout, stderr)
	}
}

// TestSimGivesGPUsInTurn: servers take the GPUs in the order of their flags.
func TestSimGivesGPUsInTurn(t *testing.T) {
	t.Parallel()
	p := startProgram(t, nil, "sim", "--zeusd", "127.0.0.1:0", "--gpus", "5",
		"--vllm", "localhost:0=org/Llama-70B", "--vllm", "127.0.0.1:0=org/Llama-8B,x=y")
	p.await(t, &p.stdout, "PUT /sim/faults")
	p.terminate(t)
	got := strings.Split(p.stdout.text(), "\n")
	for i, want := range []string{": GPUs 0 to 4", ": org/Llama-70B on GPUs 0 to 3", ": org/Llama-8B,x=y on GPU 4"} {
		if !strings.HasSuffix(got[i], want) {
			t.Errorf("line %d is %q, want one that ends in %q", i, got[i], want)
		}
	}
	p = startProgram(t, nil, "sim", "--zeusd", "127.0.0.1:0", "--gpus", "0")
	p.await(t, &p.stdout, ": no GPUs")
	p.terminate(t)
}

func TestLiveRunRefusesItsInput(t *testing.T) {
	t.Parallel()
	// Nothing is contacted, so nothing needs to be there.
	host := simHost{zeusd: "127.0.0.1:1", vllm: "127.0.0.1:1"}
	good := host.writeConfig(t, quickStart)
	for name, c := range map[string]struct {
		args  []string
		env   []string
		wants []string
	}{
		"no config":          {[]string{"run"}, nil, []string{"--config"}},
		"no such config":     {[]string{"run", "--config", "none.yaml"}, nil, []string{"none.yaml"}},
		"unknown key":        {[]string{"run", "--config", host.writeConfig(t, "stager_s: 1")}, nil, []string{"live.stager_s", "stagger_s"}},
		"several":            {[]string{"run", "--config", host.writeConfig(t, "stagger_s: -1, itl_window_s: 0")}, nil, []string{"live.stagger_s", "live.itl_window_s"}},
		"warm-up too short":  {[]string{"run", "--config", host.writeConfig(t, "stagger_s: 20, warmup_timeout_s: 10")}, nil, []string{"live.warmup_timeout_s"}},
		"not for live":       {[]string{"run", "--config", oneModelConfig(t)}, nil, []string{"live"}},
		"wrong environment":  {[]string{"run", "--config", good}, []string{"G2G_AGENT_MODELS__0__LIVE__VLLM_BASE_URL=node1:8000"}, []string{"vllm_base_url"}},
		"no such token file": {[]string{"run", "--config", good}, []string{"G2G_AGENT_MODELS__0__LIVE__GPU_ENDPOINTS__0__TOKEN_FILE=/none"}, []string{"models[0].live.gpu_endpoints[0].token_file"}},
		"unknown ending":     {[]string{"run", "--config", good, "--out", "states.txt"}, nil, []string{".jsonl"}},
		"duration":           {[]string{"run", "--config", good, "--duration-s", "-1"}, nil, []string{"--duration-s"}},
		"probe":              {[]string{"check", "--probe", "--config", oneModelConfig(t)}, nil, []string{"live"}},
		"demo":               {[]string{"demo"}, []string{"G2G_AGENT_LIVE__STAGGER_S=100"}, []string{"warmup_timeout_s"}},
		"sim, too few GPUs":  {[]string{"sim", "--zeusd", "127.0.0.1:0", "--gpus", "1", "--vllm", "127.0.0.1:0=llama-70b"}, nil, []string{"--gpus"}},
		"sim, wrong model":   {[]string{"sim", "--zeusd", "127.0.0.1:0", "--vllm", "127.0.0.1:0=other"}, nil, []string{"other"}},
		"sim, no model":      {[]string{"sim", "--zeusd", "127.0.0.1:0", "--vllm", "127.0.0.1:0"}, nil, []string{"--vllm 127.0.0.1:0: ", "ADDRESS=MODEL_ID"}},
		"sim, no GPUs":       {[]string{"sim", "--zeusd", "127.0.0.1:0", "--gpus", "0", "--vllm", "127.0.0.1:0=llama-8b"}, nil, []string{"needs GPU 0, but there are 0"}},
	} {
		p := startProgram(t, c.env, c.args...)
		if status := p.wait(t, soon); status != exitInvalid || p.stdout.text() != "" {
			t.Errorf("%s: exited with status %d, stdout %q", name, status, p.stdout.text())
		}
		for _, want := range append(c.wants, "g2g-agent: ") {
			if !strings.Contains(p.stderr.text(), want) {
				t.Errorf("%s: stderr lacks %q:\n%s", name, want, p.stderr.text())
			}
		}
	}
	if _, err := os.Stat("states.txt"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("states.txt: %v", err)
	}
}
