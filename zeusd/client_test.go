package zeusd

import (
	"bufio"
	"context"
	"errors"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/internal/credential"
	"github.com/g2g-agent/g2g-agent/sim"
)

// soon is how long tests wait for what takes a fraction of it on an idle machine.
const soon = 10 * time.Second

// daemon starts a simulated daemon and returns where it is.
func daemon(t *testing.T, cfg sim.ZeusdConfig) (*sim.Zeusd, Endpoint) {
	t.Helper()
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	if cfg.PollInterval == 0 {
		cfg.PollInterval = 5 * time.Millisecond
	}
	z, err := sim.StartZeusd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := z.Close(); err != nil {
			t.Error(err)
		}
	})
	return z, endpointAt(t, z.Addr())
}

func endpointAt(t *testing.T, addr string) Endpoint {
	t.Helper()
	if strings.HasPrefix(addr, "/") {
		return Endpoint{Socket: addr}
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return Endpoint{Host: host, Port: n}
}

func gpus(powerW ...float64) []*sim.GPU {
	var all []*sim.GPU
	for _, w := range powerW {
		all = append(all, sim.NewGPU("simulated", w))
	}
	return all
}

// holds tells whether the latest value of a GPU is this one.
func holds(c *Client, e Endpoint, gpu int, powerW float64) func() bool {
	return func() bool {
		r, _, ok := c.Latest(e, gpu)
		return ok && r.PowerW == powerW
	}
}

func only(t *testing.T, c *Client) EndpointStatus {
	t.Helper()
	all := c.Status()
	if len(all) != 1 {
		t.Fatalf("%d endpoints, want one", len(all))
	}
	return all[0]
}

func age(c *Client, e Endpoint, gpu int) time.Duration {
	_, confirmedAt, _ := c.Latest(e, gpu)
	return time.Since(confirmedAt)
}

// A power step arrives soon, and at the right time although the daemon's clock is
// wrong: for each version of the protocol, over each transport.
func TestPowerStep(t *testing.T) {
	t.Parallel()
	for _, version := range []sim.ZeusdVersion{sim.Zeusd05, sim.Zeusd04} {
		for _, transport := range []string{"tcp", "unix"} {
			for _, offset := range []time.Duration{3 * time.Second, -3 * time.Second} {
				t.Run(string(version)+" "+transport+" "+offset.String(), func(t *testing.T) {
					listen := "127.0.0.1:0"
					if transport == "unix" {
						listen = "unix:" + filepath.Join(t.TempDir(), "z.sock")
					}
					g := gpus(100, 200)
					_, e := daemon(t, sim.ZeusdConfig{Listen: listen, GPUs: g, Version: version, ClockOffset: offset})
					client, got := start(t, Config{Targets: []Target{{Endpoint: e, GPUs: []int{0, 1}}}})
					eventually(t, soon, "snapshot", func() bool {
						return holds(client, e, 0, 100)() && holds(client, e, 1, 200)()
					})
					var latencies, errs []time.Duration
					for i := range 9 {
						powerW := 300 + float64(i)
						stepped := time.Now()
						g[1].SetPowerW(powerW)
						var a arrival
						eventually(t, soon, "step", func() (ok bool) {
							a, ok = got.first(func(a arrival) bool { return a.PowerW == powerW })
							return ok
						})
						if a.Index != 1 || a.Kind != GPU || a.Endpoint != e || a.At.After(a.arrived) {
							t.Fatalf("reading %+v", a)
						}
						latencies = append(latencies, a.arrived.Sub(stepped))
						errs = append(errs, a.At.Sub(stepped))
					}
					// The median, as one step may meet a busy machine.
					slices.Sort(latencies)
					slices.Sort(errs)
					t.Logf("after %v, at %v; all: %v", latencies[4], errs[4], errs)
					if latencies[4] > 100*time.Millisecond || errs[4] < -20*time.Millisecond || errs[4] > 20*time.Millisecond {
						t.Errorf("step arrives after %v, at %v", latencies, errs)
					}
					if s := only(t, client); (s.ClockOffset+offset).Abs() > 50*time.Millisecond || s.BadEvents != 0 || s.Err != nil {
						t.Errorf("status %+v", s)
					}
				})
			}
		}
	}
}

func TestCPUs(t *testing.T) {
	t.Parallel()
	for _, version := range []sim.ZeusdVersion{sim.Zeusd05, sim.Zeusd04} {
		_, e := daemon(t, sim.ZeusdConfig{GPUs: gpus(100), CPUs: 2, Version: version})
		beside, _ := start(t, Config{Targets: []Target{{Endpoint: e, GPUs: []int{0}}, {Endpoint: e, CPU: true}}})
		alone, _ := start(t, Config{Targets: []Target{{Endpoint: e, CPU: true}}})
		for _, client := range []*Client{beside, alone} {
			eventually(t, soon, "CPU power", func() bool {
				r0, _, ok0 := client.LatestCPU(e, 0)
				r1, _, ok1 := client.LatestCPU(e, 1)
				return ok0 && ok1 && r0.PowerW == 85 && r0.DRAMW == 12 && r1.Kind == CPU && r1.Index == 1
			})
			eventually(t, soon, "connection", func() bool { s := only(t, client); return s.Connected && s.CPUErr == nil })
		}
		eventually(t, soon, "GPU power", holds(beside, e, 0, 100))
	}
}

// A host without CPU power gives its GPUs all the same; where CPUs are all that is
// wanted, it is an error.
func TestCPUsAbsent(t *testing.T) {
	t.Parallel()
	z, e := daemon(t, sim.ZeusdConfig{GPUs: gpus(100)})
	beside, _ := start(t, Config{Targets: []Target{{Endpoint: e, GPUs: []int{0}, CPU: true}}})
	alone, _ := start(t, Config{Targets: []Target{{Endpoint: e, CPU: true}}})
	eventually(t, soon, "GPU power", holds(beside, e, 0, 100))
	if s := only(t, beside); s.Err != nil || s.CPUErr == nil || !strings.Contains(s.CPUErr.Error(), "API group cpu-read is off there (on: gpu-read)") {
		t.Errorf("status %+v", s)
	}
	eventually(t, soon, "error", func() bool { return only(t, alone).Err != nil })
	if s := only(t, alone); s.Connected || errors.Is(s.Err, ErrRefused) {
		t.Errorf("status %+v", s)
	}
	if n := z.Truth().Requests["/cpu/get_power"]; n != 0 {
		t.Errorf("%d questions for CPUs", n)
	}
}

// A token without the CPUs' scope gives the GPUs.
func TestCPUsRefused(t *testing.T) {
	t.Parallel()
	z, e := daemon(t, sim.ZeusdConfig{GPUs: gpus(100), CPUs: 1, Token: "right", Scopes: []string{"gpu-read"}})
	e.Token = credential.Fixed("right")
	beside, _ := start(t, Config{Targets: []Target{{Endpoint: e, GPUs: []int{0}, CPU: true}}, AskAfter: 20 * time.Millisecond})
	alone, _ := start(t, Config{Targets: []Target{{Endpoint: e, CPU: true}}})
	eventually(t, soon, "GPU power", func() bool { return holds(beside, e, 0, 100)() && only(t, beside).Answers > 5 })
	if s := only(t, beside); !errors.Is(s.CPUErr, ErrRefused) || s.Err != nil || s.Reconnects != 0 {
		t.Errorf("status %+v", s)
	}
	eventually(t, soon, "refusal", func() bool { return errors.Is(only(t, alone).Err, ErrRefused) })
	if n := z.Truth().Requests["/cpu/stream_power"]; n != 0 {
		t.Errorf("%d streams asked for in vain", n)
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	_, open := daemon(t, sim.ZeusdConfig{GPUs: gpus(100)})
	_, shut := daemon(t, sim.ZeusdConfig{GPUs: gpus(100), Token: "right"})
	_, narrow := daemon(t, sim.ZeusdConfig{GPUs: gpus(100), Token: "right", Scopes: []string{"gpu-control"}})
	with := func(e Endpoint, token string) Endpoint {
		e.Token = credential.Fixed(token)
		return e
	}
	for _, c := range []struct {
		name    string
		e       Endpoint
		refused string // what the error says; empty if it works
	}{
		{"right", with(shut, "right"), ""},
		{"needless", with(open, "needless"), ""},
		{"wrong", with(shut, "wrong"), "status 401: Invalid token: InvalidSignature (the daemon wants another token)"},
		{"missing", shut, "the daemon wants a token and the endpoint has none"},
		{"without scope", with(narrow, "right"), `the token of "sim" lacks the scope gpu-read (it has: gpu-control)`},
	} {
		t.Run(c.name, func(t *testing.T) {
			// Another endpoint goes on meanwhile.
			_, other := daemon(t, sim.ZeusdConfig{GPUs: gpus(55)})
			client, got := start(t, Config{Targets: []Target{{Endpoint: c.e, GPUs: []int{0}}, {Endpoint: other, GPUs: []int{0}}}})
			eventually(t, soon, "the other endpoint", holds(client, other, 0, 55))
			if c.refused == "" {
				eventually(t, soon, "power", holds(client, c.e, 0, 100))
				return
			}
			eventually(t, soon, "refusal", func() bool { return errors.Is(client.Status()[0].Err, ErrRefused) })
			s := client.Status()[0]
			if !errors.Is(s.Err, ErrRefused) || !strings.Contains(s.Err.Error(), c.refused) || s.Connected {
				t.Errorf("status %+v", s)
			}
			if token := c.e.Token.Key(); token != "" && (strings.Contains(got.logged(), token+`"`) || strings.Contains(s.Err.Error(), token+" ")) && token != "right" {
				t.Error("the token is shown")
			}
		})
	}
}

// A refusal while connected is said, and passes when the daemon does no more
// refuse.
func TestRefusedWhileConnected(t *testing.T) {
	t.Parallel()
	for _, status := range []int{401, 403} {
		g := gpus(100)
		z, e := daemon(t, sim.ZeusdConfig{GPUs: g})
		client, got := start(t, Config{Targets: []Target{{Endpoint: e, GPUs: []int{0}}}, AskAfter: 50 * time.Millisecond})
		eventually(t, soon, "power", holds(client, e, 0, 100))
		z.SetFaults(sim.ZeusdFaults{Status: status})
		eventually(t, soon, "refusal", func() bool { return errors.Is(only(t, client).Err, ErrRefused) })
		if !holds(client, e, 0, 100)() {
			t.Error("the last value is gone")
		}
		z.SetFaults(sim.ZeusdFaults{})
		g[0].SetPowerW(120)
		eventually(t, soon, "recovery", holds(client, e, 0, 120))
		if n := strings.Count(got.logged(), "refuses us"); n != 1 {
			t.Errorf("logged %d times:\n%s", n, got.logged())
		}
	}
}

// A token that was changed is read anew from where it stands, once it is refused.
func TestTokenIsReadAnew(t *testing.T) {
	t.Parallel()
	_, e := daemon(t, sim.ZeusdConfig{GPUs: gpus(100), Token: "new"})
	var token atomic.Value
	token.Store("old")
	var err error
	e.Token, err = credential.Renewable(func() (string, error) {
		if token := token.Load().(string); token != "" {
			return token, nil
		}
		return "", errors.New("it is being written")
	}, 0, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	client, got := start(t, Config{Targets: []Target{{Endpoint: e, GPUs: []int{0}}}})
	eventually(t, soon, "refusal", func() bool { return errors.Is(only(t, client).Err, ErrRefused) })
	token.Store("")
	eventually(t, soon, "a token that cannot be read", func() bool { return strings.Contains(got.logged(), "it is being written") })
	token.Store("new")
	eventually(t, soon, "power", holds(client, e, 0, 100))
	if strings.Contains(got.logged(), `old`) || strings.Contains(got.logged(), `new"`) {
		t.Error("a token is shown:", got.logged())
	}
}

func TestKilledAndBack(t *testing.T) {
	t.Parallel()
	g := gpus(100)
	z, e := daemon(t, sim.ZeusdConfig{GPUs: g})
	client, got := start(t, Config{Targets: []Target{{Endpoint: e, GPUs: []int{0}}}})
	eventually(t, soon, "power", holds(client, e, 0, 100))
	for i := range 2 {
		z.Kill()
		eventually(t, soon, "notice", func() bool { return !only(t, client).Connected })
		eventually(t, soon, "age", func() bool { return age(client, e, 0) > 300*time.Millisecond })
		if !holds(client, e, 0, g[0].PowerW())() {
			t.Error("the last value is gone")
		}
		powerW := 200 + float64(i)
		g[0].SetPowerW(powerW)
		back := time.Now()
		if err := z.Restart(); err != nil {
			t.Fatal(err)
		}
		eventually(t, soon, "recovery", holds(client, e, 0, powerW))
		t.Logf("recovered after %v", time.Since(back))
		if took := time.Since(back); took > 2*time.Second {
			t.Errorf("recovered %v after the return", took)
		}
	}
	if s := only(t, client); s.Reconnects != 2 || !s.Connected || s.Err != nil {
		t.Errorf("status %+v", s)
	}
	if a, ok := got.first(func(a arrival) bool { return a.PowerW == 0 }); ok {
		t.Errorf("a dip: %+v", a)
	}
	if n := strings.Count(got.logged(), "\n"); n > 10 {
		t.Errorf("%d log lines:\n%s", n, got.logged())
	}
}

func TestAbsentAtTheStart(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "z.sock")
	e := Endpoint{Socket: socket}
	client, got := start(t, Config{Targets: []Target{{Endpoint: e, GPUs: []int{0}}}})
	eventually(t, soon, "error", func() bool { return only(t, client).Err != nil })
	if _, _, ok := client.Latest(e, 0); ok || only(t, client).Connected {
		t.Error("connected to nothing")
	}
	daemon(t, sim.ZeusdConfig{Listen: "unix:" + socket, GPUs: gpus(100)})
	eventually(t, 2*time.Second+soon/2, "power", holds(client, e, 0, 100))
	if s := only(t, client); s.Reconnects != 0 {
		t.Errorf("status %+v", s)
	}
	// No socket at first, then perhaps one that nobody listens at yet.
	if n := strings.Count(got.logged(), "not connected"); n < 1 || n > 2 {
		t.Errorf("logged %d times:\n%s", n, got.logged())
	}
}

// A peer gone without a word is noticed by its not answering; the value is held,
// and its age tells. It is met again once it is back.
func TestHalfOpen(t *testing.T) {
	t.Parallel()
	g := gpus(100)
	z, e := daemon(t, sim.ZeusdConfig{GPUs: g, NoiseFraction: 0.01, Seed: 1})
	client, _ := start(t, Config{Targets: []Target{{Endpoint: e, GPUs: []int{0}}}, AskAfter: 200 * time.Millisecond, RequestTimeout: 300 * time.Millisecond})
	eventually(t, soon, "connection", func() bool { s := only(t, client); return s.Connected && s.Events > 3 })
	z.SetFaults(sim.ZeusdFaults{Freeze: true})
	frozen := time.Now()
	eventually(t, soon, "notice", func() bool { return !only(t, client).Connected })
	if took := time.Since(frozen); took > 2*time.Second {
		t.Errorf("noticed after %v", took)
	}
	if err := only(t, client).Err; !errors.Is(err, errNoAnswer) {
		t.Errorf("error %v", err)
	}
	if a := age(client, e, 0); a < 200*time.Millisecond {
		t.Errorf("age %v", a)
	}
	eventually(t, soon, "age", func() bool { return age(client, e, 0) > time.Second })
	if r, _, ok := client.Latest(e, 0); !ok || math.Abs(r.PowerW-100) > 10 {
		t.Errorf("the last value is gone: %+v", r)
	}
	z.SetFaults(sim.ZeusdFaults{})
	back := time.Now()
	eventually(t, soon, "recovery", func() bool { return age(client, e, 0) < 200*time.Millisecond })
	if took := time.Since(back); took > 2*time.Second {
		t.Errorf("recovered %v after the return", took)
	}
}

// A stream that died while the daemon lives: values come by asking, and the
// stream is opened anew.
func TestFrozenStream(t *testing.T) {
	t.Parallel()
	g := gpus(100)
	z, e := daemon(t, sim.ZeusdConfig{GPUs: g})
	client, _ := start(t, Config{Targets: []Target{{Endpoint: e, GPUs: []int{0}}}, AskAfter: 100 * time.Millisecond})
	eventually(t, soon, "power", holds(client, e, 0, 100))
	eventually(t, soon, "a second question", func() bool { return only(t, client).Answers >= 2 })
	z.SetFaults(sim.ZeusdFaults{FreezeStream: true})
	g[0].SetPowerW(150)
	eventually(t, soon, "the value by asking", holds(client, e, 0, 150))
	eventually(t, soon, "a new stream", func() bool { return only(t, client).Reconnects > 0 })
	if a := age(client, e, 0); a > 2*time.Second {
		t.Errorf("age %v", a)
	}
	z.SetFaults(sim.ZeusdFaults{})
	g[0].SetPowerW(160)
	eventually(t, soon, "recovery", holds(client, e, 0, 160))
}

func TestSilentGPU(t *testing.T) {
	t.Parallel()
	g := gpus(100, 200)
	z, e := daemon(t, sim.ZeusdConfig{GPUs: g, NoiseFraction: 0.01, Seed: 1})
	client, _ := start(t, Config{Targets: []Target{{Endpoint: e, GPUs: []int{0, 1}}}, AskAfter: 200 * time.Millisecond})
	z.SetFaults(sim.ZeusdFaults{SilentGPUs: []int{1}})
	eventually(t, soon, "connection", func() bool { s := only(t, client); return s.Connected && s.Events > 0 })
	g[1].SetPowerW(400)
	eventually(t, soon, "the value by asking", func() bool {
		r, _, ok := client.Latest(e, 1)
		return ok && r.PowerW > 300
	})
	answers := only(t, client).Answers
	eventually(t, soon, "more answers", func() bool { return only(t, client).Answers >= answers+5 })
	if s := only(t, client); s.Reconnects != 0 || s.Err != nil || age(client, e, 1) > time.Second || age(client, e, 0) > time.Second {
		t.Errorf("ages %v, %v; status %+v", age(client, e, 0), age(client, e, 1), s)
	}
}

// A GPU that the daemon cannot read grows old and costs the others nothing.
func TestFailedGPU(t *testing.T) {
	t.Parallel()
	g := gpus(100, 200, 300)
	z, e := daemon(t, sim.ZeusdConfig{GPUs: g})
	client, got := start(t, Config{Targets: []Target{{Endpoint: e, GPUs: []int{0, 1, 2}}}, AskAfter: 100 * time.Millisecond})
	eventually(t, soon, "power", holds(client, e, 1, 200))
	z.SetFaults(sim.ZeusdFaults{FailedGPUs: []int{1}})
	eventually(t, soon, "notice", func() bool { return slices.Equal(only(t, client).FailedGPUs, []int{1}) })
	eventually(t, soon, "age", func() bool { return age(client, e, 1) > 500*time.Millisecond })
	if s := only(t, client); !s.Connected || s.Reconnects != 0 || s.Err == nil || !strings.Contains(s.Err.Error(), "NVML error") {
		t.Errorf("status %+v", s)
	}
	if !holds(client, e, 1, 200)() || age(client, e, 0) > 500*time.Millisecond || age(client, e, 2) > 500*time.Millisecond {
		t.Error("the others suffer")
	}
	// Also for a client that comes now.
	late, _ := start(t, Config{Targets: []Target{{Endpoint: e, GPUs: []int{0, 1, 2}}}})
	eventually(t, soon, "the others", func() bool { return holds(late, e, 0, 100)() && holds(late, e, 2, 300)() })
	z.SetFaults(sim.ZeusdFaults{})
	eventually(t, soon, "recovery", func() bool {
		return age(client, e, 1) < 300*time.Millisecond && only(t, client).Err == nil && holds(late, e, 1, 200)()
	})
	if n := strings.Count(got.logged(), "cannot read"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, got.logged())
	}
}

func TestGarbageEvents(t *testing.T) {
	t.Parallel()
	g := gpus(100)
	z, e := daemon(t, sim.ZeusdConfig{GPUs: g, NoiseFraction: 0.01, Seed: 1})
	client, got := start(t, Config{Targets: []Target{{Endpoint: e, GPUs: []int{0}}}})
	eventually(t, soon, "events", func() bool { return only(t, client).Events > 3 })
	z.SetFaults(sim.ZeusdFaults{GarbageEvents: 40}) // of ten kinds, of which six are bad, one is old and one is of nobody
	eventually(t, soon, "garbage", func() bool {
		s := only(t, client)
		return s.BadEvents >= 24 && s.ReplayedEvents >= 4 && s.UnwantedReadings >= 4
	})
	events := only(t, client).Events
	eventually(t, soon, "events", func() bool { return only(t, client).Events > events+3 })
	if s := only(t, client); !s.Connected || s.Reconnects != 0 {
		t.Errorf("status %+v", s)
	}
	if a, ok := got.first(func(a arrival) bool { return math.Abs(a.PowerW-100) > 10 }); ok {
		t.Errorf("garbage got through: %+v", a)
	}
	if n := strings.Count(got.logged(), "bad event"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, got.logged())
	}
}

