package report

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/g2g-agent/g2g-agent/internal/excerpt"
)

// joulesPerMWh turns energies into what an operator reads.
const joulesPerMWh = 3.6e9

// WriteText writes the summary of a run that took so long as aligned text.
func (s *Summary) WriteText(w io.Writer, took time.Duration) error {
	return s.writeText(w, fmt.Sprintf("%d steps in %s", s.Steps, took.Round(time.Millisecond)))
}

// WriteFileText writes the summary of a file's states as aligned text.
func (s *Summary) WriteFileText(w io.Writer) error {
	title := fmt.Sprintf("%d steps of %.6g s", s.Steps, s.dtS)
	if math.IsNaN(s.dtS) {
		title = "1 step of unknown length"
	}
	if s.MissingSteps > 0 {
		title += fmt.Sprintf("; %d steps between them are missing", s.MissingSteps)
	}
	return s.writeText(w, title)
}

// maxLabel bounds what a table shows of a model's label, in bytes.
const maxLabel = 100

// writeText writes the tables under a title.
func (s *Summary) writeText(w io.Writer, title string) error {
	var t strings.Builder
	fmt.Fprintf(&t, "%s\n\n", title)
	s.writePower(&t)
	s.writeLatency(&t)
	s.writeThroughput(&t)
	aligned := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	if _, err := io.WriteString(aligned, t.String()); err != nil {
		return err
	}
	return aligned.Flush()
}

func label(m *ModelSummary) string { return excerpt.Printable(m.ModelLabel, maxLabel) }

func (s *Summary) writePower(t *strings.Builder) {
	fmt.Fprintln(t, "power\tmean kW\tpeak kW\tenergy MWh\t")
	row := func(name string, p *PowerSummary) {
		fmt.Fprintf(t, "%s\t%.1f\t%.1f\t%s\t\n", name, p.MeanW()/1e3, p.PeakW/1e3, decimals(4, p.EnergyJ/joulesPerMWh))
	}
	row("total", &s.Total)
	for i := range s.Phases {
		row("phase "+"ABC"[i:i+1], &s.Phases[i])
	}
	for i := range s.Models {
		row(label(&s.Models[i]), &s.Models[i].Power)
	}
	fmt.Fprintf(t, "\nworst phase imbalance %.2f %% of the mean, at t = %.1f s\n", 100*s.WorstImbalance, s.WorstImbalanceAtS)
}

func (s *Summary) writeLatency(t *strings.Builder) {
	rows := [][]string{{"inter-token latency", "mean ms", "max ms", "deadline ms", "steps over", "excess ms·s"}}
	for i := range s.Models {
		m := &s.Models[i]
		row := []string{label(m), unknown, unknown, decimals(1, 1e3*m.ITL.DeadlineS), unknown, unknown}
		if m.ITL.Steps > 0 {
			row[1], row[2] = decimals(2, 1e3*m.ITL.MeanS()), decimals(2, 1e3*m.ITL.MaxS)
			if !math.IsNaN(m.ITL.DeadlineS) {
				row[4] = fmt.Sprintf("%d (%.1f %%)", m.ITL.OverSteps, 100*float64(m.ITL.OverSteps)/float64(m.ITL.Steps))
				row[5] = decimals(1, 1e3*m.ITL.ExcessS2)
			}
		}
		rows = append(rows, row)
	}
	writeKnown(t, rows)
}

// writeThroughput writes what the states have of throughput and, in the columns "by
// ITL", what OpenG2G makes of their latencies.
func (s *Summary) writeThroughput(t *strings.Builder) {
	performance := s.Performance()
	rows := [][]string{{"throughput", "tokens/s", "tokens", "tokens/s by ITL", "tokens by ITL"}}
	row := func(name string, tokensPerS, tokens, byITL, tokensByITL float64) {
		rows = append(rows, []string{name, decimals(1, tokensPerS), decimals(0, tokens), decimals(1, byITL), decimals(0, tokensByITL)})
	}
	tokensPerS, tokens := s.throughput()
	// OpenG2G takes a model without latencies for one that makes nothing.
	byITL, tokensByITL := math.NaN(), math.NaN()
	if slices.ContainsFunc(s.Models, func(m ModelSummary) bool { return m.ITL.Steps > 0 }) {
		byITL, tokensByITL = performance.MeanThroughputTPS, performance.IntegratedThroughputTokens
	}
	row("total", tokensPerS, tokens, byITL, tokensByITL)
	for i := range s.Models {
		m := &s.Models[i]
		tokens := m.Throughput.Tokens
		if m.Throughput.Steps == 0 {
			tokens = math.NaN()
		}
		byITL := math.NaN()
		if m.ITL.Steps > 0 {
			byITL = performance.Models[i].MeanThroughputTPS
		}
		row(label(m), m.Throughput.MeanTokensPerS(), tokens, byITL, byITL*s.performance.durationS())
	}
	writeKnown(t, rows)
}

// writeKnown writes a table, after an empty line, without the columns of which nothing is
// known: nothing if that is all but the first.
func writeKnown(t *strings.Builder, rows [][]string) {
	var columns []int
	for k := range rows[0] {
		if slices.ContainsFunc(rows[1:], func(row []string) bool { return row[k] != unknown }) {
			columns = append(columns, k)
		}
	}
	if len(columns) < 2 {
		return
	}
	t.WriteByte('\n')
	for _, row := range rows {
		for _, k := range columns {
			t.WriteString(row[k] + "\t")
		}
		t.WriteByte('\n')
	}
}

// unknown stands for what is not known in a table.
const unknown = "-"

// decimals writes v with so many decimals, [unknown] for no number.
func decimals(n int, v float64) string {
	if math.IsNaN(v) {
		return unknown
	}
	return strconv.FormatFloat(v, 'f', n, 64)
}
