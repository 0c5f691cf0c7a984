package stream

import (
	"bufio"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
	"github.com/rs/zerolog"
)

// impatient is a hub for which one is late after few states.
func impatient() *Hub {
	return newHub(10, backlog{most: 32, least: 8, age: time.Nanosecond, toNewest: true}, maxEvents)
}

// TestSlowClientsAreTold how many states they missed, to the last one, whatever
// the times at which they stall; a client that keeps up beside them misses
// nothing.
func TestSlowClientsAreTold(t *testing.T) {
	const slow, published, models = 6, 600, 60
	h := impatient()
	s := newSite(t, h)
	h.Publish(stateOf(0, models))
	var wg sync.WaitGroup
	go1 := make(chan struct{})  // the slow ones begin to read
	kept := make(chan struct{}) // the healthy one has taken one more
	sums := make([]follower, slow+1)
	follow := func(i int, conn *websocket.Conn, beforeEach func()) {
		f := &sums[i]
		var pending int64
		for f.last < published {
			beforeEach()
			if err := f.read(conn, &pending); err != nil {
				t.Errorf("client %d after state %d: %v", i, f.last, err)
				return
			}
			if i == slow && pending == 0 {
				select {
				case kept <- struct{}{}:
				case <-t.Context().Done():
					return
				}
			}
		}
	}
	for i := range slow {
		conn := s.dialWith(t, smallBuffers(), "/v1/stream")
		random := rand.New(rand.NewPCG(uint64(i), 4))
		wg.Go(func() {
			<-go1
			follow(i, conn, func() {
				if random.IntN(20) == 0 {
					<-time.After(time.Duration(random.IntN(50)) * time.Millisecond)
				}
			})
		})
	}
	healthy := s.dial(t, "/v1/stream")
	wg.Go(func() { follow(slow, healthy, func() {}) })
	<-kept
	for seq := int64(1); seq <= published; seq++ {
		if seq == published/3 {
			close(go1)
		}
		h.Publish(stateOf(seq, models))
		select {
		case <-kept:
		case <-time.After(patience):
			t.Fatalf("the healthy client did not get the state %d", seq)
		}
	}
	wg.Wait()
	skipped := wantAllAccountedFor(t, sums, published+1)
	if got := h.Stats(); got.SkippedStates != uint64(skipped) || got.SlowClientsClosed != 0 {
		t.Errorf("stats %+v, want %d skipped", got, skipped)
	}
}

// wantAllAccountedFor: each of the states came or was said to be skipped; the last
// client missed none, the others some, which are counted together.
func wantAllAccountedFor(t *testing.T, clients []follower, states int64) (skipped int64) {
	t.Helper()
	healthy := len(clients) - 1
	for i, f := range clients {
		if f.received+f.skipped != states {
			t.Errorf("client %d: %d received and %d skipped, of %d", i, f.received, f.skipped, states)
		}
		if i < healthy && f.skipped == 0 {
			t.Errorf("client %d, which took nothing of the first third, skipped nothing", i)
		}
		skipped += f.skipped
	}
	if missed := clients[healthy].skipped; missed != 0 {
		t.Errorf("the healthy client missed %d", missed)
	}
	return skipped
}

// TestStalledClientIsClosed when it takes nothing for the write timeout; meanwhile
// Publish waits for nobody.
func TestStalledClientIsClosed(t *testing.T) {
	s := newSite(t, NewHub(10), func(s *Sockets, _ *http.Server) { s.timing.write = 2 * time.Second })
	s.dialWith(t, smallBuffers(), "/v1/stream")
	eventually(t, "the client is counted", func() bool { return s.hub.Stats().StateClients == 1 })
	large := stateOf(0, 2000)
	eventually(t, "the client is closed", func() bool {
		began := time.Now()
		s.hub.Publish(large)
		if took := time.Since(began); took > 1500*time.Millisecond {
			t.Errorf("Publish took %v", took)
		}
		return s.hub.Stats().SlowClientsClosed == 1
	})
	eventually(t, "it is gone and logged", func() bool {
		return s.hub.Stats().StateClients == 0 && strings.Contains(s.log.String(), "it took no message for 2s")
	})
}

