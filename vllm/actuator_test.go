package vllm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/g2g-agent/g2g-agent/internal/credential"
)

func TestCommandsOnTheWire(t *testing.T) {
	for _, c := range []struct {
		actuator Actuator
		n        int
		rate     float64
		want     []seenRequest
	}{
		{ActuatorSetMaxNumSeqs, 64, 0, []seenRequest{{Method: "POST", URI: "/pre/set_max_num_seqs?max_num_seqs=64"}}},
		{ActuatorSetMaxNumSeqs, 1, 0.5, []seenRequest{{Method: "POST", URI: "/pre/set_max_num_seqs?max_num_seqs=1&ramp_up_rate=0.5"}}},
		{ActuatorSetMaxNumSeqs, 2048, 1e6, []seenRequest{{Method: "POST", URI: "/pre/set_max_num_seqs?max_num_seqs=2048&ramp_up_rate=1000000"}}},
		{ActuatorRuntimeConfig, 128, 0, []seenRequest{{Method: "PATCH", URI: "/pre/v1/runtime_config", ContentType: "application/json", Body: `{"max_num_running_seqs": 128}`}}},
		{ActuatorConcurrency, 128, 0, nil},
	} {
		for _, status := range []int{200, 202, 204} {
			f := newFake(t, answerWith(status, ""))
			s := newTestServer(t, Config{BaseURL: f.URL + "/pre/", Credential: credential.Fixed("key")})
			if err := s.SetBatchSize(t.Context(), c.actuator, c.n, c.rate); err != nil {
				t.Errorf("%s, answered %d: %v", c.actuator, status, err)
			}
			for i := range c.want {
				c.want[i].Authorization = "Bearer key"
			}
			if diff := cmp.Diff(c.want, f.requests()); diff != "" {
				t.Errorf("requests for %s %d %v (-want +got):\n%s", c.actuator, c.n, c.rate, diff)
			}
		}
	}
}

// command sends one and returns its error.
func command(ctx context.Context, t *testing.T, s *Server, actuator Actuator, n int, rate float64) *CommandError {
	t.Helper()
	err := s.SetBatchSize(ctx, actuator, n, rate)
	var failed *CommandError
	if !errors.As(err, &failed) {
		t.Fatalf("%s: the error is %#v, want a CommandError", actuator, err)
	}
	if failed.Actuator != actuator || failed.BatchSize != n || failed.URL != s.String() {
		t.Errorf("%s: the error is of %+v", actuator, failed)
	}
	return failed
}

func TestCommandsThatCannotBe(t *testing.T) {
	f := newFake(t, answerWith(200, ""))
	s := newTestServer(t, Config{BaseURL: f.URL})
	for _, c := range []struct {
		actuator Actuator
		n        int
		rate     float64
		want     string
	}{
		{ActuatorSetMaxNumSeqs, 0, 0, "want a batch size of at least 1"},
		{ActuatorConcurrency, -1, 0, "want a batch size of at least 1"},
		{ActuatorSetMaxNumSeqs, 8, -1, "the ramp-up rate is -1 per second; want a finite number from 0 on"},
		{ActuatorSetMaxNumSeqs, 8, math.NaN(), "the ramp-up rate is NaN"},
		{ActuatorSetMaxNumSeqs, 8, math.Inf(1), "the ramp-up rate is +Inf"},
		{ActuatorRuntimeConfig, 8, 2, "which runtime_config cannot do; want 0, or the actuator set_max_num_seqs"},
		{ActuatorConcurrency, 8, 2, "which concurrency cannot do"},
		{"magic", 8, 0, `there is no such actuator; there are ["set_max_num_seqs" "runtime_config" "concurrency"]`},
	} {
		failed := command(t.Context(), t, s, c.actuator, c.n, c.rate)
		if failed.Outcome != OutcomeRefused || failed.Status != 0 {
			t.Errorf("%+v", failed)
		}
		wantMessage(t, string(c.actuator), failed, "refused: ", c.want)
	}
	if n := len(f.requests()); n != 0 {
		t.Errorf("%d requests", n)
	}
}

