package zeusd

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/g2g-agent/g2g-agent/power"
	"github.com/g2g-agent/g2g-agent/sim"
)

// sink keeps what a source tells.
type sink struct {
	mu   sync.Mutex
	read map[int]float64 // the last power of each GPU, in watts
	lost map[int]bool
}

func (s *sink) Read(r power.Reading) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.read[r.Index] = r.PowerW
}

func (s *sink) Lose(index int, _ time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost[index] = true
}

func (s *sink) has(powerW map[int]float64, lost int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for index, w := range powerW {
		if s.read[index] != w {
			return false
		}
	}
	return s.lost[lost]
}

// Endpoints of one daemon are one source, which hands on what all of them want and
// runs once at a time.
func TestSource(t *testing.T) {
	t.Parallel()
	_, e := daemon(t, sim.ZeusdConfig{GPUs: gpus(100, 200, 300)})
	at := func(gpus ...int) power.Endpoint { return power.Endpoint{Host: e.Host, Port: e.Port, GPUIndices: gpus} }
	sources, err := SourceKind().Open([]power.Endpoint{at(0), at(2, 7)}, power.Options{StaleAfter: 2 * time.Second, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	if len(sources) != 2 || sources[0] != sources[1] || sources[0].String() != e.Address().String() {
		t.Fatalf("the sources are %v", sources)
	}
	to := &sink{read: map[int]float64{}, lost: map[int]bool{}}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- sources[0].Run(ctx, to) }()
	eventually(t, soon, "readings", func() bool { return to.has(map[int]float64{0: 100, 2: 300}, 7) })
	if h := sources[0].Health(); !h.Connected || len(h.UnknownGPUs) != 1 || h.Counts[0].Name != "events" || h.Counts[0].N == 0 {
		t.Errorf("the health is %+v", h)
	}
	if err := sources[1].Run(t.Context(), to); err == nil {
		t.Error("a second run beside it works")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
