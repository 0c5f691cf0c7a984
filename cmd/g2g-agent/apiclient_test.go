package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/g2g-agent/g2g-agent/sim"
)

// apiProgram is a running g2g-agent with its control API.
type apiProgram struct {
	*program
	url    string // without a slash at the end
	token  string // sent with each request, unless empty
	client *http.Client
}

// logAPI is logged, with the API's URL, as soon as it takes requests.
const logAPI = "live page and control API"

func startAPI(t *testing.T, env []string, args ...string) *apiProgram {
	t.Helper()
	a := &apiProgram{program: startProgram(t, env, args...), client: &http.Client{Transport: &http.Transport{}, Timeout: soon}}
	t.Cleanup(a.client.CloseIdleConnections)
	a.url = a.apiURL(t)
	return a
}

// apiURL waits for the log to tell the API's address.
func (p *program) apiURL(t *testing.T) string {
	t.Helper()
	var line struct{ URL string }
	if err := json.Unmarshal([]byte(p.await(t, &p.stderr, logAPI)), &line); err != nil || !strings.HasPrefix(line.URL, "http://127.0.0.1:") {
		t.Fatalf("the URL of the API is %q: %v", line.URL, err)
	}
	return strings.TrimSuffix(line.URL, "/")
}

// answer is an answer that has been read.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) String() string { return fmt.Sprintf("status %d: %s", a.status, a.body) }

// send makes a request; headers are names and values by turns. It may be called
// from any goroutine.
func (a *apiProgram) send(t *testing.T, method, path, body string, headers ...string) (answer, error) {
	req, err := http.NewRequestWithContext(t.Context(), method, a.url+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if body != "" || method == http.MethodPost {
		req.Header.Set("Content-Type", "application/json")
	}
	if a.token != "" {
		req.Header.Set("Authorization", "Bearer "+a.token)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, content}, err
}

// want makes a request that must be answered with a status, JSON of the kind that
// belongs to it, and returns the body.
func (a *apiProgram) want(t *testing.T, status int, method, path, body string, headers ...string) []byte {
	t.Helper()
	got, err := a.send(t, method, path, body, headers...)
	if err != nil {
		t.Fatalf("%s %s: %v; the log:\n%s", method, path, err, a.stderr.text())
	}
	if got.status != status {
		t.Fatalf("%s %s %s: %v, want status %d", method, path, body, got, status)
	}
	if isProbe := strings.HasSuffix(path, "z"); status >= http.StatusBadRequest && !isProbe {
		var problem struct {
			Title, Detail string
			Status        int
		}
		err := json.Unmarshal(got.body, &problem)
		if contentType := got.header.Get("Content-Type"); err != nil || contentType != "application/problem+json" || problem.Status != status || problem.Title == "" || problem.Detail == "" {
			t.Errorf("%s %s: not a problem: %s, %v", method, path, contentType, got)
		}
	}
	return got.body
}

func (a *apiProgram) get(t *testing.T, status int, path string) []byte {
	t.Helper()
	return a.want(t, status, http.MethodGet, path, "")
}

func (a *apiProgram) post(t *testing.T, status int, path, body string, headers ...string) []byte {
	t.Helper()
	return a.want(t, status, http.MethodPost, path, body, headers...)
}

// decode reads a JSON answer.
func decode[T any](t *testing.T, raw []byte) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatalf("%v in %s", err, raw)
	}
	return v
}

// agentInfo is what is looked at of GET /v1/info.
type agentInfo struct {
	Phase, Pace, Source, Version string
	Steps                        int64
	ControlNeedsToken            bool `json:"control_needs_token"`
}

func (a *apiProgram) info(t *testing.T) agentInfo {
	t.Helper()
	return decode[agentInfo](t, a.get(t, http.StatusOK, "/v1/info"))
}

// health is the answer of a probe.
type health struct {
	Status  string
	Reasons []string
}

// probe asks a probe and holds its answer to what its status says.
func (a *apiProgram) probe(t *testing.T, path string) (int, health) {
	t.Helper()
	got, err := a.send(t, http.MethodGet, path, "")
	if err != nil {
		t.Fatal(err)
	}
	h := decode[health](t, got.body)
	ok := got.status == http.StatusOK && h.Status == "ok" && len(h.Reasons) == 0
	failing := got.status == http.StatusServiceUnavailable && h.Status == "failing" && len(h.Reasons) > 0
	if !ok && !failing {
		t.Errorf("%s: %v", path, got)
	}
	return got.status, h
}

// awaitProbe waits until a probe is answered with the status.
func (a *apiProgram) awaitProbe(t *testing.T, path string, status int) (h health) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s is answered with %d", path, status), func() bool {
		var got int
		got, h = a.probe(t, path)
		return got == status
	})
	return h
}

