package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"
	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/api/problem"
	"github.com/g2g-agent/g2g-agent/datacenter"
	"github.com/g2g-agent/g2g-agent/internal/logtest"
)

// talk is a WebSocket by which a test drives a replay.
type talk struct {
	*websocket.Conn
	s *testServer
}

func (s *testServer) talk(t *testing.T) *talk {
	t.Helper()
	return s.dial(t, "v1/lockstep")
}

// dial opens a WebSocket that is closed with the test.
func (s *testServer) dial(t *testing.T, path string) *talk {
	t.Helper()
	conn, resp, err := websocket.DefaultDialer.DialContext(t.Context(), "ws"+strings.TrimPrefix(s.URL(), "http")+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	t.Cleanup(func() { conn.Close() })
	return &talk{conn, s}
}

func (c *talk) send(t *testing.T, message string) {
	t.Helper()
	if err := c.WriteMessage(websocket.TextMessage, []byte(message)); err != nil {
		t.Fatal(err)
	}
}

func (c *talk) receive(t *testing.T) []byte {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	kind, answer, err := c.ReadMessage()
	if err != nil || kind != websocket.TextMessage {
		t.Fatalf("message %d: %v", kind, err)
	}
	return answer
}

// ask returns the answer to a message.
func (c *talk) ask(t *testing.T, message string) []byte {
	t.Helper()
	c.send(t, message)
	return c.receive(t)
}

// statesIn are those of an answer.
func statesIn(t *testing.T, answer []byte) (states []string) {
	t.Helper()
	var raw []json.RawMessage
	(&reply{body: answer}).into(t, &raw)
	for _, text := range raw {
		states = append(states, string(text))
	}
	return states
}

// driven is a whole run with commands at the steps 30 and 31, asked for by batches of n; ask
// takes what POST /v1/steps takes.
func driven(t *testing.T, n int, ask func(body string) []byte) (states []string) {
	t.Helper()
	batches := func(until int) {
		for len(states) < until {
			states = append(states, statesIn(t, ask(fmt.Sprintf(`{"steps": %d}`, min(n, until-len(states)))))...)
		}
	}
	batches(30)
	states = append(states, statesIn(t, ask(`{"steps": 1, "batch_size_by_model": {"Llama-3.1-8B": 64, "Llama-3.1-70B": 256}}`))...)
	states = append(states, statesIn(t, ask(`{"until_s": 3.1, "replica_shifts": [{"model_label": "Llama-3.1-405B", "replica_delta": -20}]}`))...)
	batches(200)
	return states
}

// However a replay is driven, it gives the same bits: by POST or WebSocket, step by step or
// in batches, after a reset or a new start, and as the same commands in its script.
func TestOneRunHoweverDriven(t *testing.T) {
	var want []string
	setup := scriptedReplay(t)
	for {
		state, err := setup.Replay.Step(time.Time{})
		if err != nil {
			break
		}
		want = append(want, string(state.AppendJSON(nil)))
	}
	if len(want) != 200 {
		t.Fatalf("%d states in the script's run", len(want))
	}
	check := func(what string, got []string) {
		t.Helper()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-script +driven):\n%.2000s", what, diff)
		}
	}
	reused := serveReplay(t, replayConfig(t))
	conn := reused.talk(t)
	post := func(s *testServer) func(string) []byte {
		return func(body string) []byte { return s.post("/v1/steps", body).want(t, http.StatusOK).body }
	}
	for _, n := range []int{1, 7, 10_000} {
		s := serveReplay(t, replayConfig(t))
		check(fmt.Sprintf("POST, %d at a time", n), driven(t, n, post(s)))
		fresh := serveReplay(t, replayConfig(t)).talk(t)
		check(fmt.Sprintf("WebSocket, %d at a time", n), driven(t, n, func(body string) []byte { return fresh.ask(t, body) }))
		check(fmt.Sprintf("POST after resets, %d at a time", n), driven(t, n, post(reused)))
		conn.ask(t, `{"reset": {"seed": 3}}`)
		conn.ask(t, `{"steps": 17, "batch_size_by_model": {"Llama-3.1-8B": 8}}`)
		reused.post("/v1/reset", `{}`).want(t, http.StatusOK)
		check(fmt.Sprintf("WebSocket after resets, %d at a time", n), driven(t, n, func(body string) []byte { return conn.ask(t, body) }))
		conn.ask(t, `{"reset": {}}`)
	}
}

