package sim

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A listener who closes his connection in order is noticed when something is to
// be sent to him, and keeps the poller going until then.
func TestZeusdNoticesWhoResets(t *testing.T) {
	for _, version := range []ZeusdVersion{Zeusd04, Zeusd05} {
		gpus := twoGPUs()
		z := startZeusd(t, ZeusdConfig{GPUs: gpus, Version: version})
		closed, e := listen(t, z, "/gpu/stream_power?gpu_ids=0")
		e.data(t)
		closed.Close()
		polls := z.Truth().Polls
		eventually(t, "ten more polls", func() bool { return z.Truth().Polls > polls+10 })
		if n := z.Truth().GPUStreams; n != 1 {
			t.Errorf("%s: %d streams, want the one that was closed", version, n)
		}
		eventually(t, "the closed one is noticed", func() bool {
			gpus[0].SetPowerW(gpus[0].PowerW() + 1)
			return z.Truth().GPUStreams == 0
		})
		reset, e := listen(t, z, "/gpu/stream_power?gpu_ids=0")
		e.data(t)
		reset.reset(t)
		eventually(t, "the reset one is noticed", func() bool { return z.Truth().GPUStreams == 0 })
	}
}

// A driver that hangs: questions about the GPU, and about others beside it, are
// answered when it is over. The one loop of the older daemon stands still.
func TestZeusdWithAHungDriver(t *testing.T) {
	for _, version := range []ZeusdVersion{Zeusd04, Zeusd05} {
		gpus := twoGPUs()
		z := startZeusd(t, ZeusdConfig{GPUs: gpus, Version: version})
		_, e := listen(t, z, "/gpu/stream_power?gpu_ids=1")
		e.data(t)
		z.SetFaults(ZeusdFaults{HungGPUs: []int{0}})
		asked := map[string]*rawConn{}
		for _, target := range []string{"/gpu/get_power?gpu_ids=0", "/gpu/get_power?gpu_ids=0,1", "/gpu/get_cumulative_energy?gpu_ids=0"} {
			asked[target] = dial(t, "tcp", z.Addr())
			asked[target].send(t, "GET "+target+" HTTP/1.1\r\nHost: x\r\n\r\n")
		}
		if status, _, _ := do(t, client(t, "tcp", z.Addr()), "GET", "/gpu/get_cumulative_energy?gpu_ids=1", ""); status != 200 {
			t.Error(version, status)
		}
		before := z.Truth()
		gpus[1].SetPowerW(90)
		if version == Zeusd05 { // the other GPU goes on
			if got := parse[gpuEvent](t, e.data(t)); got.GPUID != 1 || got.PowerMW != 90000 {
				t.Error(got)
			}
		} else {
			eventually(t, "five more polls", func() bool { return z.Truth().Polls > before.Polls+5 })
			if now := z.Truth().Events; now != before.Events {
				t.Error(now - before.Events)
			}
		}
		for target, c := range asked {
			c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			if _, err := c.r.Peek(1); !errors.As(err, new(net.Error)) {
				t.Errorf("%s: %s answered: %v", version, target, err)
			}
			c.SetReadDeadline(time.Now().Add(10 * time.Second))
		}
		z.SetFaults(ZeusdFaults{})
		if version == Zeusd04 {
			e.data(t)
			gpus[0].SetPowerW(91) // get_power waits for a change
		}
		for target, c := range asked {
			if resp := c.response(t); resp.status != 200 {
				t.Error(version, target, resp.status)
			}
		}
	}
}

// A GPU that fell off the bus: the older daemon's snapshots have its last power.
func TestZeusdWithALostGPU(t *testing.T) {
	gpus := twoGPUs()
	z := startZeusd(t, ZeusdConfig{GPUs: gpus, Version: Zeusd04})
	c, e := listen(t, z, "/gpu/stream_power")
	e.data(t)
	z.SetFaults(ZeusdFaults{FailedGPUs: []int{0}})
	gpus[0].SetPowerW(1)
	gpus[1].SetPowerW(90)
	if got := e.data(t); !strings.HasSuffix(got, `"power_mw":{"0":75000,"1":90000}}`) {
		t.Error(got)
	}
	c.reset(t)
	paused(t, z)
	_, e = listen(t, z, "/gpu/stream_power")
	e.data(t) // sent before
	if got := e.data(t); !strings.HasSuffix(got, `"power_mw":{"1":90000}}`) {
		t.Error(got)
	}
	if status, _, body := do(t, client(t, "tcp", z.Addr()), "GET", "/gpu/get_cumulative_energy", ""); status != 500 || !strings.Contains(body, `"0":"NVML error`) {
		t.Error(status, body)
	}
}

