package zeusd

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

// What no GPU can draw is as good as nothing: the last power is held and grows old.
func TestImpossiblePower(t *testing.T) {
	for _, mw := range []int{0, 4_294_967_295, 2_147_483_647, 65_535_000, 6_553_500, 4_000_001} {
		inBubble(t, Config{AskAfter: 500 * time.Millisecond, RequestTimeout: 500 * time.Millisecond}, func(t *testing.T, d *scripted, client *client, got *collector) {
			d.send(300_000)
			pass(3 * time.Second)
			d.send(mw)
			since := time.Now().Add(slack)
			staleFor(t, client, since, 5*time.Second)
			s := only(t, client)
			if want := fmt.Sprintf("GPU 0: power is %v W, want 0.001 to 4000 W", float64(mw)/1e3); s.Err == nil || !strings.HasSuffix(s.Err.Error(), want) || s.ImplausibleReadings < 2 || s.BadEvents != 0 {
				t.Errorf("status %+v, want an error of %q", s, want)
			}
			if !holds(client, bubbleEndpoint(), 0, 300)() {
				t.Error("the last power is gone")
			}
			d.send(310_000)
			pass(10 * time.Millisecond)
			if s := only(t, client); !holds(client, bubbleEndpoint(), 0, 310)() || s.Err != nil {
				t.Errorf("status %+v", s)
			}
			if n := strings.Count(got.logged(), "cannot read"); n != 1 {
				t.Errorf("logged %d times:\n%s", n, got.logged())
			}
		})
	}
}

// The range of a GPU can be given.
func TestGivenPowerRange(t *testing.T) {
	targets := []Target{{Endpoint: bubbleEndpoint(), GPUs: []int{0}, PowerRangeW: [2]float64{0, 450}}}
	inBubble(t, Config{Targets: targets}, func(t *testing.T, d *scripted, client *client, _ *collector) {
		pass(time.Second)
		for _, step := range []struct {
			mw    int
			holds float64
		}{{0, 0}, {450_000, 450}, {450_001, 450}, {451_000, 450}, {1, 0.001}} {
			d.send(step.mw)
			pass(10 * time.Millisecond)
			if !holds(client, bubbleEndpoint(), 0, step.holds)() {
				r, _, _ := client.latest(bubbleEndpoint(), 0)
				t.Errorf("after %d mW it holds %v W, want %v", step.mw, r.PowerW, step.holds)
			}
		}
	})
	for _, r := range [][2]float64{{1, 1}, {5, 4}, {-1, 4}, {0, math.Inf(1)}, {math.NaN(), 5}, {0, math.NaN()}} {
		if _, err := newClient(Config{Targets: []Target{{Endpoint: bubbleEndpoint(), GPUs: []int{0}, PowerRangeW: r}}}); err == nil {
			t.Errorf("the range %v is taken", r)
		}
	}
	other := Target{Endpoint: bubbleEndpoint(), GPUs: []int{0, 1}, PowerRangeW: [2]float64{0, 451}}
	if _, err := newClient(Config{Targets: append(targets, other)}); err == nil {
		t.Error("two ranges of one GPU are taken")
	}
}

// A reading that cannot be is found out at the start as well: what a GPU can draw
// is asked for first. A limit that no GPU has is no limit.
func TestImpossiblePowerAtTheStart(t *testing.T) {
	for _, c := range []struct {
		powerMW, limitMW int
		read             bool
	}{{1_400_001, 700_000, false}, {1_400_000, 700_000, true}, {1_400_001, 0, true}, {100_000, 700, true}, {100_000, 4_000_001, true}} {
		inBubbleWith(t, Config{}, func(d *scripted) { d.powerMW, d.limitMW = c.powerMW, c.limitMW }, func(t *testing.T, _ *scripted, client *client, got *collector) {
			pass(3 * time.Second)
			if read := len(got.all()) > 0; read != c.read {
				t.Errorf("%+v: status %+v", c, only(t, client))
			}
		})
	}
}