// Many messages may be sent ahead; each is answered, in order, also those that are wrong.
func TestLockstepAnswersInOrder(t *testing.T) {
	c := serveReplay(t, replayConfig(t)).talk(t)
	const rounds = 50
	var sending sync.WaitGroup
	sending.Go(func() {
		for i := range rounds {
			for _, m := range []string{`{"steps": 1, "fields": []}`, `{"steps": -1}`, `nonsense`, fmt.Sprintf(`{"until_s": %v, "fields": []}`, float64(2*i+1)/10)} {
				if err := c.WriteMessage(websocket.TextMessage, []byte(m)); err != nil {
					t.Error(err)
				}
			}
		}
	})
	for i := range rounds {
		if got := string(c.receive(t)); got != fmt.Sprintf(`[{"seq":%d,"time_s":%v}]`, 2*i, jsonTime(2*i)) {
			t.Fatalf("round %d: a step is %s", i, got)
		}
		for _, code := range []string{problem.CodeInvalidRequest, problem.CodeMalformedBody} {
			var p problem.Problem
			(&reply{body: c.receive(t)}).into(t, &p)
			if p.Code != code || p.Status < 400 {
				t.Fatalf("round %d: %+v, want %s", i, p, code)
			}
		}
		if got := string(c.receive(t)); got != fmt.Sprintf(`[{"seq":%d,"time_s":%v}]`, 2*i+1, jsonTime(2*i+1)) {
			t.Fatalf("round %d: until gives %s", i, got)
		}
	}
	sending.Wait()
}

func jsonTime(step int) string {
	dt, _ := datacenter.ParseSeconds("1/10")
	return string(datacenter.AppendFloat(nil, dt.Times(int64(step))))
}

// Every message of the WebSocket is one that the description has.
func TestLockstepMessagesAreDescribed(t *testing.T) {
	s := serveReplay(t, replayConfig(t))
	c := s.talk(t)
	for _, m := range []string{
		`{"steps": 2}`, `{"steps": 2, "layout": "columns"}`, `{"reset": {"seed": 1}}`, `{"reset": {"seed": "x"}}`, `{"reset": 1}`, `{"reset": {}, "steps": 1}`, `{}`, `[]`,
		`{"steps": 0, "batch_size_by_model": {"Llama-3.1-8B": 9}}`,
	} {
		s.doc.checkMessage(t, "/v1/lockstep", c.ask(t, m))
	}
	for m, location := range map[string]string{
		`{"reset": {"seed": "x"}}`: "body.reset.seed", `{"reset": 1}`: "body.reset", `{"reset": {}, "steps": 1}`: "body.steps",
		`{"reset": {"replicas": {"GPT-2": {"initial": 1}}}}`:          "body.reset.replicas.GPT-2",
		`{"reset": {"initial_batch_sizes": {"Llama-3.1-8B": 9}}}`:     "body.reset.initial_batch_sizes.Llama-3.1-8B",
		`{"reset": {"replicas": {"Llama-3.1-8B": {"initial": 1e6}}}}`: "body.reset",
	} {
		if at := (&reply{body: c.ask(t, m)}).locations(t); !slices.Contains(at, location) {
			t.Errorf("%s names %q, want %q", m, at, location)
		}
	}
}

// Resets and what is refused leave a line in the log, as by POST; steps do not.
func TestLockstepLeavesLines(t *testing.T) {
	log := &logtest.Buffer{}
	s := serveReplay(t, replayConfig(t), func(c *Config) { c.Log = zerolog.New(log) })
	c := s.talk(t)
	var info infoBody
	(&reply{body: c.ask(t, `{"reset": {"seed": 5}}`)}).into(t, &info)
	for _, m := range []string{`{"steps": 2}`, `{"steps": 0, "batch_size_by_model": {"Llama-3.1-8B": 64}}`, `{"steps": 0}`, `{"reset": {"seed": -1}}`, `no`} {
		c.ask(t, m)
	}
	type line struct {
		Audit            bool
		Address, Command string
		Status           int
		Body, Result     any
	}
	object := func(name string, value any) any { return map[string]any{name: value} }
	want := []line{
		{true, "127.0.0.1", "reset", 200, object("reset", object("seed", 5.0)), object("run_id", info.RunID)},
		{true, "127.0.0.1", "steps", 422, object("steps", 0.0), "body.steps: must be a whole number from 1 to 10000, got 0"},
		{true, "127.0.0.1", "reset", 422, object("reset", object("seed", -1.0)), "body.reset.seed: must be a whole number from 0 to 999999999999999999, got -1"},
		{true, "127.0.0.1", "steps", 400, "no", "the body is not what it should be: malformed JSON at byte 2: invalid character 'o' in literal null (expecting 'u')"},
	}
	var got []line
	for text := range strings.Lines(log.String()) {
		var l line
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			t.Fatal(err)
		}
		if l.Audit {
			got = append(got, l)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the audit lines (-want +got):\n%s", diff)
	}
}

