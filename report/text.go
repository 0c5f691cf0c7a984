package report

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// joulesPerMWh turns energies into what an operator reads.
const joulesPerMWh = 3.6e9

// WriteText writes the summary of a run that took so long as aligned text.
func (s *Summary) WriteText(w io.Writer, took time.Duration) error {
	var t strings.Builder
	fmt.Fprintf(&t, "%d steps in %s\n\n", s.Steps, took.Round(time.Millisecond))
	fmt.Fprintln(&t, "power\tmean kW\tpeak kW\tenergy MWh\t")
	row := func(name string, p *PowerSummary) {
		fmt.Fprintf(&t, "%s\t%.1f\t%.1f\t%.4f\t\n", name, p.MeanW()/1e3, p.PeakW/1e3, p.EnergyJ/joulesPerMWh)
	}
	row("total", &s.Total)
	for i := range s.Phases {
		row("phase "+"ABC"[i:i+1], &s.Phases[i])
	}
	for i := range s.Models {
		row(s.Models[i].ModelLabel, &s.Models[i].Power)
	}
	fmt.Fprintf(&t, "\nworst phase imbalance %.2f %% of the mean, at t = %.1f s\n\n", 100*s.WorstImbalance, s.WorstImbalanceAtS)
	fmt.Fprintln(&t, "inter-token latency\tmean ms\tmax ms\tdeadline ms\tsteps over\t")
	for i := range s.Models {
		m := &s.Models[i]
		if m.ITL.Steps == 0 {
			fmt.Fprintf(&t, "%s\t-\t-\t%.1f\t-\t\n", m.ModelLabel, 1e3*m.ITL.DeadlineS)
			continue
		}
		fmt.Fprintf(&t, "%s\t%.2f\t%.2f\t%.1f\t%d (%.1f %%)\t\n", m.ModelLabel, 1e3*m.ITL.MeanS(), 1e3*m.ITL.MaxS, 1e3*m.ITL.DeadlineS,
			m.ITL.OverSteps, 100*float64(m.ITL.OverSteps)/float64(m.ITL.Steps))
	}
	aligned := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	if _, err := io.WriteString(aligned, t.String()); err != nil {
		return err
	}
	return aligned.Flush()
}
