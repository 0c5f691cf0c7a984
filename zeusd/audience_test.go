package zeusd

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// inOldBubble runs a client of both GPUs against the older daemon.
func inOldBubble(t *testing.T, prepare func(*scripted), script func(t *testing.T, d *scripted, client *client)) {
	cfg := Config{
		Targets:  []Target{{Endpoint: bubbleEndpoint(), GPUs: []int{0, 1}}},
		AskAfter: 500 * time.Millisecond, RequestTimeout: 500 * time.Millisecond,
	}
	inBubbleWith(t, cfg, func(d *scripted) {
		d.old, d.gpuIDs = true, []int{0, 1}
		prepare(d)
	}, func(t *testing.T, d *scripted, client *client, _ *collector) { script(t, d, client) })
}

// The older daemon with constant power, alone: it is asked by opening the stream
// anew, at most once a second, on the same connection to it as far as others can
// tell.
func TestOldDaemonWithConstantPower(t *testing.T) {
	inBubbleWith(t, Config{AskAfter: 500 * time.Millisecond, RequestTimeout: 500 * time.Millisecond},
		func(d *scripted) { d.old = true },
		func(t *testing.T, d *scripted, client *client, got *collector) {
			pass(time.Second)
			freshFor(t, client, 0, 15*time.Minute, 1500*time.Millisecond)
			s := only(t, client)
			if !s.Connected || s.Reconnects != 0 || s.Err != nil || s.Reopenings < 600 || s.Reopenings > 900 {
				t.Errorf("status %+v", s)
			}
			if n := strings.Count(got.logged(), "\n"); n != 1 {
				t.Errorf("logged %d lines:\n%s", n, got.logged())
			}
			if n := d.asked("/gpu/get_power"); n > 0 {
				t.Errorf("asked %d times in vain", n)
			}
			if n := d.asked(energyPath); uint64(n) > s.Reopenings+3 {
				t.Errorf("asked for energy %d times with %d openings", n, s.Reopenings)
			}
			// A change is told at once all the same.
			for i := range 20 {
				pass(1370 * time.Millisecond)
				d.send(200_000 + i)
				pass(pollerPause + 60*time.Millisecond)
				if !holds(client, bubbleEndpoint(), 0, 200+float64(i)/1e3)() {
					t.Errorf("change %d is not seen", i)
				}
			}
		})
}

// With another listener the older daemon says nothing while the power is constant.
// It is read all the same, from the start on, as long as its driver answers.
func TestOldDaemonWithAnotherListener(t *testing.T) {
	for _, noMeter := range []bool{false, true} {
		inBubbleWith(t, Config{AskAfter: 500 * time.Millisecond, RequestTimeout: 500 * time.Millisecond},
			func(d *scripted) {
				d.old, d.others, d.noMeter, d.gpuIDs = true, true, noMeter, []int{0, 1}
				d.pollOnce()
				d.told = strings.Replace(d.told, fmt.Sprint(d.nowMS()), fmt.Sprint(d.nowMS()-154_600), 1)
			},
			func(t *testing.T, d *scripted, client *client, _ *collector) {
				pass(2 * time.Second)
				if !holds(client, bubbleEndpoint(), 0, 100)() {
					t.Errorf("not read: %+v", only(t, client))
				}
				freshFor(t, client, 0, time.Minute, 1500*time.Millisecond)
				if s := only(t, client); s.Reopenings > 7 || s.Reconnects != 0 || s.Err != nil {
					t.Errorf("status %+v", s)
				}
				d.send(150_000)
				pass(60 * time.Millisecond)
				if !holds(client, bubbleEndpoint(), 0, 150)() {
					t.Error("a change is not seen")
				}
				// Any GPU of the host may hold the loop up.
				d.set(func(d *scripted) { d.hung = true })
				staleFor(t, client, time.Now().Add(600*time.Millisecond), 20*time.Second)
				d.set(func(d *scripted) { d.hung = false })
				pass(3 * time.Second)
				freshFor(t, client, 0, 10*time.Second, 1500*time.Millisecond)
				// The other listener leaves.
				d.set(func(d *scripted) { d.others = false })
				pass(openSeldom + 2*time.Second)
				freshFor(t, client, 0, 10*time.Second, 1500*time.Millisecond)
				d.set(func(d *scripted) { d.hung = true })
				staleFor(t, client, time.Now().Add(600*time.Millisecond), 10*time.Second)
			})
	}
}

