package page

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/recording"
)

// fakeAgent speaks the agent's API, as far as the page uses it. It survives being
// stopped and started again, as an agent with a supervisor does.
type fakeAgent struct {
	// What a test sets before start.
	token, readToken string
	live             bool
	labels           []string
	answer           func(post) (status int, body any) // to a command; nil: accept

	mu      sync.Mutex
	address string // the first start chooses the port
	server  *http.Server
	running sync.WaitGroup
	states  []*datacenter.State
	events  []map[string]any
	batch   []int
	shift   []int
	posts   []post
	phase   string
	// recording is of the time before; nil: nothing is recorded.
	recording *recording.Decimated
	damages   int
	asked     []url.Values // of the recording
	// A client is told of each state and event by its channel, which start makes
	// and stop closes.
	stateClients, eventClients map[chan any]bool
	tokensSeen                 []string // of sockets
}

// post is a command that came in.
type post struct {
	path, authorization, key, contentType string
	body                                  map[string]any
}

const fakeDT = 0.1

func newFakeAgent(labels ...string) *fakeAgent {
	f := &fakeAgent{labels: labels, live: true, phase: "stepping"}
	for range labels {
		f.batch = append(f.batch, 64)
		f.shift = append(f.shift, 0)
	}
	return f
}

// start listens, on the same port each time.
func (f *fakeAgent) start(t *testing.T) string {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.address == "" {
		f.address = "127.0.0.1:0"
	}
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "tcp", f.address)
	if err != nil {
		t.Fatal(err)
	}
	f.address = listener.Addr().String()
	f.stateClients, f.eventClients = map[chan any]bool{}, map[chan any]bool{}
	server := &http.Server{Handler: f.handler(), ReadHeaderTimeout: time.Second}
	f.server = server
	f.running.Go(func() { _ = server.Serve(listener) })
	return "http://" + f.address + "/"
}

// stop cuts every connection, as kill -9 does.
func (f *fakeAgent) stop() {
	f.mu.Lock()
	if f.server == nil {
		f.mu.Unlock()
		return
	}
	_ = f.server.Close()
	f.server = nil
	for _, clients := range []map[chan any]bool{f.stateClients, f.eventClients} {
		for c := range clients {
			close(c)
		}
	}
	f.stateClients, f.eventClients = nil, nil
	f.mu.Unlock()
	f.running.Wait()
}

// forget is what a restart does to what an agent remembers.
func (f *fakeAgent) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.states, f.events = nil, nil
}

func (f *fakeAgent) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", Handler())
	mux.HandleFunc("GET /v1/info", f.readable(f.info))
	mux.HandleFunc("GET /v1/models", f.readable(f.models))
	mux.HandleFunc("GET /v1/history", f.readable(func(r *http.Request) any {
		n, _ := strconv.Atoi(r.URL.Query().Get("n"))
		return append([]*datacenter.State{}, f.states[max(0, len(f.states)-n):]...)
	}))
	mux.HandleFunc("GET /v1/recording/states", f.readable(f.past))
	mux.HandleFunc("GET /v1/stream", func(w http.ResponseWriter, r *http.Request) {
		f.socket(w, r, func(c chan any) {
			f.stateClients[c] = true
			if n := len(f.states); n > 0 {
				c <- f.states[n-1]
			}
		})
	})
	mux.HandleFunc("GET /v1/events", func(w http.ResponseWriter, r *http.Request) {
		f.socket(w, r, func(c chan any) {
			f.eventClients[c] = true
			for _, e := range f.events {
				c <- e
			}
		})
	})
	mux.HandleFunc("POST /v1/", f.takePost)
	return mux
}

func (f *fakeAgent) past(r *http.Request) any {
	f.asked = append(f.asked, r.URL.Query())
	return map[string]any{"point_ms": f.recording.PointMs, "points": f.recording.Points, "damages": f.damages}
}

// readable answers with what read returns, to those who may read.
func (f *fakeAgent) readable(read func(*http.Request) any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		bearer := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !f.mayRead(bearer) {
			writeJSON(w, http.StatusUnauthorized, problemOf(401, "reading needs a token"))
			return
		}
		writeJSON(w, http.StatusOK, read(r))
	}
}

func (f *fakeAgent) mayRead(token string) bool {
	return f.readToken == "" || token == f.readToken || token == f.token
}

