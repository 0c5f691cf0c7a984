package main

import (
	"net"
	"os"
	"strings"
	"testing"
)

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
