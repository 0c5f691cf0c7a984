package stream

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
	"pgregory.net/rapid"

	"github.com/g2g-agent/g2g-agent/datacenter"
)

// told is a message of /v1/stream.
type told struct {
	Seq     int64  `json:"seq"`
	Skipped int64  `json:"skipped"`
	RunID   string `json:"run_id"`
}

func (m told) String() string {
	switch {
	case m.RunID != "":
		return "run " + m.RunID
	case m.Skipped > 0:
		return fmt.Sprintf("skipped %d", m.Skipped)
	}
	return fmt.Sprint(m.Seq)
}

func nextTold(t testing.TB, conn *websocket.Conn) told {
	t.Helper()
	var m told
	if data := next(t, conn); json.Unmarshal(data, &m) != nil {
		t.Fatalf("%s is no message", data)
	}
	return m
}

// wantTold reads messages and compares them, as their strings.
func wantTold(t testing.TB, conn *websocket.Conn, want ...string) {
	t.Helper()
	for i, w := range want {
		if got := nextTold(t, conn).String(); got != w {
			t.Fatalf("message %d is %q, want %q", i, got, w)
		}
	}
}

// numbers are those from first to last as wantTold has them.
func numbers(first, last int64) []string {
	var all []string
	for n := first; n <= last; n++ {
		all = append(all, fmt.Sprint(n))
	}
	return all
}

func publish(h *Hub, first, last int64) {
	for seq := first; seq <= last; seq++ {
		h.Publish(stateOf(seq, 1))
	}
}

func TestStreamGoesOnAfterAState(t *testing.T) {
	h := NewHub(300)
	h.NewRun("one")
	s := newSite(t, h)
	empty := s.dial(t, "/v1/stream?after=7")
	publish(h, 0, 499)
	wantTold(t, empty, numbers(0, 499)...)
	for query, want := range map[string][]string{
		"after=450":         numbers(451, 499),
		"after=450&run=one": numbers(451, 499),
		"after=250":         numbers(251, 499), // kept by the history alone
		"after=499&run=one": nil,
		"after=150":         append([]string{"skipped 49"}, numbers(200, 499)...),
		"after=500":         append([]string{"skipped 200"}, numbers(200, 499)...),
		"after=450&run=two": append([]string{"run one", "skipped 200"}, numbers(200, 499)...),
		"":                  {"499"},
	} {
		conn := s.dial(t, "/v1/stream?"+query)
		wantTold(t, conn, want...)
		defer wantTold(t, conn, "500")
	}
	h.Publish(stateOf(500, 1))
}

func TestStreamWithABadPlace(t *testing.T) {
	s := newSite(t, NewHub(10))
	for _, query := range []string{"after=-1", "after=x", "after=1&after=2", "after=", "after=%zz"} {
		if _, status, _, err := connect(t.Context(), websocket.DefaultDialer, s.url+"/v1/stream?"+query, nil); err == nil || status != 422 {
			t.Errorf("%s is answered with %d, %v", query, status, err)
		}
	}
}

