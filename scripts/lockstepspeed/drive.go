package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/sys/unix"

	"github.com/g2g-agent/g2g-agent/scripts/internal/measuring"
)

const example = "configs/replay.yaml"

// agent is a replay that waits to be driven.
type agent struct {
	*measuring.Process
	url    string
	client http.Client
}

// startAgent starts the example, which goes on past its end and runs no script.
func startAgent(ctx context.Context, binary string, servers int) (*agent, error) {
	env := []string{
		"G2G_AGENT_API__LISTEN=127.0.0.1:0", "G2G_AGENT_LOG__FORMAT=json",
		"G2G_AGENT_REPLAY__AT_END=continue", "G2G_AGENT_REPLAY__COMMANDS=[]",
	}
	if servers == 900 {
		env = append(env, "G2G_AGENT_DATACENTER__TOTAL_GPU_CAPACITY=7200")
		for i, replicas := range []int{1200, 300, 240} {
			env = append(env, fmt.Sprintf("G2G_AGENT_MODELS__%d__REPLICAS={initial: %d}", i, replicas))
		}
	} else if servers != 288 {
		return nil, fmt.Errorf("-servers %d: want 288 or 900", servers)
	}
	url := make(chan string, 1)
	ctx, process, err := measuring.Start(ctx, measuring.Program{
		Binary: binary, Args: []string{"replay", "--config", example, "--pace", "step"}, Env: env,
		OnLog: func(raw []byte) {
			var line struct{ URL string }
			if json.Unmarshal(raw, &line) == nil && line.URL != "" && len(url) == 0 {
				url <- strings.TrimSuffix(line.URL, "/")
			}
		},
	})
	if err != nil {
		return nil, err
	}
	a := &agent{Process: process}
	select {
	case a.url = <-url:
		return a, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("the agent did not start: %w", context.Cause(ctx))
	}
}

// way is one to ask for steps.
type way struct {
	name  string
	ask   func(ctx context.Context, body string) (answer []byte, err error)
	close func()
}

func (a *agent) byPOST(context.Context) (way, error) {
	return way{"POST", a.post, a.client.CloseIdleConnections}, nil
}

func (a *agent) byWebSocket(ctx context.Context) (way, error) {
	conn, resp, err := websocket.DefaultDialer.DialContext(ctx, "ws"+strings.TrimPrefix(a.url, "http")+"/v1/lockstep", nil)
	if err != nil {
		return way{}, err
	}
	if err := resp.Body.Close(); err != nil { // it is the connection's
		return way{}, err
	}
	ask := func(_ context.Context, body string) ([]byte, error) {
		if err := conn.WriteMessage(websocket.TextMessage, []byte(body)); err != nil {
			return nil, err
		}
		_, answer, err := conn.ReadMessage()
		return answer, err
	}
	return way{"WebSocket", ask, func() { _ = conn.Close() }}, nil // it is over
}

// drive asks for n steps at a time, again and again.
func (a *agent) drive(ctx context.Context, w way, n int, during time.Duration) (result, error) {
	r := result{way: w.name, batch: n}
	body := `{"steps": ` + strconv.Itoa(n) + `}`
	cpu, err := cpuTime(a.PID())
	if err != nil {
		return r, err
	}
	requests := 0
	for began := time.Now(); r.took < during; r.took = time.Since(began) {
		sent := time.Now()
		answer, err := w.ask(ctx, body)
		if err != nil {
			return r, err
		}
		if steps := bytes.Count(answer, []byte(`{"seq":`)); steps != n {
			return r, fmt.Errorf("asked for %d steps, got %d: %.300s", n, steps, answer)
		}
		r.steps += int64(n)
		r.bytes += int64(len(answer))
		r.slowest = max(r.slowest, time.Since(sent))
		requests++
	}
	r.request = r.took / time.Duration(requests)
	after, err := cpuTime(a.PID())
	r.cpu = after - cpu
	return r, err
}

func (a *agent) post(ctx context.Context, body string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.url+"/v1/steps", strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := a.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, answer)
	}
	return answer, err
}

// cpuTime is the processor time that a process has taken, by its clock.
func cpuTime(pid int) (time.Duration, error) {
	// As clock_getcpuclockid makes it: the scheduler's clock of the process.
	const scheduler = 2
	clock := int32(^pid<<3 | scheduler)
	var t unix.Timespec
	if err := unix.ClockGettime(clock, &t); err != nil {
		return 0, fmt.Errorf("the clock of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}