// eventually asks again and again until the answer is yes.
func eventually(t *testing.T, what string, yes func() bool) {
	t.Helper()
	const every = 20 * time.Millisecond
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for deadline := time.Now().Add(soon); !yes(); {
		if time.Now().After(deadline) {
			t.Fatalf("it does not come to pass that %s", what)
		}
		select {
		case <-ticker.C:
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		}
	}
}

// dial opens a WebSocket; headers are names and values by turns.
func (a *apiProgram) dial(t *testing.T, path string, headers ...string) *websocket.Conn {
	t.Helper()
	header := http.Header{}
	for i := 0; i < len(headers); i += 2 {
		header.Set(headers[i], headers[i+1])
	}
	if a.token != "" {
		header.Set("Authorization", "Bearer "+a.token)
	}
	ws, resp, err := websocket.DefaultDialer.DialContext(t.Context(), "ws"+strings.TrimPrefix(a.url, "http")+path, header)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	_ = resp.Body.Close() // a WebSocket has none
	t.Cleanup(func() { _ = ws.Close() })
	if err := ws.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return ws
}

// next reads the next message of a WebSocket that is not about skipped ones.
func next[T any](t *testing.T, ws *websocket.Conn) T {
	t.Helper()
	for {
		kind, raw, err := ws.ReadMessage()
		if err != nil {
			t.Fatal(err)
		}
		if kind != websocket.TextMessage {
			t.Fatalf("a message of kind %d: %q", kind, raw)
		}
		if !bytes.HasPrefix(raw, []byte(`{"skipped"`)) {
			return decode[T](t, raw)
		}
	}
}

// seenState is what is looked at of a state.
type seenState struct {
	Seq       int64
	TimeS     float64                   `json:"time_s"`
	BatchSize map[string]int            `json:"batch_size_by_model"`
	Replicas  map[string]int            `json:"active_replicas_by_model"`
	Power     struct{ A, B, C float64 } `json:"power_w"`
}

// seenEvent is an event.
type seenEvent struct {
	ID       int64
	WallTime time.Time `json:"wall_time"`
	TimeS    float64   `json:"time_s"`
	Topic    string
	Data     map[string]any
}

// awaitEvent reads events up to the first with the topic.
func awaitEvent(t *testing.T, ws *websocket.Conn, topic string) seenEvent {
	t.Helper()
	for {
		if e := next[seenEvent](t, ws); e.Topic == topic {
			return e
		}
	}
}

// seenModel is what is looked at of a model of GET /v1/models.
type seenModel struct {
	ModelLabel       string   `json:"model_label"`
	BatchSize        int      `json:"batch_size"`
	Achieved         *float64 `json:"achieved_batch_size"`
	Actuator         *string  `json:"batch_size_actuator"`
	Replicas         int
	ReplicaShift     int      `json:"replica_shift"`
	FreeReplicas     int      `json:"free_replicas"`
	BatchSizeLeaseS  *float64 `json:"batch_size_lease_s"`
	ReplicaLeaseS    *float64 `json:"replica_lease_s"`
	InitialBatchSize int      `json:"initial_batch_size"`
	Stale            bool
}

func (a *apiProgram) models(t *testing.T) []seenModel {
	t.Helper()
	return decode[[]seenModel](t, a.get(t, http.StatusOK, "/v1/models"))
}

// truth is what really happened at the host's vLLM server.
func (h *simHost) truth(t *testing.T) sim.Truth { return truthAt(t, h.vllm) }

func truthAt(t *testing.T, vllm string) sim.Truth {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+vllm+"/sim/truth", nil)
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: soon}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return decode[sim.Truth](t, raw)
}

func orNegative(f *float64) *float64 {
	if f == nil {
		missing := -1.0
		return &missing
	}
	return f
}

type modelOutcome struct {
	ModelLabel string `json:"model_label"`
	Outcome    string
	Detail     string
}

type batchSizesAnswer struct {
	TimeS      float64             `json:"time_s"`
	BatchSizes map[string]int      `json:"batch_size_by_model"`
	Achieved   map[string]*float64 `json:"achieved_batch_size_by_model"`
	LeaseS     map[string]*float64 `json:"lease_s_by_model"`
	Results    []modelOutcome
}

type shiftAnswer struct {
	TimeS        float64 `json:"time_s"`
	ModelLabel   string  `json:"model_label"`
	ReplicaDelta int     `json:"replica_delta"`
	ReplicaShift int     `json:"replica_shift"`
	Replicas     int
	FreeReplicas int      `json:"free_replicas"`
	LeaseS       *float64 `json:"lease_s"`
}
