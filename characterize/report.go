package characterize

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"gonum.org/v1/gonum/stat"
)

// Report tells how well each point was measured.
type Report struct {
	Points   []PointReport   `json:"points"`
	LeftOut  []FailureReport `json:"left_out"`
	Warnings []string        `json:"warnings"`
	// Complete says that all points are measured and the data is written.
	Complete bool `json:"complete"`
}

// PointReport tells how well a point was measured. Power and throughput are of one
// replica; nil is unknown.
type PointReport struct {
	Spec
	PowerW float64 `json:"power_w"`
	// PowerBy is energy_counters, or readings where those do not tell; ReadingsPowerW is
	// the power by the readings in any case.
	PowerBy              string   `json:"power_by"`
	ReadingsPowerW       float64  `json:"readings_power_w"`
	ITLMeanS             *float64 `json:"itl_mean_s"`
	ITLP50S              *float64 `json:"itl_p50_s"`
	ITLP90S              *float64 `json:"itl_p90_s"`
	ITLP95S              *float64 `json:"itl_p95_s"`
	ITLP99S              *float64 `json:"itl_p99_s"`
	ThroughputTokensPerS float64  `json:"throughput_tokens_per_s"`
	// AchievedShare is what the servers ran of the batch size, in the mean.
	AchievedShare *float64 `json:"achieved_share"`
	// Steady says that power and latency were steady while they were measured, and
	// before. The drifts are those of the second half against the first, as shares, of
	// the mean power and of the median latency.
	Steady                  bool     `json:"steady"`
	Settled                 bool     `json:"settled"`
	PowerDrift              *float64 `json:"power_drift"`
	PowerDriftStandardError *float64 `json:"power_drift_standard_error"`
	ITLDrift                *float64 `json:"itl_drift"`
	ITLDriftStandardError   *float64 `json:"itl_drift_standard_error"`
	SettleS                 float64  `json:"settle_s"`
	// MeasuredS is the time that counts, of ElapsedS.
	MeasuredS float64 `json:"measured_s"`
	ElapsedS  float64 `json:"elapsed_s"`
	// PowerSamples and ITLSamples count readings, and tokens with a latency, in all of
	// the time; ITLShare is the part of these that is kept.
	PowerSamples int     `json:"power_samples"`
	ITLSamples   int     `json:"itl_samples"`
	ITLShare     float64 `json:"itl_share"`
	// Gaps is the number of stretches of time that were cut out, GapsSByCause how long
	// they were, in seconds, by what was amiss; StaleS is that of power.
	Gaps         int                `json:"gaps"`
	GapsSByCause map[string]float64 `json:"gaps_s_by_cause"`
	StaleS       float64            `json:"stale_s"`

	BatchSizeActuator string `json:"batch_size_actuator"`
	ITLMethod         string `json:"itl_method"`
}

// FailureReport is a point that could not be measured.
type FailureReport struct {
	Spec
	Why string `json:"why"`
}

// causeStale is the cause of gaps in which the power was stale.
const causeStale = "power stale"

// Report tells how well all points were measured.
func (m *Measured) Report() *Report {
	r := &Report{Points: []PointReport{}, LeftOut: []FailureReport{}, Warnings: slices.Concat([]string{}, m.Warnings), Complete: m.Written}
	for _, p := range m.Points {
		r.Points = append(r.Points, p.report())
	}
	for _, f := range m.Failures {
		r.LeftOut = append(r.LeftOut, FailureReport{f.Spec, f.Err.Error()})
	}
	return r
}

