package sim

import (
	"math"
	"testing"
	"testing/synctest"
	"time"
)

// TestEnergyCounter: it shows new values now and then, and loses nothing.
func TestEnergyCounter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGPU("counting", 100)
		began := g.EnergyJ()
		wait := func(d time.Duration) { <-time.After(d) }
		want := func(what string, joules float64) {
			t.Helper()
			if got := g.EnergyJ() - began; math.Abs(got-joules) > 1e-3 { // of 1e11 J since 1970
				t.Errorf("%s: %v J, want %v", what, got, joules)
			}
		}
		wait(counterRenewal - time.Millisecond)
		want("before the first renewal", 0)
		wait(time.Millisecond)
		want("at the first renewal", 2)
		wait(counterRenewal / 2)
		g.SetPowerW(300)
		want("between two, with another power", 2)
		wait(counterRenewal / 2)
		want("at the next", 2+1+3)
		wait(10 * counterRenewal)
		want("after ten more", 2+1+3+60)
	})
}