func TestBrokenStreams(t *testing.T) {
	t.Parallel()
	g := gpus(100)
	z, e := daemon(t, sim.ZeusdConfig{GPUs: g, NoiseFraction: 0.01, Seed: 1})
	client, _ := start(t, Config{Targets: []Target{{Endpoint: e, GPUs: []int{0}}}})
	eventually(t, soon, "events", func() bool { return only(t, client).Events > 3 })
	z.SetFaults(sim.ZeusdFaults{TruncateEvent: true})
	eventually(t, soon, "the cut", func() bool { s := only(t, client); return s.Reconnects == 1 && s.BadEvents == 1 })
	z.SetFaults(sim.ZeusdFaults{DropStreams: true})
	eventually(t, soon, "the end", func() bool { return only(t, client).Reconnects == 2 })
	events := only(t, client).Events
	eventually(t, soon, "events", func() bool { s := only(t, client); return s.Events > events+3 && s.Connected })
}

func TestServerErrorsAreRetried(t *testing.T) {
	t.Parallel()
	z, e := daemon(t, sim.ZeusdConfig{GPUs: gpus(100)})
	z.SetFaults(sim.ZeusdFaults{Status: 500})
	client, _ := start(t, Config{Targets: []Target{{Endpoint: e, GPUs: []int{0}}}})
	eventually(t, soon, "error", func() bool {
		err := only(t, client).Err
		return err != nil && strings.Contains(err.Error(), "GET /discover: status 500: simulated fault")
	})
	z.SetFaults(sim.ZeusdFaults{})
	eventually(t, soon, "power", holds(client, e, 0, 100))
}

