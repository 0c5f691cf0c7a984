package main

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

func tableState() *datacenter.State {
	nan := math.NaN()
	return &datacenter.State{
		TimeS: 12.3, Source: datacenter.SourceLive, PowerW: datacenter.ThreePhase{A: 5e5, B: 6e5, C: 7e5},
		Models: []datacenter.ModelState{
			{
				ModelLabel: "small", PowerW: 1.25e6, ActiveReplicas: 720, BatchSize: 64, ObservedITLS: 0.0123,
				Live: datacenter.LiveModelState{
					MeasuredPowerW: 600, Server: &datacenter.ServerLoad{NumRequestsRunning: 63, NumRequestsWaiting: 65},
					ITLPercentilesS: datacenter.ITLPercentiles{P50: 0.01, P90: 0.02, P95: 0.03, P99: 0.0456},
				},
			},
			{
				ModelLabel: "large", PowerW: 5.5e5, ActiveReplicas: 90, BatchSize: 8, ObservedITLS: nan,
				Live: datacenter.LiveModelState{MeasuredPowerW: 3000, ITLPercentilesS: datacenter.ITLPercentiles{P99: nan}, Stale: true, StaleAgeS: 2.25},
			},
		},
	}
}

// Each number of a server's metrics may be unknown.
func TestStateTableOfUnknownNumbers(t *testing.T) {
	for running, load := range map[string]datacenter.ServerLoad{
		"-       65": {NumRequestsRunning: math.NaN(), NumRequestsWaiting: 65}, "63        -": {NumRequestsRunning: 63, NumRequestsWaiting: math.NaN()},
	} {
		state := tableState()
		state.Models[0].Live.Server = &load
		var b bytes.Buffer
		writeState(&b, state, map[string]float64{"small": 0.08, "large": 0.12})
		if row := strings.Split(b.String(), "\n")[3]; !strings.HasPrefix(row, "  small     64") || !strings.Contains(row, running) {
			t.Errorf("the row is %q, want it to have %q", row, running)
		}
	}
}

func TestStateTable(t *testing.T) {
	var b bytes.Buffer
	writeState(&b, tableState(), map[string]float64{"small": 0.08, "large": 0.12})
	const want = `t = 12.3 s   1.800 MW   A 500.0 kW   B 600.0 kW   C 700.0 kW   measured 3.60 kW

  model  batch  running  waiting  replicas     MW  measured W  ITL ms  p99 ms  deadline ms   power is
  small     64       63       65       720  1.250         600   12.30   45.60           80      fresh
  large      8        -        -        90  0.550        3000       -       -          120  2.2 s old
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("the table (-want +got):\n%s", diff)
	}
}

// drawnTable returns a table of a width and height that was drawn once, with the
// state and a full log.
func drawnTable(t *testing.T, w *bytes.Buffer, width, height int) *liveTable {
	t.Helper()
	table := &liveTable{w: w, size: func() (int, int) { return width, height }}
	for i := range tableLogLines + 3 {
		if _, err := fmt.Fprintf(table, "%d: a log line that is longer than the screen is wide\n", i); err != nil {
			t.Fatal(err)
		}
	}
	table.show(tableState())
	table.draw()
	return table
}

// screenLines are the lines of the last drawing.
func screenLines(b *bytes.Buffer) []string {
	return strings.Split(strings.TrimSuffix(b.String(), "\x1b[J"), "\x1b[K\n")
}

func TestLiveTableIsDrawnOverItself(t *testing.T) {
	var b bytes.Buffer
	table := drawnTable(t, &b, 30, 50)
	b.Reset()
	table.draw()
	lines := screenLines(&b)
	if want := "\x1b[14A"; !strings.HasPrefix(lines[0], want) {
		t.Errorf("the table begins with %q, want %q: up by its %d lines", lines[0], want, table.shown)
	}
	if table.shown != 6+tableLogLines || len(lines) != table.shown+1 {
		t.Errorf("%d lines are shown, want the state's 6 and the last %d of the log", table.shown, tableLogLines)
	}
	for _, line := range lines[1:] {
		if len([]rune(line)) > 29 {
			t.Errorf("%q would wrap", line)
		}
	}
}

// TestLiveTableFitsTheScreen: a line more than fits, and the screen scrolls.
func TestLiveTableFitsTheScreen(t *testing.T) {
	for height, wantLast := range map[int]string{
		50: "10: a log", 15: "10: a log", 10: "10: a log", 8: "10: a log", 7: "", 6: "  large", 2: "t = 12.3 s", 1: "",
	} {
		var b bytes.Buffer
		table := drawnTable(t, &b, 100, height)
		lines := screenLines(&b)
		if want := min(14, height-1); table.shown != want || len(lines) != want+1 {
			t.Errorf("height %d: %d lines are shown, want %d", height, table.shown, want)
		}
		if table.shown > 0 && (!strings.HasPrefix(lines[table.shown-1], wantLast) || !strings.HasPrefix(lines[0], "t = 12.3 s")) {
			t.Errorf("height %d: shown from %q to %q, want the last to begin with %q", height, lines[0], lines[table.shown-1], wantLast)
		}
	}
}

func TestLiveTableFollowsTheWindow(t *testing.T) {
	var b bytes.Buffer
	table := drawnTable(t, &b, 100, 50)
	table.size = func() (int, int) { return 20, 5 }
	b.Reset()
	table.draw()
	if lines := screenLines(&b); table.shown != 4 || len([]rune(lines[2])) != 19 {
		t.Errorf("%d lines are shown, one of them %q, want 4 of 19 characters", table.shown, lines[2])
	}
}

// stuckWriter takes nothing until it is released.
type stuckWriter struct {
	released chan struct{}
	mu       sync.Mutex
	taken    bytes.Buffer
}

func newStuckWriter() *stuckWriter { return &stuckWriter{released: make(chan struct{})} }

func (w *stuckWriter) Write(p []byte) (int, error) {
	<-w.released
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.taken.Write(p)
}

func (w *stuckWriter) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.taken.String()
}

// TestLiveTableOnStuckTerminal: neither states nor log lines wait for it.
func TestLiveTableOnStuckTerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		terminal := newStuckWriter()
		table := &liveTable{w: terminal, size: func() (int, int) { return 100, 50 }}
		table.start()
		began := time.Now()
		for range 1000 {
			table.show(tableState())
			if _, err := table.Write([]byte("a line\n")); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("states and lines waited for %v", took)
		}
		table.end()
		table.end()
		if took := time.Since(began); took != noticeTimeout {
			t.Errorf("the end waited for %v, want %v", took, noticeTimeout)
		}
		close(terminal.released)
	})
}

func TestLiveTableShowsTheLastState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		terminal := newStuckWriter()
		close(terminal.released)
		table := &liveTable{w: terminal, size: func() (int, int) { return 100, 50 }}
		table.start()
		state := tableState()
		table.show(state)
		<-time.After(tableEvery)
		synctest.Wait()
		last := *state
		last.TimeS = 99.9
		table.show(&last)
		table.end()
		if text := terminal.text(); !strings.Contains(text, "t = 12.3 s") || !strings.Contains(text, "t = 99.9 s") {
			t.Errorf("drawn was %q", text)
		}
	})
}
