package vllm

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/internal/credential"
)

const testModel = "meta-llama/Llama-3.1-8B-Instruct"

// fake is a server that answers as its handler does and keeps what it was asked.
type fake struct {
	*httptest.Server
	mu   sync.Mutex
	seen []seenRequest
}

type seenRequest struct{ Method, URI, ContentType, Authorization, Body string }

// requests returns what was asked so far.
func (f *fake) requests() []seenRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.seen)
}

func newFake(t *testing.T, answer http.HandlerFunc) *fake {
	t.Helper()
	f := &fake{}
	f.Server = httptest.NewServer(f.keep(answer))
	t.Cleanup(f.Close)
	return f
}

func (f *fake) keep(answer http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		f.mu.Lock()
		f.seen = append(f.seen, seenRequest{r.Method, r.URL.RequestURI(), r.Header.Get("Content-Type"), r.Header.Get("Authorization"), string(body)})
		f.mu.Unlock()
		answer(w, r)
	}
}

// answerWith answers everything in the same way.
func answerWith(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

func newTestServer(t *testing.T, cfg Config) *Server {
	t.Helper()
	if cfg.ModelID == "" {
		cfg.ModelID = testModel
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 20 * time.Second
	}
	s, err := NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.retrying.RetryWaitMin, s.retrying.RetryWaitMax = time.Millisecond, 2*time.Millisecond
	t.Cleanup(s.Close)
	return s
}

// calls are the questions and commands of a server.
func calls() map[string]func(context.Context, *Server) error {
	return map[string]func(context.Context, *Server) error{
		"Health":        func(ctx context.Context, s *Server) error { return s.Health(ctx) },
		"Models":        func(ctx context.Context, s *Server) error { _, err := s.Models(ctx); return err },
		"CheckModel":    func(ctx context.Context, s *Server) error { return s.CheckModel(ctx) },
		"Metrics":       func(ctx context.Context, s *Server) error { _, err := s.Metrics(ctx); return err },
		"ProbeActuator": func(ctx context.Context, s *Server) error { _, err := s.ProbeActuator(ctx); return err },
		"set_max_num_seqs": func(ctx context.Context, s *Server) error {
			return s.SetBatchSize(ctx, ActuatorSetMaxNumSeqs, 64, 0)
		},
		"runtime_config": func(ctx context.Context, s *Server) error {
			return s.SetBatchSize(ctx, ActuatorRuntimeConfig, 64, 0)
		},
	}
}

func wantMessage(t *testing.T, what string, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error, want one with %q", what, parts)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%s: the error is %q, which lacks %q", what, err, part)
		}
	}
}

func TestBaseURLs(t *testing.T) {
	for raw, want := range map[string]string{
		"http://node1:8000":              "http://node1:8000",
		"http://node1:8000/":             "http://node1:8000",
		"https://gate.example/llm/a//":   "https://gate.example/llm/a",
		"http://[::1]:8000/":             "http://[::1]:8000",
		"HTTP://node1":                   "http://node1",
		"http://node1:8000/a%2Fb/":       "http://node1:8000/a%2Fb",
		"http://node1:8000/models@home/": "http://node1:8000/models@home",
	} {
		if s, err := NewServer(Config{BaseURL: raw, ModelID: "m"}); err != nil || s.String() != want {
			t.Errorf("%q gives %v (%v), want %s", raw, s, err, want)
		}
	}
	for raw, want := range map[string]string{
		"":                           "is empty; want http://HOST:PORT",
		"node1:8000":                 `"node1:8000", without a scheme; is it http://node1:8000?`,
		"//node1:8000":               "is it http://node1:8000?",
		"http:node1":                 "without a host",
		"http:///v":                  "without a host",
		"ftp://node1":                `with scheme "ftp"; want http://HOST:PORT`,
		"unix:/run/vllm.sock":        "a socket",
		"http://node1:80000":         "with port 80000; want one from 1 to 65535",
		"http://node1:x":             "invalid port",
		"http://node 1":              "invalid character",
		"http://node1?a=b":           "with a query or a fragment",
		"http://node1/#":             "with a query or a fragment",
		"http://node1:8000/v1/":      "want it without the /v1: http://node1:8000",
		"http://u:geheim@node1:8000": "has a user name or password in it",
		"http://u:geheim@node1:x":    "has a user name or password in it",
	} {
		_, err := NewServer(Config{BaseURL: raw, ModelID: "m"})
		wantMessage(t, raw, err, want)
		if err != nil && strings.Contains(err.Error(), "geheim") {
			t.Errorf("the error %q has the password in it", err)
		}
	}
}