// The daemon's clock is set while connected: times are right again within a
// second or so, never after the arrival, and never run backwards.
func TestDaemonClockSteps(t *testing.T) {
	t.Parallel()
	z, e := daemon(t, sim.ZeusdConfig{GPUs: gpus(100), NoiseFraction: 0.01, Seed: 1})
	client, got := start(t, Config{Targets: []Target{{Endpoint: e, GPUs: []int{0}}}})
	eventually(t, soon, "events", func() bool { return only(t, client).Events > 3 })
	for i, offset := range []time.Duration{time.Hour, -3 * time.Second, -3*time.Second - 150*time.Millisecond} {
		z.SetClockOffset(offset)
		eventually(t, soon, "notice", func() bool {
			s := only(t, client)
			return s.ClockSteps == uint64(i+1) && (s.ClockOffset+offset).Abs() < 20*time.Millisecond
		})
	}
	n := len(got.all())
	eventually(t, soon, "events", func() bool { return len(got.all()) > n+20 })
	all := got.all()
	var errs []time.Duration
	for i, a := range all {
		if a.At.After(a.arrived) || i > 0 && a.At.Before(all[i-1].At) {
			t.Fatalf("reading %d at %v arrives at %v, after one at %v", i, a.At, a.arrived, all[i-1].At)
		}
		if i > n {
			errs = append(errs, a.arrived.Sub(a.At))
		}
	}
	slices.Sort(errs)
	if median := errs[len(errs)/2]; median > 20*time.Millisecond {
		t.Errorf("readings seem %v old", median)
	}
}

