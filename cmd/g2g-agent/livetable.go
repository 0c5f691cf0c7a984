package main

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"sync"
	"sync/atomic"
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
// below. It is an io.Writer for the log. Only its own goroutine waits for the
// terminal.
type liveTable struct {
	w         io.Writer
	size      func() (width, height int)
	deadlineS map[string]float64 // by model label

	state atomic.Pointer[datacenter.State]
	page  atomic.Pointer[string] // the live page's address
	mu    sync.Mutex
	logs  []string // the newest lines

	shown int // lines on the screen; the goroutine's

	// end stops the drawing after a last time; calls after the first do nothing.
	end func()
}

// startLiveTable draws a table on a terminal until its end is called.
func startLiveTable(f *os.File, models []datacenter.ModelSpec) *liveTable {
	t := &liveTable{w: f, deadlineS: map[string]float64{}}
	t.size = func() (width, height int) {
		width, height, err := term.GetSize(int(f.Fd()))
		if err != nil || width <= 0 || height <= 0 {
			return 100, 24
		}
		return width, height
	}
	for _, m := range models {
		t.deadlineS[m.ModelLabel] = m.ITLDeadlineS
	}
	t.start()
	return t
}

// start starts the goroutine that draws.
func (t *liveTable) start() {
	ending, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(tableEvery)
		defer ticker.Stop()
		for {
			t.draw()
			select {
			case <-ending:
				t.draw()
				return
			case <-ticker.C:
			}
		}
	}()
	t.end = sync.OnceFunc(func() {
		close(ending)
		// A terminal that is held up cannot be told so.
		_ = within(noticeTimeout, func() error { <-ended; return nil })
	})
}

// Write takes in log lines.
func (t *liveTable) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for line := range strings.Lines(string(p)) {
		t.logs = append(t.logs, strings.TrimRight(line, "\n"))
	}
	t.logs = t.logs[max(0, len(t.logs)-tableLogLines):]
	return len(p), nil
}

// show takes in a state.
func (t *liveTable) show(s *datacenter.State) { t.state.Store(s) }

// showPage takes in the live page's address.
func (t *liveTable) showPage(url string) { t.page.Store(&url) }

// draw writes the table over the one before it.
func (t *liveTable) draw() {
	width, height := t.size()
	var screen bytes.Buffer
	if t.shown > 0 {
		fmt.Fprintf(&screen, "\x1b[%dA", t.shown)
	}
	lines := t.lines(height - 1) // the cursor stands below
	for _, line := range lines {
		screen.WriteString(cut(line, width-1))
		screen.WriteString("\x1b[K\n")
	}
	t.shown = len(lines)
	screen.WriteString("\x1b[J")
	_, _ = t.w.Write(screen.Bytes()) // a terminal that is gone cannot be told so
}

// lines are at most so many lines to draw: the page's address, the state, and
// below it the newest of the log that still fit.
func (t *liveTable) lines(limit int) []string {
	var lines []string
	if s := t.state.Load(); s != nil {
		var b strings.Builder
		writeState(&b, s, t.deadlineS)
		lines = append(strings.Split(strings.TrimRight(b.String(), "\n"), "\n"), "")
	}
	if url := t.page.Load(); url != nil {
		lines = append([]string{"live page: " + *url, ""}, lines...)
	}
	lines = lines[:min(len(lines), max(limit, 0))]
	t.mu.Lock()
	defer t.mu.Unlock()
	newest := min(len(t.logs), max(limit, 0)-len(lines))
	return append(lines, t.logs[len(t.logs)-newest:]...)
}

// cut shortens a line that would wrap.
func cut(line string, width int) string {
	runes := []rune(line)
	switch {
	case len(runes) <= width:
		return line
	case width < 1:
		return ""
	default:
		return string(runes[:width-1]) + "…"
	}
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
			running, waiting = requestCount(l.NumRequestsRunning), requestCount(l.NumRequestsWaiting)
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

// requestCount prints a number of requests, - for one that is not known.
func requestCount(n float64) string {
	if math.IsNaN(n) {
		return "-"
	}
	return fmt.Sprintf("%.0f", n)
}

// milliseconds prints a time in seconds, - for none.
func milliseconds(s float64) string {
	if math.IsNaN(s) {
		return "-"
	}
	return fmt.Sprintf("%.2f", 1e3*s)
}
