package zeusd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const captures = "../testdata/captures"

// captured is a server that answers every request with the bytes of a real daemon.
func captured(t *testing.T, name string) *peer {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(captures, name+".http"))
	if err != nil {
		t.Fatal(err)
	}
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				conn.Write(raw)
			}
			conn.Close()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	p := newPeer(endpointAt(t, ln.Addr().String()), soon, nil)
	t.Cleanup(p.close)
	return p
}

// question asks a daemon for something and prints what it read.
type question func(context.Context, *peer) (string, error)

func askDiscovery(ctx context.Context, p *peer) (string, error) {
	d, err := p.discover(ctx)
	return fmt.Sprintf("%+v", d), err
}

func askIdentity(ctx context.Context, p *peer) (string, error) {
	id, err := p.whoAmI(ctx)
	return fmt.Sprintf("%+v", id), err
}

func askTime(ctx context.Context, p *peer) (string, error) {
	trip, err := p.time(ctx)
	return fmt.Sprint(trip.timestampMS), err
}

func askEnergy(ctx context.Context, p *peer) (string, error) {
	mj, err := p.energy(ctx, []int{0, 1})
	return fmt.Sprintf("%.0f %.0f", mj[0], mj[1]), err
}

func askLimit(ctx context.Context, p *peer) (string, error) {
	mostW, err := p.powerLimits(ctx, []int{0, 1})
	return fmt.Sprint(mostW), err // in the order of the keys
}

func askGPUs(ctx context.Context, p *peer) (string, error) { return askPower(ctx, p, GPU) }
func askCPUs(ctx context.Context, p *peer) (string, error) { return askPower(ctx, p, CPU) }

func askPower(ctx context.Context, p *peer, kind Kind) (string, error) {
	var e powerEvent
	_, err := p.power(ctx, kind, []int{0, 1}, &e)
	return e.String(), err
}

// askStream reads a stream to its end, which in a capture is no orderly one.
func askStream(ctx context.Context, p *peer) (string, error) {
	resp, err := p.open(ctx, "/gpu/stream_power", "")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	events := newEventReader(resp.Body, time.Now)
	var e powerEvent
	var first, last string
	for n := 0; ; n++ {
		data, _, err := events.next()
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Sprintf("%d events, %s to %s", n, first, last), nil
		}
		if err == nil {
			err = e.parse(GPU, data)
		}
		if err != nil {
			return "", err
		}
		if last = e.String(); first == "" {
			first = last
		}
	}
}

// String is the event in one line, its devices in order.
func (e *powerEvent) String() string {
	slices.SortFunc(e.devices, func(a, b devicePower) int { return a.index - b.index })
	text := fmt.Sprint(e.timestampMS)
	for _, d := range e.devices {
		text += fmt.Sprintf(" %d:%v", d.index, d.powerMW)
	}
	return text
}

