package sim

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// ZeusdVersion says which daemon to be.
type ZeusdVersion string

// The versions differ in more than the format of the stream and of /discover.
const (
	// Zeusd05 sends one event per device, lists gpus and cpus as objects, and
	// answers get_power by reading the devices asked for.
	Zeusd05 ZeusdVersion = "0.5"
	// Zeusd04 reads all devices of a kind in one loop. It sends a snapshot of the
	// requested ones when any has changed, with the last power of those that it
	// cannot read any more, lists gpu_ids and cpu_ids, and answers get_power with
	// the next snapshot: while another listener is there and no power changes, never.
	Zeusd04 ZeusdVersion = "0.4"
)

// The daemon's API groups, which are also the scopes of a token.
const (
	ScopeGPURead = "gpu-read"
	ScopeCPURead = "cpu-read"
)

// ZeusdConfig says what daemon to simulate. Only Listen is required.
type ZeusdConfig struct {
	// Listen is "host:port" (port 0: any free one) or "unix:/path/to.sock".
	Listen string
	// GPUs are the host's GPUs; their ids are the indexes.
	GPUs []*GPU
	// CPUs is the number of CPU packages; with 0 the cpu-read group is off.
	CPUs int
	// Version defaults to [Zeusd05].
	Version ZeusdVersion
	// Token is what clients must bear; "" means no authentication.
	Token string
	// Scopes are the token's; the default is both reading ones.
	Scopes []string
	// ClockOffset is the daemon's clock minus the machine's.
	ClockOffset time.Duration
	// PollInterval is how often power is read while somebody listens; the
	// default is 50 ms.
	PollInterval time.Duration
	// NoiseFraction is the standard deviation of a reading, as a fraction of the
	// power; 0 makes readings exact (to the milliwatt).
	NoiseFraction float64
	// Seed decides the noise: reading k of a device is always the same.
	Seed uint64
}

// ZeusdTruth is what a simulated daemon has done and what it measures.
type ZeusdTruth struct {
	// GPUPowerW is the true power of each GPU, in watts.
	GPUPowerW []float64 `json:"gpu_power_w"`
	// GPUStreams and CPUStreams count the listeners of now.
	GPUStreams int `json:"gpu_streams"`
	CPUStreams int `json:"cpu_streams"`
	// Requests counts the requests since the start by path, refused and
	// unanswered ones too.
	Requests map[string]int64 `json:"requests"`
	// Events counts the events sent since the start, bad ones too, and Polls the
	// readings of all devices.
	Events int64 `json:"events"`
	Polls  int64 `json:"polls"`
}

// Zeusd is a simulated zeusd daemon: it reads power only while somebody listens,
// and sends a device's power only when it has changed, in milliwatts. A new
// listener gets at once what was sent last, to whomever and however long ago, with
// its old time stamp; only then what is read for him. A listener who closes his
// connection in order is not noticed before something is to be sent to him, one
// who resets it is. Its methods may be called from any goroutine.
//
// Beside the daemon's API it has PUT and GET /sim/faults ([ZeusdFaults] as JSON),
// POST /sim/restart ({"down_s": 1}) and GET /sim/truth ([ZeusdTruth]), which work
// whatever else is broken.
type Zeusd struct {
	cfg         ZeusdConfig
	front       *front
	life        lifecycle
	clockOffset atomic.Int64

	mu        sync.Mutex
	faults    ZeusdFaults
	changed   chan struct{} // closed and replaced when the faults change
	gpus      pollers
	cpus      pollers
	cpuW      [][2]*GPU // by id: the true power of a CPU and of its memory
	listeners map[*listener]struct{}
	truth     ZeusdTruth
	garbage   int
	wake      chan struct{} // a listener has come
}

