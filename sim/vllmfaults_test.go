package sim

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestSlowClientsDoNotStopTheEngine(t *testing.T) {
	// Many tokens a chunk fill the kernel's buffers soon.
	weights := make([]float64, 1000)
	weights[len(weights)-1] = 1
	v := startVLLM(t, VLLMConfig{Profile: steady(time.Microsecond), TokensPerChunk: weights,
		Listen: "unix:" + filepath.Join(t.TempDir(), "v.sock")})
	stuck := dial(t, "unix", v.Addr())
	askAgain(t, stuck, chatBody(maxOutputTokens))
	other := dial(t, "unix", v.Addr())
	e := askAgain(t, other, chatBody(maxOutputTokens))
	go io.Copy(io.Discard, e.r)
	eventually(t, "the stuck one is thrown out", func() bool { return v.Truth().Aborted == 1 })
	chunks := v.Truth().Chunks
	eventually(t, "the other is served", func() bool { now := v.Truth(); return now.Chunks > chunks || now.Finished == 1 })
}

func TestSlowReaderGetsEverything(t *testing.T) {
	v := startVLLM(t, VLLMConfig{Profile: steady(10 * time.Microsecond), Listen: "unix:" + filepath.Join(t.TempDir(), "v.sock")})
	e := askAgain(t, dial(t, "unix", v.Addr()), chatBody(800))
	eventually(t, "the engine has generated all", func() bool { return v.Truth().Tokens == 800 })
	chunks, payloads, _ := e.all(t)
	if len(chunks) != 802 || payloads[802] != "[DONE]" {
		t.Error(len(chunks))
	}
	eventually(t, "it is finished", func() bool { return v.Truth().Finished == 1 })
}

func TestVLLMFaultsOfAnswers(t *testing.T) {
	v := startVLLM(t, VLLMConfig{})
	c := client(t, "tcp", v.Addr())
	get := func(path string) (int, string) {
		status, _, body := do(t, c, "GET", path, "")
		return status, body
	}

	v.SetFaults(VLLMFaults{Status: 503})
	for _, path := range []string{"/health", "/metrics", "/v1/models"} {
		if status, _ := get(path); status != 503 {
			t.Error(path, status)
		}
	}
	v.SetFaults(VLLMFaults{MetricsStatus: 500})
	if status, _ := get("/metrics"); status != 500 {
		t.Error(status)
	}
	if status, _ := get("/health"); status != 200 {
		t.Error(status)
	}
	v.SetFaults(VLLMFaults{MetricsGone: true})
	if status, page := get("/metrics"); status != 200 || strings.Contains(page, "vllm:") || page == "" {
		t.Error(status, page)
	}
	v.SetFaults(VLLMFaults{Delay: 50 * time.Millisecond})
	start := time.Now()
	get("/health")
	if took := time.Since(start); took < 50*time.Millisecond {
		t.Errorf("answered after %v", took)
	}
}

func TestVLLMFaultsOfStreams(t *testing.T) {
	v := startVLLM(t, VLLMConfig{})
	v.SetFaults(VLLMFaults{ErrorEvents: 1, NoDone: 1})
	conn, e := ask(t, v, 3)
	chunks, payloads, err := e.all(t)
	if !errors.Is(err, io.EOF) || len(chunks) != 1 || chunks[0].Error == nil || chunks[0].Error.Code != 500 || payloads[1] != "[DONE]" {
		t.Error(payloads, err)
	}
	chunks, payloads, err = askAgain(t, conn, chatBody(3)).all(t)
	if !errors.Is(err, io.EOF) || len(chunks) != 5 || slices.Contains(payloads, "[DONE]") {
		t.Error(payloads, err)
	}
	if _, payloads, _ = askAgain(t, conn, chatBody(3)).all(t); len(payloads) != 6 {
		t.Error("not healthy again:", payloads)
	}
	eventually(t, "outcomes are counted", func() bool { now := v.Truth(); return now.Failed == 2 && now.Finished == 1 })

	v.ResetTruth()
	v.SetFaults(VLLMFaults{MalformedEvents: 2})
	e = askAgain(t, conn, chatBody(6))
	var good, bad int
	for {
		event, err := e.next()
		if err != nil {
			break
		}
		if strings.HasPrefix(event, `data: {"id"`) && strings.HasSuffix(event, "}") {
			good++
		} else if event != "data: [DONE]" {
			bad++
		}
	}
	if good != 6 || bad != 2 { // the role, four of six, the usage
		t.Error(good, bad)
	}
	eventually(t, "it is counted", func() bool { return v.Truth().Finished == 1 })
	// The first two were lost: the third starts the clock.
	if truth := v.Truth(); truth.ITL.Tokens != 3 || truth.ITL.Chunks != 3 || truth.Chunks != 6 {
		t.Errorf("%+v", truth)
	}

	e = askAgain(t, conn, chatBody(maxOutputTokens))
	e.data(t)
	v.SetFaults(VLLMFaults{DropStreams: true})
	for err = nil; err == nil; {
		_, err = e.next()
	}
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
	eventually(t, "it failed", func() bool { now := v.Truth(); return now.Failed == 1 && now.Running == 0 })
	if v.Faults() != (VLLMFaults{}) {
		t.Error(v.Faults())
	}
}