func TestEndpointNamedTwice(t *testing.T) {
	t.Parallel()
	z, e := daemon(t, sim.ZeusdConfig{GPUs: gpus(100, 200, 300), Token: "right"})
	withToken := e
	withToken.Token = credential.Fixed("right")
	client, _ := start(t, Config{Targets: []Target{
		{Endpoint: e, GPUs: []int{2}}, {Endpoint: withToken, GPUs: []int{0, 2}},
	}})
	eventually(t, soon, "power", func() bool {
		return holds(client, e, 0, 100)() && holds(client, withToken, 2, 300)()
	})
	if _, _, ok := client.Latest(e, 1); ok {
		t.Error("a GPU nobody wants is read")
	}
	if truth := z.Truth(); truth.GPUStreams != 1 || truth.Requests["/discover"] != 1 {
		t.Errorf("%d streams, %v requests, want one connection", truth.GPUStreams, truth.Requests)
	}
	only(t, client)
}

func TestGPUThatDoesNotExist(t *testing.T) {
	t.Parallel()
	_, e := daemon(t, sim.ZeusdConfig{GPUs: gpus(100, 200)})
	some, _ := start(t, Config{Targets: []Target{{Endpoint: e, GPUs: []int{1, 2, 7}}}})
	none, _ := start(t, Config{Targets: []Target{{Endpoint: e, GPUs: []int{7}}}})
	eventually(t, soon, "the one that exists", holds(some, e, 1, 200))
	s := only(t, some)
	if want := e.String() + ": has no GPU 2, 7; its GPUs are: 0, 1"; s.Err == nil || s.Err.Error() != want || !slices.Equal(s.UnknownGPUs, []int{2, 7}) || !s.Connected {
		t.Errorf("status %+v, want the error %q", s, want)
	}
	eventually(t, soon, "error", func() bool { return only(t, none).Err != nil })
	s = only(t, none)
	if want := e.String() + ": has no GPU 7; its GPUs are: 0, 1"; s.Err.Error() != want || s.Connected {
		t.Errorf("status %+v, want the error %q", s, want)
	}
}

