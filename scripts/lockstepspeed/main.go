// Command lockstepspeed drives a replay of the shipped example (288 servers) in
// lockstep over HTTP, in batches of several sizes, and counts its steps. It needs
// Linux, for /proc.
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
	"net/http"
	"os"
	"os/exec"
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
	defer func() { err = cmp.Or(err, a.end()) }()
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
	b.WriteString("| steps a request | steps/s | required | mean request | slowest request | agent's CPU, µs/step | |\n| ---: | ---: | ---: | ---: | ---: | ---: | --- |\n")
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
	fmt.Fprintf(&b, "\nMeasured on %s, %d cores, %s: three models on 288 servers, %.0f bytes a state, one client on the same cores that reads the states and does not parse them.",
		time.Now().Format(time.DateOnly), runtime.NumCPU(), runtime.Version(), float64(bytes)/float64(steps))
	return b.String()
}

// agent is a replay that waits to be driven.
type agent struct {
	cmd    *exec.Cmd
	url    string
	client http.Client
	ended  chan struct{} // closed when it has
	err    error         // then
	logs   bytes.Buffer  // then
}

func startAgent(ctx context.Context, binary string) (*agent, error) {
	a := &agent{cmd: exec.CommandContext(ctx, binary, "replay", "--config", example, "--pace", "step"), ended: make(chan struct{})}
	a.cmd.Env = append(os.Environ(), "G2G_AGENT_API__LISTEN=127.0.0.1:0", "G2G_AGENT_LOG__FORMAT=json",
		"G2G_AGENT_REPLAY__DURATION_S="+strconv.Itoa(exampleS))
	a.cmd.Cancel = func() error { return a.cmd.Process.Signal(os.Interrupt) }
	a.cmd.WaitDelay = 10 * time.Second // longer than any orderly end
	stderr, err := a.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := a.cmd.Start(); err != nil {
		return nil, err
	}
	url := make(chan string, 1)
	go func() {
		defer close(a.ended)
		lines := bufio.NewScanner(io.TeeReader(stderr, &a.logs))
		for lines.Scan() {
			var line struct{ URL string }
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.URL != "" && len(url) == 0 {
				url <- strings.TrimSuffix(line.URL, "/")
			}
		}
		a.err = a.cmd.Wait()
	}()
	select {
	case a.url = <-url:
		return a, nil
	case <-a.ended:
		return nil, fmt.Errorf("the agent did not start: %w\n%s", cmp.Or(a.err, errors.New("no error")), a.logs.String())
	}
}

// end ends the agent in order.
func (a *agent) end() error {
	_ = a.cmd.Process.Signal(os.Interrupt) // it may have ended
	<-a.ended
	if a.err != nil {
		return fmt.Errorf("the agent failed: %w\n%s", a.err, a.logs.String())
	}
	return nil
}

// drive asks for n steps at a time, again and again.
func (a *agent) drive(ctx context.Context, n int, during time.Duration) (result, error) {
	r := result{batch: n}
	body := fmt.Sprintf(`{"steps": %d}`, n)
	cpu, err := cpuTime(a.cmd.Process.Pid)
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
		r.steps, r.bytes, r.slowest = r.steps+int64(steps), r.bytes+size, max(r.slowest, time.Since(sent))
		requests++
	}
	r.request = r.took / time.Duration(requests)
	after, err := cpuTime(a.cmd.Process.Pid)
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
