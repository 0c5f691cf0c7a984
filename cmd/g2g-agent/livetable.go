package main

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

const (
	tableEvery    = 250 * time.Millisecond // how often it is drawn anew
	tableLogLines = 8
)

// liveTable shows the latest state on a terminal, with the newest log lines
// below. It is an io.Writer for the log.
type liveTable struct {
	w         io.Writer
	width     int
	deadlineS map[string]float64 // by model label

	mu    sync.Mutex
	logs  []string // the newest lines
	state *datacenter.State
	shown int // lines on the screen
	at    time.Time
}

// newLiveTable returns a table on w, which is a terminal fd characters wide.
func newLiveTable(w io.Writer, fd int, models []datacenter.ModelSpec) *liveTable {
	t := &liveTable{w: w, width: 100, deadlineS: map[string]float64{}}
	if width, _, err := term.GetSize(fd); err == nil && width > 0 {
		t.width = width
	}
	for _, m := range models {
		t.deadlineS[m.ModelLabel] = m.ITLDeadlineS
	}
	return t
}

// Write takes in log lines.
func (t *liveTable) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for line := range strings.Lines(string(p)) {
		t.logs = append(t.logs, strings.TrimRight(line, "\n"))
	}
	t.logs = t.logs[max(0, len(t.logs)-tableLogLines):]
	t.draw()
	return len(p), nil
}

// show takes in a state.
func (t *liveTable) show(s *datacenter.State) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.state = s
	if time.Since(t.at) >= tableEvery {
		t.draw()
	}
}

// draw writes the table over the one before it.
func (t *liveTable) draw() {
	t.at = time.Now()
	var b bytes.Buffer
	if t.state != nil {
		writeState(&b, t.state, t.deadlineS)
		b.WriteByte('\n')
	}
	for _, line := range t.logs {
		b.WriteString(line)
		b.WriteByte('\n')
	}
	var screen bytes.Buffer
	if t.shown > 0 {
		fmt.Fprintf(&screen, "\x1b[%dA", t.shown)
	}
	t.shown = 0
	for line := range strings.Lines(b.String()) {
		screen.WriteString(cut(strings.TrimRight(line, "\n"), t.width-1))
		screen.WriteString("\x1b[K\n")
		t.shown++
	}
	screen.WriteString("\x1b[J")
	_, _ = t.w.Write(screen.Bytes()) // a terminal that is gone cannot be told so
}

// cut shortens a line that would wrap.
func cut(line string, width int) string {
	if runes := []rune(line); len(runes) > width && !strings.Contains(line, "\x1b") {
		return string(runes[:max(width-1, 0)]) + "…"
	}
	return line
}

// writeState writes a state as a table.
func writeState(w io.Writer, s *datacenter.State, deadlineS map[string]float64) {
	fmt.Fprintf(w, "t = %.1f s   %.3f MW   A %.1f kW   B %.1f kW   C %.1f kW   measured %.2f kW\n\n", s.TimeS, s.PowerW.Total()/1e6,
		s.PowerW.A/1e3, s.PowerW.B/1e3, s.PowerW.C/1e3, measuredW(s)/1e3)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "model\tbatch\trunning\twaiting\treplicas\tMW\tmeasured W\tITL ms\tp99 ms\tdeadline ms\tpower is\t")
	for i := range s.Models {
		m := &s.Models[i]
		running, waiting := "-", "-"
		if l := m.Live.Server; l != nil {
			running, waiting = fmt.Sprintf("%.0f", l.NumRequestsRunning), fmt.Sprintf("%.0f", l.NumRequestsWaiting)
		}
		fresh := "fresh"
		if m.Live.Stale {
			fresh = fmt.Sprintf("%.1f s old", m.Live.StaleAgeS)
		}
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%d\t%.3f\t%.0f\t%s\t%s\t%.0f\t%s\t\n", m.ModelLabel, m.BatchSize, running, waiting, m.ActiveReplicas,
			m.PowerW/1e6, m.Live.MeasuredPowerW, milliseconds(m.ObservedITLS), milliseconds(m.Live.ITLPercentilesS.P99), 1e3*deadlineS[m.ModelLabel], fresh)
	}
	_ = t.Flush() // into memory
}

func measuredW(s *datacenter.State) float64 {
	w := 0.0
	for i := range s.Models {
		w += s.Models[i].Live.MeasuredPowerW
	}
	return w
}

// milliseconds prints a time in seconds, - for none.
func milliseconds(s float64) string {
	if math.IsNaN(s) {
		return "-"
	}
	return fmt.Sprintf("%.2f", 1e3*s)
}
