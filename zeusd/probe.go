package zeusd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/rs/zerolog"
)

// Report is what a probe found at one daemon. What it did not get to is
// zero.
type Report struct {
	Target    Target
	Discovery Discovery
	// Identity is nil where the daemon asks for no token.
	Identity *Identity
	// ClockOffset is this host's clock less the daemon's.
	ClockOffset time.Duration
	// RoundTrip is how long the daemon takes to answer, the median of five.
	RoundTrip time.Duration
	// PowerW is the power of the target's GPUs, in their order, NaN for one that
	// was not read.
	PowerW []float64
	// Unread says for each of these, by index, why.
	Unread map[int]error
	// Err is what is wrong with the daemon or its GPUs as a whole, nil if nothing is.
	Err error
}

const (
	// probeTimeout is for each question of a probe, and readTimeout for the power of
	// all GPUs of one daemon.
	probeTimeout = 5 * time.Second
	readTimeout  = 5 * time.Second
)

// probe asks the daemon, once, for what [conn.run] will need of it: that the API
// group is on, the token has the scope, the GPUs exist and their power can be read,
// in the way in which run reads it. It changes nothing and may be called before run.
func (c *conn) probe(ctx context.Context) Report {
	r := Report{Target: c.target}
	r.Err = c.probeDaemon(ctx, &r)
	if r.Err == nil && len(c.target.GPUs) > 0 {
		c.probePower(ctx, &r)
	}
	return r
}

// probeDaemon asks for everything but the power of GPUs.
func (c *conn) probeDaemon(ctx context.Context, r *Report) error {
	p := newPeer(c.target.Endpoint, probeTimeout, c.cfg.dial)
	defer p.close()
	var err error
	if r.Discovery, err = p.discover(ctx); err != nil {
		return err
	}
	if r.Discovery.AuthRequired {
		if r.Identity, err = p.authorize(ctx); err != nil {
			return err
		}
	}
	trips, err := p.times(ctx)
	if err != nil {
		return err
	}
	now := time.Now()
	e := newClock(now).measure(trips, now)
	r.ClockOffset, r.RoundTrip = e.wallOffset, e.roundTrip
	if len(c.target.GPUs) > 0 {
		if err := p.check(GPU, r.Discovery, r.Identity); err != nil {
			return err
		}
		if _, _, err := r.Discovery.checkGPUs(c.target.GPUs); err != nil {
			return fmt.Errorf("%s: %w", p.endpoint, err)
		}
	}
	if c.target.CPU {
		return p.probeCPUs(ctx, r)
	}
	return nil
}

// probePower reads the GPUs as a run does, until each was read or the time is up.
func (c *conn) probePower(ctx context.Context, r *Report) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	cfg := *c.cfg
	cfg.Log, cfg.OnStatus = zerolog.Nop(), func(EndpointStatus) {}
	read := make(chan struct{}, 1)
	cfg.OnReading = func(Reading) {
		select {
		case read <- struct{}{}:
		default:
		}
	}
	gpus := c.target
	gpus.CPU = false
	reader := newConn(&cfg, gpus)
	ended := make(chan error, 1)
	go func() { ended <- reader.session(ctx) }()
	var err error
	for over := false; !over; {
		select {
		case <-read:
			if over = reader.readAll(); over {
				cancel()
				err = <-ended
			}
		case err = <-ended:
			over = true
		}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%w within %v", errNoReading, readTimeout)
	}
	r.PowerW, r.Unread = make([]float64, len(c.target.GPUs)), map[int]error{}
	for i, gpu := range c.target.GPUs {
		d := reader.devices[deviceKey{GPU, gpu}] // nobody else has them any more
		if r.PowerW[i] = d.reading.PowerW; !d.known {
			r.PowerW[i], r.Unread[gpu] = math.NaN(), cmp.Or(d.failure, err)
		}
	}
}

var errNoReading = errors.New("no reading")

// readAll tells whether each GPU was read.
func (c *conn) readAll() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range c.devices {
		if !d.known {
			return false
		}
	}
	return true
}

// authorize asks whose the token is, for a daemon that wants one.
func (p *peer) authorize(ctx context.Context) (*Identity, error) {
	if p.token == "" {
		return nil, fmt.Errorf("%s: %w: the daemon wants a token and the endpoint has none", p.endpoint, ErrRefused)
	}
	id, err := p.whoAmI(ctx)
	if err != nil {
		return nil, err
	}
	return &id, nil
}

// check tells whether devices of the kind can be read at all: their API group is
// on and the token has the scope.
func (p *peer) check(kind Kind, d Discovery, id *Identity) error {
	group := GroupGPURead
	if kind == CPU {
		group = GroupCPURead
	}
	if err := d.checkGroup(group); err != nil {
		return fmt.Errorf("%s: %w", p.endpoint, err)
	}
	if id != nil {
		if err := id.checkScope(group); err != nil {
			return fmt.Errorf("%s: %w", p.endpoint, err)
		}
	}
	return nil
}

func (p *peer) probeCPUs(ctx context.Context, r *Report) error {
	if err := p.check(CPU, r.Discovery, r.Identity); err != nil {
		return err
	}
	if len(r.Discovery.CPUs) == 0 {
		return fmt.Errorf("%s: %w", p.endpoint, errNoCPU)
	}
	ctx, cancel := p.limit(ctx)
	defer cancel()
	var answer powerEvent
	_, err := p.power(ctx, CPU, r.Discovery.cpuIndices(), &answer)
	return err
}

var errNoCPU = errors.New("the daemon measures no CPU")