// TestCloseWithStalledClients does not take long.
func TestCloseWithStalledClients(t *testing.T) {
	s := newSite(t, NewHub(10), func(s *Sockets, _ *http.Server) { s.timing.shutdown = 300 * time.Millisecond })
	for range 10 {
		s.dialWith(t, smallBuffers(), "/v1/stream")
	}
	healthy := s.dial(t, "/v1/stream")
	eventually(t, "the clients are counted", func() bool { return s.hub.Stats().StateClients == 11 })
	const published = 30
	for seq := range int64(published) {
		s.hub.Publish(stateOf(seq, 300)) // 3 MB: more than the kernel takes
	}
	for seq := range int64(published) {
		wantSeq(t, healthy, seq)
	}
	began := time.Now()
	s.sockets.Close()
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("Close took %v", took)
	}
	if stats := s.hub.Stats(); stats.StateClients != 0 || stats.SlowClientsClosed != 0 {
		t.Errorf("stats %+v", stats)
	}
}

// pipeServer hands over one end of a pipe, so that time can be the bubble's.
type pipeServer struct {
	http.ResponseWriter
	conn net.Conn
}

func (p pipeServer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return p.conn, bufio.NewReadWriter(bufio.NewReader(p.conn), bufio.NewWriter(p.conn)), nil
}

// pipe connects a client to the handler without a network.
func pipe(t *testing.T, handler http.Handler) *websocket.Conn {
	ours, theirs := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		r, err := http.ReadRequest(bufio.NewReader(theirs))
		if err != nil {
			t.Error(err)
			return
		}
		handler.ServeHTTP(pipeServer{conn: theirs}, r)
	}()
	d := &websocket.Dialer{NetDial: func(string, string) (net.Conn, error) { return ours, nil }}
	conn, _, _, err := connect(t.Context(), d, "ws://agent/v1/stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	<-done
	return conn
}

// TestSignsOfLife: who answers pings stays, who does not is closed after 2
// minutes, who takes nothing after 30 s.
func TestSignsOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHub(10)
		s := NewSockets(h, anyOrigin, zerolog.Nop())
		defer s.Close()
		alive, silent, stalled := pipe(t, s.States()), pipe(t, s.States()), pipe(t, s.Events())
		pings := 0
		answer := alive.PingHandler()
		alive.SetPingHandler(func(payload string) error {
			pings++
			return answer(payload)
		})
		var readers sync.WaitGroup
		readers.Go(func() { alive.ReadMessage() })
		readers.Go(func() { io.Copy(io.Discard, silent.NetConn()) })

		<-time.After(49 * time.Second) // the first ping after 20 s, and 29 s for it
		if got := h.Stats(); got.StateClients != 2 || got.EventClients != 1 {
			t.Errorf("after 49 s: %+v", got)
		}
		<-time.After(2 * time.Second)
		if got := h.Stats(); got.SlowClientsClosed != 1 || got.EventClients != 0 {
			t.Errorf("after 51 s: %+v, want the stalled one closed", got)
		}
		<-time.After(70 * time.Second)
		if got := h.Stats(); got.SilentClientsClosed != 1 || got.StateClients != 1 {
			t.Errorf("after 121 s: %+v, want the silent one closed", got)
		}
		<-time.After(time.Hour)
		if got := h.Stats(); got.StateClients != 1 {
			t.Errorf("after an hour: %+v, want the one that answers", got)
		}
		for _, c := range []*websocket.Conn{alive, silent, stalled} {
			c.Close()
		}
		readers.Wait()
		if pings < 180 {
			t.Errorf("%d pings in an hour, want one every 20 s", pings)
		}
	})
}
