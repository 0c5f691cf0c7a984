package sim

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// ZeusdVersion says which of the daemon's wire formats to speak.
type ZeusdVersion string

// The formats differ in the stream and in /discover.
const (
	// Zeusd05 sends one event per device, and lists gpus and cpus as objects.
	Zeusd05 ZeusdVersion = "0.5"
	// Zeusd04 sends a snapshot of all requested devices when one has changed,
	// and lists gpu_ids and cpu_ids.
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
// sends a device's power only when it has changed, in milliwatts, and has no
// first value for a late listener. Its methods may be called from any goroutine.
//
// Beside the daemon's API it has PUT and GET /sim/faults ([ZeusdFaults] as JSON),
// POST /sim/restart ({"down_s": 1}) and GET /sim/truth ([ZeusdTruth]), which work
// whatever else is broken.
type Zeusd struct {
	cfg         ZeusdConfig
	front       *front
	life        lifecycle
	clockOffset atomic.Int64

	mu      sync.Mutex
	faults  ZeusdFaults
	changed chan struct{} // closed and replaced when the faults change
	gpus    devices
	cpus    devices
	cpuW    [][2]*GPU // by id: the true power of a CPU and of its memory
	streams map[*zeusdStream]struct{}
	truth   ZeusdTruth
	garbage int
	wake    chan struct{} // a listener has come
}

// devices is what the daemon knows of one kind of device.
type devices struct {
	readings [][2]reading // by id: power, and DRAM power of a CPU
	last     []sent       // by id: what was sent last
}

// reading is one sensor: a true value, and noise of its own.
type reading struct {
	rng    *rand.Rand
	powerW func() float64
}

type sent struct {
	known bool
	mw    [2]int64
}

// zeusdStream is one listener.
type zeusdStream struct {
	conn *conn
	sink *sink
	cpu  bool
	ids  []int
}

// StartZeusd starts a simulated daemon. Call Close to end it.
func StartZeusd(cfg ZeusdConfig) (*Zeusd, error) {
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
		return nil, fmt.Errorf("simulated zeusd: version %q: need %q or %q", cfg.Version, Zeusd04, Zeusd05)
	case cfg.CPUs < 0:
		return nil, fmt.Errorf("simulated zeusd: %d CPUs: need 0 or more", cfg.CPUs)
	case cfg.PollInterval < 0:
		return nil, fmt.Errorf("simulated zeusd: poll interval %v: need more than 0", cfg.PollInterval)
	case !(cfg.NoiseFraction >= 0) || math.IsInf(cfg.NoiseFraction, 1):
		return nil, fmt.Errorf("simulated zeusd: noise fraction %v: need 0 or more", cfg.NoiseFraction)
	case slices.Contains(cfg.GPUs, nil):
		return nil, fmt.Errorf("simulated zeusd: GPU %d is nil", slices.Index(cfg.GPUs, nil))
	}
	z := &Zeusd{
		cfg:     cfg,
		changed: make(chan struct{}),
		streams: map[*zeusdStream]struct{}{},
		wake:    make(chan struct{}, 1),
		truth:   ZeusdTruth{Requests: map[string]int64{}},
	}
	z.clockOffset.Store(int64(cfg.ClockOffset))
	for id, gpu := range cfg.GPUs {
		z.gpus.add([2]reading{{newRand(cfg.Seed, "gpu", id), gpu.PowerW}})
	}
	for id := range cfg.CPUs {
		powers := [2]*GPU{NewGPU("cpu", 85), NewGPU("dram", 12)}
		z.cpuW = append(z.cpuW, powers)
		z.cpus.add([2]reading{
			{newRand(cfg.Seed, "cpu", id), powers[0].PowerW},
			{newRand(cfg.Seed, "dram", id), powers[1].PowerW},
		})
	}
	var err error
	if z.front, err = newFront(cfg.Listen, z.serve); err != nil {
		return nil, fmt.Errorf("simulated zeusd: %w", err)
	}
	z.life.up = func(ctx context.Context, wg *sync.WaitGroup) error {
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

func (d *devices) add(r [2]reading) {
	d.readings = append(d.readings, r)
	d.last = append(d.last, sent{})
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
	for s := range z.streams {
		if s.cpu {
			t.CPUStreams++
		} else {
			t.GPUStreams++
		}
	}
	return t
}

func (z *Zeusd) nowMS() int64 {
	return time.Now().Add(time.Duration(z.clockOffset.Load())).UnixMilli()
}

func (z *Zeusd) devices(cpu bool) *devices {
	if cpu {
		return &z.cpus
	}
	return &z.gpus
}

// read takes one reading of a device, in milliwatts.
func (z *Zeusd) read(r [2]reading) [2]int64 {
	var mw [2]int64
	for i := range r {
		if r[i].powerW == nil {
			continue
		}
		powerW := r[i].powerW()
		if z.cfg.NoiseFraction > 0 {
			powerW = max(powerW*(1+z.cfg.NoiseFraction*r[i].rng.NormFloat64()), 0)
		}
		mw[i] = int64(min(math.Round(powerW*1e3), math.MaxUint32)) // the daemon's are 32 bit
	}
	return mw
}

// stream serves one listener until one of the two goes.
func (z *Zeusd) stream(c *conn, cpu bool, ids []int) {
	c.last = true
	s := &zeusdStream{conn: c, sink: newSink(c), cpu: cpu, ids: ids}
	// Who sees the response begin is listening: no reading comes between.
	z.mu.Lock()
	err := c.startStream()
	if err == nil {
		z.streams[s] = struct{}{}
	}
	z.mu.Unlock()
	if err != nil {
		return
	}
	select {
	case z.wake <- struct{}{}:
	default:
	}
	// A listener has nothing more to say: this ends when the connection does.
	for c.waitReadable() {
		if _, err := c.r.Discard(c.r.Buffered()); err != nil {
			break
		}
	}
	z.mu.Lock()
	delete(z.streams, s)
	z.forget()
	z.mu.Unlock()
}

// forget drops what was last sent of devices that nobody listens to: the next
// listener, being the first, gets a value at once.
func (z *Zeusd) forget() {
	heard := map[bool]map[int]bool{false: {}, true: {}}
	for s := range z.streams {
		for _, id := range s.ids {
			heard[s.cpu][id] = true
		}
	}
	for cpu, ids := range heard {
		last := z.devices(cpu).last
		for id := range last {
			last[id].known = last[id].known && ids[id]
		}
	}
}

// poll reads the devices while somebody listens.
func (z *Zeusd) poll(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-z.wake:
		}
		ticker := time.NewTicker(z.cfg.PollInterval)
		for z.pollOnce() {
			select {
			case <-ctx.Done():
				ticker.Stop()
				return
			case <-ticker.C:
			}
		}
		ticker.Stop()
	}
}