func TestProbe(t *testing.T) {
	t.Parallel()
	_, e := daemon(t, sim.ZeusdConfig{GPUs: gpus(100, 200), CPUs: 1, Token: "right", ClockOffset: 3 * time.Second})
	_, old := daemon(t, sim.ZeusdConfig{GPUs: gpus(100, 200), Version: sim.Zeusd04})
	e.Token = credential.Fixed("right")
	probe := func(target Target) Report {
		t.Helper()
		client, err := NewClient(Config{Targets: []Target{target}})
		if err != nil {
			t.Fatal(err)
		}
		reports := client.Probe(t.Context())
		if len(reports) != 1 {
			t.Fatalf("%d reports of one daemon", len(reports))
		}
		return reports[0]
	}
	r := probe(Target{Endpoint: e, GPUs: []int{1, 0}, CPU: true})
	if r.Err != nil || !slices.Equal(r.PowerW, []float64{100, 200}) || (r.ClockOffset+3*time.Second).Abs() > 100*time.Millisecond ||
		r.Identity == nil || r.Identity.Subject != "sim" || r.Discovery.PlainIDs || len(r.Discovery.GPUs) != 2 || !r.Discovery.CPUs[0].DRAMAvailable {
		t.Errorf("%+v", r)
	}
	r = probe(Target{Endpoint: old, GPUs: []int{0}})
	if r.Err != nil || !slices.Equal(r.PowerW, []float64{100}) || !r.Discovery.PlainIDs || r.Identity != nil || len(r.Discovery.GPUs) != 2 {
		t.Errorf("%+v", r)
	}
	if r = probe(Target{Endpoint: old, GPUs: []int{2}}); r.Err == nil || !strings.Contains(r.Err.Error(), "has no GPU 2; its GPUs are: 0, 1") {
		t.Error(r.Err)
	}
	if r = probe(Target{Endpoint: old, GPUs: []int{0}, CPU: true}); r.Err == nil || !strings.Contains(r.Err.Error(), "cpu-read is off") {
		t.Error(r.Err)
	}
	e.Token = credential.Fixed("wrong")
	if r = probe(Target{Endpoint: e, GPUs: []int{0}}); !errors.Is(r.Err, ErrRefused) {
		t.Error(r.Err)
	}
	// A GPU that cannot be read is not the others' fault.
	for _, faults := range []sim.ZeusdFaults{{FailedGPUs: []int{1}}, {HungGPUs: []int{1}}, {OddMW: map[int]int64{1: 4294967295}}} {
		z, e := daemon(t, sim.ZeusdConfig{GPUs: gpus(100, 200)})
		z.SetFaults(faults)
		r := probe(Target{Endpoint: e, GPUs: []int{0, 1}})
		if r.Err != nil || r.PowerW[0] != 100 || !math.IsNaN(r.PowerW[1]) || len(r.Unread) != 1 || r.Unread[1] == nil || !strings.Contains(r.Unread[1].Error(), "1") {
			t.Errorf("%+v: %+v", faults, r)
		}
		t.Log(r.Unread[1])
	}
}