// Whatever is sent, the connection goes on or ends with a code that says why, and the
// replay stays usable.
func TestLockstepUnruly(t *testing.T) {
	s := serveReplay(t, replayConfig(t))
	c := s.talk(t)
	var p problem.Problem
	if err := c.WriteMessage(websocket.BinaryMessage, []byte(`{"steps": 1}`)); err != nil {
		t.Fatal(err)
	}
	(&reply{body: c.receive(t)}).into(t, &p)
	if p.Code != problem.CodeUnsupportedMediaType {
		t.Errorf("a binary message is answered with %+v", p)
	}
	(&reply{body: c.ask(t, strings.Repeat("[", 60_000))}).into(t, &p)
	if p.Code != problem.CodeMalformedBody {
		t.Errorf("a nested message is answered with %+v", p)
	}
	closes := func(what string, code int, send func(*talk) error) {
		t.Helper()
		c := s.talk(t)
		if err := send(c); err != nil {
			t.Fatal(err)
		}
		if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := c.ReadMessage(); !websocket.IsCloseError(err, code) {
			t.Errorf("%s ends with %v, want the code %d", what, err, code)
		}
	}
	closes("a long message", websocket.CloseMessageTooBig, func(c *talk) error {
		return c.WriteMessage(websocket.TextMessage, bytes.Repeat([]byte(" "), 1<<20))
	})
	closes("a frame that is not masked", websocket.CloseProtocolError, func(c *talk) error {
		_, err := c.NetConn().Write([]byte{0x81, 1, 'x'})
		return err
	})
	closes("a goodbye", websocket.CloseNormalClosure, func(c *talk) error {
		return c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
	})
	gone := s.talk(t)
	gone.send(t, `{"steps": 100}`)
	gone.Close()
	if got := c.ask(t, `{"steps": 1, "fields": []}`); !bytes.HasPrefix(got, []byte(`[{"seq":`)) {
		t.Errorf("then a step gives %s", got)
	}
}

// A bug in answering a message is told, and the next is answered.
func TestLockstepOutlivesABug(t *testing.T) {
	calls := 0
	s := serve(t, func(c *Config) {
		c.Lockstep = stepsFunc(func(context.Context, int) ([]*datacenter.State, error) {
			if calls++; calls == 1 {
				panic("a bug")
			}
			return []*datacenter.State{replayState(1)}, nil
		})
	})
	c := s.talk(t)
	var p problem.Problem
	(&reply{body: c.ask(t, `{"steps": 1}`)}).into(t, &p)
	if p.Code != problem.CodeAgentFault {
		t.Errorf("a bug is answered with %+v", p)
	}
	if got := statesIn(t, c.ask(t, `{"steps": 1}`)); len(got) != 1 {
		t.Errorf("then there are %d states", len(got))
	}
}

// At the agent's end those who wait for nothing are said goodbye to, and those whose step
// is under way are not waited for without end.
func TestLockstepAtTheEnd(t *testing.T) {
	begun := make(chan struct{})
	s := serve(t, func(c *Config) {
		c.Lockstep = stepsFunc(func(ctx context.Context, n int) ([]*datacenter.State, error) {
			if n == 1 {
				return nil, nil
			}
			close(begun)
			<-ctx.Done()
			return nil, context.Cause(ctx)
		})
	})
	idle, busy := s.talk(t), s.talk(t)
	idle.ask(t, `{"steps": 1}`)
	busy.send(t, `{"steps": 2}`)
	<-begun
	closing := make(chan struct{})
	go func() {
		defer close(closing)
		s.talks.Close()
	}()
	if err := idle.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := idle.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseGoingAway) {
		t.Errorf("who waits is told %v", err)
	}
	s.end()
	<-closing
	_, resp, err := websocket.DefaultDialer.DialContext(t.Context(), "ws"+strings.TrimPrefix(s.URL(), "http")+"v1/lockstep", nil)
	if err == nil || resp == nil || resp.StatusCode != http.StatusServiceUnavailable {
		t.Fatalf("a new one gets %v, %+v", err, resp)
	}
	resp.Body.Close()
}

// It takes the control token, and a page of the agent's own.
func TestLockstepIsGuarded(t *testing.T) {
	control, read := strings.Repeat("c", 40), strings.Repeat("r", 40)
	s := serve(t, func(c *Config) {
		c.Token, c.ReadToken = control, read
		c.Lockstep = stepsFunc(func(context.Context, int) ([]*datacenter.State, error) { return nil, nil })
	})
	dial := func(headers http.Header) int {
		conn, resp, err := websocket.DefaultDialer.DialContext(t.Context(), "ws"+strings.TrimPrefix(s.URL(), "http")+"v1/lockstep", headers)
		if err == nil {
			conn.Close()
		}
		if resp == nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	for _, c := range []struct {
		token, origin string
		want          int
	}{
		{"", "", http.StatusUnauthorized}, {read, "", http.StatusForbidden}, {control, "", http.StatusSwitchingProtocols},
		{control, "https://evil.example", http.StatusForbidden}, {control, strings.TrimSuffix(s.URL(), "/"), http.StatusSwitchingProtocols},
	} {
		headers := http.Header{}
		if c.token != "" {
			headers.Set("Authorization", "Bearer "+c.token)
		}
		if c.origin != "" {
			headers.Set("Origin", c.origin)
		}
		if got := dial(headers); got != c.want {
			t.Errorf("with the token %.1s and the origin %q: %d, want %d", c.token, c.origin, got, c.want)
		}
	}
	live := serve(t, nil)
	live.get("/v1/lockstep").wantProblem(t, http.StatusConflict, "")
	live.post("/v1/reset", `{}`).wantProblem(t, http.StatusConflict, "")
}
