package sim

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// likeness is what two answers to one question have in common, whatever their
// numbers and names.
type likeness struct {
	Status  int
	Headers []string
	Body    string
}

// capture reads the answer that a real daemon gave.
func capture(t *testing.T, name string) *bufio.Reader {
	t.Helper()
	return bufio.NewReader(strings.NewReader(captured(t, name+".http")))
}

// likenessOf reads an answer, of a stream its first events.
func likenessOf(t *testing.T, r *bufio.Reader, events int) likeness {
	t.Helper()
	resp, err := http.ReadResponse(r, nil) //nolint:bodyclose // closing it would wait for the end of a stream; it holds nothing
	if err != nil {
		t.Fatal(err)
	}
	var body bytes.Buffer
	if events == 0 {
		_, err = body.ReadFrom(resp.Body)
	} else {
		lines := bufio.NewReader(resp.Body)
		for range events * 2 {
			var line string
			if line, err = lines.ReadString('\n'); err != nil {
				break
			}
			body.WriteString(line)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	s := likeness{Status: resp.StatusCode, Body: body.String()}
	for name := range resp.Header {
		s.Headers = append(s.Headers, strings.ToLower(name))
	}
	// A test with connections of its own ends them as it likes.
	s.Headers = slices.DeleteFunc(s.Headers, func(name string) bool { return name == "connection" })
	slices.Sort(s.Headers)
	s.Body = regexp.MustCompile(`\d{3,}`).ReplaceAllString(s.Body, "n")
	if events > 0 { // each GPU has a poller of its own, and they come in any order
		lines := strings.SplitAfter(s.Body, "\n\n")
		slices.Sort(lines)
		s.Body = strings.Join(lines, "")
	}
	return s
}

// The simulated daemons answer as the real ones did: status, headers and words.
func TestZeusdAnswersAsCaptured(t *testing.T) {
	// Two of the real names, as in the captures.
	gpus := func() []*GPU {
		return []*GPU{NewGPU("NVIDIA H100 80GB HBM3", 632.348), NewGPU("NVIDIA H100 80GB HBM3", 288.905)}
	}
	groups := regexp.MustCompile(`"enabled_api_groups":\[[^]]*\]`)
	for _, test := range []struct {
		capture, target string
		version         ZeusdVersion
		faults          ZeusdFaults
		token, bearer   string
		scopes          []string
		events          int
	}{
		{capture: "zeusd-0.5.0-discover", target: "/discover"},
		{capture: "zeusd-0.5.0-time", target: "/time"},
		{capture: "zeusd-0.5.0-nope", target: "/nope"},
		{capture: "zeusd-0.5.0-gpu_get_power", target: "/gpu/get_power"},
		{capture: "zeusd-0.5.0-gpu_get_power_gpu_ids_0", target: "/gpu/get_power?gpu_ids=0"},
		{capture: "zeusd-0.5.0-gpu_get_power_gpu_ids_5", target: "/gpu/get_power?gpu_ids=5"},
		{capture: "zeusd-0.5.0-gpu_stream_power_gpu_ids_9", target: "/gpu/stream_power?gpu_ids=9"},
		{capture: "zeusd-0.5.0-gpu_get_cumulative_energy", target: "/gpu/get_cumulative_energy"},
		{capture: "zeusd-0.5.0-get_power-gpu-lost-500", target: "/gpu/get_power", faults: ZeusdFaults{FailedGPUs: []int{0}}},
		{capture: "zeusd-0.5.0-whoami-401", target: "/auth/whoami", token: "right", bearer: "wrong"},
		{capture: "zeusd-0.5.0-stream-403", target: "/gpu/stream_power", token: "right", bearer: "right", scopes: []string{"gpu-control"}},
		{capture: "zeusd-0.5.0-stream", target: "/gpu/stream_power", events: 2},
		{capture: "zeusd-0.4.0-discover", target: "/discover", version: Zeusd04},
		{capture: "zeusd-0.4.0-time", target: "/time", version: Zeusd04},
		{capture: "zeusd-0.4.0-auth_whoami", target: "/auth/whoami", version: Zeusd04},
		{capture: "zeusd-0.4.0-gpu_get_power_gpu_ids_0_1", target: "/gpu/get_power?gpu_ids=0,1", version: Zeusd04},
		{capture: "zeusd-0.4.0-gpu_get_power_gpu_ids_7", target: "/gpu/get_power?gpu_ids=7", version: Zeusd04},
		{capture: "zeusd-0.4.0-gpu_stream_power_gpu_ids_0_1", target: "/gpu/stream_power?gpu_ids=0,1", version: Zeusd04, events: 1},
	} {
		t.Run(test.capture, func(t *testing.T) {
			t.Parallel()
			z := startZeusd(t, ZeusdConfig{GPUs: gpus(), Version: test.version, Token: test.token, Scopes: test.scopes})
			z.SetFaults(test.faults)
			c := dial(t, "tcp", z.Addr())
			request := "GET " + test.target + " HTTP/1.1\r\nHost: x\r\n"
			if test.bearer != "" {
				request += "Authorization: Bearer " + test.bearer + "\r\n"
			}
			c.send(t, request+"\r\n")
			want, got := likenessOf(t, capture(t, test.capture), test.events), likenessOf(t, c.r, test.events)
			// What is enabled there is a matter of how it was started, and whose token
			// it was, of the token.
			for _, s := range []*likeness{&want, &got} {
				s.Body = groups.ReplaceAllString(s.Body, "groups")
				s.Body = strings.ReplaceAll(s.Body, "'agent'", "'sim'")
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("captured (-), simulated (+):\n%s", diff)
			}
		})
	}
}

// A second listener to a real daemon got what was sent last, long before, and then
// a fresh value of each GPU: so does one to a simulated daemon.
func TestZeusdStreamsBeginAsCaptured(t *testing.T) {
	resp, err := http.ReadResponse(capture(t, "zeusd-0.5.0-stream-second-subscriber"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	gpus := []*GPU{NewGPU("", 632.348), NewGPU("", 288.905)}
	z := startZeusd(t, ZeusdConfig{GPUs: gpus})
	first, e := listen(t, z, "/gpu/stream_power")
	e.data(t)
	e.data(t)
	first.reset(t)
	paused(t, z)
	gpus[0].SetPowerW(187.066)
	gpus[1].SetPowerW(203.684)
	_, e = listen(t, z, "/gpu/stream_power")
	want := &events{bufio.NewReader(resp.Body)}
	for i := range 4 {
		captured, simulated := parse[gpuEvent](t, want.data(t)), parse[gpuEvent](t, e.data(t))
		if captured.GPUID != simulated.GPUID || captured.PowerMW != simulated.PowerMW {
			t.Errorf("event %d: captured %+v, simulated %+v", i, captured, simulated)
		}
	}
}

// With its power constant and a stream open, a real older daemon did not answer
// get_power: the capture is empty.
func TestZeusd04IsSilentAsCaptured(t *testing.T) {
	if rest, err := io.ReadAll(capture(t, "zeusd-0.4.0-const-get_power-while-streaming")); err != nil || len(bytes.TrimSpace(rest)) > 0 {
		t.Fatalf("captured %q, %v", rest, err)
	}
	var snapshots []map[string]json.RawMessage
	for line := range strings.SplitSeq(readAll(t, capture(t, "zeusd-0.4.0-const-stream")), "\n") {
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			snapshots = append(snapshots, parse[map[string]json.RawMessage](t, data))
		}
	}
	if len(snapshots) != 2 {
		t.Errorf("the captured stream has %d snapshots, want what was sent last and a fresh one", len(snapshots))
	}
}

func readAll(t *testing.T, r io.Reader) string {
	t.Helper()
	raw, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}