// TestARunBegins: those who follow are told between the last state of the one and the
// first of the other, and get what came before it.
func TestARunBegins(t *testing.T) {
	h := NewHub(100)
	h.NewRun("one")
	s := newSite(t, h)
	plain, resumed, events := s.dial(t, "/v1/stream"), s.dial(t, "/v1/stream?after=0"), s.dial(t, "/v1/events")
	eventually(t, "all follow", func() bool { return h.Stats().StateClients == 2 && h.Stats().EventClients == 1 })
	publish(h, 0, 3)
	wantTold(t, plain, "0", "1", "2", "3")
	wantTold(t, resumed, "0", "1", "2", "3")
	h.PublishEvent(datacenter.NewEvent(1, datacenter.DataFresh{ModelLabel: "a"}))
	h.NewRun("two")
	wantTold(t, plain, "run two") // before there is a state
	if h.Latest() != nil || len(h.History(10)) > 0 || len(h.Events(10)) > 0 || h.RunID() != "two" {
		t.Errorf("of the run before there is still %v, %d states and %d events", h.Latest(), len(h.History(10)), len(h.Events(10)))
	}
	late, other := s.dial(t, "/v1/stream"), s.dial(t, "/v1/stream?after=3&run=one")
	eventually(t, "all follow", func() bool { return h.Stats().StateClients == 4 })
	publish(h, 0, 1)
	h.PublishEvent(datacenter.NewEvent(1, datacenter.DataFresh{ModelLabel: "a"}))
	wantTold(t, plain, "0", "1")
	wantTold(t, resumed, "run two", "0", "1")
	wantTold(t, late, "0", "1")
	wantTold(t, other, "run two", "0", "1")
	if states := h.History(10); len(states) != 2 || states[0].Seq != 0 || h.Latest().Seq != 1 {
		t.Errorf("the history has %d states", len(states))
	}
	wantID(t, events, 0)
	wantID(t, events, 1) // they are numbered on
	wantID(t, s.dial(t, "/v1/events"), 1)
	wantID(t, s.dial(t, "/v1/events?after=0"), 1)
	if kept := h.Events(10); len(kept) != 1 || kept[0].ID != 1 {
		t.Errorf("the events kept are %+v", kept)
	}
}

// TestResumedClientsMissNothing, however often they connect, however slowly they
// read and however many steps are made meanwhile, as long as the history is long
// enough; the last state of each connection is where the next goes on.
func TestResumedClientsMissNothing(t *testing.T) {
	const clients, last = 8, 10_000
	h := newHub(last+1, backlog{most: 64, least: 8, age: time.Nanosecond, toNewest: true}, maxEvents)
	h.NewRun("one")
	s := newSite(t, h)
	h.Publish(stateOf(0, 3))
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 7))
			for seen := int64(0); seen < last; {
				conn, _, _, err := connect(t.Context(), websocket.DefaultDialer, fmt.Sprintf("%s/v1/stream?after=%d&run=one", s.url, seen), nil)
				if err != nil {
					t.Errorf("connecting: %v", err)
					return
				}
				for range 1 + random.IntN(2000) {
					if seen == last {
						break
					}
					conn.SetReadDeadline(time.Now().Add(patience))
					_, data, err := conn.ReadMessage()
					var m told
					if err != nil || json.Unmarshal(data, &m) != nil || m.Seq != seen+1 {
						t.Errorf("client %d got %.60s, %v after %d", i, data, err, seen)
						conn.Close()
						return
					}
					seen++
				}
				conn.Close()
			}
		})
	}
	for seq := int64(1); seq <= last; seq++ {
		h.Publish(stateOf(seq, 1))
	}
	wg.Wait()
	if skipped := h.Stats().SkippedStates; skipped > 0 {
		t.Errorf("%d states were skipped", skipped)
	}
}

// TestMissedOfEachRun: a client that several runs have overtaken is told what it misses of
// the run that it goes on with apart from what it misses of those before.
func TestMissedOfEachRun(t *testing.T) {
	h := newHub(8, backlog{most: 4, least: 4, toNewest: true}, maxEvents)
	turns := make(chan struct{})
	s := newSite(t, h, func(s *Sockets, _ *http.Server) { s.Turns = inTurns(turns) })
	h.NewRun("one")
	publish(h, 0, 9)
	conn := s.dial(t, "/v1/stream?after=3&run=one") // of which the history alone has some
	h.NewRun("two")
	publish(h, 0, 19)
	h.NewRun("three")
	publish(h, 0, 0)
	turns <- struct{}{}
	wantTold(t, conn, "4", "5", "skipped 4", "run two", "skipped 17", "17", "18", "19", "run three", "0")
	if n := h.Stats().SkippedStates; n != 21 {
		t.Errorf("%d states were skipped, want 21", n)
	}
}