func TestVLLMThatSlowsDown(t *testing.T) {
	v := startVLLM(t, VLLMConfig{})
	_, e := ask(t, v, maxOutputTokens)
	for range 5 {
		e.data(t)
	}
	v.SetFaults(VLLMFaults{SlowDown: 25})
	v.ResetTruth()
	eventually(t, "slow samples", func() bool { return v.Truth().ITL.Tokens > 2 })
	if itl := v.ITLOver(time.Minute); itl.P999S < 0.04 {
		t.Errorf("%+v", itl)
	}
}

func TestVLLMFreezes(t *testing.T) {
	v := startVLLM(t, VLLMConfig{})
	_, e := ask(t, v, maxOutputTokens)
	e.data(t)
	c := client(t, "tcp", v.Addr())

	v.SetFaults(VLLMFaults{FreezeStreams: true})
	var chunks int64
	eventually(t, "the engine stands", func() bool {
		before := chunks
		chunks = v.Truth().Chunks
		return before == chunks
	})
	if status, _, _ := do(t, c, "GET", "/health", ""); status != 200 {
		t.Error(status)
	}
	v.SetFaults(VLLMFaults{Freeze: true})
	asked := dial(t, "tcp", v.Addr()) // is accepted
	asked.send(t, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
	asked.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := asked.r.Peek(1); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("a frozen server answered:", err)
	}
	asked.SetReadDeadline(time.Now().Add(10 * time.Second))
	if status, _, _ := do(t, c, "PUT", "/sim/faults", `{}`); status != 200 {
		t.Error(status)
	}
	if resp := asked.response(t); resp.status != 200 {
		t.Error(resp.status)
	}
	eventually(t, "it goes on", func() bool { return v.Truth().Chunks > chunks })
	// The gap was real.
	eventually(t, "the gap is known", func() bool { return v.ITLOver(time.Minute).P999S > 0.045 })
	v.SetFaults(VLLMFaults{Freeze: true}) // Close must not wait for the thaw
}

func TestVLLMDiesAndComesBack(t *testing.T) {
	gpu := NewGPU("H100", 0)
	v := startVLLM(t, VLLMConfig{MaxNumSeqs: 1, GPUs: []*GPU{gpu}})
	_, running := ask(t, v, maxOutputTokens)
	running.data(t)
	_, waiting := ask(t, v, maxOutputTokens)
	eventually(t, "one runs, one waits", func() bool { now := v.Truth(); return now.Running == 1 && now.Waiting == 1 })
	v.Kill()
	for _, e := range []*events{running, waiting} {
		var err error
		for err == nil {
			_, err = e.next()
		}
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Error(err)
		}
	}
	if truth := v.Truth(); truth.Failed != 2 || truth.Running+truth.Waiting != 0 || gpu.PowerW() != 100 {
		t.Errorf("%+v, %v W", truth, gpu.PowerW())
	}
	if c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", v.Addr()); err == nil {
		c.Close()
		t.Error("a dead server accepts")
	}
	if err := v.Restart(); err != nil {
		t.Fatal(err)
	}
	_, e := ask(t, v, 2)
	if _, payloads, _ := e.all(t); len(payloads) != 5 {
		t.Error(payloads)
	}
	eventually(t, "it is counted", func() bool { return v.Truth().Finished == 1 })
	_, _, page := do(t, client(t, "tcp", v.Addr()), "GET", "/metrics", "")
	if !strings.Contains(page, `vllm:generation_tokens_total{engine="0",model_name="m"} 2.0`) {
		t.Error("the counters of a new life:", page)
	}
	v.Close()
	if err := v.Restart(); !errors.Is(err, errClosed) {
		t.Error(err)
	}
}