func (p *Point) report() PointReport {
	r := PointReport{
		Spec: p.Spec, PowerW: p.PowerW(), PowerBy: "readings", ReadingsPowerW: p.ReadingsPowerW(), ITLMeanS: known(p.MeanITLS()), ThroughputTokensPerS: p.ThroughputTokensPerS(),
		Settled: p.Settled, SettleS: p.SettleS, MeasuredS: p.measuredS(),
		ElapsedS: float64(p.Spans[len(p.Spans)-1].ToNS-p.Spans[0].FromNS) / 1e9,
		ITLShare: p.ITL.Share, GapsSByCause: map[string]float64{}, BatchSizeActuator: p.BatchSizeActuator, ITLMethod: p.ITLMethod,
	}
	if _, ok := p.energyPowerW(); ok {
		r.PowerBy = "energy_counters"
	}
	for _, g := range p.GPUs {
		r.PowerSamples += len(g.AtNS)
	}
	for _, n := range p.ITL.Tokens {
		r.ITLSamples += n
	}
	var latencies, tokens []float64
	p.eachLatency(func(itlS float64, n int) { latencies, tokens = append(latencies, itlS), append(tokens, float64(n)) })
	if len(latencies) > 0 {
		stat.SortWeighted(latencies, tokens)
		for _, q := range []struct {
			q  float64
			to **float64
		}{{0.5, &r.ITLP50S}, {0.9, &r.ITLP90S}, {0.95, &r.ITLP95S}, {0.99, &r.ITLP99S}} {
			*q.to = known(stat.Quantile(q.q, stat.Empirical, latencies, tokens))
		}
	}
	p.reportSpans(&r)
	return r
}

func (p *Point) reportSpans(r *PointReport) {
	var s series
	var running, seconds float64
	before := ""
	for i := range p.Spans {
		span := &p.Spans[i]
		length := float64(span.ToNS-span.FromNS) / 1e9
		if span.LeftOut != "" {
			cause, _, _ := strings.Cut(span.LeftOut, ":")
			if before == "" {
				r.Gaps++
			}
			r.GapsSByCause[cause] += length
		} else {
			if span.PowerW != nil && span.ITLP50S != nil {
				s.add(*span.PowerW, *span.ITLP50S)
			}
			if span.Running != nil {
				running += float64(*span.Running * length)
				seconds += length
			}
		}
		before = span.LeftOut
	}
	r.StaleS = r.GapsSByCause[causeStale]
	r.AchievedShare = known(running / seconds / float64(p.BatchSize))
	power, itl := s.drifts(len(s.powerW))
	r.PowerDrift, r.PowerDriftStandardError = known(power.Share), known(power.StandardError)
	r.ITLDrift, r.ITLDriftStandardError = known(itl.Share), known(itl.StandardError)
	r.Steady = p.Settled && power.steady(powerTolerance) && itl.steady(itlTolerance)
}

// textHead and textKey are above and below the table, for who sees one for the first
// time.
const (
	textHead = "model\tbatch\t%spower\tdrift\tITL mean\tp50\tp90\tp99\tdrift\tthroughput\tachieved\tmeasured\tcut out\tsettling\tsteady\t\n" +
		"\tsize\t%sW\t%%\tms\tms\tms\tms\t%%\ttokens/s\t%%\ts\ts\ts\t\t\n"
	textKey = "Power (of all its GPUs) and throughput are of one replica. ITL is the inter-token latency. The drifts are how much mean power and\n" +
		"median latency changed from the first to the second half. Achieved is what the servers ran of the batch size. Measured is the\n" +
		"time that counts; cut out is that in between in which something was amiss; settling came before.\n"
)