func TestCommandsAnsweredWithNo(t *testing.T) {
	for status, want := range map[int]Outcome{
		301: OutcomeRefused, 307: OutcomeRefused, 308: OutcomeRefused,
		400: OutcomeRefused, 401: OutcomeRefused, 404: OutcomeRefused, 422: OutcomeRefused, 429: OutcomeRefused, 501: OutcomeRefused,
		500: OutcomeUnknown, 502: OutcomeUnknown, 503: OutcomeUnknown, 504: OutcomeUnknown,
	} {
		for _, actuator := range []Actuator{ActuatorSetMaxNumSeqs, ActuatorRuntimeConfig} {
			f := newFake(t, func(w http.ResponseWriter, r *http.Request) {
				if status < 400 {
					w.Header().Set("Location", "/elsewhere")
				}
				answerWith(status, `{"detail":"above the capacity of 256"}`)(w, r)
			})
			failed := command(t.Context(), t, newTestServer(t, Config{BaseURL: f.URL}), actuator, 512, 0)
			if failed.Outcome != want || failed.Status != status || failed.Err != nil {
				t.Errorf("%d: %+v, want the outcome %s", status, failed, want)
			}
			says := `{"detail":"above the capacity of 256"}`
			if status < 400 {
				says = "redirect to /elsewhere"
			}
			if failed.Detail != says {
				t.Errorf("%d: the detail is %q", status, failed.Detail)
			}
			wantMessage(t, "the command", failed, "batch size 512 by "+string(actuator)+" on vLLM server "+f.URL, fmt.Sprintf("the server answered %d ", status))
			if n := len(f.requests()); n != 1 {
				t.Errorf("%d: %d requests, want 1", status, n)
			}
		}
	}
}

func TestErrorsOfEndlessLengthAreShortened(t *testing.T) {
	f := newFake(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(422)
		for {
			if _, err := io.WriteString(w, strings.Repeat("\xff no\n", 1000)); err != nil {
				return
			}
		}
	})
	failed := command(t.Context(), t, newTestServer(t, Config{BaseURL: f.URL}), ActuatorSetMaxNumSeqs, 8, 0)
	if failed.Outcome != OutcomeRefused || len(failed.Detail) > maxDetailBytes || strings.Contains(failed.Error(), "\n") {
		t.Errorf("%+v", failed)
	}
}

// killer reads requests whole and then does to the connection what kill does; it
// counts connections and requests.
type killer struct {
	listener              net.Listener
	connections, requests atomic.Int64
	all                   sync.WaitGroup
}

func newKiller(t *testing.T, kill func(net.Conn, *http.Request)) *killer {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	k := &killer{listener: listener}
	k.all.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			k.connections.Add(1)
			k.all.Go(func() {
				defer conn.Close()
				from := bufio.NewReader(conn)
				for {
					r, err := http.ReadRequest(from)
					if err != nil {
						return
					}
					io.Copy(io.Discard, r.Body)
					k.requests.Add(1)
					kill(conn, r)
				}
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		k.all.Wait()
	})
	return k
}

func reset(conn net.Conn, _ *http.Request) {
	conn.(*net.TCPConn).SetLinger(0)
	conn.Close()
}

