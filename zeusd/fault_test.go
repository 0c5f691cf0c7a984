package zeusd

import (
	"bufio"
	"context"
	"errors"
	"math"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/g2g-agent/g2g-agent/sim"
)

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
	if _, _, ok := client.latest(e, 0); ok || only(t, client).Connected {
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
	if r, _, ok := client.latest(e, 0); !ok || math.Abs(r.PowerW-100) > 10 {
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
		r, _, ok := client.latest(e, 1)
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
	client, err := newClient(Config{
		Targets: []Target{{Endpoint: e, GPUs: []int{0, 1, 2, 3}, CPU: true}},
		random:  func() float64 { return 0.01 },
	})
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() { client.run(ctx) })
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
	running.Wait()
	if most != 6 {
		t.Errorf("%d devices kept", most)
	}
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	t.Logf("heap %d KiB", stats.HeapAlloc>>10)
}
