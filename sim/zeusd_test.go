package sim

import (
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func startZeusd(t *testing.T, cfg ZeusdConfig) *Zeusd {
	t.Helper()
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	if cfg.PollInterval == 0 {
		cfg.PollInterval = 5 * time.Millisecond
	}
	z, err := StartZeusd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { z.Close() })
	return z
}

// listen opens a power stream by hand and waits until the daemon has noticed.
func listen(t *testing.T, z *Zeusd, path string) (*rawConn, *events) {
	t.Helper()
	before := z.Truth()
	c := dial(t, "tcp", z.Addr())
	c.send(t, "GET "+path+" HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")
	resp := c.response(t)
	if resp.status != 200 || resp.header.Get("Content-Type") != "text/event-stream" {
		t.Fatal(resp.status, resp.header)
	}
	eventually(t, "the daemon knows its listener", func() bool {
		now := z.Truth()
		return now.GPUStreams > before.GPUStreams || now.CPUStreams > before.CPUStreams
	})
	return c, newEvents(resp)
}

// paused waits until the pollers have noticed that nobody listens.
func paused(t *testing.T, z *Zeusd) {
	t.Helper()
	eventually(t, "the pollers pause", func() bool {
		z.mu.Lock()
		defer z.mu.Unlock()
		return !slices.ContainsFunc(z.gpus.devices, func(d device) bool { return d.known })
	})
}

type gpuEvent struct {
	TimestampMS int64 `json:"timestamp_ms"`
	GPUID       int   `json:"gpu_id"`
	PowerMW     int64 `json:"power_mw"`
}

func twoGPUs() []*GPU { return []*GPU{NewGPU("H100", 75), NewGPU("H100", 120)} }

func TestZeusdAnswers(t *testing.T) {
	for _, listenAt := range []string{"127.0.0.1:0", "unix:" + filepath.Join(t.TempDir(), "z.sock")} {
		z := startZeusd(t, ZeusdConfig{Listen: listenAt, GPUs: twoGPUs(), CPUs: 1, ClockOffset: -3 * time.Second})
		network := "tcp"
		if strings.HasPrefix(listenAt, "unix:") {
			network = "unix"
		}
		c := client(t, network, z.Addr())

		status, header, body := do(t, c, "GET", "/discover", "")
		want := `{"gpus":[{"id":0,"name":"H100"},{"id":1,"name":"H100"}],` +
			`"cpus":[{"id":0,"dram_available":true}],"enabled_api_groups":["gpu-read","cpu-read"],"auth_required":false}`
		if diff := cmp.Diff(want, body); status != 200 || header.Get("Content-Type") != "application/json" || diff != "" {
			t.Errorf("/discover: status %d, headers %v (-want +got):\n%s", status, header, diff)
		}

		_, _, body = do(t, c, "GET", "/time", "")
		at := time.UnixMilli(parse[map[string]int64](t, body)["timestamp_ms"])
		if late := time.Since(at) - 3*time.Second; late < 0 || late > 2*time.Second {
			t.Errorf("the clock is %v off the 3 s it should be behind", late)
		}

		for query, want := range map[string]map[string]int64{
			"":                           {"0": 75000, "1": 120000},
			"?gpu_ids=1":                 {"1": 120000},
			"?gpu_ids=1,0":               {"0": 75000, "1": 120000},
			"?gpu_ids=0%2C1,1&gpu_ids=x": {"0": 75000, "1": 120000},
		} {
			_, _, body = do(t, c, "GET", "/gpu/get_power"+query, "")
			got := parse[struct {
				PowerMW map[string]int64 `json:"power_mw"`
			}](t, body).PowerMW
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("/gpu/get_power%s (-want +got):\n%s", query, diff)
			}
		}
		_, _, body = do(t, c, "GET", "/cpu/get_power", "")
		if !strings.HasSuffix(body, `"power_mw":{"0":{"cpu_mw":85000,"dram_mw":12000}}}`) {
			t.Error(body)
		}
		checkRefusals(t, c)
	}
}

// checkRefusals asks a daemon for what it lacks.
func checkRefusals(t *testing.T, c *http.Client) {
	t.Helper()
	for path, want := range map[string]int{
		"/gpu/get_power?gpu_ids=2":     400,
		"/gpu/get_power?gpu_ids=":      400,
		"/gpu/get_power?gpu_ids=0,":    400,
		"/gpu/get_power?gpu_ids=-1":    400,
		"/gpu/get_power?cpu_ids=0":     400,
		"/gpu/stream_power?gpu_ids=17": 400,
		"/gpu/get_power?gpu_ids=%zz":   400,
		"/nothing":                     404,
		"/auth/whoami":                 404,
		"/gpu/energy":                  404,
	} {
		if got, _, body := do(t, c, "GET", path, ""); got != want {
			t.Errorf("%s: %d %s, want %d", path, got, body, want)
		}
	}
	if got, _, _ := do(t, c, "POST", "/gpu/set_power_limit?gpu_ids=0&power_limit_mw=1&block=true", ""); got != 404 {
		t.Error("gpu-control is not simulated, but answers", got)
	}
}