// What real daemons answered is read. All captures of zeusd stand here or in
// TestCapturedRefusals.
func capturedAnswers() map[string]struct {
	ask  question
	want string
} {
	return map[string]struct {
		ask  question
		want string
	}{
		"zeusd-0.3.0-discover":                        {askDiscovery, "{GPUs:[{Index:0 Name: PCIAddress: CumulativeEnergyAvailable:false} {Index:1 Name: PCIAddress: CumulativeEnergyAvailable:false}] CPUs:[] APIGroups:[] AuthRequired:false PlainIDs:true}"},
		"zeusd-0.3.0-gpu_get_power_gpu_ids_0_1":       {askGPUs, "1795565490060 0:303808 1:200000"},
		"zeusd-0.3.0-gpu_stream_power_gpu_ids_0_1":    {askStream, "14 events, 1795565490110 0:306963 1:200000 to 1795565492087 0:396651 1:200000"},
		"zeusd-0.4.0-discover":                        {askDiscovery, "{GPUs:[{Index:0 Name: PCIAddress: CumulativeEnergyAvailable:false} {Index:1 Name: PCIAddress: CumulativeEnergyAvailable:false}] CPUs:[] APIGroups:[gpu-control gpu-read cpu-read] AuthRequired:false PlainIDs:true}"},
		"zeusd-0.4.0-time":                            {askTime, "1795565359080"},
		"zeusd-0.4.0-gpu_get_power_gpu_ids_0_1":       {askGPUs, "1795565359798 0:287391 1:200000"},
		"zeusd-0.4.0-gpu_stream_power_gpu_ids_0_1":    {askStream, "14 events, 1795565359848 0:290523 1:200000 to 1795565361881 0:392539 1:200000"},
		"zeusd-0.4.0-const-stream":                    {askStream, "2 events, 1795565527717 0:200931 1:200000 to 1795565545174 0:123456 1:300001"},
		"zeusd-0.5.0-discover":                        {askDiscovery, "{GPUs:[{Index:0 Name:NVIDIA H100 80GB HBM3 PCIAddress: CumulativeEnergyAvailable:false} {Index:1 Name:NVIDIA H100 80GB HBM3 PCIAddress: CumulativeEnergyAvailable:false}] CPUs:[] APIGroups:[gpu-control gpu-read cpu-read] AuthRequired:false PlainIDs:false}"},
		"zeusd-0.5.0-time":                            {askTime, "1795564959835"},
		"zeusd-0.5.0-whoami-200":                      {askIdentity, "{Subject:agent Scopes:[gpu-read] ExpiresUnixS:1795568768}"},
		"zeusd-0.5.0-gpu_get_power":                   {askGPUs, "1795564960582 0:100000 1:335793"},
		"zeusd-0.5.0-gpu_get_power_gpu_ids_0":         {askGPUs, "1795564961381 0:100000"},
		"zeusd-0.5.0-cpu_get_power":                   {askCPUs, "1795564964757"},
		"zeusd-0.5.0-gpu_get_cumulative_energy":       {askEnergy, "179556496388246 179556496388249"},
		"zeusd-0.5.0-gpu_get_power_limit_constraints": {askLimit, "map[0:700 1:700]"},
		"zeusd-0.5.0-stream":                          {askStream, "30 events, 1795564983272 1:388457 to 1795564983971 0:283971"},
		"zeusd-0.5.0-stream-second-subscriber":        {askStream, "20 events, 1795565332348 0:632348 to 1795565487466 1:200021"},
		"zeusd-0.5.0-stream-token-in-leeway-200":      {askStream, "1 events, 1795565191944 0:123456 to 1795565191944 0:123456"},
	}
}

func TestCapturedAnswers(t *testing.T) {
	t.Parallel()
	for name, c := range capturedAnswers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := c.ask(t.Context(), captured(t, name))
			if err != nil {
				t.Fatal(err)
			}
			if got != c.want {
				t.Errorf("read %s, want %s", got, c.want)
			}
		})
	}
}

func capturedRefusals() map[string]struct {
	ask     question
	refused bool // for want of a right
	want    string
} {
	return map[string]struct {
		ask     question
		refused bool
		want    string
	}{
		"zeusd-0.3.0-time":                            {askTime, false, "status 404: \"\" (zeusd 0.3 does not tell its time and cannot be read: 0.4 or later is needed)"},
		"zeusd-0.3.0-auth_whoami":                     {askIdentity, false, "GET /auth/whoami: status 404"},
		"zeusd-0.3.0-gpu_get_power_gpu_ids_7":         {askGPUs, false, "status 400: Unknown GPU indices: [7]. Available: {0, 1}"},
		"zeusd-0.4.0-auth_whoami":                     {askIdentity, false, "status 404: Authentication is not enabled on this server."},
		"zeusd-0.4.0-gpu_get_power_gpu_ids_7":         {askGPUs, false, "status 400: Unknown GPU indices: [7]. Available: {"},
		"zeusd-0.4.0-const-get_power-while-streaming": {askGPUs, false, "GET /gpu/get_power: "},
		"zeusd-0.5.0-auth_whoami":                     {askIdentity, false, "status 404: Authentication is not enabled on this server."},
		"zeusd-0.5.0-nope":                            {askDiscovery, false, "status 404: \"\" (is this a zeusd of 0.4 or later?)"},
		"zeusd-0.5.0-whoami-401":                      {askIdentity, true, "status 401: Invalid token: InvalidSignature (the daemon wants another token)"},
		"zeusd-0.5.0-stream-403":                      {askStream, true, "status 403: Token for user 'agent' lacks required scope 'gpu-read'. Token scopes: ['gpu-control']"},
		"zeusd-0.5.0-gpu_stream_power_gpu_ids_9":      {askStream, false, "status 400: Unknown GPU indices: [9]. Available: [0, 1]"},
		"zeusd-0.5.0-gpu_get_power_gpu_ids_5":         {askGPUs, false, "status 400: GPU 5 not found"},
		"zeusd-0.5.0-get_power-gpu-lost-500":          {askGPUs, false, "status 500: device 0: NVML error: device fell off the bus"},
		"zeusd-0.5.0-get_power-nvmlerr3":              {askGPUs, false, "status 400: device 1: NVML error: the requested operation is not available"},
		"zeusd-0.5.0-get_power-nvmlerr4":              {askGPUs, false, "status 403: device 1: NVML error: the current user does not have permission"},
		"zeusd-0.5.0-get_power-nvmlerr15":             {askGPUs, false, "status 500: device 1: NVML error: device fell off the bus"},
		"zeusd-0.5.0-get_power-nvmlerr999":            {askGPUs, false, "status 500: device 1: NVML error: an internal driver error occurred"},
		"zeusd-0.5.0-group-off-21110":                 {askGPUs, false, "the API group gpu-read is off there: start zeusd with it enabled"},
		"zeusd-0.5.0-group-off-21111":                 {askStream, false, "the API group gpu-read is off there: start zeusd with it enabled"},
	}
}