func TestCommandsAreNeverSentTwice(t *testing.T) {
	for name, kill := range map[string]func(net.Conn, *http.Request){
		"closed":      func(conn net.Conn, _ *http.Request) { conn.Close() },
		"reset":       reset,
		"half a head": func(conn net.Conn, _ *http.Request) { io.WriteString(conn, "HTTP/1.1 200"); conn.Close() },
		"no HTTP":     func(conn net.Conn, _ *http.Request) { io.WriteString(conn, "SSH-2.0-vLLM\r\n\r\n"); conn.Close() },
		"timed out (idle)": func(conn net.Conn, _ *http.Request) {
			io.WriteString(conn, "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n")
			conn.Close()
		},
	} {
		for _, actuator := range []Actuator{ActuatorSetMaxNumSeqs, ActuatorRuntimeConfig} {
			// The question and the command that are answered leave connections behind,
			// which the commands after must not take: net/http may send again what it
			// sent over a connection that proves dead.
			var commands atomic.Int64
			k := newKiller(t, func(conn net.Conn, r *http.Request) {
				if r.Method != http.MethodGet {
					commands.Add(1)
				}
				if commands.Load() <= 1 {
					io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
					return
				}
				kill(conn, r)
			})
			s := newTestServer(t, Config{BaseURL: "http://" + k.listener.Addr().String()})
			if err := s.Health(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := s.SetBatchSize(t.Context(), actuator, 64, 0); err != nil {
				t.Fatal(err)
			}
			for i := range int64(3) {
				failed := command(t.Context(), t, s, actuator, 64, 0)
				if want := name == "timed out (idle)"; want != (failed.Outcome == OutcomeRefused) || failed.Outcome == OutcomeUnreachable {
					t.Errorf("%s, %s: %+v", name, actuator, failed)
				}
				if requests, connections := k.requests.Load(), k.connections.Load(); requests != i+3 || connections != i+3 {
					t.Errorf("%s, %s: %d requests on %d connections after a question and %d commands", name, actuator, requests, connections, i+2)
				}
			}
		}
	}
}

// The same for a connection that is dead before the command comes.
func TestQuestionsSurviveADeadConnection(t *testing.T) {
	k := newKiller(t, func(conn net.Conn, _ *http.Request) {
		io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: "+fmt.Sprint(len(twoEngines))+"\r\n\r\n"+twoEngines)
		conn.Close()
	})
	s := newTestServer(t, Config{BaseURL: "http://" + k.listener.Addr().String()})
	for range 20 {
		if _, err := s.Metrics(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCommandThatFindsNobody(t *testing.T) {
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	failed := command(t.Context(), t, newTestServer(t, Config{BaseURL: gone.URL}), ActuatorSetMaxNumSeqs, 8, 0)
	if failed.Outcome != OutcomeUnreachable || failed.Err == nil {
		t.Errorf("%+v", failed)
	}
	wantMessage(t, "the command", failed, "not sent: ", "refused")

	f := newFake(t, answerWith(200, ""))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	failed = command(ctx, t, newTestServer(t, Config{BaseURL: f.URL}), ActuatorRuntimeConfig, 8, 0)
	if failed.Outcome != OutcomeUnreachable || !errors.Is(failed, context.Canceled) || len(f.requests()) != 0 {
		t.Errorf("%+v", failed)
	}
}

func TestCommandWithoutAnswer(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	f := newFake(t, func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	})
	failed := command(ctx, t, newTestServer(t, Config{BaseURL: f.URL}), ActuatorSetMaxNumSeqs, 8, 0)
	if failed.Outcome != OutcomeUnknown || failed.Status != 0 || !errors.Is(failed, context.Canceled) {
		t.Errorf("%+v", failed)
	}
	wantMessage(t, "the command", failed, "may or may not have taken effect")
}

// fastAPI answers like FastAPI: a path without a route is 404, a method that a
// path's route does not have 405.
func fastAPI(routes map[string]http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		allowed := ""
		for route, answer := range routes {
			method, path, _ := strings.Cut(route, " ")
			if path != r.URL.Path {
				continue
			}
			if method == r.Method {
				answer(w, r)
				return
			}
			allowed = method
		}
		if allowed != "" {
			w.Header().Set("Allow", allowed)
			answerWith(405, `{"detail":"Method Not Allowed"}`)(w, r)
			return
		}
		answerWith(404, `{"detail":"Not Found"}`)(w, r)
	}
}

// It is long because it is one table.
func TestProbing(t *testing.T) {
	fail := func(http.ResponseWriter, *http.Request) { t.Error("a probe changed something") }
	patched := map[string]http.HandlerFunc{"POST /set_max_num_seqs": fail}
	config := func(status int, body string) map[string]http.HandlerFunc {
		return map[string]http.HandlerFunc{"GET /v1/runtime_config": answerWith(status, body), "PATCH /v1/runtime_config": fail}
	}
	both := config(200, `{"max_num_running_seqs": 256}`)
	both["POST /set_max_num_seqs"] = fail
	busy := 2
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   Actuator
		err    string
		asked  int
	}{
		"patched":         {fastAPI(patched), ActuatorSetMaxNumSeqs, "", 3},
		"both":            {fastAPI(both), ActuatorSetMaxNumSeqs, "", 3},
		"development":     {fastAPI(config(200, `{"max_num_seqs": 512, "max_num_running_seqs": 256}`)), ActuatorRuntimeConfig, "", 2},
		"other config":    {fastAPI(config(200, `{"max_num_batched_tokens": 8192}`)), ActuatorConcurrency, "", 2},
		"text for number": {fastAPI(config(200, `{"max_num_running_seqs": "many"}`)), ActuatorConcurrency, "", 2},
		"config disabled": {fastAPI(config(404, "development mode only")), ActuatorConcurrency, "", 2},
		"stock":           {fastAPI(nil), ActuatorConcurrency, "", 2},
		"a page for all":  {answerWith(200, "<html>hello</html>"), ActuatorConcurrency, "", 2},
		"redirects":       {http.RedirectHandler("/login", http.StatusFound).ServeHTTP, ActuatorConcurrency, "", 8},
		"not implemented": {answerWith(501, ""), ActuatorConcurrency, "", 2},
		"busy at first": {func(w http.ResponseWriter, r *http.Request) {
			if busy--; busy >= 0 {
				answerWith(503, "loading")(w, r)
				return
			}
			fastAPI(patched)(w, r)
		}, ActuatorSetMaxNumSeqs, "", 5},
		"unknown unauthorized": {withModels(answerWith(401, `{"error":"Unauthorized"}`)), ActuatorConcurrency, "", 6},
		"unknown forbidden":    {withModels(answerWith(403, "no such service")), ActuatorConcurrency, "", 6},
		"unknown too many":     {withModels(answerWith(429, "slow down")), ActuatorConcurrency, "", 14},
		"unknown 502":          {withModels(answerWith(502, "no upstream")), ActuatorConcurrency, "", 14},
		"unknown 503, config":  {withModels(at(runtimeConfigPath, answerWith(200, `{"max_num_running_seqs": 256}`), answerWith(503, "no upstream"))), ActuatorRuntimeConfig, "", 8},
		"only ours forbidden":  {withModels(at(setMaxNumSeqsPath, answerWith(403, "admins only"), fastAPI(nil))), "", "cannot tell whether the server has set_max_num_seqs", 3},
		"only config broken":   {withModels(at(runtimeConfigPath, answerWith(500, "oh no"), answerWith(503, "no upstream"))), "", "cannot tell whether the server has runtime_config", 14},
		"forbidden, unlike":    {withModels(at(setMaxNumSeqsPath, answerWith(403, "admins only"), answerWith(401, ""))), "", "admins only", 3},
		"wrong key":            {answerWith(401, `{"error":"Unauthorized"}`), "", "cannot tell whether the server has set_max_num_seqs: GET ", 2},
		"broken":               {answerWith(500, "oh no"), "", `500 Internal Server Error: "oh no"`, 6},
		"half broken":          {fastAPI(config(500, "oh no")), "", "cannot tell whether the server has runtime_config", 5},
		"endless":              {fastAPI(config(200, strings.Repeat(" ", maxAnswerBytes+1))), "", "longer than", 2},
	} {
		f := newFake(t, c.answer)
		got, err := newTestServer(t, Config{BaseURL: f.URL}).ProbeActuator(t.Context())
		if got != c.want {
			t.Errorf("%s: %q (%v), want %q", name, got, err, c.want)
		}
		if c.err != "" {
			wantMessage(t, name, err, c.err)
		} else if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		requests := f.requests()
		for _, r := range requests {
			if r.Method != http.MethodGet {
				t.Errorf("%s was asked with %s", name, r.Method)
			}
		}
		if len(requests) != c.asked {
			t.Errorf("%s: %d questions, want %d: %+v", name, len(requests), c.asked, requests)
		}
	}
}

// allowing answers 405 with a header Allow, which may be empty.
func allowing(allow string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if allow != "" {
			w.Header().Set("Allow", allow)
		}
		answerWith(405, `{"detail":"Method Not Allowed"}`)(w, r)
	}
}

