package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"
)

// siteHosts are simulated hosts for two models, each with a vLLM server of its own.
type siteHosts struct {
	*program
	zeusd string
	vllms [2]string // host:port, of "chat" and of "code"
}

func startSite(t *testing.T) *siteHosts {
	t.Helper()
	h := &siteHosts{}
	h.program = startProgram(t, nil, "sim", "--zeusd", "127.0.0.1:0", "--gpus", "2", "--max-num-seqs", "16",
		"--vllm", "127.0.0.1:0="+simModel, "--vllm", "127.0.0.1:0="+simModel)
	h.await(t, &h.stdout, "PUT /sim/faults")
	_, h.zeusd = cutBetween(h.stdout.text(), "zeusd ", ": GPUs")
	var n int
	for line := range strings.Lines(h.stdout.text()) {
		if _, address := cutBetween(line, "http://", ": "+simModel); address != "" && n < len(h.vllms) {
			h.vllms[n] = address
			n++
		}
	}
	if n != len(h.vllms) {
		t.Fatalf("want two servers in %s", h.stdout.text())
	}
	for i := range h.vllms {
		h.faults(t, i, `{"slow_down": 5}`) // they have a machine to share
	}
	return h
}

// faults tells one of the servers what to do wrong.
func (h *siteHosts) faults(t *testing.T, server int, faults string) {
	t.Helper()
	(&simHost{}).setFaults(t, h.vllms[server], faults)
}

