package main

import (
	"bytes"
	"math"
	"strings"
	"testing"

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

func TestStateTable(t *testing.T) {
	var b bytes.Buffer
	writeState(&b, tableState(), map[string]float64{"small": 0.08, "large": 0.12})
	const want = `t = 12.3 s   1.800 MW   A 500.0 kW   B 600.0 kW   C 700.0 kW   measured 3.60 kW

  model  batch  running  waiting  replicas     MW  measured W  ITL ms  p99 ms  deadline ms   power is
  small     64       63       65       720  1.250         600   12.30   45.60           80      fresh
  large      8        -        -        90  0.550        3000       -       -          120  2.2 s old
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}

func TestLiveTableIsDrawnOverItself(t *testing.T) {
	var b bytes.Buffer
	table := &liveTable{w: &b, width: 30}
	for range tableLogLines + 3 {
		if _, err := table.Write([]byte("a log line that is longer than the screen is wide\n")); err != nil {
			t.Fatal(err)
		}
	}
	table.show(tableState())
	table.draw()
	b.Reset()
	table.draw()
	lines := strings.Split(strings.TrimSuffix(b.String(), "\x1b[J"), "\n")
	if want := "\x1b[14A"; !strings.HasPrefix(lines[0], want) {
		t.Errorf("the table begins with %q, want %q: up by its %d lines", lines[0], want, table.shown)
	}
	if table.shown != 6+tableLogLines || len(lines) != table.shown+1 {
		t.Errorf("%d lines are shown, want the state's 6 and the last %d of the log", table.shown, tableLogLines)
	}
	for _, line := range lines[1:] {
		if text := strings.TrimSuffix(line, "\x1b[K"); len([]rune(text)) > 29 {
			t.Errorf("%q would wrap", text)
		}
	}
}