func TestZeusdFaultsOfAnswers(t *testing.T) {
	gpus := twoGPUs()
	z := startZeusd(t, ZeusdConfig{GPUs: gpus})
	c := client(t, "tcp", z.Addr())
	power := func(path string) (int, string) {
		status, _, body := do(t, c, "GET", path, "")
		return status, body
	}
	_, e := listen(t, z, "/gpu/stream_power")
	e.data(t)
	e.data(t)

	z.SetFaults(ZeusdFaults{SilentGPUs: []int{0}})
	gpus[0].SetPowerW(1)
	gpus[1].SetPowerW(2)
	if got := parse[gpuEvent](t, e.data(t)); got.GPUID != 1 {
		t.Error("a silent GPU spoke:", got)
	}
	if status, body := power("/gpu/get_power?gpu_ids=0"); status != 200 || !strings.Contains(body, `"0":1000`) {
		t.Error(status, body)
	}
	z.SetFaults(ZeusdFaults{})
	if got := parse[gpuEvent](t, e.data(t)); got.GPUID != 0 || got.PowerMW != 1000 {
		t.Error("healed, it told", got)
	}

	z.SetFaults(ZeusdFaults{FailedGPUs: []int{1}})
	if status, _ := power("/gpu/get_power"); status != 500 {
		t.Error(status)
	}
	if status, _ := power("/gpu/get_power?gpu_ids=0"); status != 200 {
		t.Error(status)
	}

	for _, status := range []int{500, 401, 403, 404} {
		z.SetFaults(ZeusdFaults{Status: status})
		if got, _ := power("/discover"); got != status {
			t.Error(got)
		}
	}

	z.SetFaults(ZeusdFaults{Delay: 50 * time.Millisecond})
	start := time.Now()
	power("/time")
	if took := time.Since(start); took < 50*time.Millisecond {
		t.Errorf("answered after %v", took)
	}
}

func TestZeusdFaultsOfStreams(t *testing.T) {
	gpus := twoGPUs()
	z := startZeusd(t, ZeusdConfig{GPUs: gpus})
	_, e := listen(t, z, "/gpu/stream_power")
	e.data(t)
	e.data(t)

	z.SetFaults(ZeusdFaults{GarbageEvents: 2})
	for i := range 3 {
		gpus[0].SetPowerW(float64(10 + i))
		event, err := e.next()
		if err != nil {
			t.Fatal(err)
		}
		if good := strings.Contains(event, fmt.Sprintf(`"gpu_id":0,"power_mw":%d}`, 1000*(10+i))); good != (i == 2) {
			t.Errorf("event %d is %q", i, event)
		}
	}
	if left := z.Faults().GarbageEvents; left != 0 {
		t.Error(left)
	}

	z.SetFaults(ZeusdFaults{TruncateEvent: true})
	gpus[0].SetPowerW(20)
	if event, err := e.next(); !errors.Is(err, io.ErrUnexpectedEOF) || !strings.HasPrefix(event, "data: {") {
		t.Errorf("%q, %v", event, err)
	}

	_, e = listen(t, z, "/gpu/stream_power?gpu_ids=0")
	e.data(t)
	z.SetFaults(ZeusdFaults{DropStreams: true})
	if _, err := e.next(); !errors.Is(err, io.EOF) {
		t.Error("a stream that was ended cleanly:", err)
	}
}

