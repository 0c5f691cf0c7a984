package zeusd

import (
	"bytes"
	"context"
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

// client reads many daemons, each with a connection of its own.
type client struct{ conns []*conn }

func newClient(cfg Config) (*client, error) {
	conns, err := newConns(cfg)
	return &client{conns}, err
}

// run keeps the connections until ctx ends.
func (c *client) run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, conn := range c.conns {
		wg.Go(func() { conn.run(ctx) })
	}
	wg.Wait()
}

// latest returns the last value of a GPU, however old, and when it was last known
// to hold. ok is false before the first value, and for a GPU that is no target.
func (c *client) latest(endpoint Endpoint, gpu int) (r Reading, confirmedAt time.Time, ok bool) {
	return c.latestOf(endpoint, deviceKey{GPU, gpu})
}

func (c *client) latestCPU(endpoint Endpoint, cpu int) (r Reading, confirmedAt time.Time, ok bool) {
	return c.latestOf(endpoint, deviceKey{CPU, cpu})
}

func (c *client) latestOf(endpoint Endpoint, key deviceKey) (Reading, time.Time, bool) {
	for _, conn := range c.conns {
		if conn.target.Endpoint.Address() == endpoint.Address() {
			return conn.latest(key)
		}
	}
	return Reading{}, time.Time{}, false
}

func (c *conn) latest(key deviceKey) (Reading, time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.devices[key]
	if d == nil || !d.known {
		return Reading{}, time.Time{}, false
	}
	return d.reading, d.confirmedAt, true
}

// statuses are the states of the connections, in order.
func (c *client) statuses() []EndpointStatus {
	all := make([]EndpointStatus, len(c.conns))
	for i, conn := range c.conns {
		all[i] = conn.currentStatus()
	}
	return all
}

// probe probes all daemons at the same time.
func (c *client) probe(ctx context.Context) []Report {
	reports := make([]Report, len(c.conns))
	var wg sync.WaitGroup
	for i, conn := range c.conns {
		wg.Go(func() { reports[i] = conn.probe(ctx) })
	}
	wg.Wait()
	return reports
}

// start runs a client until the test ends, and waits for its end.
func start(t *testing.T, cfg Config) (*client, *collector) {
	t.Helper()
	c := &collector{}
	cfg.OnReading, cfg.OnStatus, cfg.Log = c.onReading, c.onStatus, zerolog.New(c).Level(zerolog.InfoLevel)
	client, err := newClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	var running sync.WaitGroup
	running.Go(func() { client.run(ctx) })
	t.Cleanup(running.Wait)
	return client, c
}
