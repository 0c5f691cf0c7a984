package sim

import (
	"encoding/csv"
	"math"
	"os"
	"strconv"
	"testing"
)

// The known models follow the shipped latency fits: level by level the mean of
// the steady part, and in a closed loop of 512-token requests, where a batch of n
// takes in n/512 requests an iteration, about the mean of the whole.
func TestProfilesFollowTheFits(t *testing.T) {
	f, err := os.Open("../configs/example-data/latency_fits.csv")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	levels := 0
	for _, row := range rows[1:] {
		x := make([]float64, len(row))
		for i := range row {
			if i != 0 && i != 2 {
				if x[i], err = strconv.ParseFloat(row[i], 64); err != nil {
					t.Fatal(err)
				}
			}
		}
		loc, piSteady, sigma, scale, piStall, sigmaStall, scaleStall := x[3], x[4], x[5], x[6], x[7], x[8], x[9]
		steady := loc + scale*math.Exp(sigma*sigma/2)
		whole := piSteady*steady + piStall*(loc+scaleStall*math.Exp(sigmaStall*sigmaStall/2))

		p, ok := LookUpProfile("meta-llama/" + row[0] + "-Instruct")
		if !ok || p.check() != nil {
			t.Fatal(row[0], ok, p.check())
		}
		n := int(x[1])
		if got := p.itlS(n); math.Abs(got-steady) > 1e-5 {
			t.Errorf("%s at %d: %v, the fit's steady mean is %v", row[0], n, got, steady)
		}
		if got := p.itlS(n) + p.PrefillS*float64(n)/512; math.Abs(got/whole-1) > 0.25 {
			t.Errorf("%s at %d: %v with stalls, the fit has %v", row[0], n, got, whole)
		}
		levels++
	}
	if levels != 6+7+7 {
		t.Error(levels)
	}
}

func TestProfileInterpolates(t *testing.T) {
	p := Profile{Levels: []Level{{4, 100, 1}, {8, 300, 2}, {16, 300, 4}}, IdleWPerGPU: 50}
	for n, want := range map[int][2]float64{
		-1: {50, 1}, 0: {50, 1}, 1: {100, 1}, 4: {100, 1}, 6: {200, 1.5}, 8: {300, 2}, 12: {300, 3}, 16: {300, 4}, 999: {300, 4},
	} {
		if got := [2]float64{p.PowerWPerGPU(n), p.itlS(n)}; got != want {
			t.Error(n, got, want)
		}
	}
	if (&Profile{IdleWPerGPU: 9}).PowerWPerGPU(3) != 9 || (&Profile{}).itlS(1) != 0 {
		t.Error("a profile without levels")
	}
	if _, ok := LookUpProfile("Qwen3-235B"); ok {
		t.Error("an unknown model has a profile")
	}
}

func TestGPUPowerIsPower(t *testing.T) {
	g := NewGPU("H100", math.NaN())
	if g.PowerW() != 0 || g.name != "H100" {
		t.Error(g.PowerW(), g.name)
	}
	for powerW, want := range map[float64]float64{-1: 0, 700.5: 700.5} {
		g.SetPowerW(powerW)
		if g.PowerW() != want {
			t.Error(powerW, g.PowerW())
		}
	}
}