func (h *siteHosts) writeConfig(t *testing.T) string {
	t.Helper()
	host, port, err := net.SplitHostPort(h.zeusd)
	if err != nil {
		t.Fatal(err)
	}
	text := `
seed: 1
dt_s: "1/10"
datacenter: {name: test, gpus_per_server: 8, base_kw_per_phase: 10}
models:
`
	for i, label := range []string{"chat", "code"} {
		text += fmt.Sprintf(`
  - model_label: %s
    model_id: %s
    gpus_per_replica: 1
    itl_deadline_s: 0.1
    feasible_batch_sizes: [4, 8, 16]
    initial_batch_size: 16
    failsafe_batch_size: %d
    live:
      vllm_base_url: http://%s
      simulated_num_replicas: %d
      gpu_endpoints: [{host: %s, port: %s, gpu_indices: [%d]}]
`, label, simModel, []int{8, 16}[i], h.vllms[i], simReplicas, host, port, i)
	}
	file := filepath.Join(t.TempDir(), "site.yaml")
	if err := os.WriteFile(file, []byte(text+"live: {prometheus_poll_interval_s: 0.2, max_output_tokens: 20, "+quickStart+"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestControllerDrivesALiveSite is the day of a grid controller: it waits until the
// site is ready, watches, commands, is told what failed, loses its lease and ends.
func TestControllerDrivesALiveSite(t *testing.T) {
	t.Parallel()
	site := startSite(t)
	// The warm-up takes long enough for all that is asked before its end.
	dir := filepath.Join(t.TempDir(), "recording")
	a := startAPI(t, []string{"G2G_AGENT_LIVE__STAGGER_S=3"}, "run", "--config", site.writeConfig(t), "--record", dir)

	wantStarting(t, a)
	a.awaitProbe(t, "/readyz", http.StatusOK)
	if status, _ := a.probe(t, "/healthz"); status != http.StatusOK {
		t.Errorf("/healthz: %d", status)
	}

	states, events := a.dial(t, "/v1/stream"), a.dial(t, "/v1/events?follow")
	before := next[seenState](t, states)
	if before.Power.A < 10_000 || before.BatchSize["chat"] != 16 || before.Replicas["code"] != simReplicas {
		t.Errorf("the first state: %+v", before)
	}

	wantCommanded(t, site, a, states, events)
	wantShifted(t, a, states)
	wantToldWhatFailed(t, site, a)
	wantWrongCommandsChangeNothing(t, site, a)
	wantOrderlyEnd(t, site, a, states)
	wantRecorded(t, dir)
}

// wantStarting: the API is there before the first step, and says how far the agent
// has come.
func wantStarting(t *testing.T, a *apiProgram) {
	if status, h := a.probe(t, "/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(strings.Join(h.Reasons, " "), "not begun") {
		t.Errorf("before the first step: %d %+v", status, h)
	}
	if status, _ := a.probe(t, "/livez"); status != http.StatusOK {
		t.Errorf("/livez before the first step: %d", status)
	}
	a.get(t, http.StatusServiceUnavailable, "/v1/state")
	a.post(t, http.StatusConflict, "/v1/batch-sizes", `{"batch_size_by_model": {"chat": 8}}`)
	if info := a.info(t); info.Phase != "starting" || info.Source != "live" || info.Pace != "real_time" || info.ControlNeedsToken {
		t.Errorf("info at the start: %+v", info)
	}
}

// wantCommanded: a command reaches the server, the answer says so, and the next
// states show it.
func wantCommanded(t *testing.T, site *siteHosts, a *apiProgram, states, events *websocket.Conn) {
	answer := decode[batchSizesAnswer](t, a.post(t, http.StatusOK, "/v1/batch-sizes",
		`{"batch_size_by_model": {"chat": 4}, "ramp_up_rate_by_model": {"chat": 100}, "lease_s": 60}`))
	commands := truthAt(t, site.vllms[0]).Commands
	if last := commands[len(commands)-1]; last.MaxNumSeqs != 4 || last.RampUpRate != 100 {
		t.Errorf("the server's last command is %+v", last)
	}
	if diff := cmp.Diff([]modelOutcome{{"chat", "accepted", ""}}, answer.Results); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]int{"chat": 4, "code": 16}, answer.BatchSizes); diff != "" {
		t.Errorf("batch sizes (-want +got):\n%s", diff)
	}
	if lease := answer.LeaseS["chat"]; lease == nil || *lease <= 55 || *lease > 60 || answer.LeaseS["code"] != nil {
		t.Errorf("leases: %v", answer.LeaseS)
	}
	for {
		s := next[seenState](t, states)
		if s.TimeS >= answer.TimeS {
			if s.BatchSize["chat"] != 4 || s.BatchSize["code"] != 16 {
				t.Errorf("the state at %v s: %+v; the answer was for %v s", s.TimeS, s, answer.TimeS)
			}
			break
		}
	}
	if e := awaitEvent(t, events, "datacenter.batch_size.updated"); e.WallTime.IsZero() || fmt.Sprint(e.Data["batch_size_by_model"]) != "map[chat:4 code:16]" {
		t.Errorf("event %+v", e)
	}

	// It takes effect: the server runs what it was told, as the states tell too.
	eventually(t, "4 requests run", func() bool {
		return *orNegative(a.models(t)[0].Achieved) == 4 && truthAt(t, site.vllms[0]).Running <= 4
	})
}

// wantShifted: replicas are taken away and put back, and there is no room for more.
func wantShifted(t *testing.T, a *apiProgram, states *websocket.Conn) {
	a.post(t, http.StatusConflict, "/v1/replica-shifts", `{"model_label": "chat", "replica_delta": 1}`)
	shifted := decode[shiftAnswer](t, a.post(t, http.StatusOK, "/v1/replica-shifts", `{"model_label": "code", "replica_delta": -16}`))
	if diff := cmp.Diff(shiftAnswer{shifted.TimeS, "code", -16, -16, simReplicas - 16, 16, nil}, shifted); diff != "" {
		t.Errorf("the answer to the shift (-want +got):\n%s", diff)
	}
	for {
		s := next[seenState](t, states)
		if s.TimeS >= shifted.TimeS {
			if s.Replicas["code"] != simReplicas-16 { // two servers' worth
				t.Errorf("after the shift: %+v", s)
			}
			break
		}
	}
}

// wantToldWhatFailed: one of two servers does not do as it is told, and the other
// has.
func wantToldWhatFailed(t *testing.T, site *siteHosts, a *apiProgram) {
	for _, fault := range []struct {
		status, chat int
		outcome      string
	}{{400, 8, "refused"}, {503, 4, "unknown"}} {
		site.faults(t, 1, fmt.Sprintf(`{"status": %d}`, fault.status))
		failed := decode[batchSizesAnswer](t, a.post(t, http.StatusBadGateway, "/v1/batch-sizes", fmt.Sprintf(`{"batch_size_by_model": {"code": 4, "chat": %d}}`, fault.chat)))
		site.faults(t, 1, `{}`)
		if r := failed.Results; len(r) != 2 || r[0] != (modelOutcome{"chat", "accepted", ""}) ||
			r[1].ModelLabel != "code" || r[1].Outcome != fault.outcome || !strings.Contains(r[1].Detail, strconv.Itoa(fault.status)) {
			t.Errorf("results %+v", r)
		}
		if diff := cmp.Diff(map[string]int{"chat": fault.chat, "code": 16}, failed.BatchSizes); diff != "" {
			t.Errorf("batch sizes after a fault of status %d (-want +got):\n%s", fault.status, diff)
		}
	}
	if commands := truthAt(t, site.vllms[1]).Commands; len(commands) > 0 && commands[len(commands)-1].MaxNumSeqs == 4 {
		t.Errorf("the refusing server was told %+v", commands)
	}
}

func wantWrongCommandsChangeNothing(t *testing.T, site *siteHosts, a *apiProgram) {
	at := truthAt(t, site.vllms[0]).Commands
	for body, status := range map[string]int{
		`{"batch_size_by_model": {"chat": 4, "none": 8}}`:                                   http.StatusNotFound,
		`{"batch_size_by_model": {"chat": 5}}`:                                              http.StatusUnprocessableEntity,
		`{"batch_size_by_model": {"chat": 4}, "lease_s": 86401}`:                            http.StatusUnprocessableEntity,
		`{"batch_size_by_model": {"chat": 4}, "ramp_up_rate_by_model": {"chat": -1}}`:       http.StatusUnprocessableEntity,
		`{"batch_size_by_model": {"chat": 4}} x`:                                            http.StatusBadRequest,
		`{"batch_size_by_model": {"chat": 4, "chat": 16}}`:                                  http.StatusBadRequest,
		`{"batch_size_by_model": {"chat": 4}, "pad": "` + strings.Repeat("x", 2<<20) + `"}`: http.StatusRequestEntityTooLarge,
	} {
		a.post(t, status, "/v1/batch-sizes", body)
	}
	if now := truthAt(t, site.vllms[0]).Commands; len(now) != len(at) {
		t.Errorf("wrong commands reached the server: %+v", now[len(at):])
	}
}

// wantOrderlyEnd: the servers are restored, and the stream is closed with a word.
func wantOrderlyEnd(t *testing.T, site *siteHosts, a *apiProgram, states *websocket.Conn) {
	a.terminate(t)
	for i, vllm := range site.vllms {
		commands := truthAt(t, vllm).Commands
		if last := commands[len(commands)-1]; last.MaxNumSeqs != 16 {
			t.Errorf("server %d was left at %+v", i, last)
		}
	}
	if _, _, err := states.ReadMessage(); err == nil {
		for err == nil { // what was on its way
			_, _, err = states.ReadMessage()
		}
		if !websocket.IsCloseError(err, websocket.CloseGoingAway) {
			t.Errorf("the stream ended with %v, want 1001", err)
		}
	}
}

// controllerPython renews leases of 3 s, as controllers do, until it dies.
const controllerPython = `
import json, sys, time, urllib.request
while True:
    for path, body in (("/v1/batch-sizes", {"batch_size_by_model": {"chat": 4}, "lease_s": 3}),
                       ("/v1/replica-shifts", {"model_label": "code", "replica_delta": 0 if "again" in globals() else -30, "lease_s": 3})):
        request = urllib.request.Request(sys.argv[1] + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        urllib.request.urlopen(request).read()
    again = True
    print("renewed", flush=True)
    time.sleep(0.3)
`

func startController(t *testing.T, python, url string) *program {
	t.Helper()
	controller := &program{cmd: exec.CommandContext(t.Context(), python, "-c", controllerPython, url), done: make(chan struct{})}
	controller.stdout.changed, controller.stderr.changed = make(chan struct{}), make(chan struct{})
	out, err := controller.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := controller.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(controller.done)
		controller.stdout.read(out)
		_ = controller.cmd.Wait() // it is killed
	}()
	t.Cleanup(controller.kill)
	return controller
}