func TestCapturedRefusals(t *testing.T) {
	t.Parallel()
	for name, c := range capturedRefusals() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := c.ask(t.Context(), captured(t, name))
			if err == nil || !strings.Contains(err.Error(), c.want) || errors.Is(err, ErrRefused) != c.refused {
				t.Errorf("read %s, error %v, want %s; a refusal: %v", got, err, c.want, c.refused)
			}
		})
	}
}

func TestEveryCaptureIsRead(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(captures, "zeusd-*.http"))
	if err != nil || len(files) < 30 {
		t.Fatal(files, err)
	}
	answers, refusals := capturedAnswers(), capturedRefusals()
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".http")
		_, answer := answers[name]
		if _, refusal := refusals[name]; !answer && !refusal {
			t.Errorf("no test reads %s", file)
		}
	}
}

// A captured stream in its own time: what the real daemon had sent before it was
// asked is passed over, all else is placed when it was measured.
func TestCapturedStreamInTime(t *testing.T) {
	t.Parallel()
	const name = "zeusd-0.5.0-stream-second-subscriber"
	raw, err := os.ReadFile(filepath.Join(captures, name+".http"))
	if err != nil {
		t.Fatal(err)
	}
	times, err := os.ReadFile(filepath.Join(captures, name+".http.times"))
	if err != nil {
		t.Fatal(err)
	}
	// By the daemon's clock its first reading for us was taken then.
	const firstMS = 1795565487066
	const lead = time.Second // for the client to ask for the stream before
	began := time.Now()
	nowMS := func() int64 { return firstMS + (time.Since(began) - lead).Milliseconds() }
	server := serveCapture(t, raw, string(times), nowMS, began.Add(lead-time.Millisecond))
	client, got := start(t, Config{Targets: []Target{{Endpoint: endpointAt(t, strings.TrimPrefix(server.URL, "http://")), GPUs: []int{0, 1}}}})
	eventually(t, soon, "the last event", func() bool { return only(t, client).Events == 18 })
	if s := only(t, client); s.ReplayedEvents != 2 || s.BadEvents != 0 || s.ImplausibleTimes != 0 || s.LateEvents != 0 {
		t.Errorf("status %+v", s)
	}
	all := got.all()
	if len(all) != 18 || all[0].PowerW != 187.066 || all[17].PowerW != 200.021 {
		t.Fatalf("%d readings from %+v", len(all), all)
	}
	for _, a := range all {
		// GPU 0 drew a milliwatt more with each millisecond of the clock.
		if ms := int64(a.PowerW*1e3+0.5) - 187_066; a.Index == 0 && a.At.Sub(began.Add(lead+time.Duration(ms)*time.Millisecond)).Abs() > 100*time.Millisecond {
			t.Errorf("%v W is placed at %v", a.PowerW, a.At.Sub(began))
		}
	}
}

// serveCapture runs a daemon whose clock is nowMS and whose stream is raw, in pieces
// at the times that times has, since zero.
func serveCapture(t *testing.T, raw []byte, times string, nowMS func() int64, zero time.Time) *httptest.Server {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/discover":
			io.WriteString(w, `{"gpus":[{"id":0,"name":"a"},{"id":1,"name":"b"}],"cpus":[],"enabled_api_groups":["gpu-read"],"auth_required":false}`)
		case "/time":
			fmt.Fprintf(w, `{"timestamp_ms":%d}`, nowMS())
		case "/gpu/stream_power":
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			replay := true // in the first piece, which comes at once
			for line := range strings.Lines(times) {
				var ms float64
				var n int
				if _, err := fmt.Sscan(line, &ms, &n); err != nil {
					t.Error(err)
				}
				if !replay {
					<-time.After(time.Until(zero.Add(time.Duration(ms * float64(time.Millisecond)))))
				}
				replay = false
				conn.Write(raw[:n])
				raw = raw[n:]
			}
			<-t.Context().Done()
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(server.Close)
	return server
}