// StartZeusd starts a simulated daemon. Call Close to end it.
func StartZeusd(cfg ZeusdConfig) (*Zeusd, error) {
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("simulated zeusd: %w", err)
	}
	z := &Zeusd{
		cfg:       cfg,
		changed:   make(chan struct{}),
		listeners: map[*listener]struct{}{},
		wake:      make(chan struct{}, 1),
		truth:     ZeusdTruth{Requests: map[string]int64{}},
	}
	z.clockOffset.Store(int64(cfg.ClockOffset))
	for id, gpu := range cfg.GPUs {
		z.gpus.add([2]sensor{{newRand(cfg.Seed, "gpu", id), gpu.PowerW}})
	}
	for id := range cfg.CPUs {
		powers := [2]*GPU{NewGPU("cpu", 85), NewGPU("dram", 12)}
		z.cpuW = append(z.cpuW, powers)
		z.cpus.add([2]sensor{
			{newRand(cfg.Seed, "cpu", id), powers[0].PowerW},
			{newRand(cfg.Seed, "dram", id), powers[1].PowerW},
		})
	}
	var err error
	if z.front, err = newFront(cfg.Listen, actixHeaders, z.serve); err != nil {
		return nil, fmt.Errorf("simulated zeusd: %w", err)
	}
	z.life.up = func(ctx context.Context, wg *sync.WaitGroup) error {
		z.mu.Lock()
		z.gpus.forget()
		z.cpus.forget()
		z.mu.Unlock()
		if err := z.front.open(ctx); err != nil {
			return err
		}
		wg.Go(func() { z.poll(ctx) })
		return nil
	}
	z.life.down = z.front.shut
	if err := z.life.start(); err != nil {
		return nil, err
	}
	return z, nil
}

// complete fills in the defaults and checks the rest.
func (cfg *ZeusdConfig) complete() error {
	if cfg.Version == "" {
		cfg.Version = Zeusd05
	}
	if cfg.PollInterval == 0 {
		cfg.PollInterval = 50 * time.Millisecond
	}
	if cfg.Scopes == nil {
		cfg.Scopes = []string{ScopeGPURead, ScopeCPURead}
	}
	switch {
	case cfg.Version != Zeusd04 && cfg.Version != Zeusd05:
		return fmt.Errorf("version %q: need %q or %q", cfg.Version, Zeusd04, Zeusd05)
	case cfg.CPUs < 0:
		return fmt.Errorf("%d CPUs: need 0 or more", cfg.CPUs)
	case cfg.PollInterval < 0:
		return fmt.Errorf("poll interval %v: need more than 0", cfg.PollInterval)
	case !(cfg.NoiseFraction >= 0) || math.IsInf(cfg.NoiseFraction, 1):
		return fmt.Errorf("noise fraction %v: need 0 or more", cfg.NoiseFraction)
	case slices.Contains(cfg.GPUs, nil):
		return fmt.Errorf("GPU %d is nil", slices.Index(cfg.GPUs, nil))
	}
	return nil
}

// newRand returns a generator that depends on the seed, what it is for, and
// which one of those it is.
func newRand(seed uint64, purpose string, index int) *rand.Rand {
	stream := uint64(index)
	for _, c := range purpose {
		stream = stream*0x100000001b3 + uint64(c) // FNV's prime: spreads the purposes apart
	}
	return rand.New(rand.NewPCG(seed, stream))
}

// Addr returns where the daemon listens: host:port, or the socket's path.
func (z *Zeusd) Addr() string { return z.front.addr() }

// Close ends the daemon and all its goroutines.
func (z *Zeusd) Close() error {
	z.life.close()
	return nil
}

// Kill makes the daemon die at once: connections are reset, new ones refused.
func (z *Zeusd) Kill() { z.life.kill() }

// Restart kills the daemon if it lives and brings it back at the same address.
// It fails if that is taken, or after Close. Faults stay as they are.
func (z *Zeusd) Restart() error { return z.life.restart() }

// SetClockOffset steps the daemon's clock: d is its clock minus the machine's.
func (z *Zeusd) SetClockOffset(d time.Duration) { z.clockOffset.Store(int64(d)) }

// SetCPUPowerW changes the true power of a CPU package and of its memory, in
// watts; 85 and 12 at the start. An id that there is not is ignored.
func (z *Zeusd) SetCPUPowerW(id int, powerW, dramW float64) {
	if id >= 0 && id < len(z.cpuW) {
		z.cpuW[id][0].SetPowerW(powerW)
		z.cpuW[id][1].SetPowerW(dramW)
	}
}

// Truth returns what the daemon has done so far.
func (z *Zeusd) Truth() ZeusdTruth {
	z.mu.Lock()
	defer z.mu.Unlock()
	t := z.truth
	t.Requests = make(map[string]int64, len(z.truth.Requests))
	for path, n := range z.truth.Requests {
		t.Requests[path] = n
	}
	t.GPUPowerW = make([]float64, len(z.cfg.GPUs))
	for i, gpu := range z.cfg.GPUs {
		t.GPUPowerW[i] = gpu.PowerW()
	}
	for l := range z.listeners {
		switch {
		case l.answer != nil:
		case l.cpu:
			t.CPUStreams++
		default:
			t.GPUStreams++
		}
	}
	return t
}

func (z *Zeusd) nowMS() int64 {
	return time.Now().Add(time.Duration(z.clockOffset.Load())).UnixMilli()
}
