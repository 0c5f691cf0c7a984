// Command soak runs the demo under faults and checks that it neither grows nor
// stumbles: every step is there, no model's power dips, memory and goroutines
// stay flat. It needs Linux, for /proc.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/g2g-agent/g2g-agent/record"
)

func main() {
	durationS := flag.Float64("duration-s", 1800, "how long the demo steps")
	binary := flag.String("binary", "", "the g2g-agent to run; without it, it is built")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := soak(ctx, *binary, *durationS)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

// run is what was seen of the demo from outside.
type run struct {
	goroutines []float64 // as it told every 10 s
	faults     int
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
		binary = filepath.Join(dir, "g2g-agent")
		build := exec.CommandContext(ctx, "go", "build", "-o", binary, "./cmd/g2g-agent")
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			return fmt.Errorf("building: %w", err)
		}
	}
	states := filepath.Join(dir, "states.jsonl")
	demo := exec.CommandContext(ctx, binary, "demo", "--faults", "--duration-s", strconv.FormatFloat(durationS, 'g', -1, 64), "--out", states)
	demo.Env = append(os.Environ(), "G2G_AGENT_LOG__LEVEL=debug", "G2G_AGENT_LOG__FORMAT=json")
	demo.Cancel = func() error { return demo.Process.Signal(os.Interrupt) }
	logs, err := demo.StderrPipe()
	if err != nil {
		return err
	}
	if err := demo.Start(); err != nil {
		return err
	}
	var r run
	watching, exited := context.WithCancel(ctx)
	var watchers sync.WaitGroup
	watchers.Go(func() { r.watchMemory(watching, demo.Process.Pid) })
	r.readLogs(logs) // until the demo closes it
	err = demo.Wait()
	exited()
	watchers.Wait()
	if err != nil {
		return fmt.Errorf("the demo failed: %w\n%s", err, strings.Join(r.complaints, "\n"))
	}
	return errors.Join(r.checkStates(states, durationS), r.checkGrowth())
}

// readLogs takes from the log what is of interest.
func (r *run) readLogs(logs io.Reader) {
	scanner := bufio.NewScanner(logs)
	for scanner.Scan() {
		var line struct {
			Message    string  `json:"message"`
			Goroutines float64 `json:"goroutines"`
			LateSteps  int     `json:"late_steps"`
		}
		if json.Unmarshal(scanner.Bytes(), &line) != nil {
			r.complaints = append(r.complaints, scanner.Text())
			continue
		}
		switch line.Message {
		case "alive":
			r.goroutines = append(r.goroutines, line.Goroutines)
		case "simulated fault":
			r.faults++
		case "paced run done":
			r.lateSteps = line.LateSteps
		}
	}
	_, _ = io.Copy(io.Discard, logs) // a line too long to scan must not block the demo
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
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
		if fields := strings.Fields(string(raw)); err == nil && len(fields) > 1 {
			if pages, err := strconv.ParseFloat(fields[1], 64); err == nil {
				r.rssBytes = append(r.rssBytes, pages*float64(os.Getpagesize()))
			}
		}
	}
}

// checkStates checks that no step is missing and no power dips: the GPUs are
// loaded or, when their server is dead, idle, but never without power.
func (r *run) checkStates(file string, durationS float64) error {
	const dtS = 0.1
	perReplicaW := map[string][]float64{}
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
			perReplicaW[m.ModelLabel] = append(perReplicaW[m.ModelLabel], m.PowerW/float64(m.ActiveReplicas))
		}
	}
	if want := int64(math.Ceil(durationS/dtS - 1e-9)); steps != want {
		problems = append(problems, fmt.Errorf("%d steps, want %d", steps, want))
	}
	for label, watts := range perReplicaW {
		lowest, usual := slices.Min(watts), median(watts)
		fmt.Printf("%s: %.0f W a replica as a rule, at least %.0f W\n", label, usual, lowest)
		// An idle GPU draws more than a tenth of what a busy one does.
		if !(lowest > 0.1*usual) {
			problems = append(problems, fmt.Errorf("the power of %s dips to %.1f W a replica from %.1f W", label, lowest, usual))
		}
	}
	fmt.Printf("%d steps, %d of them late by more than 5 ms; %d faults\n", steps, r.lateSteps, r.faults)
	return errors.Join(problems...)
}

// checkGrowth compares the last quarter of the run with the second one.
func (r *run) checkGrowth() error {
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
			fmt.Printf("%s: too short a run to see growth\n", q.name)
			continue
		}
		early, late := median(q.values[n:2*n])/q.scale, median(q.values[len(q.values)-n:])/q.scale
		fmt.Printf("%s: %.1f %s in the second quarter, %.1f %s in the last, at most %.1f\n", q.name, early, q.unit, late, q.unit, slices.Max(q.values)/q.scale)
		if late > 1.25*early+q.slack {
			problems = append(problems, fmt.Errorf("%s grew from %.1f to %.1f %s", q.name, early, late, q.unit))
		}
	}
	return errors.Join(problems...)
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
