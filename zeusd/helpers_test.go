package zeusd

import (
	"bytes"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// eventually waits until the condition holds.
func eventually(t *testing.T, within time.Duration, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(within)
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not within %v", what, within)
		}
	}
}

// arrival is a reading and when it was reported.
type arrival struct {
	Reading
	arrived time.Time
}

// collector keeps what a client reports.
type collector struct {
	mu       sync.Mutex
	arrivals []arrival
	statuses []EndpointStatus
	log      bytes.Buffer
}

func (c *collector) onReading(r Reading) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.arrivals = append(c.arrivals, arrival{r, now})
}

func (c *collector) onStatus(s EndpointStatus) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.statuses = append(c.statuses, s)
}

// Write takes the log.
func (c *collector) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.log.Write(p)
}

func (c *collector) all() []arrival {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.arrivals)
}

func (c *collector) logged() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.log.String()
}

// first returns the first arrival that matches.
func (c *collector) first(match func(arrival) bool) (arrival, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.IndexFunc(c.arrivals, match); i >= 0 {
		return c.arrivals[i], true
	}
	return arrival{}, false
}

// start runs a client until the test ends, and waits for its end.
func start(t *testing.T, cfg Config) (*Client, *collector) {
	t.Helper()
	c := &collector{}
	cfg.OnReading, cfg.OnStatus, cfg.Log = c.onReading, c.onStatus, zerolog.New(c).Level(zerolog.InfoLevel)
	client, err := NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	done := make(chan error, 1)
	go func() { done <- client.Run(ctx) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return client, c
}