// Somebody begins to listen while the power is constant: nothing new is told any
// more, and the energy counters say that all is well. A loop that stands still is
// told from it, for then they rise by something else.
func TestListenerArrives(t *testing.T) {
	inOldBubble(t, func(*scripted) {}, func(t *testing.T, d *scripted, client *client) {
		pass(20 * time.Second)
		d.set(func(d *scripted) { d.others = true })
		for gpu := range 2 {
			freshFor(t, client, gpu, 30*time.Second, 2*time.Second)
		}
		d.send(150_000)
		pass(60 * time.Millisecond)
		if !holds(client, bubbleEndpoint(), 0, 150)() {
			t.Error("a change is not seen")
		}
		freshFor(t, client, 0, 30*time.Second, 2*time.Second)
		if s := only(t, client); s.Err != nil || s.Reconnects > 0 {
			t.Errorf("status %+v", s)
		}
	})
	for _, meterMW := range []int{1, 80_000, 120_000, 300_000} {
		inOldBubble(t, func(*scripted) {}, func(t *testing.T, d *scripted, client *client) {
			pass(20 * time.Second)
			d.set(func(d *scripted) { d.deaf, d.meterMW = true, meterMW })
			staleFor(t, client, time.Now().Add(slack), 30*time.Second)
			d.set(func(d *scripted) { d.deaf, d.meterMW = false, 0 })
			pass(2 * time.Second)
			freshFor(t, client, 0, 10*time.Second, 1500*time.Millisecond)
		})
	}
}

// Each change is told to all listeners, also to one who has just come. That does
// not mean that the loop began anew for him.
func TestSlowChangesWithAnotherListener(t *testing.T) {
	for _, every := range []time.Duration{310, 700, 1130, 2900} {
		inOldBubble(t, func(d *scripted) { d.others = true; d.pollOnce() }, func(t *testing.T, d *scripted, client *client) {
			pass(3 * time.Second)
			for i := range 60 {
				d.send(100_000 + 500*i)
				freshFor(t, client, 1, every*time.Millisecond, 2*time.Second)
				if i > 3 && age(client, bubbleEndpoint(), 0) > 2*time.Second {
					t.Fatalf("every %v ms: age %v", int64(every), age(client, bubbleEndpoint(), 0))
				}
			}
			if s := only(t, client); s.Err != nil || s.Reconnects > 0 {
				t.Errorf("every %v ms: status %+v", int64(every), s)
			}
		})
	}
}

// The loop repeats the last power of a GPU that it cannot read any more, as long as
// that of another GPU changes. Before it has read a GPU once it does not name it.
func TestLostGPUWithAnotherListener(t *testing.T) {
	for _, atTheStart := range []bool{false, true} {
		inOldBubble(t, func(d *scripted) { d.others, d.lost = true, atTheStart; d.pollOnce() }, func(t *testing.T, d *scripted, client *client) {
			pass(3 * time.Second)
			if !atTheStart {
				freshFor(t, client, 0, 5*time.Second, 2*time.Second)
			}
			d.set(func(d *scripted) { d.lost = true })
			since := time.Now().Add(600 * time.Millisecond)
			for i := range 100 {
				d.set(func(d *scripted) { d.power1MW = 2000 + i })
				pass(130 * time.Millisecond)
				if _, at, ok := client.latest(bubbleEndpoint(), 0); ok && at.After(since) {
					t.Fatalf("confirmed %v after it was lost, status %+v", at.Sub(since), only(t, client))
				}
				if a := age(client, bubbleEndpoint(), 1); a > time.Second {
					t.Fatalf("the other GPU is %v old", a)
				}
			}
			if s := only(t, client); !s.Connected || !slices.Equal(s.FailedGPUs, []int{0}) {
				t.Errorf("status %+v", s)
			}
		})
	}
}