// TestRunsAreToldInOrder: a run is not told of before the states of the one before.
func TestRunsAreToldInOrder(t *testing.T) {
	h := NewHub(10)
	h.NewRun("one")
	publish(h, 0, 1)
	h.NewRun("two")
	f := &following{hub: h}
	if of := f.present(1); of != nil {
		t.Errorf("who has not got the last state yet is told of %q", of.id)
	}
	if of := f.present(2); of == nil || of.id != "two" {
		t.Errorf("who has all is told of %v", of)
	}
	if of := new(following).present(2); of != nil {
		t.Errorf("who follows no states is told of %q", of.id)
	}
}

// TestOfOneRun: what is read while another run begins is read anew, of that.
func TestOfOneRun(t *testing.T) {
	h := NewHub(10)
	h.NewRun("one")
	var asked []string
	got := ofOneRun(h, func(of *run) string {
		if asked = append(asked, of.id); len(asked) == 1 {
			h.NewRun("two")
		}
		return of.id
	})
	if got != "two" || len(asked) != 2 {
		t.Errorf("it is of the run %q; asked were %q", got, asked)
	}
}

// TestAHistoryTooShort: what is lost is counted, and nothing comes twice, while runs
// begin too.
func TestAHistoryTooShort(t *testing.T) {
	const clients, runs, steps = 4, 4, 800
	h := newHub(100, backlog{most: 64, least: 8, age: time.Nanosecond, toNewest: true}, maxEvents)
	h.NewRun("0")
	s := newSite(t, h)
	h.Publish(stateOf(0, 8))
	var wg sync.WaitGroup
	for i := range clients {
		path := "/v1/stream"
		if i%2 == 0 {
			path += "?after=0&run=0"
		}
		conn := s.dialWith(t, smallBuffers(), path)
		wg.Go(func() {
			seen, run, pending := int64(0), "0", int64(0)
			if i%2 == 1 {
				seen = -1
			}
			for run != fmt.Sprint(runs-1) || seen < steps-1 {
				conn.SetReadDeadline(time.Now().Add(patience))
				_, data, err := conn.ReadMessage()
				var m told
				if err != nil || json.Unmarshal(data, &m) != nil {
					t.Errorf("client %d got %.60s, %v", i, data, err)
					return
				}
				switch {
				case m.RunID != "":
					run, seen, pending = m.RunID, -1, 0
				case m.Skipped > 0:
					pending += m.Skipped
				case m.Seq != seen+1+pending:
					// Only a reader that several runs have overtaken cannot add up.
					t.Errorf("client %d got state %d of run %s after %d, with %d skipped", i, m.Seq, run, seen, pending)
					return
				default:
					seen, pending = m.Seq, 0
				}
			}
		})
	}
	for run := range int64(runs) {
		if run > 0 {
			h.NewRun(fmt.Sprint(run))
		}
		for seq := int64(0); seq < steps; seq++ {
			if run > 0 || seq > 0 {
				h.Publish(stateOf(seq, 8))
			}
		}
	}
	wg.Wait()
	if h.Stats().SkippedStates == 0 {
		t.Error("nobody was too slow: the test shows nothing")
	}
}

// TestResumeFindsThePlace, whatever is kept and whatever the steps.
func TestResumeFindsThePlace(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		keep := rapid.IntRange(1, 20).Draw(t, "keep")
		h := NewHub(keep)
		h.NewRun("one")
		for range rapid.IntRange(0, 40).Draw(t, "before") {
			h.Publish(stateOf(0, 0))
		}
		h.NewRun("two")
		var all []int64
		seq := int64(-1)
		for range rapid.IntRange(0, 60).Draw(t, "states") {
			seq += rapid.Int64Range(1, 3).Draw(t, "step")
			all = append(all, seq)
			h.Publish(stateOf(seq, 0))
		}
		after := rapid.Int64Range(0, seq+5).Draw(t, "after")
		runID := rapid.SampledFrom([]string{"", "two", "one"}).Draw(t, "run")
		p := h.resume(after, runID)
		if runID == "one" || after > seq {
			after = -1
		}
		kept := all[max(len(all)-keep, 0):]
		for len(kept) > 0 && kept[0] <= after {
			kept = kept[1:]
		}
		var got []int64
		for i := p.cursor; i < h.history.end.Load(); i++ {
			got = append(got, h.history.at(i).Seq)
		}
		if fmt.Sprint(got) != fmt.Sprint(kept) {
			t.Fatalf("it goes on with %v, want %v", got, kept)
		}
		if len(kept) > 0 && p.missed != kept[0]-after-1 {
			t.Fatalf("%d are missed, want %d", p.missed, kept[0]-after-1)
		}
	})
}