// In a snapshot of all GPUs a value that cannot be is one GPU's.
func TestOneImpossiblePowerOfMany(t *testing.T) {
	for _, raw := range []string{"null", "-1", "18446744073709551615", "1e308", `"5"`, "{}", "4000001"} {
		inOldBubble(t, func(*scripted) {}, func(t *testing.T, d *scripted, client *client) {
			pass(3 * time.Second)
			d.set(func(d *scripted) { d.raw0 = raw })
			since := time.Now().Add(slack)
			for i := range 50 {
				d.set(func(d *scripted) { d.power1MW = 3000 + i })
				pass(pollerPause + 60*time.Millisecond)
				if !holds(client, bubbleEndpoint(), 1, float64(3000+i)/1e3)() {
					t.Fatalf("%s: a change of the other GPU is not seen, status %+v", raw, only(t, client))
				}
			}
			staleFor(t, client, since, 3*time.Second)
			if s := only(t, client); !slices.Equal(s.FailedGPUs, []int{0}) || s.ImplausibleReadings == 0 || s.BadEvents > 0 || !holds(client, bubbleEndpoint(), 0, 100)() {
				t.Errorf("%s: status %+v", raw, s)
			}
			d.set(func(d *scripted) { d.raw0 = "" })
			pass(2 * time.Second)
			freshFor(t, client, 0, 3*time.Second, 1500*time.Millisecond)
		})
	}
}

// An answer with an old value confirms nothing either.
func TestOldAnswers(t *testing.T) {
	inBubble(t, Config{AskAfter: 500 * time.Millisecond, RequestTimeout: 500 * time.Millisecond}, func(t *testing.T, d *scripted, client *client, got *collector) {
		pass(5 * time.Second)
		for _, lag := range []time.Duration{time.Minute, -time.Minute, 150 * time.Millisecond} {
			d.set(func(d *scripted) { d.lag = lag })
			since := time.Now().Add(slack)
			staleFor(t, client, since, 10*time.Second)
			s := only(t, client)
			if !s.Connected || s.Reconnects > 0 || s.ClockSteps > 0 || !slices.Equal(s.FailedGPUs, []int{0}) {
				t.Errorf("lag %v: status %+v", lag, s)
			}
			d.set(func(d *scripted) { d.lag = 0 })
			pass(2 * time.Second)
			freshFor(t, client, 0, 10*time.Second, time.Second)
		}
		if n := strings.Count(got.logged(), "\n"); n > 9 {
			t.Errorf("logged %d lines:\n%s", n, got.logged())
		}
	})
}

// A device that fails every other time, and a clock that steps to and fro, are said
// once until it is over.
func TestWhatFlipsIsSaidOnce(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, d *scripted, client *client, got *collector) {
		for i := range 600 {
			d.set(func(d *scripted) { d.ahead = time.Duration(i/10%2) * time.Minute })
			d.send(100_000 + i%2*4_000_000)
			pass(100 * time.Millisecond)
		}
		d.set(func(d *scripted) { d.ahead = 0 })
		d.send(100_000)
		pass(20 * time.Second)
		for what, most := range map[string]int{"cannot read": 1, "reads the device again": 1, "the clock of": 1} {
			if n := strings.Count(got.logged(), what); n != most {
				t.Errorf("%q is logged %d times:\n%s", what, n, got.logged())
			}
		}
		if s := only(t, client); s.ImplausibleReadings < 290 || s.ClockSteps < 50 {
			t.Errorf("status %+v", s)
		}
	})
}

// Answers without a power that can be do not look like a stream that misses changes.
func TestAnswersThatCannotBe(t *testing.T) {
	for _, raw := range []string{"null", `"5"`, "-1", "4294967295"} {
		inBubble(t, Config{AskAfter: 500 * time.Millisecond, RequestTimeout: 500 * time.Millisecond}, func(t *testing.T, d *scripted, client *client, got *collector) {
			pass(5 * time.Second)
			d.set(func(d *scripted) { d.raw0 = raw })
			staleFor(t, client, time.Now().Add(slack), time.Minute)
			s := only(t, client)
			if s.Reconnects > 0 || s.ImplausibleReadings < 50 || !slices.Equal(s.FailedGPUs, []int{0}) || strings.Count(got.logged(), "\n") > 2 {
				t.Errorf("%s: status %+v, log:\n%s", raw, s, got.logged())
			}
		})
	}
}
