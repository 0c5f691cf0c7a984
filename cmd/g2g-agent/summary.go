package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/g2g-agent/g2g-agent/agent"
)

// joulesPerMWh turns energies into what an operator reads.
const joulesPerMWh = 3.6e9

// printSummary writes a run's summary as aligned text.
func printSummary(w io.Writer, s *agent.Summary, took time.Duration) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "%d steps in %s\n\n", s.Steps, took.Round(time.Millisecond))
	fmt.Fprintln(t, "power\tmean kW\tpeak kW\tenergy MWh\t")
	row := func(name string, p *agent.PowerSummary) {
		fmt.Fprintf(t, "%s\t%.1f\t%.1f\t%.4f\t\n", name, p.MeanW()/1e3, p.PeakW/1e3, p.EnergyJ/joulesPerMWh)
	}
	row("total", &s.Total)
	for i := range s.Phases {
		row("phase "+"ABC"[i:i+1], &s.Phases[i])
	}
	for i := range s.Models {
		row(s.Models[i].ModelLabel, &s.Models[i].Power)
	}
	fmt.Fprintf(t, "\nworst phase imbalance %.2f %% of the mean, at t = %.1f s\n\n", 100*s.WorstImbalance, s.WorstImbalanceAtS)
	fmt.Fprintln(t, "inter-token latency\tmean ms\tmax ms\tdeadline ms\tsteps over\t")
	for i := range s.Models {
		m := &s.Models[i]
		if m.ITL.Steps == 0 {
			fmt.Fprintf(t, "%s\t-\t-\t%.1f\t-\t\n", m.ModelLabel, 1e3*m.ITL.DeadlineS)
			continue
		}
		fmt.Fprintf(t, "%s\t%.2f\t%.2f\t%.1f\t%d (%.1f %%)\t\n", m.ModelLabel, 1e3*m.ITL.MeanS(), 1e3*m.ITL.MaxS, 1e3*m.ITL.DeadlineS,
			m.ITL.OverSteps, 100*float64(m.ITL.OverSteps)/float64(m.ITL.Steps))
	}
	return t.Flush()
}
