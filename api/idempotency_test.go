package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/g2g-agent/g2g-agent/api/problem"
	"github.com/g2g-agent/g2g-agent/datacenter"
)

const goodBatch = `{"batch_size_by_model": {"small": 8}}`

func TestRepeatedCommandIsCarriedOutOnce(t *testing.T) {
	s := serve(t, nil)
	key := header{idempotencyHeader, "a-key"}
	first := s.post("/v1/batch-sizes", goodBatch, key).want(t, http.StatusOK)
	if first.header.Get(replayedHeader) != "" {
		t.Error("the first answer says that it is not")
	}
	s.site.mu.Lock()
	s.site.status.TimeS = 99
	s.site.mu.Unlock()
	again := s.post("/v1/batch-sizes", goodBatch, key).want(t, http.StatusOK)
	if again.header.Get(replayedHeader) != "true" || string(again.body) != string(first.body) || again.header.Get("Content-Type") != first.header.Get("Content-Type") {
		t.Errorf("got %v %s, want %s", again.header, again.body, first.body)
	}
	s.post("/v1/batch-sizes", `{"batch_size_by_model": {"small": 64}}`, key).wantProblem(t, http.StatusUnprocessableEntity, "header.Idempotency-Key")
	if n := len(s.site.given()); n != 1 {
		t.Errorf("%d commands were carried out", n)
	}
	// Another path has keys of its own, and so has no key at all.
	s.post("/v1/replica-shifts", `{"model_label": "small", "replica_delta": 1}`, key).want(t, http.StatusOK)
	s.post("/v1/batch-sizes", goodBatch).want(t, http.StatusOK)
	if n := len(s.site.given()); n != 3 {
		t.Errorf("%d commands were carried out", n)
	}
	// A refusal is an answer too.
	refused := s.post("/v1/batch-sizes", `{"batch_size_by_model": {"none": 8}}`, header{idempotencyHeader, "b"}).want(t, http.StatusNotFound)
	again = s.post("/v1/batch-sizes", `{"batch_size_by_model": {"none": 8}}`, header{idempotencyHeader, "b"}).want(t, http.StatusNotFound)
	if string(again.body) != string(refused.body) || again.header.Get(replayedHeader) != "true" {
		t.Errorf("got %s, want %s", again.body, refused.body)
	}
}

func TestRepeatedWhileUnderWay(t *testing.T) {
	s := serve(t, nil)
	begun, goOn := make(chan struct{}), make(chan struct{})
	s.site.refuse = func(context.Context, datacenter.Command) error {
		close(begun)
		<-goOn
		return nil
	}
	first := make(chan *reply, 1)
	go func() {
		first <- s.raw(http.MethodPost, "/v1/batch-sizes", strings.NewReader(goodBatch), header{idempotencyHeader, "k"})
	}()
	<-begun
	r := s.post("/v1/batch-sizes", goodBatch, header{idempotencyHeader, "k"})
	r.wantProblem(t, http.StatusConflict, "header.Idempotency-Key")
	if r.header.Get("Retry-After") == "" {
		t.Error("it does not say when to ask again")
	}
	close(goOn)
	(<-first).want(t, http.StatusOK)
	if got := s.post("/v1/batch-sizes", goodBatch, header{idempotencyHeader, "k"}).want(t, http.StatusOK); got.header.Get(replayedHeader) != "true" {
		t.Error("it was carried out again")
	}
}

// A client whose connection breaks gets, when it asks again, the answer to what it
// asked for.
func TestClientGoneAndBack(t *testing.T) {
	s := serve(t, nil)
	begun, goOn := make(chan struct{}), make(chan struct{})
	s.site.refuse = func(ctx context.Context, _ datacenter.Command) error {
		close(begun)
		<-goOn
		return ctx.Err()
	}
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL()+"v1/batch-sizes", strings.NewReader(goodBatch))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set(idempotencyHeader, "k")
	gone := make(chan error, 1)
	go func() {
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			resp.Body.Close()
		}
		gone <- err
	}()
	<-begun
	cancel()
	if err := <-gone; err == nil {
		t.Fatal("it was answered")
	}
	close(goOn)
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		r := s.post("/v1/batch-sizes", goodBatch, header{idempotencyHeader, "k"})
		if r.status == http.StatusOK && r.header.Get(replayedHeader) == "true" {
			break
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("status %d: %s", r.status, r.body)
		}
	}
}

func TestBadKeys(t *testing.T) {
	s := serve(t, nil)
	for _, key := range []string{"", "two words", strings.Repeat("k", 129), "schlüssel", "tab\tkey"} {
		s.post("/v1/batch-sizes", goodBatch, header{idempotencyHeader, key}).wantProblem(t, http.StatusUnprocessableEntity, "header.Idempotency-Key")
	}
	if n := len(s.site.given()); n > 0 {
		t.Errorf("%d commands were carried out", n)
	}
	s.post("/v1/batch-sizes", goodBatch, header{idempotencyHeader, strings.Repeat("k", 128)}).want(t, http.StatusOK)
}

