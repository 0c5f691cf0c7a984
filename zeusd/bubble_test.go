package zeusd

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// A daemon that has nothing to say is asked about once a second; the value stays
// fresh and the connection stays.
func TestSilenceIsNotDeath(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, d *scripted, client *client, _ *collector) {
		pass(time.Second)
		for range 900 {
			pass(time.Second)
			if a := age(client, bubbleEndpoint(), 0); a > 1300*time.Millisecond {
				t.Fatalf("age %v", a)
			}
		}
		// The stream comes before the snapshot.
		if stream, snapshot := slices.Index(d.order, "/gpu/stream_power"), slices.Index(d.order, "/gpu/get_power"); stream < 0 || snapshot < stream {
			t.Errorf("asked %s", d.order)
		}
		s := only(t, client)
		if !s.Connected || s.Reconnects != 0 || s.FailedAsks != 0 || s.Answers < 700 || s.Answers > 920 || s.ClockSteps != 0 {
			t.Errorf("status %+v", s)
		}
		if n := d.asked("/time"); n > 920+16*roundTrips {
			t.Errorf("asked for the time %d times in 15 minutes", n)
		}
	})
}

// Half-open connections are noticed within a second, the next question for the
// time, and RequestTimeout; and the peer is met again within 2 s of its return, though
// the attempt under way then is lost.
func TestDeathIsNoticed(t *testing.T) {
	for _, u := range []float64{0, 0.5, 0.999} {
		inBubble(t, Config{random: func() float64 { return u }}, func(t *testing.T, d *scripted, client *client, _ *collector) {
			for i := range 5 {
				pass(time.Duration(i) * 731 * time.Millisecond)
				d.send(200_000 + i)
				pass(10 * time.Millisecond)
				if s := only(t, client); !s.Connected || age(client, bubbleEndpoint(), 0) > 20*time.Millisecond {
					t.Fatalf("age %v, status %+v", age(client, bubbleEndpoint(), 0), s)
				}
				d.set(func(d *scripted) { d.mute = make(chan struct{}) })
				frozen := time.Now()
				for only(t, client).Connected {
					pass(10 * time.Millisecond)
				}
				if took := time.Since(frozen); took > 2260*time.Millisecond {
					t.Errorf("noticed after %v", took)
				}
				if err := only(t, client).Err; !errors.Is(err, errNoAnswer) {
					t.Error(err)
				}
				pass(time.Duration(1+i) * 3377 * time.Millisecond)
				if r, at, ok := client.latest(bubbleEndpoint(), 0); !ok || r.PowerW != 200+float64(i)/1e3 || time.Since(at) < 3*time.Second {
					t.Errorf("holds %+v, confirmed %v ago", r, time.Since(at))
				}
				// Questions asked before the return stay without answer.
				d.set(func(d *scripted) { d.mute = nil })
				back := time.Now()
				for age(client, bubbleEndpoint(), 0) > time.Second {
					pass(10 * time.Millisecond)
				}
				if took := time.Since(back); took > 2*time.Second {
					t.Errorf("u %v: recovered %v after the return", u, took)
				}
				pass(time.Minute)
			}
		})
	}
}

// Absence is borne for ever, at no more than the rate of the backoff, and logged
// once.
func TestAbsenceIsBorne(t *testing.T) {
	inBubbleWith(t, Config{}, func(d *scripted) { d.absent = true }, func(t *testing.T, d *scripted, client *client, got *collector) {
		const hours = 1
		pass(hours * time.Hour)
		d.mu.Lock()
		dials := len(d.dials)
		d.mu.Unlock()
		if dials < hours*3600 || dials > 3*hours*3600 {
			t.Errorf("%d attempts in %d hours", dials, hours)
		}
		d.set(func(d *scripted) { d.absent = false })
		pass(2 * time.Second)
		if !holds(client, bubbleEndpoint(), 0, 100)() {
			t.Error("not recovered")
		}
		if n := strings.Count(got.logged(), "\n"); n > 3 {
			t.Errorf("logged %d lines:\n%s", n, got.logged())
		}
	})
}

// A peer that accepts and breaks at once is not hammered.
func TestFlappingIsBounded(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, d *scripted, client *client, got *collector) {
		for range 600 {
			d.drop() // each stream ends soon after it opened
			pass(100 * time.Millisecond)
		}
		if n := strings.Count(got.logged(), "\n"); n > 3 {
			t.Errorf("logged %d lines:\n%s", n, got.logged())
		}
		// In the minute it took.
		if s := only(t, client); s.Reconnects < 40 || s.Reconnects > 61 {
			t.Errorf("status %+v", s)
		}
		pass(time.Minute)
		if s := only(t, client); !s.Connected || s.Err != nil {
			t.Errorf("status %+v", s)
		}
	})
}