// pollOnce sends what has changed; false if nobody listens.
func (z *Zeusd) pollOnce() bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	if len(z.streams) == 0 {
		return false
	}
	if z.faults.Freeze || z.faults.FreezeStream {
		return true
	}
	z.truth.Polls++
	for _, cpu := range []bool{false, true} {
		z.pollKind(cpu)
	}
	return true
}

func (z *Zeusd) pollKind(cpu bool) {
	d := z.devices(cpu)
	wanted := make([]bool, len(d.readings))
	for s := range z.streams {
		if s.cpu == cpu {
			for _, id := range s.ids {
				wanted[id] = true
			}
		}
	}
	var ids, changed []int
	for id := range d.readings {
		silent := !cpu && (slices.Contains(z.faults.SilentGPUs, id) || slices.Contains(z.faults.FailedGPUs, id))
		if !wanted[id] || silent {
			continue
		}
		ids = append(ids, id)
		mw := z.read(d.readings[id])
		if last := &d.last[id]; !last.known || last.mw != mw {
			*last = sent{known: true, mw: mw}
			changed = append(changed, id)
		}
	}
	if len(changed) == 0 {
		return
	}
	at := z.nowMS()
	for s := range z.streams {
		if s.cpu != cpu {
			continue
		}
		if z.cfg.Version == Zeusd04 {
			z.sendSnapshot(s, at, d, ids)
			continue
		}
		for _, id := range changed {
			if !slices.Contains(s.ids, id) {
				continue
			}
			mw := d.last[id].mw
			if cpu {
				z.send(s, fmt.Appendf(nil, `{"timestamp_ms":%d,"cpu_id":%d,"cpu_mw":%d,"dram_mw":%d}`, at, id, mw[0], mw[1]))
			} else {
				z.send(s, fmt.Appendf(nil, `{"timestamp_ms":%d,"gpu_id":%d,"power_mw":%d}`, at, id, mw[0]))
			}
		}
	}
}

func (z *Zeusd) sendSnapshot(s *zeusdStream, at int64, d *devices, polled []int) {
	var ids []int
	var values [][2]int64
	for _, id := range polled {
		if slices.Contains(s.ids, id) {
			ids = append(ids, id)
			values = append(values, d.last[id].mw)
		}
	}
	if len(ids) > 0 {
		z.send(s, appendSnapshot(nil, at, s.cpu, ids, values))
	}
}

// send writes one event, or what a fault makes of it.
func (z *Zeusd) send(s *zeusdStream, payload []byte) {
	event := slices.Concat([]byte("data: "), payload, []byte("\n\n"))
	if z.faults.GarbageEvents > 0 {
		z.faults.GarbageEvents--
		event = garbageEvent(z.garbage)
		z.garbage++
	}
	z.truth.Events++
	chunk := appendChunk(nil, event)
	if z.faults.TruncateEvent {
		z.faults.TruncateEvent = false
		_ = s.sink.write(chunk[:len(chunk)/2]) // the connection ends either way
		z.end(s)
		return
	}
	if err := s.sink.write(chunk); err != nil {
		if errors.Is(err, errBacklog) {
			s.conn.reset()
		}
		z.end(s)
	}
}

// end closes a listener's connection, which ends its goroutine too.
func (z *Zeusd) end(s *zeusdStream) {
	delete(z.streams, s)
	z.forget()
	_ = s.conn.Close()
}
