package rig

import (
	"math"
	"strings"
	"testing"
	"time"
)

func newTestWarmup() *warmup {
	return &warmup{
		timeout: 60 * time.Second, stagger: 10 * time.Second, threshold: 0.95,
		models: []warmupModel{{label: "a", target: 128}, {label: "b", target: 8}},
	}
}

// warmAfter observes the running requests of f each second and returns when the
// warm-up was complete, -1 for never.
func warmAfter(w *warmup, watched bool, f func(s int) []float64) int {
	for s := range 61 {
		if w.observe(time.Duration(s)*time.Second, f(s), watched) {
			return s
		}
	}
	return -1
}

func TestWarmupWaitsForEachModelAndAWindow(t *testing.T) {
	if got := warmAfter(newTestWarmup(), true, func(s int) []float64 { return []float64{float64(s * 20), 8} }); got != 7+10 {
		t.Errorf("warm after %d s, want 10 s after 122 requests ran at 7 s", got)
	}
	dip := func(s int) []float64 { return []float64{130 - float64(s), 8} } // above the threshold only at first
	if got := warmAfter(newTestWarmup(), true, dip); got != 10 {
		t.Errorf("warm after %d s; once saturated is enough", got)
	}
}

func TestWarmupWithoutMetricsWaitsForTheWindow(t *testing.T) {
	unknown := func(int) []float64 { return []float64{math.NaN(), math.NaN()} }
	if got := warmAfter(newTestWarmup(), false, unknown); got != 10 {
		t.Errorf("warm after %d s, want 10", got)
	}
	if got := warmAfter(newTestWarmup(), true, unknown); got != -1 {
		t.Errorf("warm after %d s without knowing what runs", got)
	}
}

func TestWarmupFailureShowsTrajectories(t *testing.T) {
	w := newTestWarmup()
	w.timeout = 20 * time.Second
	for s := range 21 {
		running := []float64{float64(s), 8}
		if s < 3 {
			running[0] = math.NaN()
		}
		if s < 15 {
			running[1] = 2
		}
		if w.observe(time.Duration(s)*time.Second, running, true) {
			t.Fatalf("warm after %d s", s)
		}
	}
	const want = "the warm-up was not complete after 20 s (live.warmup_timeout_s); each model must run 95 % of its initial_batch_size" +
		" (live.saturation_threshold) and then for 10 s (live.stagger_s):\n" +
		"  a: wants 122 running, has 20; t=0s: unknown, t=5s: 5, t=10s: 10, t=15s: 15, t=20s: 20\n" +
		"  b: wants 8 running, has 8, was there after 15.0 s; t=0s: 2, t=5s: 2, t=10s: 2, t=15s: 8, t=20s: 8"
	if got := w.failure(20 * time.Second).Error(); got != want {
		t.Errorf("the error is\n%s\nwant\n%s", got, want)
	}
}

func TestWarmupFailureLeavesOutWhatIsWarm(t *testing.T) {
	w := newTestWarmup()
	warmAfter(w, true, func(int) []float64 { return []float64{1, 8} })
	if err := w.failure(61 * time.Second); len(w.models[1].trajectory) == 0 || strings.Contains(err.Error(), "\n  b:") || !strings.Contains(err.Error(), "\n  a:") {
		t.Errorf("only model a failed, the error is %v", err)
	}
}