// While events flow, a clock that is set shows at once, or within a second and
// little; before and after, times are right to the daemon's resolution.
func TestClockStepsInFakeTime(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, d *scripted, client *client, got *collector) {
		var steps uint64
		for _, ahead := range []time.Duration{
			0, time.Hour, -time.Hour, -3 * time.Second, -3*time.Second - 100*time.Millisecond, -3 * time.Second, 1e17, 0, 40 * time.Millisecond, -40 * time.Millisecond,
		} {
			d.set(func(d *scripted) { d.ahead = ahead })
			for i := range 60 {
				d.send(100_000 + i)
				pass(50 * time.Millisecond)
			}
			all := got.all()
			for i, a := range all {
				if a.At.After(a.arrived) || i > 0 && a.At.Before(all[i-1].At) {
					t.Fatalf("reading %d at %v arrives at %v, after one at %v", i, a.At, a.arrived, all[i-1].At)
				}
			}
			for _, a := range all[len(all)-30:] {
				if old := a.arrived.Sub(a.At); old > 2*time.Millisecond {
					t.Fatalf("%v ahead: a reading seems %v old", ahead, old)
				}
			}
			if ahead != 0 || steps > 0 {
				steps++
			}
			if s := only(t, client); s.ClockSteps != steps || (s.ClockOffset+ahead).Abs() > 2*time.Millisecond || !s.Connected {
				t.Errorf("%v ahead: want %d steps, %+v", ahead, steps, s)
			}
		}
		if s := only(t, client); s.ImplausibleTimes != 0 || s.Reconnects != 0 || s.LateEvents != 0 {
			t.Errorf("status %+v", s)
		}
	})
}

// A clock that drifts is followed.
func TestClockDrift(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, d *scripted, _ *client, got *collector) {
		for i := range 900 {
			d.set(func(d *scripted) { d.ahead += 100 * time.Microsecond }) // 200 ppm
			d.send(100_000 + i%100)
			pass(500 * time.Millisecond)
		}
		for _, a := range got.all() {
			if old := a.arrived.Sub(a.At); old < 0 || old > 14*time.Millisecond {
				t.Fatalf("a reading seems %v old", old)
			}
		}
	})
}

// Times that make no sense whatever the clock says do not have it measured at each
// event. An event of then is not one of now, and the power is asked for.
func TestImplausibleTimes(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, d *scripted, client *client, got *collector) {
		pass(2 * time.Second)
		asked := d.asked("/time")
		for i := range 600 {
			d.set(func(d *scripted) {
				for s := range d.streams {
					s <- fmt.Sprintf("data: {\"timestamp_ms\":%d,\"gpu_id\":0,\"power_mw\":%d}\n\n", []int64{1, maxTimestampMS}[i%2], i)
				}
			})
			pass(100 * time.Millisecond)
		}
		if s := only(t, client); s.ImplausibleTimes != 300 || s.ReplayedEvents != 300 || s.ClockSteps != 0 || s.Reconnects != 0 {
			t.Errorf("status %+v", s)
		}
		for _, a := range got.all() {
			if a.arrived.Sub(a.At).Abs() > 2*time.Millisecond || a.PowerW != 100 {
				t.Fatalf("%v W at %v, arrived %v", a.PowerW, a.At, a.arrived)
			}
		}
		if n := d.asked("/time") - asked; n > 60+7*roundTrips+2*roundTrips {
			t.Errorf("asked for the time %d times in a minute", n)
		}
	})
}

// A GPU that is missing is looked for; once the daemon has it, it is read.
func TestMissingGPUAppears(t *testing.T) {
	targets := []Target{{Endpoint: bubbleEndpoint(), GPUs: []int{0, 1}}}
	inBubble(t, Config{Targets: targets}, func(t *testing.T, d *scripted, client *client, got *collector) {
		pass(time.Minute)
		if s := only(t, client); !slices.Equal(s.UnknownGPUs, []int{1}) || s.Err == nil || !s.Connected || s.Reconnects != 0 || !holds(client, bubbleEndpoint(), 0, 100)() {
			t.Errorf("status %+v", s)
		}
		d.set(func(d *scripted) { d.gpuIDs = []int{0, 1} })
		pass(rediscover + 2*time.Second)
		if s := only(t, client); s.UnknownGPUs != nil || s.Err != nil || !holds(client, bubbleEndpoint(), 1, 2)() {
			t.Errorf("status %+v", s)
		}
		if n := strings.Count(got.logged(), "lacks a GPU"); n != 1 {
			t.Errorf("logged %d times:\n%s", n, got.logged())
		}
	})
}

