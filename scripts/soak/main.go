// Command soak runs the demo under faults and checks that it neither grows nor
// stumbles: every step is there, no model loses power that its GPUs draw, memory
// and goroutines stay flat. It needs Linux, for /proc.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/record"
	"github.com/g2g-agent/g2g-agent/scripts/internal/measuring"
	"github.com/g2g-agent/g2g-agent/sim"
)

func main() {
	durationS := flag.Float64("duration-s", 1800, "how long the demo steps")
	binary := flag.String("binary", "", "the g2g-agent to run; without it, it is built")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second signal ends it at once
	err := soak(ctx, *binary, *durationS)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

// fault is a time in which a simulated server was at fault.
type fault struct {
	name       string    // as in "vllm-8b: dies"
	begin, end time.Time // to the second before; a zero end is none
}

// run is what was seen of the demo from outside.
type run struct {
	goroutines []float64 // as it told every 10 s
	faults     []fault
	lateSteps  int
	rssBytes   []float64 // every second
	complaints []string  // lines that are no log
}

func soak(ctx context.Context, binary string, durationS float64) error {
	dir, err := os.MkdirTemp("", "g2g-soak-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // what is left is temporary
	if binary == "" {
		if binary, err = measuring.Build(ctx, dir); err != nil {
			return err
		}
	}
	states := filepath.Join(dir, "states.jsonl")
	var r run
	watching, demo, err := measuring.Start(ctx, measuring.Program{
		Binary: binary, Args: []string{"demo", "--faults", "--duration-s", strconv.FormatFloat(durationS, 'g', -1, 64), "--out", states},
		Env:   []string{"G2G_AGENT_API__LISTEN=127.0.0.1:0", "G2G_AGENT_LOG__LEVEL=debug", "G2G_AGENT_LOG__FORMAT=json"},
		OnLog: r.readLine,
	})
	if err != nil {
		return err
	}
	var watchers sync.WaitGroup
	watchers.Go(func() { r.watchMemory(watching, demo.PID()) })
	err = demo.Wait()
	watchers.Wait()
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	if err != nil {
		return fmt.Errorf("%w\nlines that are no log:\n%s", err, strings.Join(r.complaints, "\n"))
	}
	return errors.Join(r.checkStates(states, durationS), r.checkGrowth(durationS))
}

// readLine takes from a line of the log what is of interest.
func (r *run) readLine(raw []byte) {
	var line struct {
		Message    string    `json:"message"`
		Time       time.Time `json:"time"`
		Fault      string    `json:"fault"`
		Goroutines float64   `json:"goroutines"`
		LateSteps  int       `json:"late_steps"`
	}
	if json.Unmarshal(raw, &line) != nil {
		r.complaints = append(r.complaints, string(raw))
		return
	}
	switch line.Message {
	case "alive":
		r.goroutines = append(r.goroutines, line.Goroutines)
	case "simulated fault":
		r.faults = append(r.faults, fault{name: line.Fault, begin: line.Time})
	case "simulated fault repaired":
		if n := len(r.faults); n > 0 { // there is one at a time
			r.faults[n-1].end = line.Time
		}
	case "paced run done":
		r.lateSteps = line.LateSteps
	}
}

// watchMemory notes the resident memory once a second.
func (r *run) watchMemory(ctx context.Context, pid int) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if rss, err := measuring.RSSBytes(pid); err == nil {
			r.rssBytes = append(r.rssBytes, rss)
		}
	}
}

// checkStates checks that no step is missing and no power is lost.
func (r *run) checkStates(file string, durationS float64) error {
	const dtS = 0.1
	checks := map[string]*powerCheck{}
	steps := int64(0)
	var problems []error
	for state, err := range record.ReadFile(file) {
		if err != nil {
			return err
		}
		if state.Seq != steps {
			return fmt.Errorf("step %d follows step %d", state.Seq, steps-1)
		}
		steps++
		for i := range state.Models {
			m := &state.Models[i]
			check := checks[m.ModelLabel]
			if check == nil {
				if check, err = newPowerCheck(m.ModelLabel, r.faults); err != nil {
					return err
				}
				checks[m.ModelLabel] = check
			}
			check.step(state, m)
		}
	}
	if want := int64(math.Ceil(durationS/dtS - 1e-9)); steps != want {
		problems = append(problems, fmt.Errorf("%d steps, want %d", steps, want))
	}
	for _, label := range slices.Sorted(maps.Keys(checks)) {
		c := checks[label]
		fmt.Printf("%s: %.0f W a replica as a rule, at least %.0f W; in %d steps under full load, for which %.0f W are the least\n",
			label, measuring.Median(c.watts), slices.Min(c.watts), c.loadedSteps, c.loadedW)
		if c.first != nil {
			problems = append(problems, fmt.Errorf("%s: %w (%d such steps)", label, c.first, c.broken))
		}
	}
	fmt.Printf("%d steps, %d of them late by more than 5 ms; %d faults\n", steps, r.lateSteps, len(r.faults))
	if len(r.faults) == 0 {
		problems = append(problems, errors.New("no fault was caused"))
	}
	return errors.Join(problems...)
}

