// Command lockstepspeed drives a replay of the shipped example (288 servers) in
// lockstep over HTTP, in batches of several sizes, and counts its steps. It needs
// Linux, for /proc.
package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/g2g-agent/g2g-agent/scripts/internal/measuring"
)

const (
	example = "configs/replay.yaml"
	// exampleS is so long that no measurement comes to its end.
	exampleS    = 1_000_000
	goalPerS    = 5_000
	page        = "docs/performance.md"
	beginMarker = "<!-- lockstep:begin -->"
	endMarker   = "<!-- lockstep:end -->"
)

func main() {
	batches := flag.String("batch", "1,10,100,1000", "how many steps to ask for at a time, several with commas between")
	seconds := flag.Float64("seconds", 10, "how long to drive the replay for each")
	write := flag.Bool("write", false, "put the result into "+page)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := measure(ctx, *batches, *seconds, *write)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "lockstepspeed:", err)
		os.Exit(1)
	}
}

// result is what was measured with one size of batch.
type result struct {
	batch            int
	steps            int64
	bytes            int64
	took, cpu        time.Duration // cpu is the agent's
	slowest, request time.Duration // a request
}

func (r result) perS() float64 { return float64(r.steps) / r.took.Seconds() }

func measure(ctx context.Context, batches string, seconds float64, write bool) (err error) {
	var sizes []int
	for text := range strings.SplitSeq(batches, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return fmt.Errorf("-batch %s: want whole numbers from 1 with commas between", batches)
		}
		sizes = append(sizes, n)
	}
	dir, err := os.MkdirTemp("", "g2g-lockstepspeed-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // what is left is temporary
	binary, err := measuring.Build(ctx, dir)
	if err != nil {
		return err
	}
	a, err := startAgent(ctx, binary)
	if err != nil {
		return err
	}
	defer func() { err = cmp.Or(err, a.Stop()) }()
	var results []result
	for _, n := range sizes {
		r, err := a.drive(ctx, n, time.Duration(seconds*float64(time.Second)))
		if err != nil {
			return err
		}
		results = append(results, r)
	}
	text := report(results)
	fmt.Println(text)
	if !write {
		return nil
	}
	return measuring.Publish(page, beginMarker, endMarker, text)
}

func report(results []result) string {
	var b strings.Builder
	b.WriteString("| steps a request | steps/s | required | mean request | slowest request | agent's CPU, µs/step | |\n" +
		"| ---: | ---: | ---: | ---: | ---: | ---: | --- |\n")
	for _, r := range results {
		required, verdict := "", ""
		if r.batch >= 100 {
			required, verdict = strconv.Itoa(goalPerS), "met"
			if r.perS() < goalPerS {
				verdict = "missed"
			}
		}
		fmt.Fprintf(&b, "| %d | %.0f | %s | %.2f ms | %.1f ms | %.0f | %s |\n", r.batch, r.perS(), required,
			1e3*r.request.Seconds(), 1e3*r.slowest.Seconds(), float64(r.cpu.Microseconds())/float64(r.steps), verdict)
	}
	var bytes, steps int64
	for _, r := range results {
		bytes, steps = bytes+r.bytes, steps+r.steps
	}
	fmt.Fprintf(&b, "\nMeasured on %s, %d cores, %s: three models on 288 servers, %.0f bytes a state, one client on the same cores "+
		"that reads the states and does not parse them.",
		time.Now().Format(time.DateOnly), runtime.NumCPU(), runtime.Version(), float64(bytes)/float64(steps))
	return b.String()
}

// agent is a replay that waits to be driven.
type agent struct {
	*measuring.Process
	url    string
	client http.Client
}

func startAgent(ctx context.Context, binary string) (*agent, error) {
	url := make(chan string, 1)
	ctx, process, err := measuring.Start(ctx, measuring.Program{
		Binary: binary, Args: []string{"replay", "--config", example, "--pace", "step"},
		Env: []string{"G2G_AGENT_API__LISTEN=127.0.0.1:0", "G2G_AGENT_LOG__FORMAT=json",
			"G2G_AGENT_REPLAY__DURATION_S=" + strconv.Itoa(exampleS)},
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

// drive asks for n steps at a time, again and again.
func (a *agent) drive(ctx context.Context, n int, during time.Duration) (result, error) {
	r := result{batch: n}
	body := fmt.Sprintf(`{"steps": %d}`, n)
	cpu, err := cpuTime(a.PID())
	if err != nil {
		return r, err
	}
	requests := 0
	for began := time.Now(); r.took < during; r.took = time.Since(began) {
		sent := time.Now()
		steps, size, err := a.advance(ctx, body)
		if err != nil {
			return r, err
		}
		if steps != n {
			return r, fmt.Errorf("asked for %d steps, got %d", n, steps)
		}
		r.steps += int64(steps)
		r.bytes += size
		r.slowest = max(r.slowest, time.Since(sent))
		requests++
	}
	r.request = r.took / time.Duration(requests)
	after, err := cpuTime(a.PID())
	r.cpu = after - cpu
	return r, err
}

// advance returns the number of states that came, and of their bytes.
func (a *agent) advance(ctx context.Context, body string) (states int, size int64, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.url+"/v1/steps", strings.NewReader(body))
	if err != nil {
		return 0, 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := a.client.Do(req)
	if err != nil {
		return 0, 0, err
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, 0, err
	}
	if resp.StatusCode != http.StatusOK {
		return 0, 0, fmt.Errorf("%s: %s", resp.Status, content)
	}
	return bytes.Count(content, []byte(`{"seq":`)), int64(len(content)), nil
}

// cpuTime is the processor time that a process has taken, where /proc tells.
func cpuTime(pid int) (time.Duration, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(raw), ") ") // after the name
	fields := strings.Fields(rest)
	const user, system = 11, 12 // from the state on
	if len(fields) <= system {
		return 0, fmt.Errorf("/proc/%d/stat is too short", pid)
	}
	ticks := 0
	for _, i := range []int{user, system} {
		n, err := strconv.Atoi(fields[i])
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil // 100 ticks a second
}