// A daemon that is slow to answer is not dead as long as its stream brings events.
func TestSlowAnswers(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, d *scripted, client *client, _ *collector) {
		pass(time.Second)
		d.set(func(d *scripted) { d.mute = make(chan struct{}) })
		for i := range 600 {
			d.send(100_000 + i)
			pass(100 * time.Millisecond)
		}
		if s := only(t, client); !s.Connected || s.Reconnects != 0 || s.Events < 590 {
			t.Errorf("status %+v", s)
		}
	})
}

// freshAt wants the GPU's power confirmed within AskAfter and little, all the time
// that passes.
func freshFor(t *testing.T, client *client, gpu int, d, most time.Duration) {
	t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); pass(20 * time.Millisecond) {
		if a := age(client, bubbleEndpoint(), gpu); a > most {
			t.Fatalf("age %v, status %+v", a, only(t, client))
		}
	}
}

// staleFor wants nothing to confirm the GPU's power since a time.
func staleFor(t *testing.T, client *client, since time.Time, d time.Duration) {
	t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); pass(20 * time.Millisecond) {
		if a := age(client, bubbleEndpoint(), 0); a < time.Since(since) {
			t.Fatalf("confirmed %v ago, the driver hangs since %v, status %+v", a, time.Since(since), only(t, client))
		}
	}
}

// slack is what a confirmation may lie after the driver began to hang, for it may
// have been under way.
const slack = 60 * time.Millisecond

// A driver that hangs: the last power is held and not confirmed, however often the
// connection is lost; the daemon is not asked again and again, and the end of it
// is noticed at once, be the power another or not.
func TestHungDriver(t *testing.T) {
	for _, old := range []bool{false, true} {
		for _, change := range []int{0, 1} {
			targets := []Target{{Endpoint: bubbleEndpoint(), GPUs: []int{0, 1}}}
			inBubbleWith(t, Config{Targets: targets, AskAfter: 500 * time.Millisecond, RequestTimeout: 500 * time.Millisecond},
				func(d *scripted) { d.old, d.gpuIDs = old, []int{0, 1} },
				func(t *testing.T, d *scripted, client *client, got *collector) {
					for i := range 100 {
						d.send(100_000 + i)
						pass(100 * time.Millisecond)
					}
					d.set(func(d *scripted) { d.hung = true })
					since := time.Now().Add(slack)
					staleFor(t, client, since, 30*time.Second)
					d.mu.Lock()
					pending := d.pending
					d.mu.Unlock()
					if s := only(t, client); !s.Connected || s.Reconnects > 0 || pending > 1 || s.Reopenings > 40 {
						t.Errorf("old %v: %d questions hang, status %+v", old, pending, s)
					}
					if err := only(t, client).Err; err == nil || !strings.Contains(err.Error(), "hang") {
						t.Errorf("old %v: the status says %v", old, err)
					}
					if !old { // the other GPU has a driver of its own
						freshFor(t, client, 1, 5*time.Second, 1100*time.Millisecond)
					}
					for range 5 {
						d.drop()
						staleFor(t, client, since, 1700*time.Millisecond)
					}
					staleFor(t, client, since, 2*time.Minute)
					d.set(func(d *scripted) { d.hung = false; d.powerMW += change })
					over := time.Now()
					for age(client, bubbleEndpoint(), 0) > 100*time.Millisecond {
						pass(10 * time.Millisecond)
					}
					if took := time.Since(over); took > 1400*time.Millisecond {
						t.Errorf("old %v: noticed %v after the end", old, took)
					}
					freshFor(t, client, 0, 10*time.Second, 1500*time.Millisecond)
					if s := only(t, client); s.Err != nil || !holds(client, bubbleEndpoint(), 0, float64(100_099+change)/1e3)() {
						t.Errorf("old %v: status %+v", old, s)
					}
					for i, a := range got.all() {
						if a.PowerW < 2 || a.PowerW > 101 {
							t.Errorf("reading %d is %+v", i, a)
						}
					}
				})
		}
	}
}