func TestAnswersAreBounded(t *testing.T) {
	var a answers
	now := time.Unix(0, 0)
	give := func(key string, size int, at time.Time) {
		t.Helper()
		if before, refused := a.begin(answerKey{"/p", key}, []byte("body"), at); before != nil || refused != nil {
			t.Fatalf("%s was there already", key)
		}
		w := &response{ResponseWriter: httptest.NewRecorder(), keep: &bytes.Buffer{}, keepBytes: maxAnswerBytes}
		w.Write(make([]byte, size))
		a.finish(answerKey{"/p", key}, w)
	}
	ask := func(key string, at time.Time) (*answer, *problem.Problem) {
		return a.begin(answerKey{"/p", key}, []byte("body"), at)
	}

	for i := range 3 * maxAnswers {
		give(fmt.Sprint(i), 10, now)
	}
	if a.done.Len() != maxAnswers || a.bytes != 10*maxAnswers {
		t.Errorf("%d answers of %d bytes are kept", a.done.Len(), a.bytes)
	}
	if old, _ := ask(fmt.Sprint(2*maxAnswers+1), now); old == nil {
		t.Error("one of the latest is not kept")
	}
	// After a time they are forgotten.
	give("late", 10, now.Add(answersFor+time.Second))
	if a.done.Len() != 1 || a.bytes != 10 {
		t.Errorf("%d answers of %d bytes are kept", a.done.Len(), a.bytes)
	}
	// Large ones give way to others, but are not carried out again.
	for i := range 5 {
		give("large"+fmt.Sprint(i), maxAnswerBytes, now.Add(answersFor+time.Second))
	}
	if a.bytes > allAnswerBytes {
		t.Errorf("%d bytes are kept", a.bytes)
	}
	if old, refused := ask("large0", now.Add(answersFor+time.Second)); old != nil || refused == nil || refused.Status != http.StatusConflict {
		t.Errorf("got %v, %v", old, refused)
	}
	if old, _ := ask("large4", now.Add(answersFor+time.Second)); old == nil || len(old.body) != maxAnswerBytes {
		t.Error("the latest is not kept")
	}
	give("too large", maxAnswerBytes+1, now.Add(answersFor+time.Second))
	if old, refused := ask("too large", now.Add(answersFor+time.Second)); old != nil || refused == nil || refused.Status != http.StatusConflict {
		t.Errorf("got %v, %v", old, refused)
	}
}

// A client that was gone while a long answer was written gets all of it when it
// asks again.
func TestWholeAnswerForClientThatIsBack(t *testing.T) {
	const steps = 2000 // more than a socket's buffers hold
	begun, goOn := make(chan struct{}), make(chan struct{})
	s := serve(t, func(cfg *Config) {
		cfg.Lockstep = stepsFunc(func(_ context.Context, n int) ([]*datacenter.State, error) {
			close(begun)
			<-goOn
			states := make([]*datacenter.State, n)
			for i := range states {
				states[i] = replayState(int64(i))
			}
			return states, nil
		})
	})
	key, body := header{idempotencyHeader, "k"}, fmt.Sprintf(`{"steps": %d}`, steps)
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.Address())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "POST /v1/steps HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nIdempotency-Key: k\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	<-begun
	conn.Close()
	close(goOn)
	var again *reply
	for again == nil || again.status == http.StatusConflict { // under way
		again = s.post("/v1/steps", body, key)
	}
	if again.want(t, http.StatusOK).header.Get(replayedHeader) != "true" {
		t.Error("the replay was advanced twice")
	}
	var states []json.RawMessage
	again.into(t, &states)
	if len(states) != steps {
		t.Errorf("the answer has %d states, want %d", len(states), steps)
	}
}

// An answer that was broken off is not given again as if it were whole.
func TestBrokenAnswerIsNotKept(t *testing.T) {
	s := serve(t, nil)
	breaks := s.command("steps", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`[{"seq":`))
		panic(http.ErrAbortHandler)
	}))
	ask := func() (w *httptest.ResponseRecorder, aborted any) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/steps", strings.NewReader(`{"steps": 1}`))
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set(idempotencyHeader, "k")
		w = httptest.NewRecorder()
		defer func() { aborted = recover() }()
		breaks.ServeHTTP(w, r)
		return w, nil
	}
	if _, aborted := ask(); aborted == nil {
		t.Fatal("the answer was not broken off")
	}
	if w, aborted := ask(); aborted != nil || w.Code != http.StatusConflict {
		t.Errorf("status %d: %s", w.Code, w.Body)
	}
}
