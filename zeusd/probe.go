package zeusd

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Report is what [Probe] found. What it did not get to is zero.
type Report struct {
	Discovery Discovery
	// Identity is nil where the daemon asks for no token.
	Identity *Identity
	// ClockOffset is this host's clock less the daemon's.
	ClockOffset time.Duration
	// RoundTrip is how long the daemon takes to answer, the median of five.
	RoundTrip time.Duration
	// PowerW is the power of the target's GPUs, in their order.
	PowerW []float64
}

// Discover asks a daemon what it has. It gives up after 5 s.
func Discover(ctx context.Context, endpoint Endpoint) (Discovery, error) {
	p, err := probePeer(endpoint)
	if err != nil {
		return Discovery{}, err
	}
	defer p.close()
	return p.discover(ctx)
}

// WhoAmI asks a daemon whose the endpoint's token is. It gives up after 5 s.
func WhoAmI(ctx context.Context, endpoint Endpoint) (Identity, error) {
	p, err := probePeer(endpoint)
	if err != nil {
		return Identity{}, err
	}
	defer p.close()
	return p.whoAmI(ctx)
}

// Probe asks a daemon, once, for all that a [Client] will need of it: that the
// API group is on, the token has the scope, the GPUs exist and their power can be
// read. The error is what would keep a client from working; the report holds what
// was found before it. Each question is given up after 5 s.
func Probe(ctx context.Context, target Target) (Report, error) {
	var r Report
	merged, err := mergeTargets([]Target{target})
	if err != nil {
		return r, err
	}
	p := newPeer(merged[0].Endpoint, probeTimeout, nil)
	defer p.close()
	if r.Discovery, err = p.discover(ctx); err != nil {
		return r, err
	}
	if r.Discovery.AuthRequired {
		if r.Identity, err = p.authorize(ctx); err != nil {
			return r, err
		}
	}
	trips, err := p.times(ctx)
	if err != nil {
		return r, err
	}
	now := time.Now()
	e := newClock(now).measure(trips, now)
	r.ClockOffset, r.RoundTrip = e.wallOffset, e.roundTrip
	if len(target.GPUs) > 0 {
		if r.PowerW, err = p.probeGPUs(ctx, r, target.GPUs); err != nil {
			return r, err
		}
	}
	if target.CPU {
		return r, p.probeCPUs(ctx, r)
	}
	return r, nil
}

const probeTimeout = 5 * time.Second

func probePeer(endpoint Endpoint) (*peer, error) {
	if err := endpoint.validate(); err != nil {
		return nil, err
	}
	address := endpoint.Address()
	address.Token = endpoint.Token
	return newPeer(address, probeTimeout, nil), nil
}

// authorize asks whose the token is, for a daemon that wants one.
func (p *peer) authorize(ctx context.Context) (*Identity, error) {
	if p.endpoint.Token == "" {
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

func (p *peer) probeGPUs(ctx context.Context, r Report, gpus []int) ([]float64, error) {
	if err := p.check(GPU, r.Discovery, r.Identity); err != nil {
		return nil, err
	}
	if _, _, err := r.Discovery.checkGPUs(gpus); err != nil {
		return nil, fmt.Errorf("%s: %w", p.endpoint, err)
	}
	var answer powerEvent
	if _, err := p.power(ctx, GPU, gpus, &answer); err != nil {
		return nil, err
	}
	powerW := make([]float64, len(gpus))
	for i, gpu := range gpus {
		found := false
		for _, d := range answer.devices {
			if d.index == gpu {
				powerW[i], found = d.powerMW/1e3, true
			}
		}
		if !found {
			return nil, fmt.Errorf("%s: GET %s: the answer lacks GPU %d", p.endpoint, powerPath(GPU, "get_power"), gpu)
		}
	}
	return powerW, nil
}

func (p *peer) probeCPUs(ctx context.Context, r Report) error {
	if err := p.check(CPU, r.Discovery, r.Identity); err != nil {
		return err
	}
	if len(r.Discovery.CPUs) == 0 {
		return fmt.Errorf("%s: %w", p.endpoint, errNoCPU)
	}
	var answer powerEvent
	_, err := p.power(ctx, CPU, r.Discovery.cpuIndices(), &answer)
	return err
}

var errNoCPU = errors.New("the daemon measures no CPU")