// A GPU that fell off the bus is not fresh because the network flaps.
func TestLostGPU(t *testing.T) {
	for _, old := range []bool{false, true} {
		for _, both := range []bool{false, true} {
			targets := []Target{{Endpoint: bubbleEndpoint(), GPUs: []int{0}}}
			if both {
				targets[0].GPUs = []int{0, 1}
			}
			inBubbleWith(t, Config{Targets: targets, AskAfter: 500 * time.Millisecond, RequestTimeout: 500 * time.Millisecond},
				func(d *scripted) { d.old, d.gpuIDs = old, []int{0, 1} },
				func(t *testing.T, d *scripted, client *client, _ *collector) {
					for i := range 50 {
						d.send(100_000 + i)
						pass(100 * time.Millisecond)
					}
					d.set(func(d *scripted) { d.lost = true })
					since := time.Now().Add(slack)
					staleFor(t, client, since, 10*time.Second)
					for range 5 {
						d.drop()
						staleFor(t, client, since, 1700*time.Millisecond)
					}
					if both {
						freshFor(t, client, 1, 10*time.Second, 1500*time.Millisecond)
					}
					if s := only(t, client); !s.Connected || s.Err == nil || !slices.Equal(s.FailedGPUs, []int{0}) {
						t.Errorf("old %v: status %+v", old, s)
					}
					d.set(func(d *scripted) { d.lost = false; d.powerMW++ })
					pass(12 * time.Second)
					freshFor(t, client, 0, 5*time.Second, 1500*time.Millisecond)
				})
		}
	}
}

// A daemon that somebody read long ago begins with what it said then.
func TestReplayAtTheStart(t *testing.T) {
	for _, ahead := range []time.Duration{0, time.Hour, -time.Hour} {
		inBubbleWith(t, Config{}, func(d *scripted) {
			d.ahead = ahead
			d.told = fmt.Sprintf("data: {\"timestamp_ms\":%d,\"gpu_id\":0,\"power_mw\":777000}\n\n", d.nowMS()-154_600)
		}, func(t *testing.T, _ *scripted, client *client, got *collector) {
			pass(5 * time.Second)
			if a, ok := got.first(func(a arrival) bool { return a.PowerW == 777 }); ok {
				t.Errorf("%v ahead: an old value counts: %+v", ahead, a)
			}
			if s := only(t, client); s.ReplayedEvents != 1 || s.ImplausibleTimes != 0 || s.ClockSteps != 0 || !holds(client, bubbleEndpoint(), 0, 100)() {
				t.Errorf("%v ahead: status %+v", ahead, s)
			}
		})
	}
}

// The daemon's clock is set while it is read, and then the connection is lost: what
// the next stream begins with is old by either clock.
func TestReplayAfterTheClockWasSet(t *testing.T) {
	for _, ahead := range []time.Duration{time.Hour, -time.Hour, 2 * time.Second, -2 * time.Second} {
		inBubbleWith(t, Config{AskAfter: 500 * time.Millisecond, RequestTimeout: 500 * time.Millisecond}, nil,
			func(t *testing.T, d *scripted, client *client, _ *collector) {
				d.send(123_000)
				pass(3 * time.Second)
				d.set(func(d *scripted) { d.powerMW, d.lost, d.ahead = 99_000, true, ahead })
				since := time.Now().Add(slack)
				for range 4 {
					d.drop()
					staleFor(t, client, since, 1300*time.Millisecond)
				}
			})
	}
}

// Three seconds of refusals pass; while events come they do not matter.
func TestRefusalPasses(t *testing.T) {
	for _, status := range []int{401, 403} {
		for _, events := range []bool{false, true} {
			inBubble(t, Config{AskAfter: 500 * time.Millisecond, RequestTimeout: 500 * time.Millisecond}, func(t *testing.T, d *scripted, client *client, got *collector) {
				pass(2 * time.Second)
				d.set(func(d *scripted) { d.refuse = status })
				for i := range 30 {
					if events {
						d.send(100_000 + i)
					}
					pass(100 * time.Millisecond)
				}
				if s := only(t, client); s.Connected != events || errors.Is(s.Err, ErrRefused) == events {
					t.Errorf("%d, events %v: status %+v", status, events, s)
				}
				d.set(func(d *scripted) { d.refuse = 0 })
				over := time.Now()
				for age(client, bubbleEndpoint(), 0) > time.Second {
					pass(10 * time.Millisecond)
				}
				if took := time.Since(over); took > 3*time.Second {
					t.Errorf("read again %v after", took)
				}
				// For hours it is asked seldom, and said once.
				if events {
					return
				}
				d.set(func(d *scripted) { d.refuse = status })
				pass(5 * time.Second)
				asked := d.dialled()
				pass(time.Hour)
				if n := d.dialled() - asked; n > 3600/7 {
					t.Errorf("%d attempts in an hour", n)
				}
				if n := strings.Count(got.logged(), "refuses us"); n < 1 || n > 2 {
					t.Errorf("logged %d times:\n%s", n, got.logged())
				}
			})
		}
	}
}
