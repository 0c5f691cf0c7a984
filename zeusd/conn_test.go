package zeusd

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

// Events and answers cross on their way: neither undoes what is newer.
func TestEventsAndAnswersCross(t *testing.T) {
	var got []float64
	cfg := Config{OnReading: func(r Reading) { got = append(got, r.PowerW) }, OnStatus: func(EndpointStatus) {}, Log: zerolog.Nop()}
	c := newConn(&cfg, Target{Endpoint: Endpoint{Host: "a"}, GPUs: []int{0}})
	begin := c.clock.anchor
	at := func(ms int) time.Time { return begin.Add(time.Duration(ms) * time.Millisecond) }
	event := func(measured, arrived int, powerW float64) {
		c.event(GPU, &powerEvent{devices: []devicePower{{index: 0, powerMW: powerW * 1e3}}}, at(measured), at(arrived), true)
	}
	answer := func(sent, measured, received int, powerW float64) {
		e := powerEvent{devices: []devicePower{{index: 0, powerMW: powerW * 1e3}, {index: 5}}}
		c.answer(GPU, []int{0}, &e, at(measured), roundTrip{sent: at(sent), received: at(received)}, false)
	}
	event(10, 11, 1)
	answer(100, 120, 130, 2) // newer
	event(110, 140, 3)       // measured after the question: the stream is right
	answer(135, 145, 150, 4) // an event came since the question
	answer(200, 201, 230, 5)
	event(100, 250, 6) // held up: surely older than the answer
	event(190, 260, 7) // perhaps not older
	event(185, 270, 8) // the stream is in order, whatever the clock says
	answer(300, 310, 310, 9)
	if want := []float64{1, 2, 3, 5, 7, 8, 9}; !slices.Equal(got, want) {
		t.Errorf("readings %v, want %v", got, want)
	}
	r, confirmedAt, ok := c.latest(deviceKey{GPU, 0})
	if !ok || r.PowerW != 9 || !r.At.Equal(at(310)) || !confirmedAt.Equal(r.At) {
		t.Errorf("%+v confirmed at %v", r, confirmedAt)
	}
	if s := c.currentStatus(); s.LateEvents != 1 || s.Events != 5 || s.Answers != 4 || s.UnwantedReadings != 4 {
		t.Errorf("status %+v", s)
	}
}

// The driver may forbid a GPU to the daemon; that says nothing about our token.
func TestDeviceErrorsAreNoRefusals(t *testing.T) {
	for _, c := range []struct {
		status  int
		body    string
		refused bool
		says    string
	}{
		{403, `{"error":"Token for user 'a' lacks required scope 'gpu-read'."}`, true, "GET /gpu/get_power: status 403: Token for user 'a' lacks required scope 'gpu-read'. (the token needs the scope gpu-read)"},
		{403, `{"errors":{"1":"NoPermission","0":"NoPermission"}}`, false, "GET /gpu/get_power: status 403: device 0: NoPermission; device 1: NoPermission"},
		{401, ``, true, `GET /gpu/get_power: status 401: "" (the daemon wants another token)`},
		{500, `<html>` + strings.Repeat("x", 5000), false, `GET /gpu/get_power: status 500: "<html>xxx`},
		{500, `{"error":"\u001b]0;pwned\u0007 line\nFAKE LINE"}`, false, `GET /gpu/get_power: status 500: \x1b]0;pwned\a line\nFAKE LINE`},
		{500, `{"errors":{"0":"\u001b[2J"}}`, false, `status 500: device 0: \x1b[2J`},
		{302, `{}`, false, "GET /gpu/get_power: status 302"},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "http://127.0.0.1:1/")
			w.WriteHeader(c.status)
			w.Write([]byte(c.body))
		}))
		p := newPeer(endpointAt(t, strings.TrimPrefix(server.URL, "http://")), soon, nil)
		_, err := p.power(t.Context(), GPU, []int{0, 1}, &powerEvent{})
		if errors.Is(err, ErrRefused) != c.refused || !strings.Contains(err.Error(), c.says) || len(err.Error()) > 500 {
			t.Errorf("%v, want %q", err, c.says)
		}
		p.close()
		server.Close()
	}
}

// Answers and CPU streams of daemons that differ from what they say of themselves.
func TestBadAnswers(t *testing.T) {
	t.Parallel()
	for path, body := range map[string]string{
		"/discover":      `{"gpus":[{"name":"no id"}]}`,
		"/discover ":     `{"cpus":[{}]}`,
		"/discover  ":    `{"auth_required":false}`,
		"/discover   ":   `[]`,
		"/time":          `{"timestamp_ms":-1}`,
		"/gpu/get_power": `{"timestamp_ms":NOW,"power_mw":{"7":1}}`,
	} {
		path = strings.TrimSpace(path)
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case path:
				w.Write([]byte(strings.ReplaceAll(body, "NOW", strconv.FormatInt(time.Now().UnixMilli(), 10))))
			case "/discover":
				w.Write([]byte(`{"gpus":[{"id":0}],"cpus":[{"id":0}],"enabled_api_groups":["gpu-read","cpu-read"]}`))
			case "/time":
				w.Write([]byte(`{"timestamp_ms":` + strconv.FormatInt(time.Now().UnixMilli(), 10) + `}`))
			case "/gpu/stream_power":
				w.(http.Flusher).Flush()
				<-r.Context().Done()
			default:
				w.WriteHeader(http.StatusNotFound)
			}
		}))
		t.Cleanup(server.Close)
		e := endpointAt(t, strings.TrimPrefix(server.URL, "http://"))
		client, _ := start(t, Config{Targets: []Target{{Endpoint: e, GPUs: []int{0}, CPU: true}}, AskAfter: 50 * time.Millisecond})
		eventually(t, soon, "error", func() bool { return only(t, client).Err != nil })
		if s := only(t, client); !strings.Contains(s.Err.Error(), "GET "+path) {
			t.Errorf("%s %s: status %+v", path, body, s)
		}
		if path != "/gpu/get_power" {
			continue
		}
		// Here the CPUs' stream is refused as well, and the connection stays.
		eventually(t, soon, "more questions", func() bool { return only(t, client).Answers > 5 })
		if s := only(t, client); !s.Connected || s.Reconnects != 0 || !strings.Contains(s.CPUErr.Error(), "GET /cpu/stream_power: status 404") {
			t.Errorf("status %+v", s)
		}
		prober, err := newClient(Config{Targets: []Target{{Endpoint: e, GPUs: []int{0}}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := prober.probe(t.Context())[0].Unread[0]; err == nil || !strings.Contains(err.Error(), "the answer lacks GPU 0") {
			t.Error(err)
		}
	}
}
