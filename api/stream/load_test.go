package stream

import (
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// followAll reads the states to the last, wants each of them, and returns how many
// came. The first one makes it ready.
func followAll(t *testing.T, client int, conn *websocket.Conn, states int64, ready chan<- struct{}) int64 {
	t.Helper()
	var f follower
	var pending int64
	for f.last < states-1 {
		if err := f.read(conn, &pending); err != nil {
			t.Errorf("client %d after state %d: %v", client, f.last, err)
			return f.received
		}
		if f.received == 1 {
			ready <- struct{}{}
		}
	}
	if f.skipped != 0 || f.received != states {
		t.Errorf("client %d received %d and skipped %d, of %d", client, f.received, f.skipped, states)
	}
	return f.received
}

// TestFiveHundredClients, half of which never read, at 10 Hz: those that read get
// every state, the step loop does not notice any of them, and memory is bounded.
func TestFiveHundredClients(t *testing.T) {
	const clients, stalled, models = 500, 250, 20
	states := int64(30)
	if testing.Short() {
		states = 20
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)

	s := newSite(t, NewHub(3000), func(s *Sockets, _ *http.Server) { s.timing.shutdown = 200 * time.Millisecond })
	s.hub.Publish(stateOf(0, models))
	ready := make(chan struct{}, clients)
	var got atomic.Int64
	var wg sync.WaitGroup
	for i := range clients {
		conn := s.dialWith(t, smallBuffers(), "/v1/stream")
		if i%2 == 0 {
			continue // it never reads
		}
		wg.Go(func() {
			got.Add(followAll(t, i, conn, states, ready))
		})
	}
	for range clients - stalled {
		select {
		case <-ready:
		case <-time.After(patience):
			t.Fatal("a client did not get the latest state")
		}
	}
	var took []time.Duration
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for seq := int64(1); seq < states; seq++ {
		<-tick.C
		state := stateOf(seq, models)
		began := time.Now()
		s.hub.Publish(state)
		took = append(took, time.Since(began))
	}
	wg.Wait()
	runtime.GC()
	runtime.ReadMemStats(&after)
	slices.Sort(took)
	longest, p99 := took[len(took)-1], took[len(took)*99/100]
	heap := int64(after.HeapInuse+after.StackInuse) - int64(before.HeapInuse+before.StackInuse)
	t.Logf("%d states received; Publish: median %v, p99 %v, longest %v; heap and stacks, clients and all: %.1f MB",
		got.Load(), took[len(took)/2], p99, longest, float64(heap)/1e6)
	// A reader that was waited for would make it seconds; a busy machine does not.
	if p90 := took[len(took)*9/10]; p90 > 50*time.Millisecond || longest > time.Second {
		t.Errorf("Publish took up to %v, in 9 of 10 cases up to %v", longest, p90)
	}
	if heap > 64<<20 {
		t.Errorf("memory grew by %d bytes", heap)
	}
	if stats := s.hub.Stats(); stats.StateClients != clients || stats.SlowClientsClosed != 0 {
		t.Errorf("stats %+v", stats)
	}
}

func BenchmarkPublish(b *testing.B) {
	for _, clients := range []int{0, 500} {
		b.Run(fmt.Sprintf("%d_clients", clients), func(b *testing.B) {
			s := newSite(b, NewHub(3000), func(s *Sockets, _ *http.Server) { s.timing.shutdown = 50 * time.Millisecond })
			var wg sync.WaitGroup
			var conns []*websocket.Conn
			for i := range clients {
				conn := s.dialWith(b, smallBuffers(), "/v1/stream")
				conns = append(conns, conn)
				if i%2 == 0 {
					continue
				}
				wg.Go(func() {
					for {
						if _, _, err := conn.NextReader(); err != nil {
							return
						}
					}
				})
			}
			state := stateOf(0, 4)
			b.ReportAllocs()
			for b.Loop() {
				s.hub.Publish(state)
			}
			b.StopTimer()
			for _, conn := range conns {
				conn.Close()
			}
			wg.Wait()
		})
	}
}