// withModels lists models, and answers all else in another way.
func withModels(others http.HandlerFunc) http.HandlerFunc {
	return at("/v1/models", answerWith(200, `{"object":"list","data":[{"id":"`+testModel+`"}]}`), others)
}

// at answers a path in one way and all others in another.
func at(path string, answer, others http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == path {
			answer(w, r)
			return
		}
		others(w, r)
	}
}

// It is long because it is one table.
func TestEvidenceOfActuators(t *testing.T) {
	notFound := answerWith(404, `{"detail":"Not Found"}`)
	config := answerWith(200, `{"max_num_running_seqs": 256}`)
	const post, patch = setMaxNumSeqsPath, runtimeConfigPath
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		seqs   Evidence
		config Evidence
	}{
		"stock":                           {notFound, EvidenceAbsent, EvidenceAbsent},
		"405 there, 404 elsewhere":        {at(post, allowing(""), notFound), EvidencePresent, EvidenceAbsent},
		"POST is allowed there":           {at(post, allowing("POST"), notFound), EvidencePresent, EvidenceAbsent},
		"and OPTIONS":                     {at(post, allowing("OPTIONS, post"), notFound), EvidencePresent, EvidenceAbsent},
		"405 there, a page elsewhere":     {at(post, allowing(""), answerWith(200, "<html>")), EvidencePresent, EvidenceNone},
		"405 there, forbidden elsewhere":  {at(post, allowing("POST"), at(patch, notFound, answerWith(403, ""))), EvidencePresent, EvidenceAbsent},
		"405 there, login elsewhere":      {at(post, allowing(""), http.RedirectHandler("http://127.0.0.1:1/login", http.StatusFound).ServeHTTP), EvidencePresent, EvidenceNone},
		"405 for both":                    {at(post, allowing(""), at(patch, allowing(""), notFound)), EvidenceNone, EvidenceNone},
		"405 for all":                     {allowing(""), EvidenceNone, EvidenceNone},
		"405 for all, POST allowed":       {allowing("POST"), EvidenceNone, EvidenceNone},
		"405 for all, POST allowed there": {at(post, allowing("POST"), allowing("")), EvidencePresent, EvidenceNone},
		"GET is allowed there":            {at(post, allowing("GET, HEAD"), notFound), EvidenceNone, EvidenceAbsent},
		"PATCH is allowed there":          {at(post, allowing("PATCH"), notFound), EvidenceNone, EvidenceAbsent},
		"404 that allows POST":            {at(post, func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Allow", "POST"); notFound(w, r) }, notFound), EvidenceAbsent, EvidenceAbsent},
		"a page for all":                  {answerWith(200, "<html>hello</html>"), EvidenceNone, EvidenceNone},
		"JSON for all":                    {answerWith(200, `{}`), EvidenceNone, EvidenceNone},
		"400 for all":                     {answerWith(400, "no"), EvidenceNone, EvidenceNone},
		"410 for all":                     {answerWith(410, "gone"), EvidenceAbsent, EvidenceAbsent},
		"501 for all":                     {answerWith(501, ""), EvidenceAbsent, EvidenceAbsent},
		"a redirect to a 405":             {at(post, http.RedirectHandler(post+"/", http.StatusTemporaryRedirect).ServeHTTP, at(post+"/", allowing("POST"), notFound)), EvidenceNone, EvidenceAbsent},
		"a redirect to the config":        {at(patch, http.RedirectHandler(patch+"/", http.StatusPermanentRedirect).ServeHTTP, at(patch+"/", config, notFound)), EvidenceAbsent, EvidenceNone},
		"the config":                      {at(patch, config, notFound), EvidenceAbsent, EvidencePresent},
		"the config, 405 for all else":    {at(patch, config, allowing("")), EvidenceNone, EvidencePresent},
		"busy elsewhere, POST allowed":    {at(post, allowing("POST"), at(patch, notFound, answerWith(503, ""))), EvidencePresent, EvidenceAbsent},
	} {
		f := newFake(t, c.answer)
		s := newTestServer(t, Config{BaseURL: f.URL})
		for actuator, want := range map[Actuator]Evidence{ActuatorSetMaxNumSeqs: c.seqs, ActuatorRuntimeConfig: c.config, ActuatorConcurrency: EvidencePresent} {
			if got, err := s.EvidenceOf(t.Context(), actuator); err != nil || got != want {
				t.Errorf("%s: evidence of %s: %q (%v), want %q", name, actuator, got, err, want)
			}
		}
		want := ActuatorConcurrency
		if c.config == EvidencePresent {
			want = ActuatorRuntimeConfig
		}
		if got, err := s.ProbeActuator(t.Context(), ActuatorSetMaxNumSeqs); err != nil || got != want {
			t.Errorf("%s: the best but set_max_num_seqs is %s (%v), want %s", name, got, err, want)
		}
		if got, err := s.ProbeActuator(t.Context(), ActuatorSetMaxNumSeqs, ActuatorRuntimeConfig); err != nil || got != ActuatorConcurrency {
			t.Errorf("%s: the best but both is %s (%v)", name, got, err)
		}
		for _, r := range f.requests() {
			if r.Method != http.MethodGet {
				t.Errorf("%s was asked with %s", name, r.Method)
			}
		}
	}

	// Nothing is made of what says nothing.
	busy := newFake(t, at(post, allowing(""), answerWith(503, "loading")))
	_, err := newTestServer(t, Config{BaseURL: busy.URL}).EvidenceOf(t.Context(), ActuatorSetMaxNumSeqs)
	wantMessage(t, "busy elsewhere", err, "cannot tell whether the server has set_max_num_seqs", "503")
}

func TestRefusedAsNotThere(t *testing.T) {
	for status, want := range map[int]bool{404: true, 405: true, 410: true, 501: true, 400: false, 401: false, 403: false, 422: false, 307: false, 500: false, 503: false} {
		f := newFake(t, answerWith(status, ""))
		failed := command(t.Context(), t, newTestServer(t, Config{BaseURL: f.URL}), ActuatorSetMaxNumSeqs, 8, 0)
		if got := failed.NoSuchActuator(); got != want {
			t.Errorf("%d: the actuator is not there: %v, want %v", status, got, want)
		}
	}
}

// TestBatchSizeAsTheServerTells: only runtime_config has a way to ask.
func TestBatchSizeAsTheServerTells(t *testing.T) {
	for body, want := range map[string]int{
		`{"max_num_running_seqs": 256}`: 256, `{"max_num_running_seqs": 0}`: 0, `{"max_num_running_seqs": 1.5}`: 0,
		`{"max_num_running_seqs": 1e300}`: 0, `{}`: 0, "<html>": 0,
	} {
		f := newFake(t, at(runtimeConfigPath, answerWith(200, body), answerWith(404, "")))
		s := newTestServer(t, Config{BaseURL: f.URL})
		if n, err := s.BatchSize(t.Context(), ActuatorRuntimeConfig); err != nil || n != want {
			t.Errorf("%s: %d, %v, want %d", body, n, err, want)
		}
		before := len(f.requests())
		for _, actuator := range []Actuator{ActuatorSetMaxNumSeqs, ActuatorConcurrency} {
			if n, err := s.BatchSize(t.Context(), actuator); err != nil || n != 0 {
				t.Errorf("by %s: %d, %v", actuator, n, err)
			}
		}
		if len(f.requests()) != before {
			t.Error("a server is asked what it cannot tell")
		}
	}
	f := newFake(t, answerWith(403, "no"))
	_, err := newTestServer(t, Config{BaseURL: f.URL}).BatchSize(t.Context(), ActuatorRuntimeConfig)
	wantMessage(t, "forbidden", err, "cannot tell the batch size", "403")
}