func TestZeusd04Discovery(t *testing.T) {
	z := startZeusd(t, ZeusdConfig{GPUs: twoGPUs(), Version: Zeusd04, Token: "t"})
	_, _, body := do(t, client(t, "tcp", z.Addr()), "GET", "/discover", "")
	want := `{"gpu_ids":[0,1],"cpu_ids":[],"dram_available":[],"enabled_api_groups":["gpu-read"],"auth_required":true}`
	if diff := cmp.Diff(want, body); diff != "" {
		t.Errorf("/discover (-want +got):\n%s", diff)
	}
}

func TestZeusdAuth(t *testing.T) {
	z := startZeusd(t, ZeusdConfig{GPUs: twoGPUs(), CPUs: 1, Token: "secret", Scopes: []string{ScopeGPURead}})
	c := client(t, "tcp", z.Addr())
	for _, test := range []struct {
		path, header string
		want         int
	}{
		{"/discover", "", 200},
		{"/time", "", 200},
		{"/gpu/get_power", "", 401},
		{"/gpu/get_power", "Bearer wrong", 401},
		{"/gpu/get_power", "secret", 401},
		{"/gpu/get_power", "Bearer secret", 200},
		{"/gpu/stream_power", "Bearer wrong", 401},
		{"/auth/whoami", "", 401},
		{"/auth/whoami", "Bearer secret", 200},
		{"/cpu/get_power", "Bearer secret", 403},
	} {
		status, header, body := do(t, c, "GET", test.path, "", "Authorization", test.header)
		if status != test.want || (status == 401) != (header.Get("Www-Authenticate") != "") {
			t.Errorf("%s with %q: %d %s, want %d", test.path, test.header, status, body, test.want)
		}
	}
	_, _, body := do(t, c, "GET", "/auth/whoami", "", "Authorization", "Bearer secret")
	if want := `{"scopes":["gpu-read"],"sub":"sim"}`; body != want {
		t.Error(body)
	}
}

func TestZeusdStreamsChanges(t *testing.T) {
	gpus := twoGPUs()
	z := startZeusd(t, ZeusdConfig{GPUs: gpus, ClockOffset: time.Hour})
	firstConn, first := listen(t, z, "/gpu/stream_power?gpu_ids=0,1")
	// The first listener wakes the poller, which knows no values yet.
	for id, mw := range []int64{75000, 120000} {
		got := parse[gpuEvent](t, first.data(t))
		off := time.UnixMilli(got.TimestampMS).Sub(time.Now().Add(time.Hour))
		if got.GPUID != id || got.PowerMW != mw || off > time.Second || off < -5*time.Second {
			t.Error(got, off)
		}
	}
	// A late one gets what was sent last, as old as it is, and then only what it
	// asked for.
	sentAt := time.Now()
	eventually(t, "that value is old", func() bool { return time.Since(sentAt) > 20*time.Millisecond })
	lateConn, late := listen(t, z, "/gpu/stream_power?gpu_ids=1")
	if got := parse[gpuEvent](t, late.data(t)); got.GPUID != 1 || got.PowerMW != 120000 || got.TimestampMS > sentAt.Add(time.Hour).UnixMilli() {
		t.Error("the late listener got", got)
	}
	gpus[0].SetPowerW(80)
	if got := parse[gpuEvent](t, first.data(t)); got.GPUID != 0 || got.PowerMW != 80000 {
		t.Error(got)
	}
	gpus[1].SetPowerW(130.0004)
	for _, e := range []*events{first, late} {
		if got := parse[gpuEvent](t, e.data(t)); got.GPUID != 1 || got.PowerMW != 130000 {
			t.Error(got)
		}
	}
	// What rounds to the same milliwatts has not changed.
	polls, sent := z.Truth().Polls, z.Truth().Events
	gpus[1].SetPowerW(130.0001)
	eventually(t, "three more polls", func() bool { return z.Truth().Polls > polls+3 })
	if now := z.Truth().Events; now != sent {
		t.Errorf("%d events without a change", now-sent)
	}
	firstConn.reset(t)
	lateConn.reset(t)
	paused(t, z)
	polls = z.Truth().Polls
	_, again := listen(t, z, "/gpu/stream_power?gpu_ids=0")
	old, fresh := parse[gpuEvent](t, again.data(t)), parse[gpuEvent](t, again.data(t))
	if old.GPUID != 0 || old.PowerMW != 80000 || fresh.PowerMW != 80000 || fresh.TimestampMS <= old.TimestampMS {
		t.Error("the first listener after a pause got", old, fresh)
	}
	if now := z.Truth().Polls; now > polls+20 {
		t.Errorf("%d polls while nobody listened", now-polls)
	}
}