// A change that was missed, since it came in an outage or in the pause of an opening,
// is what the next stream begins with.
func TestChangeThatWasMissed(t *testing.T) {
	for name, change := range map[string]func(d *scripted, client *client){
		"in an outage": func(d *scripted, _ *client) {
			d.set(func(d *scripted) { d.absent = true })
			d.drop()
			pass(2 * time.Second)
			d.set(func(d *scripted) { d.powerMW = 250_000 })
			pass(2 * time.Second)
			d.set(func(d *scripted) { d.absent = false })
		},
		"in a pause": func(d *scripted, client *client) {
			before := only(t, client).Reopenings
			for only(t, client).Reopenings == before {
				pass(time.Millisecond)
			}
			d.set(func(d *scripted) { d.powerMW = 250_000; d.pollOnce() })
		},
	} {
		inOldBubble(t, func(d *scripted) { d.others = true; d.pollOnce() }, func(t *testing.T, d *scripted, client *client) {
			pass(15 * time.Second)
			change(d, client)
			pass(3 * time.Second)
			for range 300 {
				pass(100 * time.Millisecond)
				if a := age(client, bubbleEndpoint(), 0); !holds(client, bubbleEndpoint(), 0, 250)() || a > 2*time.Second {
					t.Fatalf("%s: age %v, status %+v", name, a, only(t, client))
				}
			}
		})
	}
}

// Any GPU of the host may hold the loop up, also one that is not read here, and after
// the stream had begun well.
func TestLoopHangsOnAnotherGPU(t *testing.T) {
	cfg := Config{Targets: []Target{{Endpoint: bubbleEndpoint(), GPUs: []int{1}}}, AskAfter: 500 * time.Millisecond, RequestTimeout: 500 * time.Millisecond}
	inBubbleWith(t, cfg, func(d *scripted) { d.old, d.gpuIDs, d.others = true, []int{0, 1}, true; d.pollOnce() },
		func(t *testing.T, d *scripted, client *client, _ *collector) {
			pass(5 * time.Second)
			before := only(t, client).Reopenings
			for only(t, client).Reopenings == before {
				pass(time.Millisecond)
			}
			pass(500 * time.Millisecond)
			d.send(120_000)
			pass(300 * time.Millisecond)
			d.set(func(d *scripted) { d.hung, d.power1MW = true, 300_000 })
			hung := time.Now()
			pass(time.Second)
			for range 150 {
				pass(100 * time.Millisecond)
				if _, at, _ := client.latest(bubbleEndpoint(), 1); at.Sub(hung) > 600*time.Millisecond {
					t.Fatalf("confirmed %v after, status %+v", at.Sub(hung), only(t, client))
				}
			}
		})
}

// What is on its way while a stream is opened over a slow link was perhaps not read
// for it.
func TestLostGPUOverASlowLink(t *testing.T) {
	for _, delay := range []time.Duration{2, 10, 30, 100} {
		inOldBubble(t, func(d *scripted) { d.others, d.delay = true, delay*time.Millisecond; d.pollOnce() }, func(t *testing.T, d *scripted, client *client) {
			pass(3 * time.Second)
			d.set(func(d *scripted) { d.lost = true })
			since := time.Now().Add(600*time.Millisecond + delay*time.Millisecond)
			for i := range 1000 {
				d.set(func(d *scripted) { d.power1MW = 2000 + i })
				pass(53 * time.Millisecond)
				if _, at, ok := client.latest(bubbleEndpoint(), 0); ok && at.After(since) {
					t.Fatalf("%d ms: confirmed %v after it was lost, status %+v", int64(delay), at.Sub(since), only(t, client))
				}
			}
		})
	}
}

// A GPU that was lost before the start, when only somebody else listened. That is
// found out soon: the first change may fall together with the first opening.
func TestGPULostBeforeTheStart(t *testing.T) {
	inOldBubble(t, func(d *scripted) { d.others = true; d.pollOnce(); d.lost = true }, func(t *testing.T, d *scripted, client *client) {
		began := time.Now()
		for i := range 60 {
			d.set(func(d *scripted) { d.power1MW = 2000 + i })
			pass(130 * time.Millisecond)
			if _, at, ok := client.latest(bubbleEndpoint(), 0); ok && at.Sub(began) > 2*time.Second {
				t.Fatalf("confirmed %v after the start, status %+v", at.Sub(began), only(t, client))
			}
		}
		if !slices.Equal(only(t, client).FailedGPUs, []int{0}) || age(client, bubbleEndpoint(), 1) > time.Second {
			t.Errorf("status %+v", only(t, client))
		}
	})
}