// The API group is off: the message says so, whether /discover tells or the path
// is simply not there; the daemon may be started anew with it on.
func TestGPUGroupOff(t *testing.T) {
	t.Parallel()
	var groups atomic.Pointer[string]
	mux := http.NewServeMux()
	mux.HandleFunc("GET /discover", func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte(`{"gpu_ids":[0],"cpu_ids":[]` + *groups.Load() + `}`))
	})
	mux.HandleFunc("GET /time", func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte(`{"timestamp_ms":` + strconv.FormatInt(time.Now().UnixMilli(), 10) + `}`))
	})
	mux.HandleFunc("GET /gpu/", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		w.Write([]byte(`{"error":"API group 'gpu-read' is not enabled on this server."}`))
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	e := endpointAt(t, strings.TrimPrefix(server.URL, "http://"))
	for said, want := range map[string]string{
		`,"enabled_api_groups":["gpu-control"]`: "the API group gpu-read is off there (on: gpu-control): start zeusd with it enabled",
		``:                                      "status 404: API group 'gpu-read' is not enabled on this server. (the API group gpu-read is off there: start zeusd with it enabled)",
	} {
		groups.Store(&said)
		client, _ := start(t, Config{Targets: []Target{{Endpoint: e, GPUs: []int{0}}}})
		eventually(t, soon, "error", func() bool { return only(t, client).Err != nil })
		if s := only(t, client); !strings.Contains(s.Err.Error(), want) {
			t.Errorf("status %+v, want the error %q", s, want)
		}
	}
}

