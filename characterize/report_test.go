package characterize

import (
	"strings"
	"testing"

	"github.com/g2g-agent/g2g-agent/internal/npmath"
	"github.com/g2g-agent/g2g-agent/workload"
)

// TestReportSaysWhy a point is not steady, and what its columns are in.
func TestReportSaysWhy(t *testing.T) {
	share := func(v float64) *float64 { return &v }
	point := func(batchSize int, settled bool, power, powerError, itl, itlError *float64) PointReport {
		return PointReport{
			Spec: Spec{ModelLabel: "m", BatchSize: batchSize}, PowerW: 400, Settled: settled,
			PowerDrift: power, PowerDriftStandardError: powerError, ITLDrift: itl, ITLDriftStandardError: itlError,
		}
	}
	small := share(0.001)
	r := Report{
		Points: []PointReport{
			point(4, false, small, small, small, small),
			point(8, true, share(-0.05), small, small, small),
			point(16, true, small, small, share(0.01), share(0.04)),
			point(32, true, small, small, nil, nil),
		},
		Warnings: []string{"the curve is odd"},
	}
	var text strings.Builder
	if err := r.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"batch size 4 was not steady: the time to settle was up before it was\n",
		"batch size 8 was not steady: its mean power drifted by -5.00 % (standard error 0.10 %)\n",
		"batch size 16 was not steady: its median latency is too noisy for a drift of 3 % to be told (standard error 4.00 %): measure longer\n",
		"batch size 32 was not steady: too short for a drift of its median latency to be told\n",
		"warning: the curve is odd\n",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("it lacks %q:\n%s", want, text.String())
		}
	}
	lines := strings.Split(text.String(), "\n")
	units := strings.Fields(lines[1])
	if want := "size W % ms ms ms ms % tokens/s % s s s"; strings.Join(units, " ") != want {
		t.Errorf("the units are %q, want %q", units, want)
	}
	for i, word := range strings.Fields("400.0 0.10 - - - - 0.10 0.0 - 0.0 0.0 0.0") {
		// Right-aligned, value and unit end at the same place.
		unit := endOf(lines[1], 1+i)
		if value := endOf(lines[2], 2+i); value != unit || strings.Fields(lines[2])[2+i] != word {
			t.Errorf("column %d: the unit ends at %d, %q at %d", i, unit, strings.Fields(lines[2])[2+i], value)
		}
	}
}

// TestReportTellsRepeatsApart by a column, which is not there where each batch size is
// measured once.
func TestReportTellsRepeatsApart(t *testing.T) {
	share := 0.001
	point := func(repeat int) PointReport {
		return PointReport{
			Spec: Spec{ModelLabel: "m", BatchSize: 8, Repeat: repeat}, PowerW: 400 + float64(repeat), Settled: true, GapsSByCause: map[string]float64{"no token": 3},
			PowerDrift: &share, PowerDriftStandardError: &share, ITLDrift: &share, ITLDriftStandardError: &share,
		}
	}
	var once, twice strings.Builder
	for r, text := range map[*Report]*strings.Builder{{Points: []PointReport{point(0)}}: &once, {Points: []PointReport{point(0), point(1)}}: &twice} {
		if err := r.WriteText(text); err != nil {
			t.Fatal(err)
		}
	}
	if strings.Contains(once.String(), "repeat") {
		t.Errorf("there is but one:\n%s", once.String())
	}
	lines := strings.Split(twice.String(), "\n")
	for i, want := range map[int]string{0: "model batch repeat power", 1: "size W % ms", 2: "m 8 1 400.0", 3: "m 8 2 401.0"} {
		if got := strings.Join(strings.Fields(lines[i]), " "); !strings.HasPrefix(got, want) {
			t.Errorf("line %d begins %q, want %q", i, got, want)
		}
	}
	if endOf(lines[1], 1) != endOf(lines[2], 3) { // W and 400.0
		t.Errorf("the unit of the power is elsewhere:\n%s", twice.String())
	}
	if !strings.Contains(twice.String(), "m, batch size 8, repeat 2: 3.0 s cut out: no token\n") {
		t.Errorf("\n%s", twice.String())
	}
}

// TestFitThatDoesNotFollow: a fit with another mean than what was measured is remarked on.
func TestFitThatDoesNotFollow(t *testing.T) {
	samples := make([]float64, 1000)
	for i := range samples {
		samples[i] = 0.02 + 1e-5*float64(i%40)
	}
	if doubt := fitDoubt(workload.FitITL(samples, 0, 0), npmath.Mean(samples)); doubt != "" {
		t.Errorf("one that does: %s", doubt)
	}
	fit := workload.ITLMixture{PiSteady: 0.94, SigmaSteady: 0.1, ScaleSteady: 0.02, PiStall: 0.06, SigmaStall: 2.9, ScaleStall: 0.012}
	if doubt := fitDoubt(fit, 0.03); !strings.Contains(doubt, "a mean of 67.15 ms, measured were 30 ms") {
		t.Errorf("one that does not: %q", doubt)
	}
}

// endOf is where the n-th word of a line ends.
func endOf(line string, n int) int {
	at := 0
	for i := 0; ; i++ {
		at += len(line[at:]) - len(strings.TrimLeft(line[at:], " "))
		word, _, _ := strings.Cut(line[at:], " ")
		if at += len(word); i == n || word == "" {
			return at
		}
	}
}