func FuzzBaseURL(f *testing.F) {
	for _, raw := range []string{"http://node1:8000/", "node1:8000", "https://u:p@[::1]:1/x?y#z", "http://%zz", "http://node1/a%2f/"} {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		s, err := NewServer(Config{BaseURL: raw, ModelID: "m"})
		if err != nil {
			return
		}
		req, err := newRequest(t.Context(), http.MethodGet, s.String()+"/health", nil, "")
		if err != nil || req.URL.Host == "" || !strings.HasSuffix(req.URL.Path, "/health") || req.URL.RawQuery != "" {
			t.Errorf("%q was taken and makes the request %+v (%v)", raw, req, err)
		}
		if again, err := NewServer(Config{BaseURL: s.String(), ModelID: "m"}); err != nil || again.String() != s.String() {
			t.Errorf("%q becomes %q, which becomes %v (%v)", raw, s, again, err)
		}
	})
}

func TestConfigIsChecked(t *testing.T) {
	for want, cfg := range map[string]Config{
		"the model ID is empty": {BaseURL: "http://node1"},
		"the timeout is -1s":    {BaseURL: "http://node1", ModelID: "m", Timeout: -time.Second},
		"the key has a":         {BaseURL: "http://node1", ModelID: "m", Credential: credential.Fixed("geheim\r\nX-A: b")},
	} {
		_, err := NewServer(cfg)
		wantMessage(t, want, err, want, "http://node1")
		if err != nil && strings.Contains(err.Error(), "geheim") {
			t.Errorf("the error %q has the key in it", err)
		}
	}
}

func TestWellServer(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /pre/health", answerWith(200, ""))
	mux.HandleFunc("GET /pre/v1/models", answerWith(200, `{"object":"list","data":[{"id":"other"},{"id":"`+testModel+`","max_model_len":8192}]}`))
	mux.HandleFunc("GET /pre/metrics", answerWith(200, strings.ReplaceAll(twoEngines, "gpu_cache", "kv_cache")))
	for _, base := range []string{"/pre", "/pre/"} {
		for _, key := range []string{"", "key-1"} {
			f := newFake(t, mux.ServeHTTP)
			s := newTestServer(t, Config{BaseURL: f.URL + base, Credential: credential.Fixed(key)})
			if err := s.Health(t.Context()); err != nil {
				t.Error(err)
			}
			if ids, err := s.Models(t.Context()); err != nil || !slices.Equal(ids, []string{"other", testModel}) {
				t.Errorf("models %q (%v)", ids, err)
			}
			if err := s.CheckModel(t.Context()); err != nil {
				t.Error(err)
			}
			if m, err := s.Metrics(t.Context()); err != nil || m.Metrics != (Metrics{125, 4, 0.375, 12}) {
				t.Errorf("metrics %+v (%v)", m, err)
			}
			want := ""
			if key != "" {
				want = "Bearer " + key
			}
			got := f.requests()
			for _, r := range got {
				if r.Authorization != want {
					t.Errorf("%s has the authorization %q, want %q", r.URI, r.Authorization, want)
				}
			}
			if len(got) != 4 {
				t.Errorf("%d requests, want 4: %+v", len(got), got)
			}
		}
	}
}

func TestOldMetricNamesOverHTTP(t *testing.T) {
	f := newFake(t, answerWith(200, twoEngines))
	if m, err := newTestServer(t, Config{BaseURL: f.URL}).Metrics(t.Context()); err != nil || m.KVCacheUsagePerc != 0.375 {
		t.Errorf("metrics %+v (%v)", m, err)
	}
}

func TestModelThatIsNotServed(t *testing.T) {
	served := func(ids ...string) *Server {
		var list []string
		for _, id := range ids {
			list = append(list, fmt.Sprintf(`{"id":%q}`, id))
		}
		return newTestServer(t, Config{BaseURL: newFake(t, answerWith(200, `{"data":[`+strings.Join(list, ",")+`]}`)).URL})
	}
	err := served("a", "b").CheckModel(t.Context())
	var not *ModelNotServedError
	if !errors.As(err, &not) || !slices.Equal(not.Served, []string{"a", "b"}) || not.ModelID != testModel {
		t.Errorf("the error is %#v", err)
	}
	wantMessage(t, "two others", err, `does not serve model "`+testModel+`"; it serves "a", "b"`)
	wantMessage(t, "none", served().CheckModel(t.Context()), "it serves none")
	many := strings.Split(strings.Repeat("x", 13), "")
	wantMessage(t, "many", served(many...).CheckModel(t.Context()), `"x" and 3 more`)
}