// powerCheck looks for lost power in a model's steps. The demo's GPUs are idle or
// run at least its smallest batch. So a replica never draws less than when idle;
// unless its vLLM server is or was at fault, whatever zeusd does, never much less
// than at the smallest batch; and it never falls at once, since the simulated
// servers are spread over 5 s of history. Power taken for half of what is held
// breaks one of these.
type powerCheck struct {
	idleW, loadedW, fallW float64 // bounds, in watts a replica
	faults                []fault // of the model's vLLM server
	recovering            bool    // from one of them
	watts                 []float64
	loadedSteps           int
	first                 error // the first broken bound
	broken                int
}

const (
	// settle is how long a fault shows: 5 s of history, and until the server is
	// loaded again; the log's times are in whole seconds.
	settle = 8 * time.Second
	// recoverWithin is when power must be back after a fault.
	recoverWithin = 30 * time.Second
	smallestBatch = 8
)

func newPowerCheck(label string, faults []fault) (*powerCheck, error) {
	gpus, known := map[string]float64{"Llama-3.1-8B": 1, "Llama-3.1-70B": 4, "Llama-3.1-405B": 8}[label]
	profile, simulated := sim.LookUpProfile(label)
	if !known || !simulated {
		return nil, fmt.Errorf("the demo has a model %q, which is not known here", label)
	}
	lowestW := gpus * profile.PowerWPerGPU(smallestBatch)
	c := &powerCheck{idleW: 0.9 * gpus * profile.IdleWPerGPU, loadedW: 0.75 * lowestW, fallW: 0.25 * lowestW}
	for _, f := range faults {
		server, _, _ := strings.Cut(f.name, ":")
		if suffix, ok := strings.CutPrefix(server, "vllm"); ok && strings.HasSuffix(strings.ToLower(label), suffix) {
			c.faults = append(c.faults, f)
		}
	}
	return c, nil
}

func (c *powerCheck) step(s *datacenter.State, m *datacenter.ModelState) {
	watts := m.PowerW / float64(m.ActiveReplicas)
	complain := func(format string, args ...any) {
		c.broken++
		if c.first == nil {
			c.first = fmt.Errorf("%.1f W a replica at %.1f s, "+format, append([]any{watts, s.TimeS}, args...)...)
		}
	}
	var over time.Duration // since the last fault
	for _, f := range c.faults {
		if s.WallTime.Before(f.begin) {
			break
		}
		if over = s.WallTime.Sub(f.end); f.end.IsZero() || over < settle {
			c.recovering, over = true, 0
		}
	}
	loaded := watts >= c.loadedW
	if over >= settle && loaded {
		c.recovering = false
	}
	switch n := len(c.watts); {
	case !(watts >= c.idleW):
		complain("less than idle GPUs draw (%.1f W)", c.idleW)
	case n > 0 && !(watts >= c.watts[n-1]-c.fallW):
		complain("down at once from %.1f W", c.watts[n-1])
	case c.recovering && over > recoverWithin:
		complain("less than %.1f W for %v after its server's last fault", c.loadedW, over)
	case !c.recovering && !loaded:
		complain("less than %.1f W while its server runs well", c.loadedW)
	}
	if !c.recovering {
		c.loadedSteps++
	}
	c.watts = append(c.watts, watts)
}

// checkGrowth compares the last quarter of the run with the second one.
func (r *run) checkGrowth(durationS float64) error {
	const leastS = 120 // before, memory is still being filled
	if durationS < leastS {
		fmt.Printf("memory and goroutines: too short a run to see growth; that takes %d s\n", leastS)
		return nil
	}
	var problems []error
	for _, q := range []struct {
		name, unit string
		values     []float64
		scale      float64
		slack      float64 // beside a quarter
	}{
		{"memory", "MiB", r.rssBytes, 1 << 20, 8},
		{"goroutines", "", r.goroutines, 1, 50},
	} {
		n := len(q.values) / 4
		if n == 0 {
			problems = append(problems, fmt.Errorf("%s was not seen", q.name))
			continue
		}
		early := measuring.Median(q.values[n:2*n]) / q.scale
		late := measuring.Median(q.values[len(q.values)-n:]) / q.scale
		fmt.Printf("%s: %.1f %s in the second quarter, %.1f %s in the last, at most %.1f\n",
			q.name, early, q.unit, late, q.unit, slices.Max(q.values)/q.scale)
		if late > 1.25*early+q.slack {
			problems = append(problems, fmt.Errorf("%s grew from %.1f to %.1f %s", q.name, early, late, q.unit))
		}
	}
	return errors.Join(problems...)
}
