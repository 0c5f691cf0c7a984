package zeusd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
)

// scripted is a daemon with one GPU for tests in fake time: it answers over pipes
// in memory, and its clock, its silence and its presence are the test's to say.
type scripted struct {
	conns chan net.Conn

	mu      sync.Mutex
	absent  bool          // no connection comes about
	mute    chan struct{} // if not nil, nothing is answered before it is closed
	ahead   time.Duration // its clock less ours
	delay   time.Duration // before each answer
	powerMW int
	gpuIDs  string // what it says it has, as JSON
	streams map[chan string]bool
	asks    map[string]int
	order   []string // the first paths asked for
	dials   []time.Time
}

func (d *scripted) Accept() (net.Conn, error) {
	conn, ok := <-d.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (d *scripted) Close() error   { return nil }
func (d *scripted) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func (d *scripted) dial(context.Context, string, string) (net.Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dials = append(d.dials, time.Now())
	if d.absent {
		return nil, errors.New("nobody there")
	}
	ours, its := net.Pipe()
	d.conns <- its
	return ours, nil
}

func (d *scripted) set(change func(*scripted)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(d)
}

func (d *scripted) nowMS() int64 { return time.Now().Add(d.ahead).UnixMilli() }

// send tells the streams of a new power.
func (d *scripted) send(powerMW int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.powerMW = powerMW
	for s := range d.streams {
		s <- fmt.Sprintf("data: {\"timestamp_ms\":%d,\"gpu_id\":0,\"power_mw\":%d}\n\n", d.nowMS(), powerMW)
	}
}

func (d *scripted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	d.asks[r.URL.Path]++
	if len(d.order) < 16 {
		d.order = append(d.order, r.URL.Path)
	}
	mute, delay := d.mute, d.delay
	d.mu.Unlock()
	if mute != nil {
		select {
		case <-mute:
		case <-r.Context().Done():
			return
		}
	}
	if !wait(r.Context(), delay) {
		return
	}
	d.mu.Lock()
	nowMS, powerMW, gpuIDs := d.nowMS(), d.powerMW, d.gpuIDs
	d.mu.Unlock()
	switch r.URL.Path {
	case "/discover":
		fmt.Fprintf(w, `{"gpu_ids":%s,"cpu_ids":[],"enabled_api_groups":["gpu-read"]}`, gpuIDs)
	case "/time":
		fmt.Fprintf(w, `{"timestamp_ms":%d}`, nowMS)
	case "/gpu/get_power":
		fmt.Fprintf(w, `{"timestamp_ms":%d,"power_mw":{"0":%d,"1":2000}}`, nowMS, powerMW)
	case "/gpu/stream_power":
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		events := make(chan string, 100)
		d.set(func(d *scripted) { d.streams[events] = true })
		defer d.set(func(d *scripted) { delete(d.streams, events) })
		for {
			select {
			case event, ok := <-events:
				if !ok {
					return
				}
				fmt.Fprint(w, event)
				w.(http.Flusher).Flush()
			case <-r.Context().Done():
				return
			}
		}
	}
}

// inBubble runs a client against a scripted daemon in fake time.
func inBubble(t *testing.T, cfg Config, script func(t *testing.T, d *scripted, client *Client, got *collector)) {
	synctest.Test(t, func(t *testing.T) {
		d := &scripted{conns: make(chan net.Conn, 16), powerMW: 100_000, gpuIDs: "[0]", streams: make(map[chan string]bool), asks: make(map[string]int)}
		server := &http.Server{Handler: d}
		served := make(chan error, 1)
		go func() { served <- server.Serve(d) }()
		got := &collector{}
		if cfg.Targets == nil {
			cfg.Targets = []Target{{Endpoint: bubbleEndpoint(), GPUs: []int{0}}}
		}
		cfg.OnReading, cfg.OnStatus, cfg.Log, cfg.dial = got.onReading, got.onStatus, zerolog.New(got), d.dial
		client, err := NewClient(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- client.Run(ctx) }()
		script(t, d, client, got)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		close(d.conns)
		server.Close()
		<-served
	})
}

func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// A daemon that has nothing to say is asked about once a second; the value stays
// fresh and the connection stays.
func TestSilenceIsNotDeath(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, d *scripted, client *Client, _ *collector) {
		pass(time.Second)
		for range 900 {
			pass(time.Second)
			if a := age(client, bubbleEndpoint(), 0); a > 1300*time.Millisecond {
				t.Fatalf("age %v", a)
			}
		}
		// The stream comes before the snapshot.
		if want, got := "/discover /time /time /time /time /time /gpu/stream_power /gpu/get_power", strings.Join(d.order[:8], " "); got != want {
			t.Errorf("asked %s, want %s", got, want)
		}
		s := only(t, client)
		if !s.Connected || s.Reconnects != 0 || s.FailedAsks != 0 || s.Answers < 700 || s.Answers > 920 || s.ClockSteps != 0 {
			t.Errorf("status %+v", s)
		}
		if n := d.asks["/time"]; n > 920+16*roundTrips {
			t.Errorf("asked for the time %d times in 15 minutes", n)
		}
	})
}