// The older daemon answers get_power with its next snapshot.
func TestZeusd04AnswersWithTheNextSnapshot(t *testing.T) {
	gpus := twoGPUs()
	z := startZeusd(t, ZeusdConfig{GPUs: gpus, Version: Zeusd04})
	c := client(t, "tcp", z.Addr())
	for range 2 { // alone: the poller begins anew, and its first snapshot is the answer
		if status, _, body := do(t, c, "GET", "/gpu/get_power?gpu_ids=1", ""); status != 200 || !strings.HasSuffix(body, `"power_mw":{"1":120000}}`) {
			t.Error(status, body)
		}
		paused(t, z)
	}
	_, e := listen(t, z, "/gpu/stream_power")
	e.data(t) // sent before
	e.data(t)
	asked := dial(t, "tcp", z.Addr())
	asked.send(t, "GET /gpu/get_power HTTP/1.1\r\nHost: x\r\n\r\n")
	asked.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := asked.r.Peek(1); !errors.As(err, new(net.Error)) {
		t.Error("answered although another listens and nothing has changed:", err)
	}
	asked.SetReadDeadline(time.Now().Add(10 * time.Second))
	gpus[0].SetPowerW(80)
	if resp := asked.response(t); resp.status != 200 {
		t.Error(resp.status)
	}
}

func TestZeusd04StreamsSnapshots(t *testing.T) {
	gpus := twoGPUs()
	z := startZeusd(t, ZeusdConfig{GPUs: gpus, CPUs: 1, Version: Zeusd04})
	_, e := listen(t, z, "/gpu/stream_power?gpu_ids=0,1")
	if got := e.data(t); !strings.HasSuffix(got, `"power_mw":{"0":75000,"1":120000}}`) {
		t.Error(got)
	}
	gpus[1].SetPowerW(90)
	if got := e.data(t); !strings.HasSuffix(got, `"power_mw":{"0":75000,"1":90000}}`) {
		t.Error(got)
	}
	_, cpu := listen(t, z, "/cpu/stream_power")
	if got := cpu.data(t); !strings.HasSuffix(got, `"power_mw":{"0":{"cpu_mw":85000,"dram_mw":12000}}}`) {
		t.Error(got)
	}
}

func TestZeusdCPUStream(t *testing.T) {
	z := startZeusd(t, ZeusdConfig{CPUs: 2})
	_, e := listen(t, z, "/cpu/stream_power?cpu_ids=1")
	if got := e.data(t); !strings.HasSuffix(got, `"cpu_id":1,"cpu_mw":85000,"dram_mw":12000}`) {
		t.Error(got)
	}
	z.SetCPUPowerW(0, 1, 1) // nobody listens
	z.SetCPUPowerW(7, 1, 1) // nobody is there
	z.SetCPUPowerW(1, 90.5, 12)
	if got := e.data(t); !strings.HasSuffix(got, `"cpu_id":1,"cpu_mw":90500,"dram_mw":12000}`) {
		t.Error(got)
	}
}

func TestZeusdNoiseDerivesFromTheSeed(t *testing.T) {
	readings := func(seed uint64) []string {
		z := startZeusd(t, ZeusdConfig{GPUs: twoGPUs(), NoiseFraction: 0.02, Seed: seed})
		c := client(t, "tcp", z.Addr())
		var all []string
		for range 50 {
			_, _, body := do(t, c, "GET", "/gpu/get_power", "")
			_, powers, _ := strings.Cut(body, "power_mw")
			all = append(all, powers)
		}
		return all
	}
	one, same, other := readings(1), readings(1), readings(2)
	if diff := cmp.Diff(one, same); diff != "" {
		t.Error("the same seed reads otherwise:", diff)
	}
	if cmp.Equal(one, other) || one[0] == one[1] {
		t.Error("no noise, or the same from another seed")
	}
}