// WriteText writes the report as a table for people.
func (r *Report) WriteText(w io.Writer) error {
	var text strings.Builder
	var rows strings.Builder
	repeated := r.repeated()
	repeat := func(text string) string {
		if !repeated {
			return ""
		}
		return text + "\t"
	}
	fmt.Fprintf(&rows, textHead, repeat("repeat"), repeat(""))
	for i := range r.Points {
		p := &r.Points[i]
		steady := "yes"
		if !p.Steady {
			steady = "NO"
		}
		fmt.Fprintf(&rows, "%s\t%d\t%s%.1f\t%s\t%s\t%s\t%s\t%s\t%s\t%.1f\t%s\t%.1f\t%.1f\t%.1f\t%s\t\n",
			p.ModelLabel, p.BatchSize, repeat(strconv.Itoa(p.Repeat+1)), p.PowerW, number(p.PowerDrift, 100, 2), number(p.ITLMeanS, 1e3, 3), number(p.ITLP50S, 1e3, 3), number(p.ITLP90S, 1e3, 3),
			number(p.ITLP99S, 1e3, 3), number(p.ITLDrift, 100, 2), p.ThroughputTokensPerS, number(p.AchievedShare, 100, 1),
			p.MeasuredS, p.ElapsedS-p.MeasuredS, p.SettleS, steady)
	}
	t := tabwriter.NewWriter(&text, 0, 8, 2, ' ', tabwriter.AlignRight)
	if _, err := io.WriteString(t, rows.String()); err != nil {
		return err
	}
	if err := t.Flush(); err != nil {
		return err
	}
	text.WriteString(textKey)
	for i := range r.Points {
		p := &r.Points[i]
		for _, cause := range slices.Sorted(maps.Keys(p.GapsSByCause)) {
			fmt.Fprintf(&text, "%s: %.1f s cut out: %s\n", p.name(repeated), p.GapsSByCause[cause], cause)
		}
		if !p.Steady {
			fmt.Fprintf(&text, "%s was not steady: %s\n", p.name(repeated), p.unsteady())
		}
	}
	for _, f := range r.LeftOut {
		fmt.Fprintf(&text, "%s is left out: %s\n", f.name(repeated), f.Why)
	}
	for _, warning := range r.Warnings {
		fmt.Fprintln(&text, "warning: "+warning)
	}
	_, err := io.WriteString(w, text.String())
	return err
}

// repeated reports whether a batch size is measured more than once.
func (r *Report) repeated() bool {
	return slices.ContainsFunc(r.Points, func(p PointReport) bool { return p.Repeat > 0 }) ||
		slices.ContainsFunc(r.LeftOut, func(f FailureReport) bool { return f.Repeat > 0 })
}

// name names a point for people, who count from 1.
func (s *Spec) name(repeated bool) string {
	if !repeated {
		return fmt.Sprintf("%s, batch size %d", s.ModelLabel, s.BatchSize)
	}
	return fmt.Sprintf("%s, batch size %d, repeat %d", s.ModelLabel, s.BatchSize, s.Repeat+1)
}

// number is a value for the table, - for none.
func number(v *float64, factor float64, digits int) string {
	if v == nil || math.IsNaN(*v) {
		return "-"
	}
	return fmt.Sprintf("%.*f", digits, *v*factor)
}

// unsteady says why a point is not steady.
func (p *PointReport) unsteady() string {
	var reasons []string
	if !p.Settled {
		reasons = append(reasons, "the time to settle was up before it was")
	}
	for _, q := range []struct {
		name          string
		drift, stderr *float64
		tolerance     float64
	}{{"mean power", p.PowerDrift, p.PowerDriftStandardError, powerTolerance}, {"median latency", p.ITLDrift, p.ITLDriftStandardError, itlTolerance}} {
		switch {
		case q.drift == nil || q.stderr == nil:
			reasons = append(reasons, "too short for a drift of its "+q.name+" to be told")
		case Drift{*q.drift, *q.stderr}.steady(q.tolerance):
		case *q.stderr > q.tolerance:
			reasons = append(reasons, fmt.Sprintf("its %s is too noisy for a drift of %.0f %% to be told (standard error %.2f %%): measure longer",
				q.name, 100*q.tolerance, 100**q.stderr))
		default:
			reasons = append(reasons, fmt.Sprintf("its %s drifted by %.2f %% (standard error %.2f %%)", q.name, 100**q.drift, 100**q.stderr))
		}
	}
	return strings.Join(reasons, "; ")
}