// TestLeaseOutlivesNoController: a controller in a process of its own renews its
// leases for longer than they last, and is then killed.
func TestLeaseOutlivesNoController(t *testing.T) {
	t.Parallel()
	python, err := exec.LookPath("python3")
	if err != nil && os.Getenv(requireTools) == "1" {
		t.Fatalf("python3 is needed: %v", err)
	} else if err != nil {
		t.Skip("python3, in which the controller is written, is not here")
	}
	site := startSite(t)
	a := startAPI(t, nil, "run", "--config", site.writeConfig(t))
	a.awaitProbe(t, "/readyz", http.StatusOK)
	events := a.dial(t, "/v1/events?follow")

	controller := startController(t, python, a.url)
	eventually(t, "the controller has renewed its leases for longer than they last", func() bool { return strings.Count(controller.stdout.text(), "renewed") > 12 })
	for _, e := range decode[[]seenEvent](t, a.get(t, http.StatusOK, "/v1/events?n=1000")) {
		if strings.HasSuffix(e.Topic, "lease_expired") {
			t.Errorf("a lease that was renewed ran out: %+v", e)
		}
	}
	if m := a.models(t); m[0].BatchSize != 4 || m[0].BatchSizeLeaseS == nil || m[1].ReplicaShift != -30 || m[1].ReplicaLeaseS == nil || m[1].BatchSizeLeaseS != nil {
		t.Errorf("while the controller lives: %+v", m)
	}
	controller.kill()
	killed := time.Now()

	expired := map[string]seenEvent{}
	for len(expired) < 2 {
		if e := next[seenEvent](t, events); strings.HasSuffix(e.Topic, "lease_expired") {
			expired[e.Topic] = e
		}
	}
	if took := time.Since(killed); took > 10*time.Second {
		t.Errorf("the leases of 3 s ran out after %v", took)
	}
	if e := expired["datacenter.batch_size.lease_expired"]; fmt.Sprint(e.Data) != "map[failsafe_batch_size:8 model_label:chat]" {
		t.Errorf("%+v", e)
	}
	if e := expired["datacenter.replicas.lease_expired"]; fmt.Sprint(e.Data) != "map[model_label:code replica_delta:-30]" {
		t.Errorf("%+v", e)
	}
	eventually(t, "the server has its failsafe batch size", func() bool {
		commands := truthAt(t, site.vllms[0]).Commands
		return commands[len(commands)-1].MaxNumSeqs == 8
	})
	eventually(t, "the models show it", func() bool {
		m := a.models(t)
		return m[0].BatchSize == 8 && m[0].BatchSizeLeaseS == nil && m[1].ReplicaShift == 0 && m[1].ReplicaLeaseS == nil && m[1].Replicas == simReplicas
	})
	if state := decode[seenState](t, a.get(t, http.StatusOK, "/v1/state")); state.BatchSize["code"] != 16 {
		t.Errorf("a model without a lease was touched: %+v", state)
	}
}