func TestZeusdFreezes(t *testing.T) {
	gpus := twoGPUs()
	z := startZeusd(t, ZeusdConfig{GPUs: gpus})
	_, e := listen(t, z, "/gpu/stream_power?gpu_ids=0")
	e.data(t)

	z.SetFaults(ZeusdFaults{FreezeStream: true})
	gpus[0].SetPowerW(1)
	if status, _, _ := do(t, client(t, "tcp", z.Addr()), "GET", "/gpu/get_power", ""); status != 200 {
		t.Error(status)
	}
	polls := z.Truth().Polls
	eventually(t, "three more polls", func() bool { return z.Truth().Polls > polls+3 })
	_, other := listen(t, z, "/gpu/stream_power?gpu_ids=0")
	if got := parse[gpuEvent](t, other.data(t)); got.PowerMW != 1000 {
		t.Error("a new stream begins with", got)
	}
	sent := z.Truth().Events

	z.SetFaults(ZeusdFaults{Freeze: true})
	asked := dial(t, "tcp", z.Addr()) // is accepted
	asked.send(t, "GET /time HTTP/1.1\r\nHost: x\r\n\r\n")
	eventually(t, "the question was heard", func() bool { return z.Truth().Requests["/time"] == 1 })
	if now := z.Truth().Events; now != sent {
		t.Error(now - sent)
	}
	asked.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := asked.r.Peek(1); !errors.As(err, new(net.Error)) {
		t.Error("a frozen daemon answered:", err)
	}
	asked.SetReadDeadline(time.Now().Add(10 * time.Second))
	z.SetFaults(ZeusdFaults{}) // thaws: what was asked is answered, what has changed is told
	if resp := asked.response(t); resp.status != 200 {
		t.Error(resp.status)
	}
	if got := parse[gpuEvent](t, e.data(t)); got.PowerMW != 1000 {
		t.Error(got)
	}
	z.SetFaults(ZeusdFaults{Freeze: true})
	asked.send(t, "GET /time HTTP/1.1\r\nHost: x\r\n\r\n")
	// Close must not wait for the thaw.
}

func TestZeusdClockSteps(t *testing.T) {
	gpus := twoGPUs()
	z := startZeusd(t, ZeusdConfig{GPUs: gpus})
	_, e := listen(t, z, "/gpu/stream_power?gpu_ids=0")
	before := parse[gpuEvent](t, e.data(t)).TimestampMS
	z.SetClockOffset(-time.Hour)
	gpus[0].SetPowerW(1)
	if step := parse[gpuEvent](t, e.data(t)).TimestampMS - before; math.Abs(float64(step)+3.6e6) > 5e3 {
		t.Errorf("stepped by %d ms", step)
	}
}

func TestZeusdDiesAndComesBack(t *testing.T) {
	for _, listenAt := range []string{"127.0.0.1:0", "unix:" + filepath.Join(t.TempDir(), "z.sock")} {
		z := startZeusd(t, ZeusdConfig{Listen: listenAt, GPUs: twoGPUs()})
		network, isUnix := "tcp", strings.HasPrefix(listenAt, "unix:")
		if isUnix {
			network = "unix"
		} else {
			_, e := listen(t, z, "/gpu/stream_power")
			e.data(t)
			e.data(t)
			z.Kill()
			if _, err := e.next(); !errors.Is(err, syscall.ECONNRESET) {
				t.Error("a stream of a dead daemon:", err)
			}
		}
		z.Kill()
		z.Kill() // is dead already
		if c, err := (&net.Dialer{}).DialContext(t.Context(), network, z.Addr()); err == nil {
			c.Close()
			t.Error("a dead daemon accepts")
		}
		for range 2 {
			if err := z.Restart(); err != nil {
				t.Fatal(err)
			}
			if status, _, _ := do(t, client(t, network, z.Addr()), "GET", "/time", ""); status != 200 {
				t.Error(status)
			}
		}
		z.Close()
		if err := z.Restart(); !errors.Is(err, errClosed) {
			t.Error("restarted after Close:", err)
		}
		z.Close()
	}
}

func TestZeusdReplacesAStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "z.sock")
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false) // as if its program were killed
	ln.Close()
	z := startZeusd(t, ZeusdConfig{Listen: "unix:" + path})
	if status, _, _ := do(t, client(t, "unix", z.Addr()), "GET", "/time", ""); status != 200 {
		t.Error(status)
	}
	file := filepath.Join(t.TempDir(), "notes.txt")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := StartZeusd(ZeusdConfig{Listen: "unix:" + file}); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Error(err)
	}
}