func TestAwaitState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHub(10)
		h.NewRun("one")
		type answer struct {
			state *datacenter.State
			at    time.Duration
		}
		start := time.Now()
		ask := func(after int64, runID string) chan answer {
			answers := make(chan answer, 1)
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				state := h.AwaitState(ctx, after, runID)
				answers <- answer{state, time.Since(start)}
			}()
			synctest.Wait()
			return answers
		}
		want := func(what string, answers chan answer, seq int64, at time.Duration) {
			t.Helper()
			switch got := <-answers; {
			case got.state == nil && seq >= 0, got.state != nil && got.state.Seq != seq, got.at != at:
				t.Errorf("%s: got %+v at %v, want %d at %v", what, got.state, got.at, seq, at)
			}
		}
		first, third, ahead := ask(0, ""), ask(2, "one"), ask(100, "")
		publish(h, 0, 1)
		want("the first newer one", first, 1, 0)
		want("one of another run", ask(100, "zero"), 1, 0)
		<-time.After(time.Second)
		publish(h, 2, 3)
		want("one that lies ahead", third, 3, time.Second)
		none := ask(3, "one")
		h.NewRun("two")
		synctest.Wait()
		h.Publish(stateOf(0, 1))
		want("the first one of another run", ahead, 0, time.Second)
		want("the first one of another run", none, 0, time.Second)
		want("none that comes in time", ask(0, "two"), -1, time.Minute+time.Second)
	})
}

// TestManyWaitForAState: all are woken by one step, also while others give up.
func TestManyWaitForAState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHub(10)
		var wg sync.WaitGroup
		woken := make(chan int64, 1000)
		for i := range 1000 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+i%3)*time.Second)
				defer cancel()
				if state := h.AwaitState(ctx, 4, ""); state != nil {
					woken <- state.Seq
				}
			})
		}
		<-time.After(1500 * time.Millisecond)
		h.Publish(stateOf(5, 1))
		synctest.Wait()
		if n := len(woken); n != 666 {
			t.Errorf("%d were woken, want 666", n)
		}
		wg.Wait()
	})
}

func TestAwaitEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHub(10)
		some := func(events []Event) bool { return len(events) > 0 }
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if events := h.AwaitEvents(ctx, 5, some); len(events) != 0 {
			t.Errorf("got %v", events)
		}
		got := make(chan []Event, 1)
		go func() { got <- h.AwaitEvents(t.Context(), 5, some) }()
		synctest.Wait()
		h.PublishEvent(datacenter.NewEvent(1, datacenter.DataFresh{ModelLabel: "a"}))
		if events := <-got; len(events) != 1 {
			t.Errorf("got %v", events)
		}
	})
}

// TestRunNotice: an id may be any text.
func TestRunNotice(t *testing.T) {
	var m told
	if err := json.NewDecoder(io.Reader(strings.NewReader(string(runNotice(`a"b`))))).Decode(&m); err != nil || m.RunID != `a"b` {
		t.Errorf("got %+v, %v", m, err)
	}
}

// TestWorkInTurns: what comes out of the history is encoded in turns, and a client that
// waits for one ends with the sockets.
func TestWorkInTurns(t *testing.T) {
	h := newHub(1000, backlog{most: 64, least: 8, age: time.Nanosecond, toNewest: true}, maxEvents)
	s := newSite(t, h)
	turns := make(chan struct{})
	s.sockets.Turns = inTurns(turns)
	publish(h, 0, 499)
	conn := s.dial(t, "/v1/stream?after=0")
	for range 2 {
		turns <- struct{}{}
	}
	wantTold(t, conn, numbers(1, 30)...)
	s.sockets.Close()
	wantClose(t, conn, websocket.CloseGoingAway)
}