// Half-open connections are noticed within AskAfter, a tick of a quarter of it,
// and RequestTimeout; and the peer is met again within 2 s of its return, though
// the attempt under way then is lost.
func TestDeathIsNoticed(t *testing.T) {
	for _, u := range []float64{0, 0.5, 0.999} {
		inBubble(t, Config{random: func() float64 { return u }}, func(t *testing.T, d *scripted, client *Client, _ *collector) {
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
				if r, at, ok := client.Latest(bubbleEndpoint(), 0); !ok || r.PowerW != 200+float64(i)/1e3 || time.Since(at) < 3*time.Second {
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
	inBubble(t, Config{}, func(t *testing.T, d *scripted, client *Client, got *collector) {
		d.set(func(d *scripted) { d.absent = true })
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
	inBubble(t, Config{}, func(t *testing.T, d *scripted, client *Client, got *collector) {
		for range 600 {
			d.set(func(d *scripted) { // each stream ends soon after it opened
				for s := range d.streams {
					delete(d.streams, s)
					close(s)
				}
			})
			pass(100 * time.Millisecond)
		}
		if n := strings.Count(got.logged(), "\n"); n > 3 {
			t.Errorf("logged %d lines:\n%s", n, got.logged())
		}
		if s := only(t, client); s.Reconnects < 60 || s.Reconnects > 200 {
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
	inBubble(t, Config{}, func(t *testing.T, d *scripted, client *Client, got *collector) {
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
	inBubble(t, Config{}, func(t *testing.T, d *scripted, _ *Client, got *collector) {
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

// Times that make no sense whatever the clock says are replaced by the arrival,
// and do not have the clock measured at each event.
func TestImplausibleTimes(t *testing.T) {
	inBubble(t, Config{}, func(t *testing.T, d *scripted, client *Client, got *collector) {
		pass(2 * time.Second)
		asked := d.asks["/time"]
		for i := range 600 {
			d.set(func(d *scripted) {
				for s := range d.streams {
					s <- fmt.Sprintf("data: {\"timestamp_ms\":%d,\"gpu_id\":0,\"power_mw\":%d}\n\n", []int64{1, maxTimestampMS}[i%2], i)
				}
			})
			pass(100 * time.Millisecond)
		}
		if s := only(t, client); s.ImplausibleTimes != 600 || s.ClockSteps != 0 || s.Reconnects != 0 {
			t.Errorf("status %+v", s)
		}
		for _, a := range got.all() {
			if a.arrived.Sub(a.At).Abs() > 2*time.Millisecond {
				t.Fatalf("at %v, arrived %v", a.At, a.arrived)
			}
		}
		if n := d.asks["/time"] - asked; n > 60+7*roundTrips+2*roundTrips {
			t.Errorf("asked for the time %d times in a minute", n)
		}
	})
}

// A GPU that is missing is looked for; once the daemon has it, it is read.
func TestMissingGPUAppears(t *testing.T) {
	targets := []Target{{Endpoint: bubbleEndpoint(), GPUs: []int{0, 1}}}
	inBubble(t, Config{Targets: targets}, func(t *testing.T, d *scripted, client *Client, got *collector) {
		pass(time.Minute)
		if s := only(t, client); !slices.Equal(s.UnknownGPUs, []int{1}) || s.Err == nil || !s.Connected || s.Reconnects != 0 || !holds(client, bubbleEndpoint(), 0, 100)() {
			t.Errorf("status %+v", s)
		}
		d.set(func(d *scripted) { d.gpuIDs = "[0,1]" })
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
	inBubble(t, Config{}, func(t *testing.T, d *scripted, client *Client, _ *collector) {
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

func bubbleEndpoint() Endpoint { return Endpoint{Host: "node1"} }