func TestZeusdAdmin(t *testing.T) {
	z := startZeusd(t, ZeusdConfig{GPUs: twoGPUs()})
	c := client(t, "tcp", z.Addr())
	status, _, body := do(t, c, "PUT", "/sim/faults", `{"status": 503, "silent_gpus": [1], "delay_s": 0.001}`)
	if status != 200 {
		t.Fatal(status, body)
	}
	want := ZeusdFaults{Status: 503, SilentGPUs: []int{1}, Delay: time.Millisecond}
	if diff := cmp.Diff(want, z.Faults()); diff != "" {
		t.Errorf("faults that were set (-want +got):\n%s", diff)
	}
	if status, _, _ := do(t, c, "GET", "/time", ""); status != 503 {
		t.Error(status)
	}
	_, _, body = do(t, c, "GET", "/sim/faults", "")
	if diff := cmp.Diff(want, parse[ZeusdFaults](t, body)); diff != "" {
		t.Errorf("GET /sim/faults (-want +got):\n%s", diff)
	}
	for _, bad := range []string{``, `{`, `[]`, `{"statu": 500}`, `{"status": "500"}`, `{"status": 1000}`, `{"delay_s": -1}`,
		`{"garbage_events": -1}`, `{} {}`, `{"Delay": 5}`, `{"delay_s": 1e300}`} {
		if status, _, body := do(t, c, "PUT", "/sim/faults", bad); status != 400 {
			t.Errorf("%s: %d %s", bad, status, body)
		}
	}
	if diff := cmp.Diff(want, z.Faults()); diff != "" {
		t.Errorf("faults after refused changes (-want +got):\n%s", diff)
	}
	_, _, body = do(t, c, "GET", "/sim/truth", "")
	if got := parse[ZeusdTruth](t, body); !cmp.Equal(got.GPUPowerW, []float64{75, 120}) || got.Requests["/time"] != 1 {
		t.Error(body)
	}
	if status, _, _ := do(t, c, "DELETE", "/sim/faults", ""); status != 405 {
		t.Error(status)
	}
	for _, bad := range []string{``, `{"down": 1}`, `{"down_s": -1}`, `{"down_s": 1e9}`} {
		if status, _, body := do(t, c, "POST", "/sim/restart", bad); status != 400 {
			t.Errorf("%s: %d %s", bad, status, body)
		}
	}
}

func TestZeusdRestartsOnDemand(t *testing.T) {
	z := startZeusd(t, ZeusdConfig{GPUs: twoGPUs()})
	c := client(t, "tcp", z.Addr())
	_, e := listen(t, z, "/gpu/stream_power")
	e.data(t)
	e.data(t)
	if status, _, body := do(t, c, "POST", "/sim/restart", `{"down_s": 0.01}`); status != 202 {
		t.Error(status, body)
	}
	if _, err := e.next(); err == nil {
		t.Error("the stream has survived")
	}
	eventually(t, "it is back", func() bool {
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://sim/time", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Do(req)
		if err != nil {
			return false
		}
		return resp.Body.Close() == nil && resp.StatusCode == 200
	})
	do(t, c, "POST", "/sim/restart", `{"down_s": 3600}`)
	// Close must not wait an hour.
}

func TestZeusdConfigIsChecked(t *testing.T) {
	for want, cfg := range map[string]ZeusdConfig{
		"listen address":  {},
		"version":         {Listen: "127.0.0.1:0", Version: "0.1"},
		"CPUs":            {Listen: "127.0.0.1:0", CPUs: -1},
		"poll interval":   {Listen: "127.0.0.1:0", PollInterval: -1},
		"noise fraction":  {Listen: "127.0.0.1:0", NoiseFraction: math.NaN()},
		"GPU 1 is nil":    {Listen: "127.0.0.1:0", GPUs: []*GPU{NewGPU("", 0), nil}},
		"address already": {Listen: startZeusd(t, ZeusdConfig{}).Addr()},
	} {
		if _, err := StartZeusd(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want something about %q", err, want)
		}
	}
}

func TestMalformedRequestsAreRefused(t *testing.T) {
	z := startZeusd(t, ZeusdConfig{GPUs: twoGPUs()})
	for request, want := range map[string]int{
		"nonsense\r\n\r\n": 400,
		"GET /time HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", maxHeadBytes) + "\r\n\r\n":                         431,
		"PUT /sim/faults HTTP/1.1\r\nHost: x\r\nContent-Length: 8388700\r\n\r\n" + strings.Repeat(" ", maxBodyBytes+92): 413,
	} {
		c := dial(t, "tcp", z.Addr())
		go io.WriteString(c, request) // may be cut off by the answer
		resp := c.response(t)
		if resp.status != want {
			t.Errorf("%.20q: %d, want %d", request, resp.status, want)
		}
	}
}