func TestAnswersThatAreWrong(t *testing.T) {
	long := strings.Repeat("ä", 5000)
	for _, c := range []struct {
		call, body string
		want       []string
	}{
		{"Models", "<html>busy</html>", []string{"GET http://", "/v1/models: the answer is no list of models", `it is "<html>busy</html>"`}},
		{"Models", `{"data":{}}`, []string{"no list of models"}},
		{"Models", `{"object":"list"}`, []string{`no "data"`}},
		{"Models", `{"data":[{"id":"a"},{"name":"b"}]}`, []string{`model 1 of the list has no "id"`}},
		{"Models", ``, []string{"no list of models"}},
		{"Models", `{"data":[{"id":` + long, []string{"…"}},
		{"Models", `{"data":[` + strings.Repeat(`{"id":"aaaaaaaa"},`, 300_000) + `{"id":"b"}]}`, []string{"longer than 4194304 bytes"}},
		{"Metrics", "<html>busy</html>", []string{"/metrics: vLLM metrics", "metric is missing", `the page begins with "<html>busy</html>"`}},
		{"Metrics", "# HELP some other metrics\nother 1\n", []string{"vllm:num_requests_running: metric is missing"}},
		{"Metrics", "", []string{"metric is missing"}},
	} {
		f := newFake(t, answerWith(200, c.body))
		err := calls()[c.call](t.Context(), newTestServer(t, Config{BaseURL: f.URL}))
		wantMessage(t, c.call, err, c.want...)
		if n := len(f.requests()); n != 1 {
			t.Errorf("%s was asked for %d times after a wrong answer", c.call, n)
		}
		if err != nil && len(err.Error()) > 500 {
			t.Errorf("%s: an error of %d bytes", c.call, len(err.Error()))
		}
		if missing := strings.Contains(strings.Join(c.want, ""), "metric is missing"); missing != errors.Is(err, ErrMissingMetric) {
			t.Errorf("%s: %v: a missing metric: %v", c.call, err, !missing)
		}
	}
}

// A page without end, and with all patience for whoever reads it.
func TestEndlessAnswersAreCutOff(t *testing.T) {
	t.Parallel()
	piece := []byte("# " + strings.Repeat("x", 1<<20) + "\n")
	for call, want := range map[string]string{"Models": "longer than 4194304 bytes", "Metrics": "longer than 16777216 bytes"} {
		f := newFake(t, func(w http.ResponseWriter, _ *http.Request) {
			for {
				if _, err := w.Write(piece); err != nil {
					return
				}
			}
		})
		wantMessage(t, call, calls()[call](t.Context(), newTestServer(t, Config{BaseURL: f.URL})), want)
	}
}

func TestStatusesThatAreWrong(t *testing.T) {
	for _, c := range []struct{ status, asked, metricsAsked int }{
		{204, 1, 1}, {307, 1, 1}, {401, 1, 1}, {404, 1, 1}, {429, 3, 1}, {500, 3, 1}, {501, 1, 1}, {503, 3, 1},
	} {
		for _, call := range []string{"Health", "Models", "CheckModel", "Metrics"} {
			body := ""
			if c.status != 204 {
				body = `{"detail":"no ` + strings.Repeat("ä", 300) + `"}`
			}
			f := newFake(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Retry-After", "3600") // such patience we don't have
				if c.status == 307 {
					w.Header().Set("Location", "http://127.0.0.1:1/elsewhere")
				}
				answerWith(c.status, body)(w, r)
			})
			err := calls()[call](t.Context(), newTestServer(t, Config{BaseURL: f.URL, Credential: credential.Fixed("geheim")}))
			var status *StatusError
			if !errors.As(err, &status) || status.Status != c.status || status.Method != "GET" || !strings.HasPrefix(status.URL, f.URL+"/") {
				t.Errorf("%s, %d: the error is %#v", call, c.status, err)
				continue
			}
			if len(status.Detail) > maxDetailBytes || strings.Contains(err.Error(), "geheim") || strings.ContainsRune(err.Error(), '\uFFFD') {
				t.Errorf("%s, %d: the error is %q", call, c.status, err)
			}
			switch c.status {
			case 204:
				wantMessage(t, call, err, "answered 204 No Content")
			case 307:
				wantMessage(t, call, err, `answered 307 Temporary Redirect: "redirect to http://127.0.0.1:1/elsewhere"`)
			default:
				wantMessage(t, call, err, fmt.Sprintf("answered %d %s: ", c.status, http.StatusText(c.status)), `detail\":\"no ää`, "…")
			}
			asked := c.asked
			if call == "Metrics" {
				asked = c.metricsAsked
			}
			if n := len(f.requests()); n != asked {
				t.Errorf("%s was asked for %d times, want %d, with answer %d", call, n, asked, c.status)
			}
		}
	}
}