// fakeChannel holds what a client has not read; tests send less.
const fakeChannel = 5000

func (f *fakeAgent) socket(w http.ResponseWriter, r *http.Request, join func(chan any)) {
	token := ""
	protocols := websocket.Subprotocols(r)
	for _, p := range protocols {
		if encoded, found := strings.CutPrefix(p, "g2g-agent.bearer."); found {
			decoded, err := base64.RawURLEncoding.DecodeString(encoded)
			if err != nil {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			token = string(decoded)
		}
	}
	f.mu.Lock()
	f.tokensSeen = append(f.tokensSeen, token)
	if !f.mayRead(token) {
		f.mu.Unlock()
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if f.server == nil {
		f.mu.Unlock()
		return
	}
	c := make(chan any, fakeChannel)
	join(c)
	f.running.Add(1) // a hijacked connection is no longer the server's
	f.mu.Unlock()
	defer f.running.Done()
	upgrader := websocket.Upgrader{Subprotocols: []string{"g2g-agent.v1"}}
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer conn.Close()
	f.running.Go(func() {
		for { // reads, so that pings and closes are answered
			if _, _, err := conn.ReadMessage(); err != nil {
				_ = conn.Close()
				return
			}
		}
	})
	for message := range c {
		if err := conn.WriteJSON(message); err != nil {
			f.mu.Lock()
			delete(f.stateClients, c)
			delete(f.eventClients, c)
			f.mu.Unlock()
			return
		}
	}
}

func (f *fakeAgent) info(*http.Request) any {
	source := "replay"
	if f.live {
		source = "live"
	}
	pace := "real_time"
	if f.phase == "waiting" {
		pace = "lockstep"
	}
	return map[string]any{
		"name": "demo", "version": "0.3.0", "source": source, "phase": f.phase, "pace": pace, "dt_s": fakeDT,
		"time_s": float64(len(f.states)) * fakeDT, "steps": len(f.states), "total_gpu_capacity": 2304, "free_gpus": 40,
		"base_kw_per_phase": 500, "power_factor": 0.95, "gpus_per_server": 8, "history_states": 3000,
		"control_needs_token": f.token != "", "recording": f.recording != nil,
	}
}

var fakeReplicas = []int{720, 216, 90}

func (f *fakeAgent) models(*http.Request) any {
	models := []any{}
	for i, label := range f.labels {
		models = append(models, map[string]any{
			"model_label": label, "model_id": "meta-llama/" + label, "gpus_per_replica": []int{1, 4, 8}[i%3],
			"itl_deadline_s": []float64{0.08, 0.1, 0.12}[i%3], "feasible_batch_sizes": []int{8, 16, 32, 64},
			"initial_batch_size": 64, "failsafe_batch_size": 64, "batch_size": f.batch[i], "achieved_batch_size": nil,
			"batch_size_actuator": nil, "replicas": fakeReplicas[i%3] + f.shift[i], "replica_shift": f.shift[i],
			"free_replicas": 5, "free_gpus": 40, "batch_size_lease_s": nil, "replica_lease_s": nil, "stale": false,
		})
	}
	return models
}

func (f *fakeAgent) takePost(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	raw, _ := io.ReadAll(r.Body)
	p := post{r.URL.Path, r.Header.Get("Authorization"), r.Header.Get("Idempotency-Key"), r.Header.Get("Content-Type"), nil}
	if err := json.Unmarshal(raw, &p.body); err != nil {
		writeJSON(w, http.StatusBadRequest, problemOf(400, err.Error()))
		return
	}
	f.posts = append(f.posts, p)
	if f.token != "" && p.authorization != "Bearer "+f.token {
		status := http.StatusUnauthorized
		if f.readToken != "" && p.authorization == "Bearer "+f.readToken {
			status = http.StatusForbidden
		}
		writeJSON(w, status, problemOf(status, "commands need the control token"))
		return
	}
	if f.answer != nil {
		status, body := f.answer(p)
		writeJSON(w, status, body)
		return
	}
	writeJSON(w, http.StatusOK, f.accept(p))
}

func (f *fakeAgent) accept(p post) any {
	timeS := float64(len(f.states)) * fakeDT
	if p.path == "/v1/replica-shifts" {
		i := slices.Index(f.labels, p.body["model_label"].(string))
		f.shift[i] += int(p.body["replica_delta"].(float64))
		return map[string]any{
			"time_s": timeS, "model_label": f.labels[i], "replica_delta": p.body["replica_delta"], "replica_shift": f.shift[i],
			"replicas": fakeReplicas[i%3] + f.shift[i], "free_replicas": 5, "lease_s": p.body["lease_s"],
		}
	}
	batch, leases, results := map[string]int{}, map[string]any{}, []any{}
	for label, size := range p.body["batch_size_by_model"].(map[string]any) {
		f.batch[slices.Index(f.labels, label)] = int(size.(float64))
		leases[label] = p.body["lease_s"]
		results = append(results, map[string]any{"model_label": label, "outcome": "accepted"})
	}
	for i, label := range f.labels {
		batch[label] = f.batch[i]
	}
	return map[string]any{
		"time_s": timeS, "batch_size_by_model": batch, "achieved_batch_size_by_model": batch, "lease_s_by_model": leases, "results": results,
	}
}

func problemOf(status int, detail string) map[string]any {
	return map[string]any{"title": http.StatusText(status), "status": status, "detail": detail}
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

// step computes n more states and sends them; change, if not nil, has its way
// with each.
func (f *fakeAgent) step(n int, change func(*datacenter.State)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for range n {
		k := int64(len(f.states))
		t := float64(k) * fakeDT
		wave := math.Sin(t / 9)
		s := &datacenter.State{
			Seq: k, TimeS: t, Source: datacenter.SourceReplay,
			PowerW: datacenter.ThreePhase{A: 8e5 + 9e4*wave + 4e3*math.Sin(t*3), B: 8.2e5 + 8e4*wave + 4e3*math.Cos(t*2.7), C: 7.9e5 + 8.5e4*wave},
		}
		if f.live {
			s.Source = datacenter.SourceLive
			s.WallTime = time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC).Add(time.Duration(t * float64(time.Second)))
			s.MeasuredPowerW = datacenter.ThreePhase{A: 5.01e5, B: 5.01e5, C: 5.01e5}
		}
		for i, label := range f.labels {
			m := datacenter.ModelState{
				ModelLabel: label, PowerW: []float64{1.9e5, 3.1e5, 4.4e5}[i%3] * (1 + 0.1*wave + 0.01*math.Sin(t*5)),
				ActiveReplicas: fakeReplicas[i%3] + f.shift[i], BatchSize: f.batch[i],
				ObservedITLS: 0.04 + 0.02*float64(i%3) + 0.006*math.Sin(t/3), PhaseShare: datacenter.ThreePhase{A: 0.3, B: 0.4, C: 0.3},
			}
			if f.live {
				m.Throughput = datacenter.ThroughputOf(float64(m.ActiveReplicas*m.BatchSize) / m.ObservedITLS)
				m.Live = datacenter.LiveModelState{
					MeasuredTokensPerS: float64(m.BatchSize) / m.ObservedITLS, MeasuredPowerW: 430, AugmentationFactor: []float64{720, 216, 90}[i%3],
					Server:          &datacenter.ServerLoad{NumRequestsRunning: float64(f.batch[i]) - 2 - math.Round(2*math.Sin(t)), KVCacheUsagePerc: 0.4},
					ITLPercentilesS: datacenter.ITLPercentiles{P50: m.ObservedITLS, P90: m.ObservedITLS * 1.1, P95: m.ObservedITLS * 1.2, P99: m.ObservedITLS*1.3 + 0.003*math.Sin(t*4)},
				}
			}
			s.Models = append(s.Models, m)
		}
		if change != nil {
			change(s)
		}
		f.states = append(f.states, s)
		for c := range f.stateClients {
			c <- s
		}
	}
}

// send sends a message of its own to those who follow the states.
func (f *fakeAgent) send(message any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.stateClients {
		c <- message
	}
}

func (f *fakeAgent) event(data datacenter.EventData) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := map[string]any{
		"id": len(f.events), "wall_time": time.Date(2030, 1, 1, 12, 0, len(f.events), 0, time.UTC),
		"time_s": float64(len(f.states)) * fakeDT, "topic": data.Topic(), "data": data,
	}
	f.events = append(f.events, e)
	for c := range f.eventClients {
		c <- e
	}
}

func (f *fakeAgent) setPhase(phase string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.phase = phase
}

// received are the commands that came in.
func (f *fakeAgent) received() []post {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.posts)
}
