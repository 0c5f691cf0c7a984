// Command lockstepspeed drives a replay of the shipped example (288 servers, or scaled to
// 900) in lockstep, by POST /v1/steps and by the WebSocket /v1/lockstep, in batches of several
// sizes, and counts its steps and the agent's processor time. It needs Linux, for a process's
// clock.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
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
	goalPerS    = 5_000
	page        = "docs/performance.md"
	beginMarker = "<!-- lockstep:begin -->"
	endMarker   = "<!-- lockstep:end -->"
)

func main() {
	batches := flag.String("batch", "1,10,100,1000", "how many steps to ask for at a time, several with commas between")
	servers := flag.Int("servers", 288, "288 or 900")
	seconds := flag.Float64("seconds", 10, "how long to drive the replay for each")
	write := flag.Bool("write", false, "put the result into "+page)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := measure(ctx, *batches, *servers, *seconds, *write)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "lockstepspeed:", err)
		os.Exit(1)
	}
}

// result is what was measured with one way and one size of batch.
type result struct {
	way              string
	batch            int
	steps            int64
	bytes            int64
	took, cpu        time.Duration // cpu is the agent's
	slowest, request time.Duration // a request
}

func (r result) perS() float64 { return float64(r.steps) / r.took.Seconds() }

// cpuPerStepUS is the agent's processor time in microseconds.
func (r result) cpuPerStepUS() float64 { return 1e6 * r.cpu.Seconds() / float64(r.steps) }

func measure(ctx context.Context, batches string, servers int, seconds float64, write bool) (err error) {
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
	a, err := startAgent(ctx, binary, servers)
	if err != nil {
		return err
	}
	defer func() { err = cmp.Or(err, a.Stop()) }()
	var results []result
	for _, open := range []func(context.Context) (way, error){a.byPOST, a.byWebSocket} {
		w, err := open(ctx)
		if err != nil {
			return err
		}
		for _, n := range sizes {
			r, err := a.drive(ctx, w, n, time.Duration(seconds*float64(time.Second)))
			if err != nil {
				return err
			}
			results = append(results, r)
		}
		w.close()
	}
	text := report(results, servers)
	fmt.Println(text)
	if !write {
		return nil
	}
	return measuring.Publish(page, beginMarker, endMarker, text)
}

func report(results []result, servers int) string {
	var b strings.Builder
	b.WriteString("| way | steps a request | steps/s | required | mean request | slowest request | agent's CPU, µs/step | |\n" +
		"| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |\n")
	for _, r := range results {
		required, verdict := "", ""
		if r.batch >= 100 {
			required, verdict = strconv.Itoa(goalPerS), "met"
			if r.perS() < goalPerS {
				verdict = "missed"
			}
		}
		fmt.Fprintf(&b, "| %s | %d | %.0f | %s | %.2f ms | %.1f ms | %.1f | %s |\n", r.way, r.batch, r.perS(), required,
			1e3*r.request.Seconds(), 1e3*r.slowest.Seconds(), r.cpuPerStepUS(), verdict)
	}
	var bytes, steps int64
	for _, r := range results {
		bytes, steps = bytes+r.bytes, steps+r.steps
	}
	fmt.Fprintf(&b, "\nMeasured on %s, %d cores, %s: three models on %d servers, %.0f bytes a state, one client on the same cores "+
		"that reads the states and does not parse them.",
		time.Now().Format(time.DateOnly), runtime.NumCPU(), runtime.Version(), servers, float64(bytes)/float64(steps))
	return b.String()
}