func TestQuestionsAreTriedAgain(t *testing.T) {
	var logged bytes.Buffer
	n := 0
	f := newFake(t, func(w http.ResponseWriter, r *http.Request) {
		switch n++; n {
		case 1:
			panic(http.ErrAbortHandler) // cuts the connection
		case 2:
			answerWith(503, "starting")(w, r)
		default:
			answerWith(200, "")(w, r)
		}
	})
	s := newTestServer(t, Config{BaseURL: f.URL, Log: zerolog.New(&logged)})
	if err := s.Health(t.Context()); err != nil {
		t.Error(err)
	}
	if n := len(f.requests()); n != 3 {
		t.Errorf("asked %d times, want 3", n)
	}
	lines := strings.Split(strings.TrimSpace(logged.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], "EOF") || !strings.Contains(lines[1], `"status":503`) {
		t.Errorf("the log is %q, want a line for each failure", lines)
	}
	for _, line := range lines {
		if !strings.Contains(line, `"level":"debug"`) || !strings.Contains(line, `"server":"`+f.URL) {
			t.Errorf("the log has the line %q", line)
		}
	}
}

func TestNobodyThere(t *testing.T) {
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	s := newTestServer(t, Config{BaseURL: gone.URL})
	for name, call := range calls() {
		if err := call(t.Context(), s); !errors.Is(err, syscall.ECONNREFUSED) || strings.Count(err.Error(), gone.URL) != 1 {
			t.Errorf("%s: the error is %v", name, err)
		}
	}
}

func TestServerThatNeverAnswers(t *testing.T) {
	for name, call := range calls() {
		for _, after := range []string{"", "{"} {
			if after != "" && (name == "Health" || name == "ProbeActuator" || name == "set_max_num_seqs" || name == "runtime_config") {
				continue // the status is all they need
			}
			f := newFake(t, func(w http.ResponseWriter, r *http.Request) {
				if after != "" {
					io.WriteString(w, after)
					w.(http.Flusher).Flush()
				}
				<-r.Context().Done()
			})
			begin := time.Now()
			err := call(t.Context(), newTestServer(t, Config{BaseURL: f.URL, Timeout: 50 * time.Millisecond}))
			if took := time.Since(begin); took > 5*time.Second {
				t.Errorf("%s took %v", name, took)
			}
			wantMessage(t, name, err, "no answer within 50ms")
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: the error is %v", name, err)
			}
			if n := len(f.requests()); n != 1 {
				t.Errorf("%s was asked %d times", name, n)
			}
		}
	}
}

func TestCallerCanGiveUp(t *testing.T) {
	for name, call := range calls() {
		ctx, cancel := context.WithCancel(t.Context())
		f := newFake(t, func(_ http.ResponseWriter, r *http.Request) {
			cancel()
			<-r.Context().Done()
		})
		s := newTestServer(t, Config{BaseURL: f.URL})
		if err := call(ctx, s); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: the error is %v", name, err)
		}
		deadline, cancel2 := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
		if err := call(deadline, s); !errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), "no answer within") {
			t.Errorf("%s: the error is %v", name, err)
		}
		cancel2()
		if n := len(f.requests()); n != 1 {
			t.Errorf("%s: %d requests", name, n)
		}
	}
}

func TestHTTPS(t *testing.T) {
	f := &fake{}
	f.Server = httptest.NewUnstartedServer(f.keep(func(w http.ResponseWriter, r *http.Request) {
		answerWith(200, `{"data":[{"id":"`+r.Proto+`"}]}`)(w, r)
	}))
	f.EnableHTTP2 = true
	f.Config.ErrorLog = log.New(io.Discard, "", 0) // of the strangers below
	f.StartTLS()
	t.Cleanup(f.Close)
	roots := x509.NewCertPool()
	roots.AddCert(f.Certificate())
	s := newTestServer(t, Config{BaseURL: f.URL, TLS: &tls.Config{RootCAs: roots}})
	if protos, err := s.Models(t.Context()); err != nil || protos[0] != "HTTP/1.1" {
		t.Errorf("the server speaks %q (%v)", protos, err)
	}
	if err := s.SetBatchSize(t.Context(), ActuatorSetMaxNumSeqs, 8, 0); err != nil {
		t.Error(err)
	}

	stranger := newTestServer(t, Config{BaseURL: f.URL})
	wantMessage(t, "an unknown authority", stranger.Health(t.Context()), "certificate")
	err := stranger.SetBatchSize(t.Context(), ActuatorSetMaxNumSeqs, 8, 0)
	wantMessage(t, "an unknown authority", err, "not sent", "certificate")
	if n := len(f.requests()); n != 2 {
		t.Errorf("%d requests, want 2", n)
	}
}