// TestReadinessFollowsTheData: a site whose power is not known is alive but not
// ready.
func TestReadinessFollowsTheData(t *testing.T) {
	t.Parallel()
	host := startSim(t)
	a := startAPI(t, nil, "run", "--config", host.writeConfig(t, quickStart))
	a.awaitProbe(t, "/readyz", http.StatusOK)
	events := a.dial(t, "/v1/events?follow")
	host.setFaults(t, host.zeusd, `{"freeze": true}`)
	h := a.awaitProbe(t, "/readyz", http.StatusServiceUnavailable)
	if !strings.Contains(strings.Join(h.Reasons, "; "), `the power of model "small" is stale`) {
		t.Errorf("reasons %q", h.Reasons)
	}
	if status, h := a.probe(t, "/livez"); status != http.StatusOK {
		t.Errorf("/livez with stale data: %d %+v", status, h)
	}
	if e := awaitEvent(t, events, "datacenter.power.stale"); e.Data["model_label"] != "small" {
		t.Errorf("%+v", e)
	}
	if m := a.models(t)[0]; !m.Stale {
		t.Errorf("%+v", m)
	}
	host.setFaults(t, host.zeusd, `{}`)
	a.awaitProbe(t, "/readyz", http.StatusOK)
	awaitEvent(t, events, "datacenter.power.fresh")
}