// A peer that is no zeusd, or sends without end, costs a bounded amount of memory
// and is reported.
func TestPeerThatFloods(t *testing.T) {
	t.Parallel()
	flood := strings.Repeat("x", 1<<16)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b := bufio.NewWriter(w)
		b.WriteString(`"`)
		for r.Context().Err() == nil {
			if _, err := b.WriteString(flood); err != nil {
				return
			}
		}
	}))
	t.Cleanup(server.Close)
	e := endpointAt(t, strings.TrimPrefix(server.URL, "http://"))
	client, _ := start(t, Config{Targets: []Target{{Endpoint: e, GPUs: []int{0}}}})
	eventually(t, soon, "error", func() bool {
		err := only(t, client).Err
		return err != nil && strings.Contains(err.Error(), "answer is longer than 1048576 bytes")
	})
}

// Faults of all kinds for a while leave neither goroutines nor memory behind.
func TestFaultsLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	g := gpus(100, 200, 300, 400)
	z, e := daemon(t, sim.ZeusdConfig{GPUs: g, CPUs: 2, NoiseFraction: 0.01, Seed: 1})
	ctx, cancel := context.WithCancel(t.Context())
	client, err := NewClient(Config{
		Targets: []Target{{Endpoint: e, GPUs: []int{0, 1, 2, 3}, CPU: true}},
		random:  func() float64 { return 0.01 },
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- client.Run(ctx) }()
	eventually(t, soon, "connection", func() bool { s := only(t, client); return s.Connected && s.Events > 0 })
	most := 0
	for i := range uint64(12) {
		switch i % 3 {
		case 0:
			z.SetFaults(sim.ZeusdFaults{DropStreams: true})
		case 1:
			z.SetFaults(sim.ZeusdFaults{TruncateEvent: true, GarbageEvents: 3})
		case 2:
			z.Kill()
			if err := z.Restart(); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, soon, "recovery", func() bool {
			s, truth := only(t, client), z.Truth()
			return s.Connected && s.Reconnects > i && age(client, e, 3) < time.Second && truth.GPUStreams == 1 && truth.CPUStreams == 1
		})
		most = max(most, len(client.conns[0].devices))
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if most != 6 {
		t.Errorf("%d devices kept", most)
	}
	if err := client.Run(t.Context()); err == nil {
		t.Error("a second run works")
	}
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	t.Logf("heap %d KiB", stats.HeapAlloc>>10)
}
