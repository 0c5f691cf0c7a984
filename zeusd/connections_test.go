package zeusd

import (
	"errors"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

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
func holds(c *client, e Endpoint, gpu int, powerW float64) func() bool {
	return func() bool {
		r, _, ok := c.latest(e, gpu)
		return ok && r.PowerW == powerW
	}
}

func only(t *testing.T, c *client) EndpointStatus {
	t.Helper()
	all := c.statuses()
	if len(all) != 1 {
		t.Fatalf("%d endpoints, want one", len(all))
	}
	return all[0]
}

func age(c *client, e Endpoint, gpu int) time.Duration {
	_, confirmedAt, _ := c.latest(e, gpu)
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
		for _, client := range []*client{beside, alone} {
			eventually(t, soon, "CPU power", func() bool {
				r0, _, ok0 := client.latestCPU(e, 0)
				r1, _, ok1 := client.latestCPU(e, 1)
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
	if _, _, ok := client.latest(e, 1); ok {
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
		client, err := newClient(Config{Targets: []Target{target}})
		if err != nil {
			t.Fatal(err)
		}
		reports := client.probe(t.Context())
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
